"""Which device a run is on."""

import torch


def pick_device(name=""):
    """The torch device of that name; by default the GPU where there is one. ValueError if there is no such device."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in ("cpu", "cuda"):  # the noise wants int32 arithmetic that wraps, which no test of ours saw
            raise RuntimeError("this device was never tried; use cpu or cuda")
        device = torch.device("cpu") if device.type == "cpu" else device  # cpu:1 is the CPU
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device

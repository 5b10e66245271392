"""Which device a run is on, and what has to be set there before anything is computed."""

import torch

PARTS = ("recordings", "compilation", "bfloat16")  # of what makes a GPU fast
WITHOUT: set[str] = set()  # those of PARTS that this process does without


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
    if device.type == "cuda":
        prepare(device)
    return device


def prepare(device):
    """Make a card the current one. ValueError where it has no bfloat16."""
    if device.index is not None:  # or streams and recorded steps would be those of card 0
        torch.cuda.set_device(device)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"--device {device}: {torch.cuda.get_device_name(device)} has no bfloat16, and float16 is not "
                         "offered; --device cpu, or a card from Ampere on")
    # cuDNN's attention makes a plan for every new shape, half a second each, and every prefill is a new shape.
    torch.backends.cuda.enable_cudnn_sdp(False)


def leave_out(parts):
    """Do without these parts (a text, by commas) from now on, and without no others. ValueError: there is no such."""
    wanted = {part.strip() for part in parts.split(",")} - {""}
    if unknown := sorted(wanted - set(PARTS)):
        raise ValueError(f"--without {parts}: there is no {unknown[0]}; choose from {', '.join(PARTS)}")
    WITHOUT.clear()
    WITHOUT.update(wanted)


def dtype_of(device):
    """What a policy computes in: float32 on a CPU, where bfloat16 is slower, and on what has no bfloat16."""
    device = torch.device(device)
    half = device.type not in ("cpu", "mps") and "bfloat16" not in WITHOUT
    if half and device.type == "cuda":
        half = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if half else torch.float32

"""Which device a run is on, and what has to be set there before anything is computed."""

import torch

from lib import distributed
from lib.files import one_line

LARGE = 3e8  # parameters that nobody wants to train on a CPU
PARTS = ("recordings", "compilation", "bfloat16")  # of what makes a GPU fast
WITHOUT: set[str] = set()  # those of PARTS that this process does without


def pick_device(name=""):
    """The torch device of that name; by default the GPU where there is one. ValueError if there is no such device.

    A device counts as one when a kernel has run on it and was right: a driver or a card that this build of torch has no
    kernels for is there, too, and fails later.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type not in ("cpu", "cuda", "mps"):  # the noise wants int32 arithmetic that wraps
            raise RuntimeError("this device was never tried; use cpu, cuda or mps")
        device = torch.device("cpu") if device.type == "cpu" else device  # cpu:1 is the CPU
        if distributed.this.size > 1 and device.type == "cuda":
            if device.index is not None:
                raise RuntimeError("torchrun gives each process a card of its own; name cuda without a number")
            device = torch.device("cuda", distributed.this.local)
        run_a_kernel(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name or 'cuda'}: {one_line(error)}") from error
    if device.type == "cuda":
        prepare(device)
    return device


def run_a_kernel(device):
    """RuntimeError where a device cannot multiply two small matrices."""
    numbers = torch.arange(64.0).view(8, 8)  # their products are whole numbers, which no device rounds
    there = numbers.to(device)
    if not torch.equal((there @ there.T + 1).cpu(), numbers @ numbers.T + 1):
        raise RuntimeError("the product of two small matrices is wrong on it")


def prepare(device):
    """Make a card the current one."""
    if device.index is not None:  # or streams and recorded steps would be those of card 0
        torch.cuda.set_device(device)
    if dtype_of(device) == torch.float32 and "bfloat16" not in WITHOUT:
        print(f"{torch.cuda.get_device_name(device)} has no bfloat16: models are computed in float32, with twice the "
              "memory", flush=True)
    # cuDNN's attention makes a plan for every new shape, half a second each, and every prefill is a new shape.
    torch.backends.cuda.enable_cudnn_sdp(False)


def refuse_large(name, parameters):
    """ValueError where a large model would train on the CPU, unasked, as this build of torch cannot use the GPU.

    name: --device; parameters: of the model.
    """
    reason = "" if name or parameters < LARGE else no_gpu()
    if reason:
        raise ValueError(f"{parameters / 1e9:.1f}B parameters would train on the CPU: {reason}")


def no_gpu():
    """Why a torch that is made for GPUs finds none, and what to do; "" where it finds one, or is made for CPUs."""
    built = torch.version.cuda or torch.version.hip
    if not built or torch.cuda.is_available():
        return ""
    try:
        torch.cuda.init()
        reason = "no GPU is there"
    except Exception as error:  # torch has several kinds
        reason = one_line(error)
    return (f"this torch ({torch.__version__}) is made for CUDA {built} and finds no GPU ({reason}). Update the "
            "driver, or install the torch that pytorch.org offers for the driver's CUDA (nvidia-smi shows it); "
            "--device cpu trains on the CPU")


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

"""How a program ends: with one line that says what is saved, never with a traceback."""

import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]
import torch
from safetensors import SafetensorError

import worlds
from lib import memory
from lib.files import one_line

UNFINISHED = "cold_start.pt"  # in a run directory, as long as its cold start is not finished
ANEW = "restore it, or begin another run with --out"  # what to do about a damaged file
# What a disk, a data file or a full card can do in the middle of a run.
BROKEN = (worlds.GameError, OSError, SafetensorError, memory.TooSmall, torch.OutOfMemoryError)
HELD: list[int] = []  # the open run directory that is locked, see `hold`


class Held(Exception):
    """Another process holds the run directory."""


@contextmanager
def guard(program, out, errors):
    """End the program with one line and an exit status on Ctrl-C (130), SIGTERM (143), or one of these errors (1).

    The line says what is saved in the run directory `out` (None where there is none). Other errors are bugs and pass.
    While it lasts no other process enters the same `out`.
    """
    def terminate(number, frame):
        raise SystemExit(128 + number)

    main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    before = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    try:
        hold(out)
        yield
    except Held as held:
        raise SystemExit(f"{program}: {held}") from None
    except KeyboardInterrupt:
        print(f"{program}: interrupted{saved(out)}", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            print(f"{program}: terminated{saved(out)}", file=sys.stderr)
        raise
    except errors as error:
        if isinstance(error, BrokenPipeError):  # `| head`: the interpreter's last flush would fail, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        less = "; --recompute, --offload, --lora 16 or a smaller --context or --budget take less memory"
        raise SystemExit(f"{program}: {one_line(error)}{less * isinstance(error, torch.OutOfMemoryError)}{saved(out)}"
                         ) from None
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)
        while HELD:
            os.close(HELD.pop())


def hold(out):
    """Lock a run directory, where it exists, until `guard` ends or the process does.

    Held, one line, where another process has it: two would write over each other's checkpoints.
    """
    if fcntl is None or HELD or not out or not Path(out).is_dir():
        return
    HELD.append(os.open(out, os.O_RDONLY))
    try:
        fcntl.flock(HELD[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(HELD.pop())
        raise Held(f"another process is training in {out}; wait for it, or give another --out") from None
    except OSError:  # a file system without locks
        pass


def saved(out):
    """The end of a line: what of a run is whole."""
    try:
        if out and (checkpoint := checkpoint_of(out)):
            return f"; step {int(checkpoint.name[5:])} is saved in {out}, --resume goes on from there"
        if out and (Path(out) / UNFINISHED).is_file():
            return f"; part of the cold start is saved in {out}, --resume goes on from there"
    except (ValueError, OSError):
        pass
    return ""


def checkpoint_of(run):
    """The newest checkpoint of a run directory, or None where it is no run. ValueError where it is not whole."""
    latest = Path(run) / "latest"
    if not latest.is_file():
        return None
    checkpoint = Path(run) / "checkpoints" / latest.read_text(encoding="utf-8", errors="replace").strip()
    if not (checkpoint / "trainer.pt").is_file():
        raise ValueError(f"{latest} names {checkpoint.name!r}, and there is no such checkpoint; {ANEW}")
    return checkpoint

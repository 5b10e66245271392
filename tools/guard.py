"""How a program ends: with one line that says what is saved, never with a traceback. And whose a run directory is."""

import atexit
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]
import torch
from safetensors import SafetensorError

import worlds
from lib import distributed, memory, sharding
from lib.files import one_line

UNFINISHED = "cold_start.pt"  # in a run directory, as long as its cold start is not finished
ANEW = "restore it, or begin another run with --out"  # what to do about a damaged file
# What a disk, a data file or a full card can do in the middle of a run.
BROKEN = (worlds.GameError, OSError, SafetensorError, memory.TooSmall, torch.OutOfMemoryError)
# After out-of-memory: flags that --resume takes, see runs.MEMORY; of a program that only plays.
TRAINING = "--recompute, --offload, a smaller --budget, --rows or --context take less memory"
PLAYING = "a smaller --rows or --context takes less memory"
HELD: list[int] = []  # the open run directory that is locked, see `hold`
WATCHING: list[threading.Thread] = []  # that of `watch_the_others`
GONE = 3  # seconds in which it shows that another process was killed
MADE: list[Path] = []  # directories that `claim` made: what is still empty at the end goes away again


class Held(Exception):
    """The run directory cannot be had: another process is there, or it cannot be entered or written."""


@contextmanager
def guard(program, out, errors, less=""):
    """`one_process` in every process of a run; one that fails ends at once, as the others wait for it."""
    alone(program)
    if distributed.this.size > 1 and not WATCHING:
        WATCHING.append(threading.Thread(target=watch_the_others, args=(program, out), daemon=True))
        WATCHING[0].start()
        atexit.register(leave, "done")
    try:
        with one_process(program, out, errors, less):
            yield
    except SystemExit as stop:
        if distributed.this.size > 1:
            leave("ended")
            print_last(stop.code if isinstance(stop.code, str) else "")
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise


@contextmanager
def one_process(program, out, errors, less):
    """End the program with one line and an exit status on Ctrl-C (130), SIGTERM (143), or one of these errors (1).

    The line says what is saved in the run directory `out` (None where there is none). Other errors are bugs and pass;
    `errors` may be a list that changes meanwhile. While it lasts no other process enters the same `out`.
    less: which flags take less memory, by default those of train.py, or without `out` those of eval.py.
    """
    def terminate(number, frame):
        raise SystemExit(128 + number)

    main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    before = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    try:
        hold(out)
        yield
    except Held as held:
        raise SystemExit(last_words(program, str(held), out="") or 1) from None
    except KeyboardInterrupt:
        print_last(last_words(program, "interrupted", out, "told"))
        raise SystemExit(130) from None
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            print_last(last_words(program, "terminated", out, "told"))
        if isinstance(stop.code, str) and distributed.this.size > 1:  # a line of a method's own
            raise SystemExit(last_words(program, stop.code.removeprefix(f"{program}: "), out) or 1) from None
        raise
    except distributed.Lost as lost:
        raise SystemExit(last_words(program, one_line(lost), out, "lost") or 1) from None
    except tuple(errors) as error:
        if isinstance(error, BrokenPipeError):  # `| head`: the interpreter's last flush would fail, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        short = isinstance(error, torch.OutOfMemoryError)
        less = less or (TRAINING if out else "" if program.startswith("studies.") else PLAYING)
        advice = f"; {less}" if short and less else ""
        raise SystemExit(last_words(program, f"{one_line(error)}{advice}", out) or 1) from None
    except Exception as error:  # a bug
        if distributed.this.size == 1:
            raise
        if sharding.lost(error):
            raise SystemExit(last_words(program, "another process of this run has gone", out, "lost") or 1) from None
        traceback.print_exc(file=distributed.this.stderr)
        raise SystemExit(last_words(program, f"{type(error).__name__}: {one_line(error)}", out) or 1) from None
    finally:
        if main_thread and distributed.this.size == 1:
            signal.signal(signal.SIGTERM, before)
        while MADE:
            with suppress(OSError):  # it is not empty
                os.rmdir(MADE.pop())
        while HELD:
            os.close(HELD.pop())


def alone(program):
    """End a program that is made for one process with one line, where torchrun has started it."""
    if distributed.launched() and not distributed.this.started:
        line = f"{program}: does not run on several processes; start it with python instead of torchrun"
        # Status 0 of the others: for any other torchrun would end the first one before it has said it.
        raise SystemExit(line if os.environ.get("RANK", "0") == "0" else 0)


def watch_the_others(program, out):
    """End this process where another has gone, or speaks for all, and it does not end by itself.

    That is so where it waits for a card: no signal and no exception gets through there.
    """
    with suppress(RuntimeError):  # the store was torchrun's, whose end distributed.watch sees
        while killed(wait=False) is None and not distributed.this.store.check(["said"]):
            time.sleep(1)
        time.sleep(2 * GONE)
        print_last(last_words(program, "another process of this run has gone", out, "lost"))
        os._exit(1)


def leave(why):
    """Leave word that this process ends, and why: so it was not killed."""
    with suppress(RuntimeError):  # the store was torchrun's
        distributed.this.store.set(f"left {distributed.this.rank}", why)


def last_words(program, why, out, ends="itself"):
    """The line with which a program ends, "" where another process of the run has said it.

    ends: itself, for a reason of its own; told to, by a signal; or because it has lost another process.
    """
    whole = f"{program}: {why}{saved(out)}"
    this = distributed.this
    if this.size == 1:
        return whole
    if threading.current_thread() is threading.main_thread():  # torchrun ends whoever is left, and this line is wanted
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        this.store.set(f"left {this.rank}", why)
        dead = killed(wait=ends == "lost") if ends != "itself" else None
        if this.store.add("said", 1) > 1:
            return ""
    except RuntimeError:  # the store was torchrun's
        if not distributed.leader():
            return ""
        return f"{program}: torchrun has ended{saved(out)}"
    sys.stderr = this.stderr  # this process speaks for all
    if dead is not None:
        return f"{program}: rank {dead} has ended without a word, as after kill -9 or with no memory left{saved(out)}"
    return f"{program}: rank {this.rank}: {why}{saved(out)}" if ends == "itself" else whole


def killed(wait):
    """The rank of a process on this machine that is gone and has left no word; None where there is none.

    wait: it must have gone just now, or another speaks about it, and the system may need a moment to show it.
    """
    this, until = distributed.this, time.monotonic() + (GONE if wait else 0)
    while True:
        for rank, (machine, process) in enumerate(this.team):
            near = rank != this.rank and machine == this.team[this.rank][0]
            if near and gone(process) and not this.store.check([f"left {rank}"]):
                return rank
        if time.monotonic() >= until or this.store.check(["said"]):
            return None
        time.sleep(0.1)


def gone(process):
    """Has this process ended, be it that nobody has asked yet how?"""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except ProcessLookupError:
        return True
    except OSError:  # no Linux: there it only shows when torchrun has asked
        return False


def print_last(line):
    if line:
        print(line, file=sys.stderr)


def hold(out):
    """Lock a run directory, where it exists, until `guard` ends or the process does.

    Held, one line, where another process has it: two would write over each other's checkpoints.
    """
    if fcntl is None or HELD or not out or not distributed.leader():
        return
    try:
        while Path(out).is_dir():
            directory = os.open(out, os.O_RDONLY)
            HELD.append(directory)
            lock(directory, out)
            if os.path.isdir(out) and os.path.samestat(os.fstat(directory), os.stat(out)):
                return
            os.close(HELD.pop())  # who held it had made it, and took it away again before this lock
    except OSError as error:
        raise refused(out, error) from None


def lock(directory, out):
    """Lock an open directory, the last of HELD. Held where another process has it."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(HELD.pop())
        raise Held(f"another process is training in {out}; wait for it, or give another --out") from None
    except OSError:  # a file system without locks
        pass


def claim(out, *others):
    """Make the run directory where it is missing, lock it, and see that it can be written. Held, one line, where not.

    So of two programs that begin at once, one writes nothing; and nobody trains for hours before a save fails.
    others: directories that must be writable, too, where they are there.
    """
    where = out
    if not distributed.leader():  # it is the leader's
        return
    try:
        MADE.extend(folder for folder in (*reversed(Path(out).parents), Path(out)) if not os.path.lexists(folder))
        Path(out).mkdir(parents=True, exist_ok=True)
        hold(out)
        while fcntl and not HELD:  # who had made it has just taken it away again
            Path(out).mkdir(parents=True, exist_ok=True)
            hold(out)
        for where in (out, *others):
            if os.path.isdir(where):
                with tempfile.TemporaryFile(dir=where):
                    pass
    except OSError as error:
        raise refused(out, error, where) from None


def refused(out, error, where=""):
    """What to say of a run directory with which the system refuses to work; where: the directory that it was about."""
    what = "a file or a broken link" if isinstance(error, FileExistsError) else error.strerror or one_line(error)
    place = f" in {where}" if where and where != out else ""
    return Held(f"--out {out}: {what}{place}; name a directory that you may enter and write")


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

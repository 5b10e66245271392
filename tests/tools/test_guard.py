"""Whatever ends a program ends it with one line that is true."""

import fcntl
import json
import os
import signal
import time
from dataclasses import fields
from functools import partial

import pytest
import torch

import policy as policies
import train
from lib import memory
from tests.runs import ends
from tools import coldstart, guard, runs

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("number, status, word", [(signal.SIGINT, 130, "interrupted"),
                                                  (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_a_run_with_one_line(number, status, word, run, begun, monkeypatch, capsys):
    """Bug: Ctrl-C, or a cluster's SIGTERM, prints a page of traceback and does not say whether anything is lost."""
    capsys.readouterr()
    rollout = train.rollout

    def interrupted(*rest, **more):
        os.kill(os.getpid(), number)
        time.sleep(5)
        return rollout(*rest, **more)

    monkeypatch.setattr(train, "rollout", interrupted)
    assert ends(run, begun, "--steps", "3", "--resume") == ("", status)
    error = capsys.readouterr().err
    assert word in error and "step 1 is saved" in error and "--resume" in error and error.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handler is put back"


def locked(directory):
    """What another process sees: is a run directory locked?"""
    other = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(other)
    return False


def test_a_second_training_of_the_same_run_is_refused(run, tmp_path, monkeypatch):
    """Bug: two processes write one run: lines of both in metrics.jsonl, checkpoints removed under the other."""
    seen, saves = [], runs.save

    def save(*rest):
        seen.append(locked(tmp_path / "run"))
        saves(*rest)

    monkeypatch.setattr(runs, "save", save)
    run(tmp_path / "run")
    assert seen == [True, True] and not locked(tmp_path / "run"), "locked from a new run's first file to its last"
    other = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    line, status = ends(run, tmp_path / "run", "--steps", "2", "--resume")
    assert "another process is training in" in line and status == 1 and len(seen) == 2
    os.close(other)
    run(tmp_path / "run", "--steps", "2", "--resume")
    assert len(seen) == 3 and seen[-1]


def test_a_full_disk_in_the_loop_is_one_line(run, begun, monkeypatch):
    """Bug: an hour of training ends in a traceback that does not say what is whole."""
    def fail(error, *rest, **more):
        raise error

    for where, error in (("tools.report.append", OSError(28, "No space left on device")),
                         ("torch.save", RuntimeError("PytorchStreamWriter failed writing file")),
                         ("policy.Policy.save", PermissionError(13, "Permission denied"))):
        with monkeypatch.context() as patch:
            patch.setattr(where, partial(fail, error))
            line, status = ends(run, begun, "--steps", "2", "--resume")
        assert status == 1 and "step 1 is saved" in line and "--resume" in line and "\n" not in line, where
    run(begun, "--steps", "2", "--resume")
    assert (begun / "latest").read_text() == "step_00002\n"


def test_our_own_bugs_keep_their_traceback(run, tmp_path, monkeypatch):
    """Bug: a TypeError of ours is shown as one line, and nobody can find it."""
    monkeypatch.setattr(train, "edits_of", lambda episodes: None + 1)
    with pytest.raises(TypeError):
        run(tmp_path / "run")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
                                   memory.TooSmall("one episode of 9 tokens takes 1.0 GB")])
def test_out_of_memory_is_one_line_with_the_numbers(error):
    """Bug: after a quarter of an hour the program ends in a traceback from the depths of torch."""
    with pytest.raises(SystemExit) as stop, guard.guard("train.py", None, guard.BROKEN):
        raise error
    assert str(error).splitlines()[0] in stop.value.code and "\n" not in stop.value.code
    assert "--context" in stop.value.code or isinstance(error, memory.TooSmall)


def test_only_flags_that_the_program_has_are_named_after_out_of_memory(begun, tmp_path, monkeypatch):
    """Bug: eval.py is told to --recompute, and a cold start to take fewer --rows, which it does not have."""
    def died(program, out, *less):
        with pytest.raises(SystemExit) as stop, guard.guard(program, out, guard.BROKEN, *less):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return stop.value.code

    assert f"{guard.TRAINING}; step 1 is saved in {begun}, --resume goes on" in died("train.py", begun)
    assert "--recompute" not in died("eval.py", None) and guard.PLAYING in died("eval.py", None)
    assert "--lora" not in died("train.py", begun), "no other --lora can be resumed"
    called = []
    monkeypatch.setattr(coldstart, "guard", lambda *rest: called.append(rest) or guard.guard(*rest))
    monkeypatch.setattr(coldstart, "make", lambda flags: None)
    monkeypatch.setattr("sys.argv", ["coldstart", "--out", str(tmp_path / "new")])
    coldstart.main()
    known = {f"--{f.name}" for f in fields(coldstart.Flags)}
    assert {word.strip(",") for word in called[0][3].split() if word.startswith("--")} <= known


def test_the_loser_of_two_that_begin_at_once_writes_nothing(run, tmp_path, monkeypatch):
    """Bug: both find no run, both load their model, and the one that is too late has written its config.json first."""
    out, load = tmp_path / "run", policies.load

    def second(*rest, **more):  # begins while the first one loads its model
        with monkeypatch.context() as patch:
            patch.setattr(guard, "HELD", [])
            patch.setattr(guard, "MADE", [])
            patch.setattr(policies, "load", lambda *rest, **more: pytest.fail("it went on"))
            line, status = ends(run, out, "--seed", "2", "--wandb", "p")
        assert "another process is training in" in line and status == 1 and list(out.iterdir()) == []
        monkeypatch.setattr(policies, "load", load)
        return load(*rest, **more)

    monkeypatch.setattr(policies, "load", second)
    run(out, "--seed", "1")
    assert json.loads((out / "config.json").read_text())["seed"] == 1


def test_a_directory_that_was_taken_away_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    """Bug: the first of two fails and removes its empty directory; the second one holds the lock of a directory that
    is gone, and a third one writes into the same run."""
    out, flock, count = tmp_path / "run", fcntl.flock, []

    def late(directory, how):
        count.append(directory)
        if len(count) == 1:
            out.rmdir()
        flock(directory, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with guard.guard("train.py", out, ()):
        guard.claim(out)
        assert len(count) == 2 and locked(out)
    assert not out.exists(), "nothing was written there"

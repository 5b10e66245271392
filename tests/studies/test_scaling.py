"""Weak scaling: what is compared with what, on numbers worked out by hand."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from studies import scaling


def row(act, review, probe, seconds):
    """An iteration that sampled so many tokens, with so many seconds for each part; it confirmed nothing."""
    return {"act_sampled": act, "review_sampled": review, "probe_sampled": probe, "confirm_sampled": 0,
            "sampled": act + review + probe, **dict(zip(("act_s", "probe_s", "update_s", "confirm_s"), seconds))}


def test_the_speed_of_a_part_is_its_tokens_over_its_seconds():
    """Bug: iterations are averaged, though some sample more; or reviews, which are played with acting, are left out."""
    found = scaling.speeds([row(100, 50, 400, (2, 4, 1, 0)), row(300, 150, 0, (4, 0, 5, 0))])
    assert found == {"act": 100, "probe": 100, "update": 100, "confirm": None, "iteration": 1000 / 16}


def test_processes_are_compared_with_as_many_alone_and_at_once(monkeypatch, capsys):
    """Bug: two processes that do no more than one are called 100%; a part without work ends it with a traceback."""
    asked = []

    def play(args, processes, seeds, root):
        asked.append((processes, seeds))
        seconds = {(1, 1): 2, (1, 2): 2.5, (2, 1): 1.25}[processes, len(seeds)]
        return [[row(100, 0, 0, (seconds, 0, seconds, 0))] for _ in seeds]

    monkeypatch.setattr(scaling, "play", play)
    pairs = scaling.compare(SimpleNamespace(processes=2, pairs=2), None)
    # Alone 50 tokens/s; two at once 40 each; 80 by torchrun's two.
    assert [pair["act"] for pair in pairs] == [(50.0, pytest.approx(0.8), pytest.approx(1.0))] * 2
    assert pairs[0]["probe"] is pairs[0]["confirm"] is None
    assert asked == [(1, [0]), (1, [0, 1]), (2, [2]), (1, [3]), (1, [3, 4]), (2, [5])]
    table = scaling.markdown(pairs, 2)
    assert "| act | 50 (50-50) | 0.80 (0.80-0.80) | 1.00 (1.00-1.00) |" in table and "probe" not in table


@pytest.mark.parametrize("argv, words", [(["--processes", "1"], "at least 2"), (["--pairs", "0"], "at least 1"),
                                         (["--processes", "100000"], "so many cores")])
def test_a_wrong_flag_is_one_line(argv, words, monkeypatch, capsys):
    """Bug: more processes than cores share these, and a table says that they scale badly."""
    monkeypatch.setattr(sys, "argv", ["studies.scaling", *argv])
    with pytest.raises(SystemExit):
        scaling.main()
    assert words in capsys.readouterr().err


def test_a_run_that_fails_is_named(tmp_path, monkeypatch):
    """Bug: a wrong flag of train.py is a traceback about a file that is not there."""
    ended = "print('shop', flush=True); raise SystemExit('train.py: --env moon: there is no such world')"
    monkeypatch.setattr(scaling, "command", lambda *rest: [sys.executable, "-c", ended])  # what it says, without torch
    args = SimpleNamespace(env="moon", model="tiny", tasks=1, steps=2, flags="")
    with pytest.raises(ValueError, match="a run of train.py has failed: .*moon"):
        scaling.play(args, 1, [0], tmp_path)


def test_a_run_that_fails_ends_the_others(tmp_path, monkeypatch):
    """Bug: the others train on in a directory that is gone, and hold their cores."""
    made, popen = [], subprocess.Popen
    monkeypatch.setattr(scaling, "command", lambda args, processes, seed, out: [
        sys.executable, "-c", f"import time; time.sleep({60 * seed}); raise SystemExit(1)"])
    monkeypatch.setattr(scaling.subprocess, "Popen", lambda *rest, **more: (
        made.append(popen(*rest, **more)) or made[-1]))
    first = next(iter(os.sched_getaffinity(0)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: [first, first])
    with pytest.raises(ValueError, match="has failed"):
        scaling.play(SimpleNamespace(), 1, [0, 1], tmp_path)
    ended = made[1].returncode
    made[1].kill()
    assert ended == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2, reason="takes two cores")
def test_it_runs(monkeypatch, capsys):
    """Bug: a flag of train.py is renamed, or torchrun is started in another way, and no run is made any more."""
    flags = "--tasks", "1", "--steps", "2", "--pairs", "1", "--flags", "--group 2 --probes 1 --confirm 1"
    monkeypatch.setattr(sys, "argv", ["studies.scaling", *flags])
    scaling.main()
    assert "| iteration |" in capsys.readouterr().out

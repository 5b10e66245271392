"""Tests of lib/distributed.py and lib/packing.py: runs on several processes are the run on one."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import envs
from lib import distributed
from lib.packing import dumps
from skillbank import Edit, SkillBank
from tests.real import ROOT
from tests.runs import COUNTER
from tools import guard

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.usefixtures("one_thread")


def weights(out):
    """The weights of a run's last checkpoint."""
    return load_file(out / "checkpoints" / (out / "latest").read_text().strip() / "model.safetensors")


def rows(out):
    """metrics.jsonl without what is a clock's or the machine's. `rows` counts the episodes of one process."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items()
             if not name.endswith("_s") and name not in ("memory_mb", "gpu_mb", "rows", "mismatch")} for line in lines]


def alone(out, *more):
    """train.py in this process."""
    import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *COUNTER, "--out", str(out), *more])
        train.main()


def test_two_processes_make_the_run_of_one_and_one_goes_on_with_it(tmp_path):
    """Bug: means per process instead of over all tokens, seeds of ranks, edits in another order: another experiment.

    The field's commonest: each process divides by its own number of tokens (open-instruct 1161, ms-swift 10165).
    """
    alone(tmp_path / "one", "--steps", "2")
    out = tmp_path / "two"
    ran = subprocess.run([*TORCHRUN, "2", "train.py", *COUNTER, "--out", out, "--steps", "1"], cwd=ROOT, env=ALONE,
                         capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("step 1 |") == 1 and ran.stdout.count("to train on") == 1, "the leader alone prints"
    alone(out, "--resume", "--steps", "2")
    for file in ("edits.jsonl", "reviews.jsonl", "skills.json"):
        assert (out / file).read_bytes() == (tmp_path / "one" / file).read_bytes(), file
    for file in ("step_00001.json", "step_00002.json"):
        two, one = (json.loads((run / "samples" / file).read_text()) for run in (out, tmp_path / "one"))
        assert [e["segments"] for e in two["episodes"]] == [e["segments"] for e in one["episodes"]]
    assert rows(out) == rows(tmp_path / "one")
    one, two = weights(tmp_path / "one"), weights(out)
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert json.loads((out / "config.json").read_text())["changed"][0]["processes"] == [2, 1]


@pytest.fixture
def team(monkeypatch):
    """team(rank, size): this process is one of several, which are not there."""
    def be(rank, size, **more):
        monkeypatch.setattr(signal, "signal", lambda *how: None)
        monkeypatch.setattr(distributed, "this", SimpleNamespace(
            **{**vars(distributed.this), "rank": rank, "size": size, "started": True, **more}))

    return be


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_every_episode_and_every_batch_is_dealt_once(team, size, count):
    """Bug: an episode is played twice or by nobody, where their number is no multiple of the processes'."""
    for deal in (lambda: distributed.mine(count), lambda: distributed.deal([i % 5 + 1 for i in range(count)])):
        dealt = []
        for rank in range(size):
            team(rank, size)
            dealt.append(deal())
        assert sorted(sum(dealt, [])) == list(range(count))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 3
    assert size > 1 or distributed.mine(count) == list(range(count))


def test_the_longest_batches_go_to_who_has_least(team):
    """Bug: contiguous blocks, of which the first process gets all long ones and the others wait."""
    team(1, 2)
    assert distributed.deal([9, 8, 2, 1]) == [1, 2]


def test_an_episode_arrives_as_it_was_in_few_bytes():
    """Bug: a log-probability is rounded, or every episode carries a bank and its tokens as a list of numbers."""
    logp = (-torch.rand(4000)).tolist()
    segment = envs.Segment([70_000] + list(range(3999)), [0, 1] * 2000, logp, [-1] * 4000, [17])
    edit = Edit("added", "propose_skill", {}, SkillBank())
    turns = [envs.Turn("page", "text", True, "reply")]
    episode = envs.Episode(1, "shoes", 3, [], ("a", "b"), [segment], turns, edit=edit)
    content = dumps({3: episode}, "edit")
    there = pickle.loads(content)[3]
    assert there.segments == [segment] and there.turns == episode.turns and there.edit is None
    assert len(content) < 50_000 < len(pickle.dumps(segment))
    assert pickle.loads(dumps(envs.Segment(list(range(20)), logp=[0.1] * 20))).logp == [0.1] * 20, "no float32"


class Store(dict):
    """What torchrun's store does, without torchrun."""

    def set(self, key, value):
        self[key] = value

    def add(self, key, more):
        self[key] = self.get(key, 0) + more
        return self[key]

    def check(self, keys):
        return all(key in self for key in keys)


def test_one_process_speaks_for_all(team, capsys):
    """Bug: eight processes end with eight lines, or the one that knows why is the one that is not heard."""
    store, ended = Store(), subprocess.Popen(["true"])
    ended.wait()
    here = dict(store=store, team=[("a", os.getpid()), ("a", os.getpid()), ("b", ended.pid)])
    team(1, 3, **here)
    assert guard.last_words("train.py", "no such game", None) == "train.py: rank 1: no such game"
    team(0, 3, **here)
    assert guard.last_words("train.py", "terminated", None, "told") == ""


def test_a_killed_process_is_named(team):
    """Bug: after kill -9 of a rank the line says that the run was terminated, as if somebody had asked for it."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    team(0, 3, store=Store(), team=[("a", os.getpid()), ("a", ended.pid), ("b", ended.pid)])
    line = guard.last_words("train.py", "terminated", None, "told")
    assert line.startswith("train.py: rank 1 has ended without a word")
    team(0, 2, store=Store({"left 1": "terminated"}), team=[("a", os.getpid()), ("a", ended.pid)])
    assert guard.last_words("train.py", "terminated", None, "told") == "train.py: terminated"


def test_a_command_for_one_process_refuses_torchrun(monkeypatch):
    """Bug: eight processes make the same cold start and write over each other's checkpoint."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(SystemExit, match="tools.coldstart: does not run on several"):
        with guard.guard("tools.coldstart", None, ()):
            raise AssertionError("it began")


BROKEN = """
import os, sys
import envs, train, worlds
def broken(*rest):
    raise {error}
if os.environ["RANK"] == "1" and "--resume" not in sys.argv:
    envs.commit = train.commit = broken
train.main()
"""


def children(process):
    """{rank: process id} of the processes that torchrun has started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                words = (folder / "environ").read_bytes().split(b"\0")
                found[next(int(word[5:]) for word in words if word.startswith(b"RANK="))] = int(folder.name)
        except (OSError, StopIteration):
            pass
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks Linux for the children of a process")
@pytest.mark.parametrize("how", ["follower", "leader", "torchrun", "SIGTERM", "SIGINT", "game", "bug"])
def test_all_end_at_once_with_one_line_and_the_run_goes_on(tmp_path, how):
    """Bug: a process dies and the others wait for it through the night, or end with a traceback each.

    follower, leader, torchrun: whom kill -9 hits. SIGTERM, SIGINT: what torchrun gets. game, bug: what is raised by
    one process.
    """
    out, program = tmp_path / "run", "train.py"
    if how in ("game", "bug"):
        program = tmp_path / "broken.py"
        error = "worlds.GameError('no such game')" if how == "game" else "KeyError('x')"
        program.write_text(BROKEN.format(error=error))
    run = [*TORCHRUN, "2", str(program), *COUNTER, "--out", str(out)]
    # Processes of their own sessions are not the test's: whoever is left at the end is named, and killed.
    with subprocess.Popen([*run, "--steps", "500"], cwd=ROOT, env={**ALONE, "PYTHONPATH": str(ROOT)}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            if line.startswith("step 1 |") or how in ("game", "bug"):
                break
        ranks = children(process.pid)
        assert len(ranks) == 2 or how in ("game", "bug")
        if how in ("follower", "leader"):
            os.kill(ranks[how == "follower"], signal.SIGKILL)
        elif how not in ("game", "bug"):
            process.send_signal(signal.SIGKILL if how == "torchrun" else getattr(signal, how))
        begin, text = time.monotonic(), process.stdout.read()  # to the end of the last process that could write
        seconds = time.monotonic() - begin
    left = [number for number in ranks.values() if not guard.gone(number)]
    for number in left:
        os.kill(number, signal.SIGKILL)
    lines = [line for line in text.splitlines() if line.startswith("train.py: ")]
    assert not left and len(lines) == 1 and (seconds < 10 or how in ("game", "bug")), (seconds, lines, text[-2000:])
    said = {"follower": "rank 1 has ended without a word", "leader": "rank 0 has ended without a word",
            "torchrun": "torchrun has ended", "SIGTERM": "terminated", "SIGINT": "interrupted",
            "game": "rank 1: no such game", "bug": "rank 1: KeyError: 'x'"}[how]
    assert lines[0].startswith(f"train.py: {said}") and "; step " in lines[0]
    ran = subprocess.run([*TORCHRUN, "3", "train.py", *COUNTER, "--out", out, "--resume", "--steps", "2"], cwd=ROOT,
                         env=ALONE, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and (out / "latest").read_text() >= "step_00001", ran.stderr

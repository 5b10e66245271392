"""The cold start: what is cut from a long transcript, and which tokens weigh more."""

import json
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import envs
import policy as policies
import train
from tests.real import ROOT
from tools import coldstart, report, runs
from tools.coldstart import cold_start, shorten, weigh

IDS = list(range(100, 120))
SAID = [i in (4, 5, 8, 9, 10, 13, 18, 19) for i in range(20)]  # an opening of 4 tokens, four turns


@pytest.mark.parametrize("limit, kept, trained", [
    (20, range(20), [4, 5, 8, 9, 10, 13, 18, 19]),  # it fits
    (19, [0, 1, 2, 3, *range(8, 20)], [13, 18, 19]),
    (16, [0, 1, 2, 3, *range(8, 20)], [13, 18, 19]),
    (15, [0, 1, 2, 3, *range(13, 20)], [18, 19]),
    (10, range(10), [4, 5, 8, 9]),  # not two turns fit behind the opening
])
def test_a_long_transcript_keeps_its_task_and_its_end(limit, kept, trained):
    """Bugs: the end is cut instead, and with it the review: a model that lost never saw how one reviews a loss; what
    follows the task is trained although the turns before it are gone: a model that begins in the middle."""
    ids, said = shorten(IDS, SAID, limit)
    assert ids == [IDS[i] for i in kept] and [id for id, mine in zip(ids, said) if mine] == [IDS[i] for i in trained]
    assert len(ids) == len(said) <= limit


def test_a_transcript_without_an_answer_is_cut():
    """Bug: --sft_data with a chat that nobody answers ends the cold start with an IndexError."""
    assert shorten([1, 2, 3], [False] * 3, 2) == ([1, 2], [False] * 2)


def test_copied_words_weigh_more_and_given_ones_nothing():
    """Bug: the weight of a word comes from its own turn, or every bracket of the rules counts as copied."""
    ids, said = [7, 1, 2, 3, 3, 7, 9, 9, 4, 9], [False] * 3 + [True] * 4 + [False] * 2 + [True]
    assert weigh(ids, said, {7}, 5.0) == [0, 0, 0, 1, 1, 1, 1, 0, 0, 5.0]  # 3 was never given, 7 is of the rules
    assert weigh(ids, said, {7}, 1.0) == [float(mine) for mine in said]


def test_a_task_longer_than_the_context_is_one_line():
    """Bug: a division by zero, or NaN in every weight, after the model has been loaded for minutes."""
    cfg = SimpleNamespace(sft_muon=0, sft_data="", cold_start=1, sft_batch=1, sft_lr=0.1, sft_copy=1,
                          sft_prompt=0, budget=4096, max_norm=1, seed=0, context=8, out="nowhere", resume=False)
    env = envs.make("webshop")
    with pytest.raises(ValueError, match="nothing to learn in 8 tokens .* raise --context"):
        cold_start(policies.load("tiny"), env, cfg, lambda name: iter)


SMALL = ("--tasks 1 --group 2 --cold_start 0 --eval_every 0 --act_tokens 8 --review_tokens 8 --context 1500 "
         "--probes 1 --lr 1e-3 --steps 1").split()


@pytest.fixture
def run(train_in_process):
    return partial(train_in_process, SMALL, 2)


def test_the_cold_start_learns_and_takes_chats_from_a_file(tmp_path, monkeypatch, capsys, run):
    """--sft_data must go the same way as the scripted transcripts; its loss has to fall below the scripted start."""
    chat = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day to you"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    flags = ["--sft_data", str(tmp_path / "chats.jsonl"), "--sft_lr", "5e-3", "--sft_batch", "2", "--steps", "0"]
    losses = []
    for steps in ("1", "30"):
        run(tmp_path / f"run{steps}", *flags, "--cold_start", steps)
        losses.append(float(capsys.readouterr().out.split("loss ")[-1].split()[0]))
    assert losses[0] > 5 and losses[1] < 1
    policy = policies.load(str(tmp_path / "run30" / "reference"))
    session = policies.Session(policy, 1, 64)
    session.feed([0], [policy.chat.opening("", "hello")])
    (ids, _), = session.sample([0], 20, temperature=0)
    assert policy.chat.decode(ids) == "good day to you<|im_end|>"  # the stop token was learned, too


def ends(call, *arguments):
    """What a call ends the program with: (the line, exit status)."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    code = stop.value.code
    return (code, 1) if isinstance(code, str) else ("", code)


def die(*rest, **more):
    raise KeyboardInterrupt


def test_a_finished_cold_start_is_not_taken_for_another_runs(run, tmp_path, monkeypatch, capsys):
    """Bug: killed in its baseline, a run is begun again with other flags, and its old reference is used for the KL."""
    flags = "--eval_every 1 --eval_tasks 2 --cold_start 2 --sft_batch 1".split()
    with monkeypatch.context() as patch:
        patch.setattr(train, "dev_games", die)
        assert ends(run, tmp_path / "run", *flags)[1] == 130
    assert "holds a run" in ends(run, tmp_path / "run", "--cold_start", "3")[0]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", die)  # killed again, after the baseline
        assert ends(run, tmp_path / "run", *flags, "--resume")[1] == 130
    (tmp_path / "run" / coldstart.SAVED).write_bytes(b"left over")
    run(tmp_path / "run", *flags, "--resume")
    assert [row["step"] for row in report.lines_of(tmp_path / "run" / "metrics.jsonl")] == [0, 1]
    assert not (tmp_path / "run" / coldstart.SAVED).exists()


@pytest.mark.parametrize("flags", [["--sft_lr", "1e-3"], ["--sft_lr", "1e-3", "--sft_muon", "0.01"],
                                   ["--sft_lr", "1e-3", "--lora", "2"]], ids=["adamw", "muon", "lora"])
def test_a_cold_start_goes_on_bit_for_bit(flags, run, tmp_path, monkeypatch, capsys):
    """Bug: a kill after 40 minutes of cold start loses all of it; or moments, losses or the schedule start anew."""
    monkeypatch.setattr(coldstart, "EVERY", 0)
    common = ["--cold_start", "4", "--sft_batch", "2", "--steps", "0", *flags]
    run(tmp_path / "whole", *common)
    whole = [line.partition(",")[0] + line[line.find("loss"):].partition(",")[0]
             for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert not (tmp_path / "whole" / coldstart.SAVED).exists(), "a finished cold start removes its file"
    step, count = coldstart.sft_step, []

    def killed(*rest):
        count.append(1)
        return step(*rest) if len(count) <= 2 else die()

    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "sft_step", killed)
        assert ends(run, tmp_path / "parts", *common)[1] == 130
    assert "part of the cold start is saved" in capsys.readouterr().err
    assert "holds a run" in ends(run, tmp_path / "parts", *common)[0], "it is not begun again in silence"
    run(tmp_path / "parts", *common, "--resume")
    out = capsys.readouterr().out
    parts = [line.partition(",")[0] + line[line.find("loss"):].partition(",")[0]
             for line in out.splitlines() if "loss" in line]
    assert parts == whole[2:] and "going on after 2 steps" in out and "min left" in out
    one, two = (policies.load(str(tmp_path / name / "reference")).model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_a_damaged_cold_start_is_named(run, tmp_path, monkeypatch):
    """Bug: half a file, a traceback of zipfile."""
    monkeypatch.setattr(coldstart, "EVERY", 0)
    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "corpus", None)
        patch.setattr(runs, "with_reference", die)
        assert ends(run, tmp_path / "run", "--cold_start", "2", "--sft_batch", "1")[1] == 130
    assert (tmp_path / "run" / "reference").is_dir()  # killed after the cold start: it is not made again
    with monkeypatch.context() as patch:
        patch.setattr(runs, "cold_start", lambda *rest: pytest.fail("the cold start was made twice"))
        run(tmp_path / "run", "--cold_start", "2", "--sft_batch", "1", "--resume")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "broken" / coldstart.SAVED).write_bytes(b"PK\x03")
    line, _ = ends(run, tmp_path / "broken", "--cold_start", "2", "--sft_batch", "1", "--resume")
    assert coldstart.SAVED in line and "delete it" in line and "\n" not in line


@pytest.mark.slow
def test_sigkill_in_the_cold_start(tmp_path, random_tiny):
    """The same with a real kill -9, wherever it falls."""
    code = "import tools.coldstart as c; c.EVERY = 0; import train; train.main()"
    command = [sys.executable, "-c", code, "--model", random_tiny, *SMALL, *"--steps 0 --cold_start 40".split(),
               *"--sft_batch 2 --sft_lr 1e-3 --out".split()]
    subprocess.run([*command, str(tmp_path / "calm")], cwd=ROOT, check=True, capture_output=True)
    resume: list = []
    for seconds in (5, 6, 7, 8):
        process = subprocess.Popen([*command, str(tmp_path / "hunted"), *resume], cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
        resume = ["--resume"] if (tmp_path / "hunted" / "config.json").is_file() else []
    subprocess.run([*command, str(tmp_path / "hunted"), *resume], cwd=ROOT, check=True, capture_output=True)
    one, two = (policies.load(str(tmp_path / name / "reference")).model.state_dict() for name in ("calm", "hunted"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("content, what", [
    ('{"messages": [{"role": "user", "content": "caf\xe9"}]}\n'.encode("latin-1"), "line 1: is not UTF-8"),
    (b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}\n', "list of parts"),
])
def test_other_peoples_chats_are_named(content, what, run, tmp_path):
    """Bug: a codec's error without the file's name; or "roles are []" for content in parts."""
    (tmp_path / "chats.jsonl").write_bytes(content)
    line, _ = ends(run, tmp_path / "run", "--cold_start", "1", "--sft_data", str(tmp_path / "chats.jsonl"))
    assert "chats.jsonl" in line and what in line and "\n" not in line

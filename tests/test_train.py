"""Tests of train.py: the loop end to end, resuming bit for bit, surviving a kill, and one clear line for bad input."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import envs
import policy as policies
import train
from dualadv_grpo import ACT, FORCED, REVIEW
from skillbank import SkillBank
from tests.real import ROOT
from worlds.webshop import catalogue

SMALL = ("--tasks 1 --group 2 --cold_start 0 --eval_tasks 2 --act_tokens 8 --review_tokens 8 "
         "--context 1500 --save_every 1 --commit all --probes 1 --lr 1e-3").split()


@pytest.fixture(scope="module")
def run(train_in_process):
    """Every review becomes a proposal named after what the policy said: a random policy would never make one."""

    def review(text, bank, family, task):
        arguments = {"category": family, "title": f"Rule {text}", "principle": f"Do {text}", "when_to_apply": "always",
                     "evidence": "none"}
        return bank.tried("propose_skill", arguments, family, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envs, "review", review)
        yield partial(train_in_process, SMALL, 4)


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory):
    """A run of one iteration. Tests that go on with it take a copy."""
    out = tmp_path_factory.mktemp("runs") / "saved"
    run(out, "--steps", "1", "--eval_every", "0")
    return out


def everything(out):
    """All that a run's checkpoint holds, comparable."""
    checkpoint = Path(out) / "checkpoints" / (Path(out) / "latest").read_text().strip()
    state = torch.load(checkpoint / "trainer.pt", weights_only=True)
    weights = policies.load(str(checkpoint)).model.state_dict()
    moments = {(i, name): value for i, s in state["optimizer"]["adam"]["state"].items() for name, value in s.items()}
    lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if not k.endswith("_s") and k != "memory_mb"} for line in lines]
    return weights, moments, (checkpoint / "skills.json").read_text(), metrics, state["step"]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path, run):
    """nano-aha skips one draw too few on resume and repeats a batch; others save weights only, or no RNG state.

    Weights, optimiser moments, bank, sampled tasks, losses, evaluations: equal to the last bit on a CPU.
    """
    run(tmp_path / "whole", "--steps", "2", "--eval_every", "2")
    run(tmp_path / "parts", "--steps", "1", "--eval_every", "2")
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:  # a step that was logged but not saved
        file.write('{"step": 2, "success": 1.0}\n{"step": 3, "suc')
    run(tmp_path / "parts", "--steps", "2", "--eval_every", "2", "--resume")
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    assert equal(whole[0], parts[0]) and equal(whole[1], parts[1])
    assert whole[2:] == parts[2:] and whole[4] == 2
    metrics = whole[3]
    assert [line["step"] for line in metrics] == [0, 1, 2]
    assert "eval_success" in metrics[0] and "eval_success" in metrics[2]  # a baseline before any update
    assert len(SkillBank.load(tmp_path / "whole" / "skills.json").skills()) == metrics[-1]["skills"] > 1
    assert all(line["edits"] >= line["committed"] > 0 and line["tokens"] > 0 for line in metrics[1:])
    first = policies.load(str(tmp_path / "whole" / "reference")).model.state_dict()
    assert not equal(first, whole[0])  # it did learn something
    sample = (tmp_path / "whole" / "samples" / "step_00001.txt").read_text()
    assert "Task: " in sample and "--- review" in sample and "utility" in sample and "with the edit" in sample


def test_a_kill_during_saving_leaves_the_last_good_checkpoint(saved, tmp_path, monkeypatch, run):
    """A checkpoint that is half written, or a pointer to one, loses the whole run.

    Killed four times in a row, each time further on in its save: what a kill leaves stands in nobody's way.
    """
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    before = everything(tmp_path)

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    kills = (("safetensors.torch.save_file", die), ("torch.save", die), ("os.rename", die),
             ("tools.runs.write_atomic", lambda path, text: die() if path.name == "latest" else None))
    for where, instead in kills:
        with monkeypatch.context() as patch:
            patch.setattr(where, instead)
            with pytest.raises(SystemExit) as stop:
                run(tmp_path, "--steps", "2", "--eval_every", "0", "--resume")
        assert stop.value.code == 130, where
        after = everything(tmp_path)
        assert equal(before[0], after[0]) and before[2] == after[2] and after[4] == 1, where
        SkillBank.load(tmp_path / "skills.json")
    run(tmp_path, "--steps", "2", "--eval_every", "0", "--resume")
    assert everything(tmp_path)[4] == 2 and len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_sigkill_at_random_moments(tmp_path):
    """The same with a real kill -9, wherever it falls; the survivor ends equal to a run that was left alone."""
    command = [sys.executable, "train.py", *SMALL, "--steps", "4", "--eval_every", "0"]
    resume: list = []  # nothing to resume at first
    subprocess.run([*command, "--out", str(tmp_path / "calm")], cwd=ROOT, check=True, capture_output=True)
    for seconds in (4, 5, 6, 7, 8, 9, 10, 11, 12):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "hunted"), *resume], cwd=ROOT,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        resume = ["--resume"] if (tmp_path / "hunted" / "config.json").is_file() else []
    subprocess.run([*command, "--out", str(tmp_path / "hunted"), "--resume"], cwd=ROOT, check=True, capture_output=True)
    calm, hunted = everything(tmp_path / "calm"), everything(tmp_path / "hunted")
    assert equal(calm[0], hunted[0]) and equal(calm[1], hunted[1]) and calm[2:] == hunted[2:]


@pytest.mark.parametrize("flags, what", [
    (["--data", "/no/such/place"], "/no/such/place"), (["--model", "/no/such/model"], "/no/such/model"),
    (["--env", "chess"], "chess"), (["--device", "quantum"], "quantum"),
    (["--context", "400", "--eval_every", "0"], "--context"),
])
def test_bad_input_ends_with_one_line_and_no_traceback(flags, what, tmp_path, capsys, run):
    """Missing data, a wrong model, a context that holds nothing: the line says which, and what to do."""
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", *flags)
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.rstrip("\n")
    assert message.startswith("train.py: ") and what in message and "\n" not in message


def test_a_run_is_not_overwritten_and_not_resumed_under_other_flags(saved, tmp_path, run):
    """Starting anew in a finished run's directory would lose it; resuming with another lr would lie about it.

    And a run that forgets its --data must not go on in the made-up shop, nor the other way round.
    """
    other = catalogue.make(tmp_path / "other_shop", products=120, seed=5)
    before = everything(saved)
    again = ["--resume", "--eval_every", "0"]
    for flags, what in ((["--steps", "1"], "--resume"), ([*again, "--clip", "0.3"], "clip 0.2"),
                        ([*again, "--data", str(other)], "made-up")):
        with pytest.raises(SystemExit) as stop:
            run(saved, *flags)
        assert what in str(stop.value.code) and "\n" not in str(stop.value.code)
    assert equal(before[0], everything(saved)[0])


@pytest.mark.parametrize("kind, flags", [("dual", []), ("single", ["--advantage", "single"]),
                                         ("act", ["--skill_weight", "0"])], ids=["dual", "single", "act"])
def test_the_ablation_is_a_flag(kind, flags, tmp_path, monkeypatch, run):
    """dual: reviews paid in S, scaled; single: one advantage for all; with a weight of 0 reviews get none."""
    seen = []

    def update(model, reference, optimizer, segments, advantages, *rest):
        for segment, mine in zip(segments, advantages):
            assert not any(a for a, job in zip(mine, segment.job) if job == FORCED)
            if {ACT, REVIEW} <= set(segment.job):
                seen.append(tuple(mine[segment.job.index(job)] for job in (ACT, REVIEW)))
        return train.grpo.Stats(tokens=1)

    monkeypatch.setattr(train.grpo, "update", update)
    prices = set()

    def shaped(text, edit, not_found):
        prices.add(not_found)
        return float(len(text) % 7) + 0.1 * len(seen)

    monkeypatch.setattr(train, "shaping", shaped)
    run(tmp_path, "--steps", "1", "--group", "4", "--eval_every", "0", "--not_found", "0.1", *flags)
    assert prices == {0.1}
    act, skill = zip(*seen)
    if kind == "dual":
        assert act != skill and any(skill) and max(map(abs, skill)) <= 0.2 * 1.51  # (n - 1) / sqrt(n), n = 4
    if kind == "single":
        assert act == skill and any(act)
    if kind == "act":
        assert not any(skill)


def test_environment_variable_names_the_data(tmp_path, monkeypatch, run):
    """$WEBSHOP_DATA pointing nowhere must not silently fall back to the made-up shop."""
    monkeypatch.setenv("WEBSHOP_DATA", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "run", "--steps", "0")
    assert stop.value.code.startswith("train.py: $WEBSHOP_DATA") and "nothing" in stop.value.code
    assert "\n" not in stop.value.code

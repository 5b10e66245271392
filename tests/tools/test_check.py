"""The checks of a device must see what is wrong with one, and a run must heed them."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dualadv_grpo import ACT
from envs import Episode, Segment
from lib import distributed
from lib.device import WITHOUT, leave_out
from policy import Session
from tests.real import ROOT
from tests.runs import ends
from tools import check

CPU = torch.device("cpu")


@pytest.fixture
def all_parts():
    yield
    leave_out("")


@pytest.mark.slow
def test_a_cpu_passes_all_that_is_not_a_cards_own():
    """Bug: a check fails where nothing is wrong, or dies: then nobody believes it on a card."""
    ended = subprocess.run([sys.executable, "-m", "tools.check", "--device", "cpu"], cwd=ROOT, capture_output=True,
                           text=True)
    found = {line["check"]: line for line in map(json.loads, ended.stdout.splitlines()) if "check" in line}
    assert ended.returncode == 0 and list(found) == list(check.CHECKS), ended.stdout + ended.stderr
    own = {name for name, line in found.items() if line["ok"] is None}
    assert own - {"draw"} == {"graphs", "short"}
    assert found["update"]["all weights"]["of_computed"] <= 1.05 and found["train"]["lora"]["mismatch"] < 1e-4


def test_other_noise_is_noticed(monkeypatch):
    """Bug: int32 arithmetic that saturates gives a device random numbers of its own, and no probe is paired."""
    assert check.run("noise", CPU)["ok"]
    calls = []
    monkeypatch.setattr(check, "gumbel", lambda seeds, vocab, device, real=check.gumbel: (
        calls.append(1) or real(seeds + len(calls) - 1, vocab, device)))
    found = check.run("noise", CPU)
    assert found["ok"] is False and "other tokens would be drawn" in found["why"]


def test_scores_that_are_rounded_are_noticed(monkeypatch):
    """Bug: decoding in bfloat16 computes another model, and only what no test looks at tells."""
    found = check.run("attention", CPU)
    assert found["ok"] and found["scores"] > 1000 and found["decoding"] < 0.02

    def rounded(q, k, v, mask, alone):
        return ((q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5 + mask).softmax(-1).to(v.dtype) @ v

    monkeypatch.setattr(check.fused, "attend", rounded)
    found = check.run("attention", CPU)
    assert found["ok"] is False and "attention is off" in found["why"]


def test_a_tie_is_no_error_and_another_token_is(tiny, monkeypatch):
    """Bug: a device that draws other tokens passes as rounding; or every tie fails a device that is right."""
    session, prompt = Session(tiny, 1, 64, seed=1, keys=[5]), tiny.chat.opening("be quick", "the fox")
    session.feed([0], [list(prompt)])
    (ids, logp), = session.sample([0], 6, stop=())

    def episode(ids, logp=logp):
        one = Episode(0, "a", 5, [], (), [Segment.of(list(prompt))])
        one.segments[0].add_sampled(list(ids), ACT, list(logp), 0)
        return one

    check.compare(tiny, episode(ids), episode(ids), 1.0, "")
    other = [*ids[:3], (ids[3] + 1) % 1000, *ids[4:]]
    with pytest.raises(check.Wrong, match="another token is drawn, whose score is"):
        check.compare(tiny, episode(ids), episode(other), 1.0, "")
    with pytest.raises(check.Wrong, match="log p of a token is 0.5 apart"):
        check.compare(tiny, episode(ids), episode(ids, [*logp[:2], logp[2] + 0.5, *logp[3:]]), 1.0, "")
    with pytest.raises(check.Wrong, match=f"{len(prompt) + 2} tokens came, not {len(prompt) + 6}"):
        check.compare(tiny, episode(ids), episode(ids[:2], logp[:2]), 1.0, "")
    nothing = episode(ids)
    nothing.segments = []
    with pytest.raises(check.Wrong, match="0 stretches of transcript, not 1"):
        check.compare(tiny, episode(ids), nothing, 1.0, "")
    seen = []
    monkeypatch.setattr(check, "need", lambda ok, what: seen.append(what))
    check.compare(tiny, episode(ids), episode(ids[:3] + [max(ids[3] - 1, 0)]), 1.0, "")
    noise = check.gumbel([check.mix(1, 5, 0, 3)], tiny.model.cfg.vocab_size, "cpu")[0]
    with torch.no_grad():
        scores = tiny.model(torch.tensor([prompt + ids[:3]]))[0, -1] + noise
    assert scores.argmax() == ids[3], "the scores of the check are those that the sampler drew by"
    assert f"{(scores[ids[3]] - scores[max(ids[3] - 1, 0)]).item():.2g} apart" in seen[-1]


def test_processes_of_torchrun_check_their_device_alone_and_in_the_made_up_shop(monkeypatch):
    """Bug: a run on two cards asks for cuda:1, which torchrun gave it, and is refused; or it plays an episode together
    with processes that still wait; or $WEBSHOP_DATA, which is for another world, decides whether a card is right."""
    monkeypatch.setattr(distributed.this, "size", 2)
    monkeypatch.setenv("WEBSHOP_DATA", "/there/is/no/such/directory")
    for name in ("device", "episodes"):
        found = check.run(name, CPU)
        assert found["ok"], found
    assert os.environ["WEBSHOP_DATA"] == "/there/is/no/such/directory"
    monkeypatch.setattr(check, "run_a_kernel", lambda device: check.need(device.index is None, "another card"))
    with pytest.raises(check.Wrong, match="another card"):  # the kernel runs on this very one
        check.check_device(torch.device("cuda:1"), "")


def test_a_run_does_without_what_is_wrong_or_does_not_begin(monkeypatch, capsys, all_parts):
    """Bug: a card whose recordings or compiled kernels are wrong trains on another model, or cannot be used at all."""
    def fails(*names):
        monkeypatch.setattr(check, "run", lambda name, device: {
            "ok": not any(one == name and part not in WITHOUT for one, part in names), "why": "off by 3"})

    card = torch.device("cuda:0")
    fails(("draw", "compilation"), ("episodes", "recordings"))
    monkeypatch.setattr(check.draw, "compiled", "for the shapes of the checks")
    check.before_a_run(card)
    assert check.draw.compiled is None, "a run may compile a function for eight kinds of shapes"
    assert WITHOUT == {"compilation", "recordings"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all("off by 3; going on without" in line for line in lines)
    for name in ("noise", "attention", "episodes"):
        leave_out("")
        fails((name, "nothing that can be left out"))
        with pytest.raises(ValueError, match=f"cuda:0 computes something else than a CPU .check {name}: off by 3"):
            check.before_a_run(card)
    leave_out("")
    fails(("draw", "compilation"))
    check.before_a_run(CPU)
    assert not capsys.readouterr().out.splitlines()[1:]
    fails()
    check.before_a_run(torch.device("mps"))
    assert "no run was ever made on this kind of device" in capsys.readouterr().out
    fails(("episodes", "recordings"))
    with pytest.raises(ValueError, match="--device mps computes something else"):
        check.before_a_run(torch.device("mps"))


def test_a_run_asks_its_device_first(run, tmp_path, monkeypatch):
    """Bug: the checks are there, and train.py does not make them."""
    def wrong(device):
        raise ValueError(f"{device} is wrong")

    monkeypatch.setattr(check, "before_a_run", wrong)
    assert "cpu is wrong" in ends(run, tmp_path / "run")[0]


def test_the_command_prints_a_line_each_and_its_status_tells(monkeypatch, capsys):
    """Bug: a traceback ends the command before the checks that would have passed; or failure has status 0."""
    def skipped(device, model):
        raise check.Skipped("for a card")

    def dies(device, model):
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(check, "CHECKS", {"one": lambda device, model: {"model": model, "x": 1 / 3}, "two": skipped})
    assert ends(check.main, ["--device", "cpu", "--model", "m", "--checks", "one,two"])[1] == 0
    one, two = map(json.loads, capsys.readouterr().out.splitlines())
    assert (one["ok"], one["model"], one["x"]) == (True, "m", 0.3333)
    assert (two["ok"], two["why"]) == (None, "for a card")
    monkeypatch.setattr(check, "CHECKS", {"bad": dies, "good": lambda device, model: {}})
    assert ends(check.main, ["--device", "cpu", "--checks", "bad,good"])[1] == 1
    bad, good = map(json.loads, capsys.readouterr().out.splitlines())
    assert bad["why"] == "RuntimeError: CUDA error: an illegal memory access" and good["ok"]
    monkeypatch.setattr(check, "CHECKS", {"one": lambda device, model: check.WITHOUT.add("recordings") or {}})
    assert ends(check.main, ["--device", "cpu", "--checks", "one"])[1] == 1
    assert "without recordings" in json.loads(capsys.readouterr().out.splitlines()[1])["why"], "it went on without"
    check.WITHOUT.clear()
    assert ends(check.main, ["--device", "abacus"])[1] == 1
    assert json.loads(capsys.readouterr().out)["check"] == "device"
    assert ends(check.main, ["--device", "cpu", "--checks", "three"])[1] == 2

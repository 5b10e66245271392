"""A compiled piece computes what the plain one does, or is left alone."""

import shutil

import pytest
import torch

from lib import fused
from policy import draw


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("rows, temperature", [(5, 1.0), (64, 0.4), (3, 0.0), (1, 1.0)])
def test_a_compiled_draw_is_the_same_draw(rows, temperature, monkeypatch):
    """Bug: fused code overflows an integer in another way, or adds up in half precision, and draws from elsewhere."""
    monkeypatch.setattr(fused, "wanted", lambda tensor: True)
    logits, seeds = torch.randn(rows, 5000) * 3, torch.randint(-2**31, 2**31 - 1, (rows,), dtype=torch.int32)
    plain, compiled = draw.__wrapped__(logits, seeds, temperature), draw(logits, seeds, temperature)
    assert torch.equal(plain[0], compiled[0]) and (plain[1] - compiled[1]).abs().max() < 1e-4


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch, capsys):
    """Bug: a card without Triton, or a machine without a compiler, ends the first rollout with a traceback."""
    calls = []

    def compile(function, **how):
        calls.append(function)
        raise RuntimeError("no triton\nhere")

    monkeypatch.setattr(torch, "compile", compile)
    double = fused.fused(lambda x: 2 * x)
    assert double(torch.ones(1)) == 2 and not calls, "nothing is compiled on a CPU"
    monkeypatch.setattr(fused, "wanted", lambda tensor: True)
    assert double(torch.ones(1)) == 2 == double(torch.ones(1)) and len(calls) == 1, "it is tried once"
    assert capsys.readouterr().out.count("stays in pieces (no triton") == 1

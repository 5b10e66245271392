"""A compiled piece computes what the plain one does, or is left alone."""

import math
import shutil

import pytest
import torch

from lib import fused
from policy import draw, rotate


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("rows, temperature", [(5, 1.0), (64, 0.4), (3, 0.0), (1, 1.0)])
def test_a_compiled_draw_is_the_same_draw(rows, temperature, monkeypatch):
    """Bug: fused code overflows an integer in another way, or adds up in half precision, and draws from elsewhere."""
    monkeypatch.setattr(fused, "wanted", lambda tensor: True)
    logits, seeds = torch.randn(rows, 5000) * 3, torch.randint(-2**31, 2**31 - 1, (rows,), dtype=torch.int32)
    plain, compiled = draw.__wrapped__(logits, seeds, temperature), draw(logits, seeds, temperature)
    assert torch.equal(plain[0], compiled[0]) and (plain[1] - compiled[1]).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_rope_is_the_same_rope(monkeypatch):
    """Bug: the sampler's rotation, which is compiled, rounds once, and the trainer's, which is not, three times."""
    x, cos, sin = torch.randn(2, 4, 9, 32).bfloat16(), torch.randn(2, 1, 9, 32), torch.randn(2, 1, 9, 32)
    plain = rotate(x, cos, sin)
    monkeypatch.setattr(fused, "wanted", lambda tensor: True)
    difference = (plain.float() - rotate(x, cos, sin).float()).abs()
    assert (difference > 0).float().mean() < 0.01 and (difference <= 2**-7 * plain.float().abs() + 1e-6).all()


def test_rope_rounds_once():
    """Bug: in bfloat16 the products, their sum, and cosine and sine themselves are rounded, each on its own."""
    x, angle = torch.randn(2, 4, 9, 32).bfloat16(), 1000 * torch.randn(2, 1, 9, 32)
    turned = rotate(x, angle.cos(), angle.sin())
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotate(x.float(), angle.cos(), angle.sin()).bfloat16())


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_products_are_attention(dtype):
    """Bug: decoding on a card has no scale, a mask that hides nothing, or a softmax in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 16, generator=generator).to(dtype) for n in (4, 70, 70))
    hidden = torch.rand(3, 1, 4, 70, generator=generator) < 0.3
    mask = torch.zeros(3, 1, 4, 70, dtype=dtype).masked_fill_(hidden, -math.inf)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    close = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(fused.attend_one(q, k, v, mask), want, atol=close, rtol=0)

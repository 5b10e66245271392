"""Random numbers that belong to a key: uniform, unrelated, finite."""

import numpy as np
import pytest
import torch

from lib.streams import gumbel, mix
from tests.small import chi_square


@pytest.mark.parametrize("seeds", ["keys", "places", "turns", "raw"])
def test_noise_is_uniform_and_uncorrelated(seeds):
    """The bug: seeds that differ in a counter only draw related tokens, so a group of rollouts explores less."""
    n, vocab = 10000, 64
    i = np.arange(n)
    seeds = {"keys": (0, i, 0, 0), "places": (0, 0, 0, i), "turns": (0, 0, i, 0)}.get(seeds)
    seeds = i if seeds is None else mix(*seeds)
    values = gumbel(seeds, vocab, "cpu")
    assert len(values[:, :3].unique(dim=0)) == n  # no two alike
    draws = values.argmax(-1)
    assert abs(chi_square(torch.bincount(draws, minlength=vocab), torch.full((vocab,), n / vocab))) < 4
    pairs = draws[:-1] // 2 * (vocab // 2) + draws[1:] // 2  # of one seed and the next
    cells = (vocab // 2) ** 2
    assert abs(chi_square(torch.bincount(pairs, minlength=cells), torch.full((cells,), n / cells))) < 4
    wins = torch.stack([(values[:, [i]] > values).float().mean(0) for i in range(vocab)])  # of one token over another
    assert (wins[~torch.eye(vocab, dtype=torch.bool)] - 0.5).abs().max() < 5 * 0.5 / n**0.5
    # A Gumbel: mean Euler's constant, variance pi^2 / 6.
    assert abs(values.mean() - 0.5772) < 0.01 and abs(values.var() - 1.6449) < 0.03


def test_noise_is_finite_for_the_whole_range():
    """The bug: u = 0 or 1 gives an infinite score, and that token is drawn whatever the policy thinks."""
    values = gumbel([mix(i) for i in range(64)] + [0, -1, 2**31 - 1, -2**31], 150_000, "cpu")
    assert values.isfinite().all() and values.max() > 13 and values.min() < -2

"""SIRI: what a skill is worth is measured inside the groups, and what it did is taught to the plain prompt."""

import pytest
import torch

from dualadv_grpo import policy_loss
from forks.siri import gain_of, teaching


def test_a_gain_is_the_guided_half_less_the_other_in_wins():
    """Bug: halves are swapped, so useful skills are retired; or the gain is in rewards, and no threshold fits it."""
    assert gain_of([0.0, 10.0, 10.0, 10.0], 2) == 0.5
    assert gain_of([10.0, 0.0, -0.5], 1) == pytest.approx((-0.5 - 5.0) / 10)
    assert gain_of([10.0], 0) == 0.0


def test_only_good_actions_teach_and_none_for_much():
    """Bug: a guided action that lost is pushed down under a prompt that would never have led to it."""
    assert teaching([[0.0, -1.0, 0.5, 7.0]], 0.1) == [[0.0, 0.0, pytest.approx(0.05), pytest.approx(0.2)]]


def test_at_a_ratio_of_one_the_update_is_weighted_likelihood():
    """Bug: the sampler's log-probabilities under the skills stay, and the clip ends the teaching where it is needed."""
    logp = torch.tensor([[-1.0, -2.0, -0.5]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[0.05, 0.0, 0.2]], dtype=torch.float64)
    mask = torch.ones(1, 3)
    policy_loss(logp, logp.detach(), None, weight, mask, kl=0).backward()
    assert torch.allclose(logp.grad, -weight / 3, atol=1e-12)
    logp.grad = None
    guided = torch.tensor([[-0.1, -0.1, -0.1]], dtype=torch.float64)  # what the sampler said, with the skill
    policy_loss(logp, guided, None, weight, mask, kl=0).backward()
    assert logp.grad[0, 0] != pytest.approx(-0.05 / 3)

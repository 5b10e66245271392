"""SIRI: what a skill is worth is measured inside the groups, and what it did is taught to the plain prompt."""

import pytest
import torch

from dualadv_grpo import policy_loss
from forks.siri import gain_of, teaching
from skillbank import SkillBank
from tests.skills import bank_of
from worlds.counter.sender import skill


def test_a_gain_is_the_guided_half_less_the_other_in_wins():
    """Bug: halves are swapped, so useful skills are retired; or the gain is in rewards, and no threshold fits it."""
    assert gain_of([0.0, 10.0, 10.0, 10.0], 2) == 0.5
    assert gain_of([10.0, 0.0, -0.5], 1) == pytest.approx((-0.5 - 5.0) / 10)
    assert gain_of([10.0], 0) == 0.0


def test_an_updated_skill_has_no_record(alone):
    """Bug: a new text is judged by the games of the one whose place it takes, and is retired before it was tried."""
    bank = SkillBank()
    bank.apply("propose_skill", {"category": alone.family, **skill(alone.family, "glass", "red"), "evidence": "-"},
               alone.family)
    again = {"skill_id": "dyn_001", **skill(alone.family, "glass", "blue"), "reason": "-"}
    won, = alone("siri", "--steps 1", SkillBank(), won=lambda e: True)[-1:]
    stored = won[2]["stored"]
    (_, _, state), = alone("siri", "--steps 1 --need 1 --tests 1", SkillBank(), call=lambda e: ("update_skill", again),
                           state={"pool": bank, "stored": stored[:1], "gains": {"dyn_001": [-0.5] * 8}, "minings": []})
    assert state["pool"].find("dyn_001").title.endswith("blue seal")
    assert len(state["gains"].get("dyn_001", [])) <= 1, "what is there is of this iteration"


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


def test_one_skill_is_tested_to_the_end_before_the_next(alone):
    """Bug: the skill that was tested least guides; with new ones at each mining none is ever tested to the end."""
    names = [f"{alone.family}_{i}" for i in range(3)]
    for gains, guide in (((2, 0, 4), 0), ((4, 0, 4), 1), ((5, 6, 4), 2)):
        state = {"pool": bank_of(**{alone.family: 3}), "minings": [], "stored": [],
                 "gains": {name: [0.0] * n for name, n in zip(names, gains)}}
        (_, _, after), = alone("siri", "--steps 1 --tests 4", SkillBank(), state=state)
        grown = [name for name, n in zip(names, gains) if len(after["gains"].get(name, [])) > n]
        assert grown == [names[guide]]

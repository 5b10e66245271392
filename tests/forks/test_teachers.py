"""Skills as a teacher: five published losses are advantages per token, on the tokens that were played."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import softplus

from dualadv_grpo import ACT, FORCED, REVIEW
from forks.teachers import credit, delta_of, support_of
from tests.skills import SHOE

A, C, DELTA = 0.7, 0.3, torch.tensor([-2.0, -0.3, 0.0, 0.4, 1.5], dtype=torch.float64)


def losses(student):
    """Each method's loss per token, as published, of log-probabilities `student` whose sampler was the same policy."""
    teacher, old = student.detach() + DELTA, student.detach()
    ratio, ell = (student - old).exp(), student - teacher
    plain = -ratio * A
    gate = torch.sigmoid(5 * (teacher - old))
    k3 = (-ell).exp() - 1 + ell
    bounded = math.log(2) - softplus(-(teacher - student) ** 2 / 2)
    return {"sdar": plain + C * gate * (teacher - student), "skill_sd": plain + C * ratio * k3,
            "opid": -ratio * (A + C * (teacher - old)), "sgsd": plain + C * -1 * bounded}


@pytest.mark.parametrize("term", ["sdar", "skill_sd", "opid", "sgsd"])
def test_a_terms_advantage_has_the_gradient_of_its_loss(term):
    """Bug: a sign or a factor is wrong, and the plain prompt learns to avoid what the skills say."""
    student = torch.tensor([-1.0, -0.2, -3.0, -0.7, -2.0], dtype=torch.float64, requires_grad=True)
    losses(student)[term].sum().backward()
    wanted = [credit(term, A, d, C, -1) for d in DELTA.tolist()]
    assert student.grad.tolist() == pytest.approx([-a for a in wanted], abs=1e-12)


def test_rlsd_scales_an_advantage_within_bounds():
    """Bug: where a game lost, tokens that the teacher prefers are blamed more instead of less; or exp has no bound."""
    assert credit("rlsd", 2.0, 0.1, 0.5) == pytest.approx(2 * (0.5 + 0.5 * math.exp(0.1)))
    assert credit("rlsd", -2.0, 0.1, 0.5) == pytest.approx(-2 * (0.5 + 0.5 * math.exp(-0.1)))
    assert credit("rlsd", 2.0, 900.0, 1.0) == pytest.approx(2.4)
    assert credit("rlsd", 2.0, -900.0, 0.0) == 2.0


@pytest.mark.parametrize("delta, won, polarity", [(1.0, True, 1), (1.0, False, -1), (-1.0, True, -1), (-1.0, False, 1),
                                                  (0.05, True, 0)])
def test_a_teacher_that_prefers_lost_games_is_learned_from_the_other_way(delta, won, polarity):
    """Bug: a misleading skill teaches its mistakes."""
    assert support_of([[None, delta], [delta]], won)[1] == polarity
    assert support_of([[9.0, -1.0]], True)[0] == 1.0, "each token counts up to 3"


@pytest.mark.parametrize("before", [[], [0.0, 0.0, 0.0]])
def test_the_two_prompts_may_have_any_length(before):
    """Bug: the teacher's log-probabilities are read from the left, one prompt's length off."""
    segment = SimpleNamespace(ids=[1, 2, 3, 4, 5], job=[FORCED, ACT, ACT, FORCED, REVIEW],
                              logp=[0.0, -1.0, -2.0, 0.0, -3.0])
    said = [*before, -0.5, -2.5, 0.0, -9.0]
    assert delta_of(segment, said) == [None, 0.5, -0.5, None, None]


def test_a_game_that_does_not_fit_behind_skills_has_plain_grpo(alone, too_long):
    """Bug: one long transcript ends the run, and again after --resume."""
    call = "propose_skill", SHOE | {"category": "general"}
    (_, iteration, _), = alone("teachers", "--steps 1", call=lambda e: call)
    assert all(e.edit.changed for e in iteration.episodes)
    assert iteration.notes["taught"] == 0

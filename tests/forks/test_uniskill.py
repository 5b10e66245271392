"""UniSkill: an edit is worth what it makes likelier, and no operation dies out."""

import math
from types import SimpleNamespace

import pytest
import torch

import envs
import policy as policies
from dualadv_grpo import ACT, Objective, per_token, tokens_of, update
from forks.uniskill import aligned, floors, pulling, tools_of
from policy import logprobs
from skillbank import TOOLS, SkillBank
from tests.skills import SHOE


def test_alignment_worked_by_hand():
    """Bug: a skill that makes every game likelier, the lost ones most, is committed."""
    assert aligned([(-1.0, -2.0, -1.5, -2.0)]) == pytest.approx(0.5)
    assert aligned([(-1.0, -1.0, -2.0, -3.0)]) == pytest.approx(-1.0)
    assert aligned([(-1.0, -2.0, -1.5, -2.0), (-1.0, -1.0, -2.0, -3.0)]) == pytest.approx(-0.25)
    assert aligned([]) == 0.0


def test_the_floor_pulls_as_its_loss_does():
    """Bug: a rare operation is made rarer, or a frequent one is held down."""
    logs = torch.tensor([[-0.1, -4.0], [-0.3, -6.0], [-0.2, -2.5]], dtype=torch.float64, requires_grad=True)
    loss = ((math.log(0.1) - logs.exp().mean(0).log()).clamp(min=0) ** 2).sum()
    loss.backward()
    assert torch.allclose(pulling(logs.detach(), 0.1), -logs.grad, atol=1e-12)
    assert (pulling(logs.detach(), 0.1)[:, 0] == 0).all() and (pulling(logs.detach(), 0.1)[:, 1] > 0).all()


def test_the_tools_names_stand_where_the_review_named_its_own(tiny, env, monkeypatch):
    """Bug: the floor is put on tokens that no review would sample there, and raises nothing."""
    monkeypatch.setattr(env, "limit", 3)
    sampling = envs.Sampling(1.0, 96, 160, 3072, 64, 4)
    episodes = envs.rollout(tiny, env, env.train_tasks[:2], SkillBank(), 2, 1, sampling)
    named = [e for e in episodes if e.edit.name in TOOLS]
    assert named
    for e in named:
        ways = dict(zip(TOOLS, tools_of(tiny.chat, e)))
        for tool, way in ways.items():
            assert tiny.chat.decode(way.ids).endswith(f'{{"name": "{tool}'), tool
        own, played = ways[e.edit.name], e.segments[-1]
        assert own.ids == played.ids[:len(own.ids)] and own.starts[-1] > played.starts[-1]


@pytest.mark.slow
def test_the_update_with_the_floor_has_the_gradient_of_its_loss(env):
    """Bug: the floor is divided by all tokens of the batch, and has no weight; or the clip stops it."""
    policy = policies.load("tiny")
    sampling = envs.Sampling(1.0, 96, 160, 3072, 64, 4)
    episodes = envs.rollout(policy, env, env.train_tasks[:2], SkillBank(), 2, 1, sampling)
    segments, advantages = per_token(episodes, [0.0] * 4)
    objective = Objective(kl=0.0, entropy=0.0)
    names, raising = floors(policy, episodes, segments, objective, 0.3, 0.01)
    # The gradients stay in the model.
    still = SimpleNamespace(team=None, accumulate=lambda: None, step=lambda norm: 0.0)
    update(policy.model, None, still, segments + names, advantages + raising, logprobs, objective)
    got = [p.grad.clone() for p in policy.model.parameters()]
    policy.model.zero_grad()
    ways = [tools_of(policy.chat, e) for e in episodes if e.edit.name in TOOLS]
    logs = torch.stack([torch.stack([logprobs(policy.model, *tokens_of([s], "cpu"), 1.0).sum() for s in some])
                        for some in ways])
    (0.01 * ((math.log(0.3) - logs.exp().mean(0).log()).clamp(min=0) ** 2).sum()).backward()
    wanted = [p.grad for p in policy.model.parameters()]
    assert names and max(g.abs().max() for g in wanted) > 1e-3
    for one, other in zip(got, wanted):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert floors(policy, episodes, segments, objective, 0.3, 0.0) == ([], [])


def test_a_pair_that_does_not_fit_behind_skills_does_not_count(alone, too_long):
    """Bug: one long transcript ends the run, and again after --resume; or half of a pair counts as 0."""
    assert aligned([(-1.0, -2.0, -1.5, -2.0), (None, -1.0, -2.0, -3.0)]) == pytest.approx(0.5)
    pair = tuple(envs.Episode(-1, "", 0, [], ("s", "u"), [envs.Segment([1], [ACT], [0.0], [0])]) for _ in range(2))
    call = "propose_skill", SHOE | {"category": "general"}
    (_, iteration, _), = alone("uniskill", "--steps 1", state={"record": {alone.family: [pair]}}, call=lambda e: call)
    assert iteration.notes["pairs"] == 4 and iteration.committed == []


def test_with_graded_rewards_a_better_and_a_worse_game_are_a_pair(alone):
    """Bug: in the shop nobody wins for half of the run, and no edit is worth anything."""
    def won(e):
        e.score = 0.25 * e.key
        return False

    for reward, scores in (("success", None), ("graded", (0.75, 0.0))):
        (_, _, state), = alone("uniskill", f"--steps 1 --reward {reward}", won=won)
        pairs = state["record"].get(alone.family, [])
        assert [tuple(e.score for e in pair) for pair in pairs] == ([scores] if scores else [])

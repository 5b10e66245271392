"""Knowledge Weaver: a review's credit goes to the tokens that depend on the game."""

import sys

import pytest
import torch

import envs
import train
from dualadv_grpo import REVIEW, score
from forks.weaver import shares, without_game
from policy import logprobs
from skillbank import SkillBank
from tests.runs import COUNTER


def test_shares_worked_by_hand():
    """Bug: a review's weight changes with its length, or tokens that any game explains get the most."""
    # sigmoid(0) = .5, sigmoid(log 3) = .75: mean .625.
    assert shares([0.0, 1.0986122886681098], 1.0) == pytest.approx([0.8, 1.2])
    assert shares([0.0, 1.0986122886681098], 0.5) == pytest.approx([0.9, 1.1])
    assert shares([3.0, -3.0, 900.0], 0.0) == [1.0, 1.0, 1.0]
    assert sum(shares([-2.0, 0.5, 7.0, -900.0], 1.0)) == pytest.approx(4.0)


def test_the_same_review_is_read_without_its_game():
    """Bug: the page is still there, so nothing seems to depend on it; or another token is compared with each."""
    from policy import load

    env, policy = envs.make("counter"), load("tiny", world="counter")
    sampling = envs.Sampling(1.0, 96, 160, 3072, 64, 4)
    episodes = envs.rollout(policy, env, env.train_tasks[:4], SkillBank(), 2, 1, sampling)
    depends = []
    for e in episodes:
        alone, played = without_game(policy.chat, e, env), e.segments[-1]
        n = alone.job.count(REVIEW)
        assert alone.ids[-n:] == played.ids[-n:] and n == played.job.count(REVIEW)
        assert "Seals:" not in policy.chat.decode(alone.ids) and "over:" in policy.chat.decode(alone.ids)
        said, = score(policy.model, [alone], logprobs)
        depends += [a - b for a, b in zip(played.logp[-n:], said[-n:])]
    assert sum(depends) > 0, "what the clerk says makes the seal that is written likelier"


def test_unprobed_edits_enter_without_a_confirmation(play_fork, monkeypatch):
    """Bug: --commit all commits what was confirmed only, and is not the ablation that it is in train.py."""
    monkeypatch.setattr("forks.weaver.confirm", lambda *rest: pytest.fail("confirmed"))
    run, rows = play_fork("weaver", "--steps", "1", "--tasks", "1", "--commit", "all", "--acting", "1")
    assert rows[0]["committed"] > 0 and rows[0]["confirm_sampled"] == 0


@pytest.mark.slow
def test_without_its_credit_it_is_skillmaster(play_fork, monkeypatch, tmp_path):
    """Bug: the loop is not train.py's, and a figure for the credit, or for the floor, is one for something else."""
    flags = ("--steps", "1", "--credit", "0", "--acting", "1", "--alpha", "0.3")
    one, _ = play_fork("weaver", *flags)
    monkeypatch.setattr(sys, "argv", ["train.py", *COUNTER, "--steps", "1", "--out", str(tmp_path / "main")])
    train.main()
    assert (one / "edits.jsonl").read_text() == (tmp_path / "main/edits.jsonl").read_text()
    ours, theirs = (torch.load(run / "checkpoints/step_00001/trainer.pt", weights_only=True)["optimizer"]["adam"]
                    for run in (one, tmp_path / "main"))
    for key, moments in ours["state"].items():
        assert torch.equal(moments["exp_avg"], theirs["state"][key]["exp_avg"])
    other, rows = play_fork("weaver", *flags, "--floor", "0.05", "--p_min", "0.5", out="floor")
    assert rows[0]["raised"] > 0 and rows[0]["tokens"] > rows[0]["act_sampled"] + rows[0]["review_sampled"]
    assert (other / "reviews.jsonl").read_text() == (one / "reviews.jsonl").read_text(), "it pays no review otherwise"
    raised = torch.load(other / "checkpoints/step_00001/trainer.pt", weights_only=True)["optimizer"]["adam"]["state"]
    assert not all(torch.equal(moments["exp_avg"], raised[key]["exp_avg"]) for key, moments in ours["state"].items())

"""GiGPO: turns are compared with turns that saw the same page."""

import math
import sys
from types import SimpleNamespace

import pytest

import train
from forks import gigpo
from forks.gigpo import anchor_advantages, compared, returns
from tools import report


def seen_by(*episodes):
    """The turns of some episodes that saw these pages, all of them valid."""
    return [[SimpleNamespace(page=page, valid=True) for page in pages] for pages in episodes]


def test_step_level_advantages_worked_by_hand():
    """Bug: returns are discounted forwards, an anchor is shared between two tasks, or a page seen once is compared."""
    pages = seen_by(["home", "list", "list"], ["home", "item"], ["home", "list"])
    pages[0][1].valid = False
    rewards = [[0.0, -0.5, 10.0], [0.0, 0.0], [0.0, 10.0]]
    home, seen, other = anchor_advantages(pages, rewards, ["a", "a", "b"], gamma=0.5)
    # Returns of task a: home 10 / 4 = 2.5, list 10 / 2 - 0.5 = 4.5, list 10; home 0, item 0.
    assert home == pytest.approx([1.25 / (2.5 / math.sqrt(2)), -math.sqrt(0.5), math.sqrt(0.5)], abs=1e-5)
    assert seen == pytest.approx([-math.sqrt(0.5), 0.0], abs=1e-5)
    assert other == [0.0, 0.0], "the only episode of its task has nothing to compare with"


def test_a_penalty_lowers_no_return_but_its_own_turns():
    """Bug: the turn before an invalid answer is blamed for it."""
    # 10 / 4 = 2.5; 10 / 2 - 0.5 = 4.5; 10. Were it discounted, the first would be (-0.5 + 10 / 2) / 2 = 2.25.
    home, slip, end = seen_by(["home", "list", "list"])[0]
    slip.valid = False
    assert returns([home, slip, end], [0.0, -0.5, 10.0], 0.5) == [2.5, 4.5, 10.0]
    assert returns([home, slip], [0.0, -0.5], 0.5) == [0.0, -0.5] and returns([], [], 0.5) == []
    assert returns([home, slip], [0.0, 9.5], 1.0) == [10.0, 9.5], "it won, in an answer without a thought"


def test_advantages_without_the_spread():
    """Bug: --norm mean changes one of the two advantages only, or compares what has nothing to be compared with."""
    assert compared([10.0, 0.0, 2.0, 3.0], ["a", "a", "a", "b"], "reward", "mean") == [6.0, -4.0, -2.0, 3.0]
    assert compared([10.0, 0.0, 3.0], ["a", "a", "b"], "zero", "mean") == [5.0, -5.0, 0.0]
    pages, rewards = seen_by(["home", "list"], ["home"]), [[0.0, 10.0], [0.0]]
    assert anchor_advantages(pages, rewards, [0, 0], 0.5, "mean") == [[2.5, 0.0], [-2.5]]


def test_it_trains_and_resumes_and_is_no_other_methods_run(random_tiny, tmp_path, monkeypatch, one_thread):
    """Bug: the first example of a fork does not run; or train.py goes on with its run, and the figures are of both."""
    monkeypatch.setattr("worlds.webshop.world.World.limit", 3)
    flags = ("--tasks 1 --group 2 --cold_start 0 --eval_every 0 --act_tokens 8 --review_tokens 8 --context 1500 "
             f"--lr 1e-3 --model {random_tiny} --out {tmp_path / 'run'}").split()
    for more in (["--steps", "1"], ["--steps", "2", "--resume"]):
        monkeypatch.setattr(sys, "argv", ["forks.gigpo", *flags, *more])
        train.main(gigpo.Flags, gigpo.gigpo, "forks.gigpo")
    rows = report.lines_of(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2] and all(row["review_sampled"] == row["edits"] == 0 for row in rows)
    monkeypatch.setattr(sys, "argv", ["train.py", *flags, "--steps", "3", "--reviews", "off", "--resume"])
    with pytest.raises(SystemExit, match="train.py: --resume: .* was run with program forks.gigpo"):
        train.main()

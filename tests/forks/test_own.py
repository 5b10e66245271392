"""What a fork can rely on: its defaults, its own run directory, reports of all it samples, a state that is kept."""

import sys
from dataclasses import dataclass

import pytest

import train
from dualadv_grpo import Stats
from envs import Episode, Segment, Turn
from skillbank import Edit, SkillBank
from tools import report
from tools.flags import flag
from worlds.webshop.shopper import WAYS

SHOE = {"category": "general", "title": "Size", "principle": "Pick it.", "when_to_apply": "Always.", "evidence": "e"}


@dataclass
class Flags(train.Flags):
    top_k: int = flag(0, "no skills", group="own")
    lr: float = flag(1e-2, "learning rate", 0)


def test_what_a_fork_defines_anew_is_its_default_for_every_model():
    """Bug: the preset of tiny takes the place of the fork's own default, and it trains as SkillMaster does."""
    flags = train.read_flags(["--env", "webshop", "--model", "tiny"], Flags, "forks.own")
    assert (flags.top_k, flags.lr, flags.steps) == (0, 1e-2, 20), "the other flags have tiny's presets"
    assert train.read_flags(["--model", "tiny", "--lr", "1"], Flags, "forks.own").lr == 1.0
    assert train.read_flags(["--model", "tiny"]).top_k == 4


def test_a_fork_has_a_run_directory_of_its_own():
    """Bug: the fork's first run is refused, since the README's first command has been there."""
    argv = ["--env", "webshop", "--model", "tiny"]
    assert train.read_flags(argv).out == "runs/webshop-tiny"
    assert train.read_flags(argv, Flags, "forks.own").out == "runs/webshop-tiny-own"


def test_reviews_asked_for_later_and_own_numbers_are_reported(tmp_path, capsys, env):
    """Bug: what review_again samples is not counted, so success at equal tokens is not; its edits are in no log."""
    turns = [Turn("page", "<think>x</think><action>a</action>", True, "reply")]
    played = Episode(7, "a", 0, [], ("s", "Task: t\np"), [Segment.of([1, 2])], turns)
    played.segments[0].add_sampled([3, 4], 1, [0.0, 0.0], 0)
    bank = SkillBank()
    edit = bank.tried("propose_skill", SHOE, "a", 7)
    later = Episode(7, "a", 0, [], ("s", "Task: t\np"), [Segment.of([1, 2])], turns, review="r", edit=edit)
    later.segments[0].add_sampled([3, 4, 5], 2, [0.0] * 3, 1)
    old = bank.apply("propose_skill", {**SHOE, "title": "Old", "principle": "Old."}, "a", 7)
    iteration = report.Iteration(1, [played], Stats(), {"act": 1.0, "audit": 2.5}, [0.0], [0.0], reviewed=[later],
                                 committed=[old], notes={"lambda": 0.25})
    row = iteration.publish(tmp_path, env, bank)
    assert (row["act_sampled"], row["review_sampled"], row["sampled"], row["edits"]) == (2, 3, 5, 1)
    assert row["lambda"] == 0.25 and report.seconds_of(row) == 3.5
    assert "lambda 0.25" in capsys.readouterr().out
    listed = report.lines_of(tmp_path / "edits.jsonl")
    assert [(one["arguments"]["title"], one["committed"]) for one in listed] == [("Size", False), ("Old", True)]


def test_a_committed_skill_that_is_gone_again_is_no_traceback(tmp_path, env):
    """Bug: a method commits a skill and retires it in one iteration, and the run ends with StopIteration."""
    bank = SkillBank()
    edit = bank.apply("propose_skill", SHOE, "a", 7)
    bank.remove({edit.skill_id})
    turns = [Turn("page", "<think>x</think><action>a</action>", True, "reply")]
    episode = Episode(7, "a", 0, [], ("s", "Task: t\np"), [Segment.of([1])], turns)
    report.Iteration(1, [episode], Stats(), {}, [0.0], [0.0], committed=[edit]).publish(tmp_path, env, bank)


def test_an_id_is_not_given_twice():
    """Bug: the newest skill is retired, the next one gets its id, and is judged by the other's record."""
    bank = SkillBank()
    first = bank.apply("propose_skill", SHOE, "a")
    bank.remove({first.skill_id})
    second = bank.apply("propose_skill", {**SHOE, "title": "Other", "principle": "Other."}, "a")
    assert (first.skill_id, second.skill_id) == ("dyn_001", "dyn_002")
    assert SkillBank.from_dict(bank.to_dict()).apply(
        "propose_skill", {**SHOE, "title": "Third", "principle": "Third."}, "a").skill_id == "dyn_003"


def test_state_of_episodes_and_skills_comes_back(random_tiny, tmp_path, monkeypatch, one_thread):
    """Bug: a method stores its successes, saving works, and resuming says that the checkpoint is damaged."""
    seen = []

    def loop(flags, env, policy, reference, optimizer, bank, start, state):
        seen.append(state)
        for step in range(start, flags.steps):
            episodes = train.rollout(policy, env, train.tasks_of(flags, env, step), bank, 1, step,
                                     train.sampling_of(flags, 1.0))
            stored = state.get("episodes", []) + episodes
            state = {"episodes": stored, "edit": episodes[0].edit, "skills": [*bank.skills()], "counts": {"a": step}}
            train.finish(flags, env, policy, optimizer, bank, report.Iteration(
                step + 1, episodes, Stats(), {}, [0.0], [0.0]), state)

    monkeypatch.setattr("worlds.webshop.world.World.limit", 2)
    argv = ("--tasks 1 --group 1 --cold_start 0 --eval_every 0 --act_tokens 8 --review_tokens 8 --context 1500 "
            f"--model {random_tiny} --out {tmp_path / 'run'}").split()
    for more in (["--steps", "1"], ["--steps", "2", "--resume"]):
        monkeypatch.setattr(sys, "argv", ["forks.own", *argv, *more])
        train.main(train.Flags, loop, "forks.own")
    assert seen[0] == {} and seen[1]["counts"] == {"a": 0}
    (episode,) = seen[1]["episodes"]
    assert isinstance(episode, Episode) and episode.turns and isinstance(episode.edit, Edit)
    with pytest.raises(ValueError, match="state"):  # said when it is saved, not when it is wanted back
        train.runs.save(train.read_flags([*argv, "--steps", "2"]), 3, None, None, None, {"a": object()})


def test_words_of_players_do_not_count_for_an_edit_that_is_committed_later():
    """Bug: an edit that was written earlier has no episode, and its row cannot be written."""
    edit = Edit("added", "propose_skill", SHOE, SkillBank(), "dyn_001", family="a")
    assert report.edit_rows(3, [], [edit], WAYS)[0]["episode"] is None

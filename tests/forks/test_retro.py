"""RetroAgent: a game is paid for what its task had not seen, and lessons come back by their worth."""

from types import SimpleNamespace

import pytest

from envs import Episode, Turn, question_of
from forks.retro import ask, beyond, read, recalled, the_best
from tests.skills import SHOE, bank_of


def test_progress_is_paid_beyond_the_best_group_so_far():
    """Bug: every half-done game is paid again and again, or a win is not paid as soon as another half-won task was."""
    games = [SimpleNamespace(task=task, won=won) for task, won in [(1, False), (1, True), (2, False), (3, True)]]
    assert beyond(games, [0.5, 0.2, 0.5, 0.0], {1: 0.25, 2: 0.75}) == [0.25, 0.75, 0.0, 1.0]


def test_a_review_says_what_was_done_and_whether_it_won():
    """Bug: an unfinished list counts as all done; or a review that does not say whether it won is taken to be right."""
    text = "<think>[x] found the lamp\n[ ] chose the size\n[x] bought it\nsuccess: no</think><tool_call>...</tool_call>"
    assert read(text) == (pytest.approx(2 / 3), False)
    assert read("[ ] nothing\nsuccess: yes") == (0.0, True)
    phi, success = read("<think>I keep it.</think>")
    assert phi == 0.0 and success not in (True, False)


def test_the_question_does_not_tell_the_outcome(env):
    """Bug: the prediction is read off the question, so every lesson enters."""
    episode = Episode(7, "footwear", 0, [], ("s", "u"), turns=[Turn("p", "t", True, "r")], won=True, score=0.75)
    told, asked = question_of(episode, env), ask(episode, env)
    assert "SUCCESS" in told and "0.75" in told and "SUCCESS" not in asked and "0.75" not in asked
    assert asked.split("\n")[2:] == told.split("\n")[2:], "what it asks for else stays as it was"


@pytest.fixture
def task():
    """A world whose task has words of the second of three lessons."""
    return SimpleNamespace(goal=lambda task: "footwear title 1 footwear principle 1", family=lambda task: "footwear")


def test_lessons_come_back_by_words_by_use_and_by_chance(task):
    """Bug: a lesson that always failed is shown for ever; one that was never shown never is; n makes it likelier."""
    bank = bank_of(general=1, footwear=3, electronics=2)
    names = [s.skill_id for s in recalled(bank, {}, task, 0, 9, 0.6, 1.0, 0.5)]
    assert names[0] == "footwear_1" and set(names) == {"general_0", "footwear_0", "footwear_1", "footwear_2"}
    uses = {"footwear_0": (0.9, 5), "footwear_1": (0.1, 5), "footwear_2": (0.5, 5), "general_0": (0.4, 5)}
    assert [s.skill_id for s in recalled(bank, uses, task, 0, 2, 0.0, 0.0, 0.5)] == ["footwear_0", "footwear_2"]
    seldom = uses | {"general_0": (0.4, 1)}  # sqrt(ln 16 / 1) = 1.67, sqrt(ln 16 / 5) = .74
    assert recalled(bank, seldom, task, 0, 1, 0.0, 1.0, 0.5)[0].skill_id == "general_0"
    assert recalled(bank, seldom, task, 0, 1, 0.0, 0.5, 0.5)[0].skill_id == "footwear_0", "1.27 beats 1.23"


def test_the_best_of_each_family_stay():
    """Bug: the best of all stay, and a family has none; the memory itself is cut; or an id is given to two lessons."""
    bank = bank_of(general=1, footwear=3)
    some = the_best(bank, {"footwear_0": (0.6, 2), "footwear_2": (0.4, 9)}, 2, 0.5)
    assert [s.skill_id for s in some.skills()] == ["general_0", "footwear_0", "footwear_1"]
    assert len(bank.skills()) == 4 and [s.skill_id for s in the_best(bank, {}, 0, 0.5).skills()] == []


def test_lessons_that_no_game_was_shown_are_not_tested(alone, monkeypatch):
    """Bug: where most games are lost each lesson that was shown is worth less than those that were not."""
    def won(e):
        e.score = 0.1
        return False

    lessons, first = bank_of(**{alone.family: 4}), f"{alone.family}_0"
    monkeypatch.setattr("forks.retro.recalled", lambda *rest: [lessons.find(first)])
    (bank, _, state), = alone("retro", "--steps 1 --progress score --top_k 1", lessons, won)
    assert [s.skill_id for s in bank.skills()] == [first]
    # u = .95 u + .05 score, from .5, for each of the two games that showed it.
    assert state["uses"] == {first: (pytest.approx((0.5 * 0.95 + 0.005) * 0.95 + 0.005), 3)}


@pytest.mark.parametrize("name", ["retro", "ucob"])
def test_a_new_text_is_not_judged_by_an_old_record(name, alone):
    """Bug: an update keeps the lesson's id, and the new text is shown or hidden for what the old one was worth."""
    flags, lesson = "--steps 1" + " --progress score" * (name == "retro"), f"{alone.family}_0"
    calls = {"keep_skill": {}, "update_skill": SHOE | {"skill_id": lesson, "reason": "r"}}
    kept, new = (alone(name, flags, bank_of(**{alone.family: 1}), call=lambda e, call=call: call)[0][2]["uses"]
                 for call in calls.items())
    assert list(kept) == [lesson] and new == {}


def test_lessons_are_pruned_in_a_run_of_any_length(alone, monkeypatch):
    """Bug: 38 iterations are a quarter of the paper's 150, and a run of tiny's 20 prunes nothing."""
    pruned = []
    monkeypatch.setattr("forks.retro.the_best", lambda memory, uses, k, fresh: pruned.append(k) or memory)
    state = alone("retro", "--steps 20 --progress score --top_k 9")[-1][2]
    assert [sum(k == 9 for k in pruned[:i]) + 1 for i, k in enumerate(pruned) if k == 3] == [6, 12, 18]
    assert alone("retro", "--steps 1 --progress score", state=state)[-1][2]["every"] == 6, "whatever --steps is later"

"""UCOB: on a page that several turns saw, the best one teaches the others behind the prompt that it did not have."""

from types import SimpleNamespace

import pytest

from dualadv_grpo import ACT
from envs import Segment
from forks import ucob
from forks.ucob import answering, pairs
from skillbank import SkillBank
from tests.skills import bank_of


def game(*turns):
    return SimpleNamespace(turns=[SimpleNamespace(page=page, valid=valid) for page, valid in turns])


def test_the_highest_return_of_a_page_teaches_the_two_lowest():
    """Bug: a loser teaches; tasks with one front page teach each other; an invalid turn does; all losers are taught."""
    games = [game(("a", True), ("b", True)), game(("a", True)), game(("a", True)), game(("a", False)),
             game(("a", True)), game(("a", True), ("b", True)), game(("a", True))]
    r = [[0.0, 10.0], [0.2], [5.0], [99.0], [10.0], [0.0, 9.8], [7.0]]
    found = pairs(games, r, [0, 0, 0, 0, 1, 0, 0])
    assert [(winner, loser) for winner, loser, _ in found] == [((0, 0), (1, 0)), ((0, 0), (2, 0))]
    assert [gap for *_, gap in found] == pytest.approx([0.93, 0.45]), "in wins; .02 on page b is too little"
    assert pairs(games, [[0.0] * len(g.turns) for g in games], [0] * 7) == []


def test_an_answer_stands_in_the_losers_place():
    """Bug: the winner's own turns before it, or the loser's answer, stand before it; its tokens are no winner's."""
    ours, theirs = Segment.of([1, 2, 3]), Segment.of([1, 2])
    for turn, (mine, other) in enumerate((([10, 11], [20]), ([12], [21, 22, 23]))):
        ours.add_sampled(mine, ACT, [-1.0] * len(mine), turn)
        ours.add_given([7])
        theirs.add_sampled(other, ACT, [-0.1 * n for n in other], turn)
        theirs.add_given([8])
    one = answering([Segment.of([0]), ours], 1, [theirs], 1)
    assert one.ids == [1, 2, 3, 10, 11, 7, 21, 22, 23] and one.job == [0] * 6 + [ACT] * 3
    assert one.logp[6:] == pytest.approx([-2.1, -2.2, -2.3]) and one.turn[6:] == [1] * 3 and one.starts == [6]
    before = Segment.of([1])
    before.add_sampled([20], ACT, [-2.0], 0)
    assert answering([ours], 0, [before, theirs], 1).ids == [1, 2, 3, 21, 22, 23]


@pytest.mark.slow
def test_the_winners_answer_is_taught_behind_the_other_prompt(play_fork, monkeypatch):
    """Bug: lessons are taught to prompts that show them; where they mislead, nothing overrules them."""
    seen = {"games": [], "pairs": [], "taught": []}
    rollout, find, answer = ucob.rollout, ucob.pairs, ucob.answering
    monkeypatch.setattr(ucob, "rollout", lambda *a, **k: seen["games"].append(rollout(*a, **k)) or seen["games"][-1])
    monkeypatch.setattr(ucob, "pairs", lambda *a: seen["pairs"].append(find(*a)) or seen["pairs"][-1])
    monkeypatch.setattr(ucob, "answering", lambda view, turn, *a: seen["taught"].append(view) or answer(view, turn, *a))
    play_fork("ucob", "--bank", "{bank}", "--steps", "3", "--lr", "0")
    views, kinds = iter(seen["taught"]), set()
    for games, found in zip(seen["games"], seen["pairs"]):
        for (winner, _), (loser, _), _ in found:
            prompts = {bool(e.shown): e.segments[0].ids[:e.segments[0].starts[0]]
                       for e in games[winner // 4 * 4:winner // 4 * 4 + 4]}
            view = next(views)
            assert view[0].ids[:view[0].starts[0]] == prompts[not games[winner].shown]
            kinds.add((bool(games[winner].shown), bool(games[loser].shown)))
    assert next(views, None) is None and len(kinds) >= 2, kinds


def test_a_group_that_was_shown_nothing_is_taught_nothing(alone, monkeypatch):
    """Bug: with an empty memory both halves have one prompt, and the winner's answer is copied behind it."""
    monkeypatch.setattr(ucob, "answering", lambda *a: Segment.of([1]))
    monkeypatch.setattr("forks.teachers.reprompt", lambda policy, env, episode, shown: episode.segments)
    for bank, taught in ((SkillBank(), 0), (bank_of(general=1), 2)):
        (_, iteration, _), = alone("ucob", "--steps 1", bank, won=lambda e: e.key == 0)
        assert iteration.notes["taught"] == taught


def test_a_game_that_does_not_fit_behind_lessons_is_not_taught(alone, too_long, monkeypatch):
    """Bug: one long transcript ends the run, and again after --resume."""
    monkeypatch.setattr(ucob, "answering", lambda view, *a: Segment.of([view[0].ids[0]]))
    for one, taught in ((3, 2), (1, 1)):  # games 2 and 3 have lessons; 0 and 1 lose to 3, or 0 and 2 to 1
        (_, iteration, _), = alone("ucob", "--steps 1", bank_of(general=1), won=lambda e, one=one: e.key == one)
        assert iteration.notes["taught"] == taught

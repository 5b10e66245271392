"""The utility of an edit: the formula by hand, which tasks it is measured on, and that it measures the edit alone."""

import itertools
import math
from types import SimpleNamespace

import pytest

import envs
import policy as policies
import probes
from envs import Sampling, rollout
from lib.streams import mix
from probes import Probing, confirm, edits_of, play_pairs, probe, score, select, utility
from skillbank import SHAPING, Edit, Skill, SkillBank
from tools.coldstart import demonstrations

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(env):
    """A policy with random weights: it never wins, but what it says depends on every bit of noise and prompt."""
    text = [message["content"] for chat in demonstrations(env, 20, 0) for message in chat]
    return policies.load("tiny", text=text)


class World:
    """Tasks 0-9: even ones `a`, odd ones `b`; 0-7 train, 8 and 9 test; and 20, the only `c`, train."""

    limit, tasks, train_tasks = 10, [8, 9], [0, 1, 2, 3, 4, 5, 6, 7, 20]

    def family(self, task):
        return "c" if task == 20 else "ab"[task % 2]

    def goal(self, task):
        return f"task number {task}"


def proposed(bank, task, title, family="a"):
    """An Edit as a review would make it."""
    arguments = dict(category=family, title=title, principle=f"{title} text", when_to_apply="x", evidence="y")
    edit = bank.tried("propose_skill", arguments, family, task)
    assert edit.status == "added"
    return edit


def script(monkeypatch, outcome):
    """Put outcome(task, titles shown) -> (won, steps) in the place of the policy; returns the list of runs played."""
    played = []

    def fake(policy, env, tasks, banks, group, seed, sampling, with_review, keys, desc):
        assert not with_review and len(tasks) == len(banks) == len(keys)
        episodes = []
        for task, bank, key in zip(tasks, banks, keys):
            titles = tuple(s.title for s in bank.retrieve(env.goal(task), env.family(task), sampling.top_k))
            won, steps = outcome(task, titles)
            episodes.append(SimpleNamespace(won=won, steps=steps))
            played.append(SimpleNamespace(task=task, titles=titles, key=key, seed=seed, how=sampling))
        return episodes

    monkeypatch.setattr(probes, "rollout", fake)
    return played


# -- the formula


def test_score_by_hand():
    """Bug: a slow win counts less than a fast loss, or the bonus is for the steps that were used."""
    assert [score(True, steps, 15) for steps in (1, 3, 15)] == pytest.approx([1 + 14 / 15, 1.8, 1.0])
    assert [score(False, steps, 15) for steps in (1, 15)] == [0.0, 0.0]
    values = [score(won, steps, limit) for won in (False, True) for limit in (1, 15, 50)
              for steps in range(1, limit + 1)]
    assert min(values) == 0.0 and max(values) < 2.0
    assert all(value >= 1.0 for value in values if value)


@pytest.mark.parametrize("before, after, paper, code", [
    ([0.0, 0.0, 0.0, 0.0], [1.5, 0.0, 0.0, 0.0], 0.375 + 0.075, 0.375 + 0.05),
    ([1.2, 1.4, 0.0, 1.0], [1.6, 1.2, 1.8, 0.0], 1.0 / 4, 1.0 / 4),  # two wins, two losses
    ([1.5, 1.5, 0.0], [1.5, 0.0, 1.2], -0.1, 0.0),
    ([1.0, 1.0], [0.0, 1.0], -0.5 - 0.15, 0.0),
    ([1.0, 1.0, 1.0], [1.1, 1.1, 0.7], -1 / 30 + 0.1, -1 / 30 + 0.2 / 3),  # many small wins beat one loss
    ([1.7, 0.0, 1.1], [1.7, 0.0, 1.1], 0.0, 0.0),
    ([0.0], [1.9], 2.2, 2.1),
])
def test_utility_by_hand(before, after, paper, code):
    """Bug: the sign, alpha times the counts without / K, or the code's clip where the paper's formula is asked for."""
    assert utility(before, after) == pytest.approx(paper)
    assert utility(before, after, alpha=0.2, clip=True) == pytest.approx(code)
    assert utility(after, before) == pytest.approx(-paper), "what an edit gains, its removal loses"
    assert utility(before, after, alpha=0.0) == pytest.approx((sum(after) - sum(before)) / len(before))


def test_utility_edges():
    """Bug: a division by zero where the family has no other task; zip() that drops the probes without a partner."""
    assert utility([], []) == 0.0 and utility([], [], clip=True) == 0.0
    for before, after in (([1.0], []), ([1.0], [1.0, 0.0]), ([], [1.0])):
        with pytest.raises(ValueError, match=f"{len(before)} scores without .* {len(after)} with"):
            utility(before, after)


# -- which tasks


def test_select_in_the_shop(env):
    """Bug: an edit is measured on the very task it was written for (memorised, not learned), or on test goals."""
    test = envs.make("webshop", "test").tasks
    for task in env.train_tasks[:40] + test[:20]:
        chosen = select(env, task, 4, seed=1)
        assert len(chosen) == len(set(chosen)) == 4
        assert set(chosen) <= set(env.train_tasks) - {task}
        assert {env.family(other) for other in chosen} == {env.family(task)}
        assert chosen == select(env, task, 4, seed=1)
    one = {tuple(select(env, env.train_tasks[0], 4, seed)) for seed in range(8)}
    assert len(one) == 8, "other probes in each iteration"
    assert not set(test) & set(env.train_tasks)


def test_select_in_small_families():
    """Bug: random.sample raises where the family has fewer than K other tasks, or the task itself fills up."""
    world = World()
    assert sorted(select(world, 0, 4, 0)) == [2, 4, 6]
    assert sorted(select(world, 8, 9, 0)) == [0, 2, 4, 6], "a test task is probed on training tasks"
    assert len(select(world, 8, 2, 0)) == 2
    assert select(world, 20, 4, 0) == [] and select(world, 0, 0, 0) == []
    assert len({tuple(select(world, 9, 2, seed)) for seed in range(20)}) > 3
    assert set(select(world, 0, 3, 0, used=(2,))) == {4, 6}, "what was not used, even if it is less"
    assert sorted(select(world, 0, 3, 5, used=(2, 4, 6))) == [2, 4, 6]


def test_a_task_that_a_world_lists_twice_is_one_probe():
    """Bug: where tasks are listed as often as they are to come up, an edit is probed on K - 1 tasks and counts K."""
    world = World()
    world.train_tasks = [task for task in world.train_tasks for _ in range(3)]
    assert all(sorted(select(world, 0, 3, seed)) == [2, 4, 6] for seed in range(5))


def test_an_edit_whose_probes_used_a_small_family_up_can_be_confirmed(monkeypatch):
    """Bug: what several rollouts propose pools its probes, no fresh task is left, and U of none is 0: it never enters.
    Real ALFWorld families have nine tasks, and the best edits were lost so."""
    edit, bank = proposed(SkillBank(), 0, "good"), SkillBank()
    edit.utility, edit.probes = 0.5, [2, 4, 6]
    played = script(monkeypatch, lambda task, titles: (True, 4 if "good" in titles else 5))
    assert confirm(None, World(), bank, [edit], 3, Probing(fresh=8))[0] == [edit] and edit.confirmed > 0
    assert {run.task for run in played} == {2, 4, 6} and {run.seed for run in played} != {3}


def test_edits_of():
    """Bug: keep_skill, duplicates or unreadable reviews are probed, or a copy is, and S never sees its utility."""
    made = [Edit(status, "propose_skill", {}, SkillBank()) for status in (*SHAPING, "markup", "added")]
    found = edits_of([SimpleNamespace(edit=edit) for edit in (*made, None)])
    assert [edit.status for edit in found] == ["added", "updated", "added"]
    assert all(any(edit is mine for mine in made) for edit in found)


# -- the pairs


def test_sign_and_bookkeeping(monkeypatch):
    """Bug: before and after exchanged: what helps is punished; or the scores of one edit land at another's."""
    bank = SkillBank()
    good, bad, idle = (proposed(bank, 0, title) for title in ("good", "bad", "idle"))

    def outcome(task, titles):
        return ("bad" not in titles, 2 if "good" in titles else 4)

    played = script(monkeypatch, outcome)
    count = len(probe(None, World(), bank, [good, bad, idle], probing=Probing(3)))
    assert good.before == bad.before == idle.before == pytest.approx([1.6] * 3)
    assert (good.after, bad.after, idle.after) == (pytest.approx([1.8] * 3), [0.0] * 3, idle.before)
    assert good.utility == pytest.approx(0.2 + 0.3) and bad.utility == pytest.approx(-1.6 - 0.3)
    assert idle.utility == 0.0
    assert sorted(good.probes) == [2, 4, 6] and good.probes == bad.probes == idle.probes
    assert count == len(played) == 3 + 3 * 3, "without once, with once per edit"


def test_scores_stand_in_the_order_of_the_probes(monkeypatch):
    """Bug: pairs across tasks: before of one probe is compared with after of another."""
    edit = proposed(SkillBank(), 0, "new")
    script(monkeypatch, lambda task, titles: (True, task // 2 + ("new" in titles)))
    probe(None, World(), SkillBank(), [edit], probing=Probing(3))
    assert edit.before == pytest.approx([1 + (10 - task // 2) / 10 for task in edit.probes])
    assert edit.after == pytest.approx([1 + (9 - task // 2) / 10 for task in edit.probes])
    assert edit.utility == pytest.approx(-0.1 - 0.3)


def test_alpha_and_clip_arrive(monkeypatch):
    """Bug: the flags of the released code's variant change nothing."""
    edit = proposed(SkillBank(), 0, "new")
    script(monkeypatch, lambda task, titles: ("new" in titles, 5))
    probe(None, World(), SkillBank(), [edit], probing=Probing(alpha=0.2))
    assert edit.utility == pytest.approx(1.5 + 0.2)
    script(monkeypatch, lambda task, titles: ("new" not in titles, 5))
    probe(None, World(), SkillBank(), [edit], probing=Probing(clip=True))
    assert edit.utility == 0.0 and edit.before == [1.5] * 3
    probe(None, World(), SkillBank(), [edit], probing=Probing(clip=False))
    assert edit.utility == pytest.approx(-1.8)


def test_same_stream_with_and_without(monkeypatch):
    """Bug: each run draws its own luck, and U measures the dice. One key per task, with or without, in any order."""
    bank, world = SkillBank(), World()
    edits = [proposed(bank, 0, "one"), proposed(bank, 1, "two", "b"), proposed(bank, 2, "three")]
    played = script(monkeypatch, lambda task, titles: (True, 5))
    how = Sampling(top_k=2)
    probe(None, world, bank, edits, 77, Probing(3, sampling=how))
    assert all(run.key == mix(run.task) and run.seed == 77 and run.how is how for run in played)
    for task in {run.task for run in played}:
        assert len({run.titles for run in played if run.task == task}) >= 2, "with and without"
    assert len({run.key for run in played}) == len({run.task for run in played})


def test_each_distinct_run_is_played_once(monkeypatch):
    """Bug: "without" is played for every edit, equal edits twice: 2 K episodes per edit, as in the released code."""
    bank = SkillBank([Skill("dyn_001", "old", "o", "w")], {"b": [Skill("dyn_002", "b only", "p", "w")]})
    world = World()
    twins = [proposed(bank, 0, "twin") for _ in range(3)]
    other = proposed(bank, 0, "other")
    arguments = dict(skill_id="dyn_002", title="changed", principle="q", when_to_apply="w", reason="r")
    unseen = bank.tried("update_skill", arguments, "a", 0)  # a skill that no prompt of family a shows
    played = script(monkeypatch, lambda task, titles: (True, 3 if "twin" in titles else 5))
    count = len(probe(None, world, bank, [*twins, other, unseen], probing=Probing(2)))
    assert count == len(played) == 2 * 3  # without, twin, other
    assert len({(run.task, run.titles) for run in played}) == count
    assert [e.utility for e in twins] == [pytest.approx(0.2 + 0.3)] * 3
    assert other.utility == unseen.utility == 0.0 and unseen.before == unseen.after == [1.5, 1.5]


def test_pairs_share_the_games_that_are_equal(monkeypatch):
    """Bug: a game is played again for each pair it belongs to, or lands in another's pair."""
    bank = SkillBank()
    edited = proposed(bank, 0, "new").bank
    played = script(monkeypatch, lambda task, titles: (True, task + len(titles)))
    pairs = play_pairs(None, World(), [(2, bank, edited), (4, bank, edited), (2, edited, bank), (1, bank, edited)],
                       Sampling(), 7)
    assert [(one.steps, other.steps) for one, other in pairs] == [(2, 3), (4, 5), (3, 2), (1, 1)]
    assert pairs[0][0] is pairs[2][1] and pairs[0][1] is pairs[2][0] and pairs[3][0] is pairs[3][1]
    assert len(played) == 5 and play_pairs(None, World(), [], Sampling()) == []


def test_pairs_draw_from_the_tasks_stream_or_each_from_its_own(monkeypatch):
    """Bug: two games of a pair draw other numbers, and their difference is luck; or those of the ablation the same."""
    bank = SkillBank()
    edited = proposed(bank, 0, "new").bank
    played = script(monkeypatch, lambda task, titles: (True, 5))
    pairs = [(2, bank, edited), (4, edited, bank), (2, bank, bank)]
    for paired, streams in ((True, 2), (False, 4)):
        played.clear()
        play_pairs(None, World(), pairs, Sampling(), 7, paired)
        assert [(run.task, run.titles) for run in played] == [(2, ()), (2, ("new",)), (4, ("new",)), (4, ())]
        assert len({run.key for run in played}) == streams and {run.seed for run in played} == {7}


def test_an_update_that_only_rewords_another_seat_is_seen(monkeypatch):
    """Bug: runs are told apart by skill ids, which an update keeps: with and without are one run, U is always 0."""
    bank = SkillBank([Skill("dyn_001", "old", "o", "w")])
    arguments = dict(skill_id="dyn_001", title="old", principle="better", when_to_apply="w", reason="r")
    edit = bank.tried("update_skill", arguments, "a", 0)
    played = script(monkeypatch, lambda task, titles: (True, 5))
    assert len(probe(None, World(), bank, [edit], probing=Probing(3))) == len(played) == 6


def test_nothing_to_probe(monkeypatch):
    """Bug: an iteration without edits, or a family of one task, divides by zero or plays the task itself."""
    played = script(monkeypatch, lambda task, titles: (True, 5))
    assert len(probe(None, World(), SkillBank(), [])) == 0
    lonely = proposed(SkillBank(), 20, "new", "c")
    assert len(probe(None, World(), SkillBank(), [lonely])) == 0
    assert lonely.utility == 0.0 and lonely.probes == lonely.before == lonely.after == [] and played == []


def test_the_same_words_from_two_tasks_pool_their_probes(monkeypatch):
    """Bug: one skill, proposed for two tasks, has two utilities; or an edit is scored on its own task by its double."""
    bank = SkillBank()
    one, two, other = proposed(bank, 0, "same"), proposed(bank, 2, "same"), proposed(bank, 0, "other")
    two.arguments["evidence"] = "another episode"  # not what it writes into the bank
    script(monkeypatch, lambda task, titles: (True, 3 if "same" in titles and task == 4 else 5))
    probe(None, World(), bank, [one, two, other], probing=Probing(3))  # all three other tasks of the family
    assert sorted(one.probes) == [2, 4, 6] and sorted(two.probes) == [0, 4, 6]
    assert one.utility == two.utility == pytest.approx(0.2 / 3 + 0.3 / 3) and other.utility == 0.0
    few = [proposed(bank, 1, "same", "b"), proposed(bank, 3, "same", "b")]
    probe(None, World(), bank, few, probing=Probing(1))
    assert {len(edit.probes) for edit in few} <= {1, 2} and all(edit.task not in edit.probes for edit in few)


def test_confirm_asks_fresh_tasks_and_only_about_the_best_of_each_task(monkeypatch):
    """Bug: an edit is confirmed by the very probes that made it look good, or a lucky one is never asked again."""
    bank = SkillBank()
    lucky, good, worse, bad = (proposed(bank, task, title) for task, title in
                               ((0, "lucky"), (2, "good"), (2, "worse"), (4, "bad")))
    for edit, utility_, probed in ((lucky, 0.5, [2]), (good, 0.4, [4]), (worse, 0.1, [4]), (bad, -0.3, [0])):
        edit.utility, edit.probes = utility_, probed
    played = script(monkeypatch, lambda task, titles: (True, 4 if "good" in titles else 6 if "lucky" in titles else 5))
    kept, again = confirm(None, World(), bank, [lucky, good, worse, bad], 3, Probing(fresh=8))
    assert kept == [good] and good.confirmed == pytest.approx(0.1 + 0.3) and lucky.confirmed == pytest.approx(-0.4)
    assert worse.confirmed is None and bad.confirmed is None, "never asked"
    assert (good.utility, good.probes) == (0.4, [4]), "the first estimate stays what it was"
    assert {run.task for run in played if "lucky" in run.titles} == {4, 6}
    assert {run.task for run in played if "good" in run.titles} == {0, 6}
    assert len(again) == len(played) and not {run.seed for run in played} & {3}, "fresh random numbers, too"


def test_a_general_skill_is_confirmed_on_every_family(monkeypatch):
    """Bug: a skill that every family will be shown is judged by the family of the task that proposed it."""
    bank = SkillBank()
    edit = proposed(bank, 0, "new")
    edit.arguments["category"] = "general"
    edit.bank = SkillBank([Skill("dyn_001", "new", "p", "w")])
    edit.utility, edit.probes = 0.5, [2]
    played = script(monkeypatch, lambda task, titles: (World().family(task) == "a" or "new" not in titles, 5))
    assert confirm(None, World(), bank, [edit], probing=Probing(fresh=8))[0] == []
    assert {World().family(run.task) for run in played} == {"a", "b", "c"} and edit.confirmed < 0


# -- the real thing


HOW = Sampling(act_tokens=10, review_tokens=10, context=2048, rows=64)


def record(monkeypatch):
    """Let probe() play for real, and keep its episodes."""
    kept = []

    def spy(*args, **kwargs):
        kept.extend(rollout(*args, **kwargs))
        return kept

    monkeypatch.setattr(probes, "rollout", spy)
    return kept


def spoken(episode):
    return [(s.ids, s.job, s.logp) for s in episode.segments]


def draws(episode, turn=0):
    """Ids of a turn that the policy sampled."""
    segment = episode.segments[0]
    start = segment.starts[turn]
    return [i for i, kind in zip(segment.ids[start:], segment.job[start:start + 10]) if kind]


def test_a_run_is_the_same_whatever_is_played_beside_it(env, tiny, monkeypatch):
    """Bug: another edit in the batch, another row or another padding changes the dice, and U measures the company."""
    monkeypatch.setattr(env, "limit", 3)
    task, bank = env.train_tasks[0], SkillBank()
    family = env.family(task)
    first, second = (proposed(bank, task, title, family) for title in ("Search the kind first", "Mind the price tag"))
    kept = record(monkeypatch)
    assert len(probe(tiny, env, bank, [first, second], 5, Probing(2, sampling=HOW))) == len(kept) == 6
    together = {(e.task, tuple(s.title for s in e.shown)): e for e in kept}
    kept.clear()
    assert len(probe(tiny, env, bank, [second], 5, Probing(2, sampling=HOW))) == len(kept) == 4
    for episode in kept:
        other = together[episode.task, tuple(s.title for s in episode.shown)]
        assert [(ids, kind) for ids, kind, _ in spoken(episode)] == [(ids, kind) for ids, kind, _ in spoken(other)]
        for (*_, mine), (*_, theirs) in zip(spoken(episode), spoken(other)):
            assert mine == pytest.approx(theirs, abs=1e-5)
    # And the same as one episode alone, drawn from the task's own stream.
    one = second.probes[1]
    alone = rollout(tiny, env, [one], bank, seed=5, sampling=HOW, with_review=False, keys=[mix(one)])
    assert [ids for ids, *_ in spoken(alone[0])] == [ids for ids, *_ in spoken(together[one, ()])]
    stranger = rollout(tiny, env, [one], bank, seed=5, sampling=HOW, with_review=False, keys=[3])
    assert draws(stranger[0]) != draws(alone[0]), "another stream must say something else, or nothing was tested"


def test_an_edit_that_no_prompt_shows_is_worth_exactly_nothing(env, tiny, monkeypatch):
    """Bug: noise passes for utility: an edit of another family's skill cannot change a probe by a single token."""
    monkeypatch.setattr(env, "limit", 2)
    task = env.train_tasks[0]
    family = env.family(task)
    bank = SkillBank([], {"elsewhere": [Skill("dyn_001", "t", "p", "w")]})
    arguments = dict(skill_id="dyn_001", title="t2", principle="p2", when_to_apply="w2", reason="r")
    edit = bank.tried("update_skill", arguments, family, task)
    kept = record(monkeypatch)
    assert len(probe(tiny, env, bank, [edit], 5, Probing(3, sampling=HOW))) == len(kept) == 3
    assert edit.utility == 0.0 and edit.before == edit.after and len(edit.before) == 3
    # The same by force: both banks played apart give the same tokens.
    one, other = (rollout(tiny, env, edit.probes, b, seed=5, sampling=HOW, with_review=False,
                          keys=[mix(t) for t in edit.probes]) for b in (bank, edit.bank))
    assert [spoken(e) for e in one] == [spoken(e) for e in other] == [spoken(e) for e in kept]


def test_with_and_without_share_their_luck(env, tiny, monkeypatch):
    """Bug: the pairing is on paper only. A near-uniform policy follows the noise, so both runs say nearly the same."""
    monkeypatch.setattr(env, "limit", 2)
    task = env.train_tasks[0]
    edit = proposed(SkillBank(), task, "Search the kind first", env.family(task))
    kept = record(monkeypatch)
    probe(tiny, env, SkillBank(), [edit], 9, Probing(4, sampling=HOW))
    pairs = {}
    for episode in kept:
        pairs.setdefault(episode.task, []).append(episode)
    assert len(pairs) == 4 and all(len(both) == 2 for both in pairs.values())
    paired, strangers = [], []
    tasks = list(pairs)
    for here, (without, with_edit) in pairs.items():
        assert without.key == with_edit.key and without.shown == [] and len(with_edit.shown) == 1
        assert without.segments[0].ids != with_edit.segments[0].ids, "the prompts do differ"
        there = pairs[tasks[tasks.index(here) - 1]][0]
        paired += [a == b for a, b in zip(draws(without), draws(with_edit))]
        strangers += [a == b for a, b in zip(draws(without), draws(there))]
    assert sum(paired) / len(paired) > 0.7 and sum(strangers) / len(strangers) < 0.3


def test_defaults_are_enough(env, tiny, monkeypatch):
    """Bug: probe() without `probing` fails on None."""
    monkeypatch.setattr(probes, "rollout", lambda policy, env, tasks, banks, group, seed, sampling, *rest: [
        SimpleNamespace(won=True, steps=sampling.top_k) for _ in tasks])
    edit = proposed(SkillBank(), env.train_tasks[0], "new", env.family(env.train_tasks[0]))
    assert len(probe(tiny, env, SkillBank(), [edit])) == 8 and edit.utility == 0.0


def test_a_graded_probe_and_an_unpaired_one(tiny, env, monkeypatch):
    """Bug: --utility graded counts wins only; --unpaired draws the same random numbers all the same."""
    assert score(0.5, 5, 10) == 0.75 and score(True, 5, 10) == 1.5 and score(False, 5, 10) == 0.0
    seen = []

    def fake(policy, env, tasks, banks, group, seed, sampling, with_review, keys, desc):
        seen.append(keys)
        return [SimpleNamespace(won=False, score=0.5 * bool(bank.skills()), steps=5) for bank in banks]

    monkeypatch.setattr(probes, "rollout", fake)
    edit = proposed(SkillBank(), 0, "new")
    for probing, u in ((Probing(3), 0.0), (Probing(3, utility="graded"), 0.5 * 1.5 + 0.3),
                       (Probing(3, paired=False), 0.0), (Probing(3, utility="both"), 0.5 + 0.3)):
        probe(None, World(), SkillBank(), [edit], probing=probing)
        edit.probes = None
        assert edit.utility == pytest.approx(u)
    assert len(set(seen[0])) == 3 and len(seen[0]) == 6 and len(set(seen[2])) == 6


def test_wins_count_beside_the_score(monkeypatch):
    """Bug: a skill that wins by taking its time is harmful, since without it games score nearly as much, and faster."""
    def fake(policy, env, tasks, banks, group, seed, sampling, with_review, keys, desc):
        won = [bool(bank.skills()) and i % 3 == 0 for i, bank in enumerate(banks)]
        return [SimpleNamespace(won=w, score=1.0 if w else 0.6, steps=9 if bank.skills() else 2)
                for w, bank in zip(won, banks)]

    monkeypatch.setattr(probes, "rollout", fake)
    edit, u = proposed(SkillBank(), 0, "new"), {}
    for probing in (Probing(3, alpha=0.0, utility=kind) for kind in ("graded", "both")):
        probe(None, World(), SkillBank(), [edit], probing=probing)
        edit.probes = None
        u[probing.utility] = edit.utility
    assert u["graded"] < 0 < u["both"]


@pytest.mark.parametrize("tie, chance", [(0.9, 0.16), (0.5, 0.36)])
def test_a_neutral_edit_looks_good_as_often_as_confirm_says(tie, chance):
    """Bug: the docstring's reason for confirmation is a figure from nowhere."""
    deltas = {0.0: tie, 1.0: (1 - tie) / 2, -1.0: (1 - tie) / 2}
    positive = 0.0
    for draw in itertools.product(deltas, repeat=4):
        if utility([0.0] * 4, list(draw)) > 0:
            positive += math.prod(deltas[d] for d in draw)
    assert round(positive, 2) == chance and f"{chance:.2f}"[1:] in confirm.__doc__

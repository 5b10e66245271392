"""The counter: hidden rules that follow the seed, a clerk who tells the truth, players who know the language only."""

import random
from collections import Counter
from types import SimpleNamespace

import pytest

import envs
import policy as policies
import train
import worlds
from skillbank import Skill, SkillBank, review
from tests.real import ROOT
from tools.coldstart import demonstrations, tool_call
from tools.report import edit_rows, kind_of
from worlds.counter.rules import SKILL, kinds, towns, unseen
from worlds.counter.sender import EVERYBODY, seals, skill
from worlds.counter.world import LUCK


@pytest.fixture(scope="module")
def env():
    return envs.make("counter", rules=3)


def shown(*rules):
    return [Skill(f"dyn_{i:03d}", **skill(*rule)) for i, rule in enumerate(rules, 1)]


def wrong_seal(env, task):
    """A seal that is refused."""
    for seal in seals:
        game = env.start(task)
        game.step(f"{seal} seal")
        if game.done:
            return seal


def test_the_rules_follow_the_seed():
    """Bug: every seed is the same town, and a figure over seeds is one measurement repeated."""
    first, again, other = (train.read_flags(["--env", "counter", "--seed", seed]).options for seed in ("4", "4", "5"))
    assert first == again and first["rules"] == 4 and other["rules"] == 5
    assert train.read_flags(["--env", "counter", "--seed", "4", "--rules", "9"]).options["rules"] == 9
    made = [envs.make("counter", **options) for options in (first, again, other)]
    assert made[0].ways.rules == made[1].ways.rules != made[2].ways.rules
    assert made[0].describe() != made[2].describe(), "a resumed run, or eval.py, would not notice other rules"


def test_one_kind_wants_the_same_everywhere(env):
    """Bug: no rule is general, and a general skill is always a mistake."""
    common = [kind for kind in kinds if len({env.ways.rules[town, kind] for town in towns}) == 1]
    assert len(common) == 1 and len(env.ways.rules) == len(towns) * len(kinds)
    assert [text["principle"] for text in env.ways.texts("general")] == [
        f"Everybody wants the {env.ways.rules[towns[0], common[0]]} seal on {common[0]} parcels."]


def test_customers_with_the_common_kind_are_rare(env):
    """Bug: a third of the customers want the one seal that practice alone finds, and plain GRPO looks good."""
    (common,) = [kind for kind in kinds if len({env.ways.rules[town, kind] for town in towns}) == 1]
    for tasks in (env.tasks, env.train_tasks, env.dev_tasks):
        share = sum(env.sort(task) == common for task in tasks) / len(tasks)
        assert share == pytest.approx(0.25 / (len(kinds) - 1 + 0.25), abs=0.01)
        assert {env.family(task) for task in tasks if env.sort(task) == common} == set(towns)


def test_rules_drift_as_the_iterations_say(tmp_path):
    """Bug: a resumed run, or the evaluation of a checkpoint, has other rules than the iteration had; or none change."""
    drifting, still = envs.make("counter", rules=3, drift=4), envs.make("counter", rules=3)
    first, rules = still.ways.rules, []
    for step in (0, 3, 4, 8, 40):
        train.tasks_of(train.Flags(), drifting, step)
        rules.append(drifting.ways.rules)
        train.tasks_of(train.Flags(), still, step)
        assert still.ways.rules == first
    changed = [{town for town in towns for kind in kinds if other[town, kind] != first[town, kind]} for other in rules]
    assert not changed[0] and not changed[1] and len(changed[2]) <= 1 and changed[2] <= changed[3] | changed[2]
    assert len(changed[4]) > 3 and all(
        len({other[town, kind] for town in towns}) == 1 for other in rules for kind in kinds
        if len({first[town, kind] for town in towns}) == 1), "the common rule stays"
    train.tasks_of(train.Flags(), drifting, 4)
    assert drifting.ways.rules == rules[2], "a function of the iteration, not of how often it was asked"
    assert drifting.start(drifting.train_tasks[0]).wanted == rules[2][
        drifting.family(drifting.train_tasks[0]), drifting.sort(drifting.train_tasks[0])]


def test_the_clerk_tells_the_truth_and_the_man_does_not_know(env):
    """Bug: the refusal names another seal than the hidden rule, and nothing can be learned from it."""
    hearsay = 0
    for task in env.train_tasks[:200]:
        game, wanted = env.start(task), env.ways.rules[env.family(task), env.sort(task)]
        hearsay += game.hearsay == wanted
        reply = game.step(f"{wrong_seal(env, task)} seal")
        assert game.done and game.score == 0 and reply.endswith(
            f"{env.family(task)} wants the {wanted} seal on {env.sort(task)} parcels.")
    assert hearsay < 30


def test_luck_is_the_tasks_own(env):
    """Bug: a wrong seal passes in one run of a pair and not in the other, and U measures luck."""
    passed = Counter()
    for task in env.train_tasks[:60]:
        for seal in set(seals) - {env.ways.rules[env.family(task), env.sort(task)]}:
            replies = set()
            for _ in range(2):
                game = env.start(task)
                replies.add(game.step(f"{seal} seal"))
            assert len(replies) == 1
            passed[game.score] += 1
    assert abs(passed[0.5] / passed.total() - LUCK) < 0.05


def test_a_parcel_is_sent_for_the_right_seal_and_sum(env):
    """Bug: the game cannot be won, or is won without paying; or a slip of the pen ends it."""
    task = env.train_tasks[0]
    game = env.start(task)
    assert game.step("hello") == "There is no such seal." and not game.done
    assert "Accepted" in game.step(f"{game.wanted} seal") and game.score == 0.5 and not game.done
    assert game.step(f"pay {sum(game.fees)}") == "Sent." and game.won and game.done and game.score == 1.0
    game = env.start(task)
    game.step(f"{game.wanted} seal")
    game.step(f"pay {sum(game.fees) + 1}")
    assert game.done and not game.won and game.score == 0.5


def test_held_out_games_are_other_customers_of_the_same_towns(env):
    """Bug: a held-out game is a training game; or it has a town whose rules no training game can tell."""
    splits = [set(envs.make("counter", split, rules=3).tasks) for split in ("train", "dev", "test")]
    assert sum(map(len, splits)) == len(set.union(*splits))
    for tasks in splits:
        assert {(env.family(task), env.sort(task)) for task in tasks} == set(env.ways.rules)


def test_fewer_towns_are_a_world_of_their_own(env):
    """Bug: --towns 6 still has customers, or rules, of the other 18; or a resumed run takes it for the whole world."""
    small = envs.make("counter", rules=3, towns=6)
    for tasks in (small.tasks, small.train_tasks, small.dev_tasks):
        assert {(small.family(task), small.sort(task)) for task in tasks} == set(small.ways.rules)
    assert {town for town, _ in small.ways.rules} == set(towns[:6])
    (common,) = [kind for kind in kinds if len({small.ways.rules[town, kind] for town in towns[:6]}) == 1]
    assert small.ways.judge(EVERYBODY, common, small.ways.rules[towns[0], common]) == "right"
    assert small.describe() != env.describe()
    with pytest.raises(ValueError, match="--towns 1: counter has 2 to 24"):
        envs.make("counter", towns=1)


@pytest.mark.parametrize("count", range(2, 25))
def test_every_town_has_customers_of_every_kind(count):
    """Bug: of five towns one alone ever sends the common kind, as town and round go in step."""
    few = envs.make("counter", rules=3, towns=count)
    assert {(few.family(task), few.sort(task)) for task in few.train_tasks} == set(few.ways.rules)


def test_drifting_rules_are_another_world():
    """Bug: eval.py RUN --drift 0 plays the rules of the first iteration, and takes them for the run's."""
    still, moving = (worlds.identity(envs.make("counter", rules=3, drift=drift)) for drift in (0, 2))
    assert worlds.other_games(still, moving) and not worlds.other_games(still, still)


def test_players_obey_a_skill_that_fits(env):
    """Bug: players ignore their prompt, or obey a rule of another kind, and a model learns no skills from them."""
    for task in env.train_tasks[:40]:
        town, kind = env.family(task), env.sort(task)
        elsewhere, otherwise = next(t for t in towns if t != town), next(k for k in kinds if k != kind)
        others = [(town, otherwise, "red"), (elsewhere, kind, "red")]
        own, general = (town, kind, "ivory"), (EVERYBODY, kind, "ivory")
        for fitting in ([own], [general], [(EVERYBODY, kind, "red"), own]):
            player = env.player(env.start(task), task, shown(*others, *fitting), random.Random(task))
            assert player.act("")[1] == "ivory seal"
        free = [env.player(env.start(task), task, shown(*others), random.Random(i)).act("")[1] for i in range(20)]
        assert len(set(free)) > 3


def test_no_rule_of_the_run_is_demonstrated(env):
    """Bug: transcripts teach the rules that a run is to find out by itself."""
    told = Counter()
    for chat in demonstrations(env, 600, seed=0):
        for message in chat:
            if "The clerk says: " in message["content"]:
                rule = message["content"].partition("The clerk says: ")[2].partition(".")[0]
                who, kind, seal = env.ways.meaning({"principle": rule})
                told[env.ways.rules[who, kind] == seal] += 1
    assert told.total() > 100 and told[True] < 0.15 * told.total(), "about one in sixteen is so by chance"


def test_some_wordings_stand_in_no_demonstration(env):
    """Bug: what counts as induced was shown in a transcript of the cold start."""
    chats = demonstrations(envs.make("counter", rules=3, reading=0.5), 600, seed=0)
    said = {(who, kind, seal) for chat in chats for message in chat
            for who, seal, kind in SKILL.findall(message["content"])}
    assert len(said) > 800 and not any(unseen(*rule) for rule in said)
    share = sum(unseen(town, kind, seal) for (town, kind), seal in env.ways.rules.items()) / len(env.ways.rules)
    assert 0.03 < share < 0.25


def test_reviews_quote_the_clerk_as_often_as_asked(env):
    """Bug: --evidence does nothing, or players are right so often that nothing is left to learn."""
    for share in (0.0, 0.5):
        world = envs.make("counter", rules=3, evidence=share)
        refused = [chat[-1]["content"] for chat in demonstrations(world, 400, seed=0)
                   if "clerk says:" in chat[-2]["content"]]
        quoted = sum("<think>The clerk says" in text for text in refused)
        assert abs(quoted / len(refused) - 0.9 * share) < 0.1


def test_players_begin_with_an_empty_bank_as_often_as_asked(env):
    """Bug: --empty does nothing, and a model that saw full banks only keeps the empty one that its run begins with."""
    for share, expected in ((0.0, 0.08), (0.5, 0.54)):  # by chance one in twelve shows nothing
        world, drawn = envs.make("counter", rules=3, empty=share), random.Random(0)
        shown = [world.demonstration(task, drawn)[1] for task in world.train_tasks[:400]]
        assert abs(sum(not skills for skills in shown) / len(shown) - expected) < 0.07


def test_edits_are_right_half_or_wrong(env):
    """Bug: edits.jsonl calls another town's rule right, or a true rule in the wrong place."""
    town, other = towns[0], towns[1]
    kind = next(kind for kind in kinds if env.ways.rules[town, kind] != env.ways.rules[other, kind])
    wanted, elsewhere = env.ways.rules[town, kind], env.ways.rules[other, kind]
    absent = next(seal for seal in seals if seal not in env.ways.rules.values() or not any(
        seal == value for (t, k), value in env.ways.rules.items() if k == kind or t == town))

    def kind_of(category, *rule):
        text = tool_call("propose_skill", {"category": category, **skill(*rule), "evidence": "-"})
        episode = envs.Episode(env.train_tasks[0], town, 0, [], ())
        episode.edit = review(text, SkillBank(), town)
        assert episode.edit.changed
        return edit_rows(1, [episode], [], env.ways)[0]["kind"]

    assert kind_of(town, town, kind, wanted) == "right"
    assert kind_of("general", town, kind, wanted) == "half"
    assert kind_of(town, town, kind, elsewhere) == "half"
    assert kind_of(town, town, kind, absent) == "wrong"
    assert kind_of("general", EVERYBODY, kind, wanted) == "half", "it does not hold in the other town"
    assert env.ways.meaning({"principle": "Smile at the clerk."}) is None


def test_the_bank_of_all_true_rules_knows_every_fact(env):
    """Bug: `facts` counts a fact that no prompt shows, or misses a general one."""
    bank = SkillBank()
    assert env.measures([], bank)["facts"] == 0
    for place in (*towns, "general"):
        for text in env.ways.texts(place):
            if place == "general" or not bank.general_skills:
                bank.apply("propose_skill", {"category": place, **text, "evidence": "-"}, place)
    assert env.measures([], bank)["facts"] == 1
    bank.apply("propose_skill", {"category": towns[0], **skill(towns[0], kinds[0], next(
        seal for seal in seals if seal != env.ways.rules[towns[0], kinds[0]])), "evidence": "-"}, towns[0])
    asked = [(env.family(task), env.sort(task)) == (towns[0], kinds[0]) for task in env.dev_tasks]
    assert env.measures([], bank)["facts"] == pytest.approx(1 - sum(asked) / len(asked)), "the newest one counts"


def test_what_reviews_did_is_counted_by_what_they_knew(env):
    """Bug: to keep counts as right where a refusal has just shown that a skill is wrong, or as wrong where the rule is
    known; a game without a review counts as one that wrote nothing down."""
    task = env.train_tasks[0]
    town, kind = env.family(task), env.sort(task)
    wanted, refusal = env.ways.rules[town, kind], env.start(task).step(f"{wrong_seal(env, task)} seal")
    other = next(seal for seal in seals if seal not in (wanted, *env.ways.rules.values()))
    keep = tool_call("keep_skill", {"reason": "-"})
    right, wrong = (tool_call("propose_skill", {"category": town, **skill(town, kind, seal), "evidence": "-"})
                    for seal in (wanted, other))

    def reviewed(shown, reply, call):
        edit = call and review(f"<think>-</think>{call}", SkillBank(task_specific_skills={town: shown}), town)
        return SimpleNamespace(task=task, family=town, shown=shown, turns=[SimpleNamespace(reply=reply)], edit=edit)

    truth, lie = shown((town, kind, wanted)), shown((town, kind, other))
    row = env.measures([
        reviewed([], refusal, right), reviewed([], refusal, keep), reviewed([], refusal, None),
        reviewed(lie, refusal, right), reviewed(lie, refusal, keep), reviewed(lie, refusal, wrong),
        reviewed(truth, "Accepted.", keep), reviewed(truth, refusal, keep), reviewed(truth, "Accepted.", wrong),
        reviewed([], "Accepted.", keep)], SkillBank())
    assert (row["refused"], row["misled"], row["known"]) == (5, 3, 3)
    assert (row["right_reviews"], row["mended"], row["kept_known"]) == pytest.approx((2 / 5, 1 / 3, 2 / 3))
    slow = reviewed([], refusal, right)
    slow.turns.insert(0, SimpleNamespace(reply="There is no such seal."))
    assert env.measures([slow], SkillBank())["refused"] == 1, "the second turn was refused"


def test_a_rule_in_another_towns_list_is_half_right(env):
    """Bug: an update, which names no list, counts as right where no customer of that town is ever shown it."""
    told = SkillBank(task_specific_skills={towns[0]: shown((towns[0], kinds[0], seals[0]))})
    rule = towns[1], kinds[0], env.ways.rules[towns[1], kinds[0]]
    call = tool_call("update_skill", {"skill_id": "dyn_001", **skill(*rule), "reason": "-"})
    edit = review(f"<think>-</think>{call}", told, towns[0])
    assert edit.changed and kind_of(edit, env.ways) == "half"


def test_tiny_obeys_and_has_something_left_to_learn(env):
    """Bug: the shipped model does not follow a true rule in its prompt, so no bank helps; or it knows rules unasked."""
    tiny, games = policies.load("tiny", world="counter"), envs.make("counter", "dev", rules=3).tasks[:54]
    assert tiny.model.cfg.hf["world"] == env.known
    assert len(tiny.chat.encode("dyn_012")) == 1 and len(tiny.chat.encode(f"the {seals[0]} seal")) == 3
    told, contradicted = SkillBank(), SkillBank()
    for town in towns:
        for text in env.ways.texts(town):
            other = skill(town, text["key"][1], seals[seals.index(text["key"][2]) - 1])
            for bank, one in ((contradicted, other), (contradicted, text), (told, text)):
                bank.apply("propose_skill", {"category": town, **one, "evidence": "-"}, town)
    how = envs.Sampling(0.4, 96, 160, 3072, top_k=6)
    accepted = [sum(e.score > 0 for e in envs.evaluate(tiny, env, bank, games, how))
                for bank in (SkillBank(), told, contradicted)]
    assert accepted[0] < 24 and accepted[1] > 50 and accepted[2] > 33, "mostly the newest rule counts"


def test_the_shipped_bank_knows_the_town_that_its_readme_names():
    """Bug: the README's command plays a bank whose run had other rules."""
    bank = SkillBank.load(ROOT / "worlds/counter/bank/skills.json")
    known = [envs.make("counter", rules=rules).measures([], bank)["facts"] for rules in (0, 1)]
    assert known[0] > 0.6 and known[1] < 0.3

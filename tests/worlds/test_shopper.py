"""The scripted shoppers must show that habits decide the game in the made-up shop."""

import gzip
import random
import re
from collections import Counter
from types import SimpleNamespace

import pytest

import envs
from tests.real import GOLDEN
from worlds.webshop import shopper as shopper_module
from worlds.webshop.catalogue import ASSORTMENT
from worlds.webshop.shop import WebShop
from worlds.webshop.shopper import HABITS, REAL_WAYS, STEPS, TITLE, WAYS, RealShopper, Shopper, results

FILES = ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json")
FAMILY_OF = {kind: name for name, family in ASSORTMENT.items() for kind in family.kinds}


def skills(family, *wanted, wording=0):
    """Skills of these kinds, or of these habits, as a bank would hand them over."""
    return [SimpleNamespace(skill_id=f"dyn_{i:03d}", title=text["title"], principle=text["principle"],
                            when_to_apply=text["when_to_apply"])
            for i, text in enumerate(WAYS.texts(family, wording)) if text["kind"] in wanted or text["key"] in wanted]


def play(shop, goal, shopper):
    """-> (score, steps, [(observation, clickables, thought, action)]); an episode that never buys scores 0."""
    observation, trace = shop.reset(goal), []
    for step in range(1, STEPS + 1):
        actions = shop.available_actions()
        thought, action = shopper.act(observation)
        trace.append((observation, actions, thought, action))
        observation, reward, done = shop.step(action)
        if done:
            return reward, step, trace
    return 0.0, STEPS, trace


def success(shop, *wanted, episodes=120, habits=None):
    """Share of won episodes over spread-out goals with these skills in the prompt; habits: fixed, without any draw."""
    goals = random.Random(5).sample(range(len(shop.goals)), min(episodes, len(shop.goals)))
    won = 0
    for goal in goals:
        family = FAMILY_OF.get(shop.goals[goal]["query"], "other")
        shopper = Shopper(shop, goal, family, skills(family, *wanted), random.Random(goal))
        if habits is not None:
            shopper.habits = set(habits)
        won += play(shop, goal, shopper)[0] == 1.0
    return won / len(goals)


@pytest.mark.parametrize("human", [False, True])
def test_good_habits_win_nearly_every_goal(shops, human):
    """Bug: goals that nothing can win; a policy's ceiling would be the catalogue's fault."""
    useful = [key for key, kind in WAYS.kind.items() if kind == "useful"]
    assert success(shops[human], habits=useful, episodes=400) > 0.95


@pytest.mark.parametrize("human", [False, True])
def test_skills_decide(shops, human):
    """Bug: skills in the prompt make no difference, so counterfactual utility has nothing to measure."""
    none, useful, harmful = (success(shops[human], *kinds) for kinds in ((), ("useful",), ("harmful",)))
    assert 0.12 < none < 0.5 and useful > none + 0.3 and harmful < none - 0.1, (none, useful, harmful)


def test_each_useful_habit_matters_and_each_harmful_one_hurts(shops):
    """Bug: one habit is decoration, and a bank learns to live without it."""
    useful = {key for key, kind in WAYS.kind.items() if kind == "useful"}
    best = success(shops[False], habits=useful)
    for key, kind in WAYS.kind.items():
        if kind == "useful":
            assert success(shops[False], habits=useful - {key}) < best - 0.02, key
        elif kind == "harmful":
            assert success(shops[False], habits=useful | {key}) < best - 0.3, key
        else:
            assert success(shops[False], habits=useful | {key}) > best - 0.05, key


def test_shoppers_make_legal_moves(shops):
    """Bug: demonstrations that click what the page does not offer teach the model invalid actions."""
    everything = ("useful", "neutral", "harmful")
    for shop in shops.values():
        for goal in range(60):
            for wanted in ((), everything[:1], everything[1:2], everything[2:]):
                family = FAMILY_OF[shop.goals[goal]["query"]]
                shopper = Shopper(shop, goal, family, skills(family, *wanted, wording=1), random.Random(goal))
                score, steps, trace = play(shop, goal, shopper)
                assert trace[-1][3] == "click[buy now]" and steps <= STEPS, "ran out of moves"
                for _, actions, thought, action in trace:
                    verb, argument = re.fullmatch(r"(search|click)\[(.+)\]", action).groups()
                    assert argument in actions["clickables"] if verb == "click" else actions["has_search_bar"]
                    assert thought and len(thought) < 400 and "\n" not in thought


def test_same_rng_same_episode(shops):
    """Bug: hidden randomness; a resumed cold start would see other demonstrations."""
    shop = shops[False]
    runs = [play(shop, 7, Shopper(shop, 7, "footwear", skills("footwear", "useful"), random.Random(3)))
            for _ in range(2)]
    assert runs[0] == runs[1]


def test_a_shown_skill_leaves_the_other_habits_alone(shops):
    """Bug: adding a skill shifts the random draws, and its effect drowns in other changes."""
    for seed in range(50):
        without, with_it = (Shopper(shops[False], 0, "footwear", skills("footwear", *shown), random.Random(seed)).habits
                            for shown in ((), ("options",)))
        assert without - {"options"} == with_it - {"options"}


def test_reviews_are_always_valid_tool_calls(shops):
    """Bug: a demonstration with a missing or a wrong argument teaches the model to be penalised."""
    required = {"propose_skill": {"category", "title", "principle", "when_to_apply", "evidence"},
                "update_skill": {"skill_id", "title", "principle", "when_to_apply", "reason"},
                "keep_skill": {"reason"}}
    seen, proposed = Counter(), Counter()
    for shop in shops.values():
        for goal in range(100):
            for wanted in ((), ("useful",), ("harmful",), ("options", "first")):
                family = FAMILY_OF[shop.goals[goal]["query"]]
                shown = skills(family, *wanted)
                shopper = Shopper(shop, goal, family, shown, random.Random(goal))
                score, steps, _ = play(shop, goal, shopper)
                thought, tool, arguments = shopper.review(score == 1.0, score, steps)
                assert thought and set(arguments) == required[tool]
                assert all(isinstance(text, str) and text.strip() for text in arguments.values())
                if tool == "propose_skill":
                    assert arguments["category"] in (family, "general")
                    proposed[WAYS.kind[WAYS.meaning(SimpleNamespace(**arguments))]] += 1
                    assert arguments["title"] not in [skill.title for skill in shown], "a duplicate"
                if tool == "update_skill":
                    assert arguments["skill_id"] in [skill.skill_id for skill in shown]
                seen[tool] += 1
    assert min(seen[tool] for tool in required) > 40, seen
    assert proposed["useful"] > proposed["harmful"] > 0.05 * proposed.total(), proposed  # mediocre, as it should be


def test_a_review_before_any_move_is_valid(shops):
    """Bug: an episode cut short (context full, no purchase) crashes the review."""
    for seed in range(20):
        thought, tool, arguments = Shopper(shops[False], 0, "other", [], random.Random(seed)).review(False, 0.0, 0)
        assert tool in ("propose_skill", "keep_skill") and arguments


def test_texts_differ_by_family_and_wording_and_are_short():
    """Bug: the bank calls a skill for footwear a duplicate of the one for apparel; or texts eat the prompt."""
    families = (*ASSORTMENT, "general")
    texts = [text for family in families for wording in range(2) for text in WAYS.texts(family, wording)]
    for field in ("title", "principle"):
        assert len({text[field].lower() for text in texts}) == len(texts)
    for text in texts:
        assert len(text["principle"].split()) <= 16 and len(text["title"].split()) <= 8, text
        assert WAYS.meaning(SimpleNamespace(**text)) == text["key"]
    assert Counter(habit.kind for habit in HABITS) == {"useful": 4, "neutral": 2, "harmful": 3}


def test_pages_are_read_plain_or_as_prompts_quote_them():
    """Bug: the shopper sees no results where the environment quotes the parts of a page."""
    page = "Instruction: [SEP] buy it [SEP] Next > [SEP] B0AAAAAAAA [SEP] A Thing [SEP] $9.5 to $12.0"
    quoted = " [SEP] ".join(f"'{part}'" for part in page.split(" [SEP] "))
    clickables = ["back to search", "next >", "b0aaaaaaaa"]
    assert results(page, clickables) == results(quoted, clickables) == [("b0aaaaaaaa", "A Thing", 9.5, "$9.5 to $12.0")]


def test_the_docstring_tells_the_truth(shops):
    """Bug: a knob is turned, and the transcript that readers see first is no longer what happens."""
    shop = shops[False]
    shopper = Shopper(shop, 91, "footwear", skills("footwear", "options"), random.Random(7))
    score, steps, trace = play(shop, 91, shopper)
    thought, tool, arguments = shopper.review(False, score, steps)
    said = [text for step in trace for text in step[2:]]
    for text in (*said, thought, tool, arguments["title"], f"score {score:.2f}"):
        assert text in shopper_module.__doc__, text


def test_shoppers_play_real_data(real_shop):
    """Bug: shoppers that only know made-up pages (short titles, few options) fail in the real shop."""
    shop = real_shop.shop.clone()
    none, useful, harmful = (success(shop, *kinds, episodes=100) for kinds in ((), ("useful",), ("harmful",)))
    assert useful > none + 0.1 and harmful <= none, (none, useful, harmful)


def test_real_shoppers_win_by_what_the_task_and_the_pages_say(real_shop, monkeypatch):
    """Bug: a player that knows the right title teaches a policy to guess; or one that seldom wins, nothing."""
    monkeypatch.setattr(shopper_module, "SLIP", 0.0)
    monkeypatch.setattr(shopper_module, "MISREAD", 0.0)
    env = real_shop
    useful, won = [key for key, kind in REAL_WAYS.kind.items() if kind == "useful"], []
    for task in env.train_tasks[:80]:
        game = env.start(task)
        player = env.player(game, task, [], random.Random(task))
        assert isinstance(player, RealShopper)
        player.habits = set(useful)
        pages = game.task
        while not game.done:
            thought, action = player.act(game.observation)
            kind, words = re.fullmatch(r"(search|click)\[(.*)\]", action).groups()
            assert set(re.findall(r"\w+", words)) <= set(re.findall(r"\w+", pages.lower())), action
            pages += game.step(action)
        won.append(game.won)
    assert sum(won) > 0.75 * len(won)


def test_pages_of_results_cut_titles_and_nothing_else(real_shop):
    """Bug: a price or an id is cut with a long title; or the product's own page loses its title."""
    game = real_shop.start(0)
    lines = game.step("search[shirt]").splitlines()
    found = results(game.observation, game.shop.available_actions()["clickables"])
    assert any(len(result.title.split()) > TITLE for result in found)
    for result in found:
        line = f"{' '.join(result.title.split()[:TITLE])} {result.tag} [{result.asin}]"
        assert line in lines, line
    assert found[0].title in game.step(f"click[{found[0].asin}]")


def test_exercises_in_reading_options_tell_the_truth(shops, monkeypatch):
    """Bug: an exercise calls an option missing that the page has: a model learns to distrust the page."""
    monkeypatch.setattr(shopper_module, "MISREAD", 0.0)
    shop, heard = shops[False], {"here": 0, "missing": 0}
    for goal in range(30):
        game = shop.clone()
        observation = game.reset(goal)
        player = RealShopper(game, goal, "general", [], random.Random(goal), reading=1.0)
        player.habits = {"match", "options"}
        for _ in range(STEPS):
            thought, action = player.act(observation)
            clickables = game.available_actions()["clickables"]
            for value, word in re.findall(r"[\w ]+: ([^:]+), (here|missing)\.", thought):
                heard[word] += 1
                assert (value in clickables) == (word == "here"), thought
            observation, _, done = game.step(action)
            if done:
                break
    assert min(heard.values()) > 30, heard


def test_a_mistake_of_a_real_shopper_is_shown_answered_and_not_learned(real_shop):
    """Bug: a small model clicks what the page lacks, is told nothing, and clicks it until the episode ends."""
    env, seen = real_shop, Counter()
    for task in env.train_tasks[:150]:
        game = env.start(task)
        player = env.player(game, task, [], random.Random(task))
        player.habits, lacking = {"search", "match", "options", "price"}, None
        while not game.done and seen[task] < env.limit:
            seen[task] += 1
            thought, action = player.act(game.observation)
            clicked = action.removeprefix("click[").removesuffix("]")
            there = game.shop.available_actions()["clickables"]
            absent = action.startswith("click[") and clicked not in there
            if lacking:  # the turn after a click on an option that is not there
                assert f"{lacking}, missing. I go back." in thought and action == "click[< prev]"
                seen["recovered"] += 1
            said = [value for value in re.findall(r"[\w ]+: ([^:]+), here\.", thought) if value not in there]
            assert player.mistaken == bool(absent or said), (thought, action)
            reply = game.step(action)
            assert (reply == "Not on this page.") == absent, (action, reply)
            seen["slip"] += absent and clicked not in player.options
            time_left = player.moves + 5 + len(player.options) <= STEPS
            lacking = clicked if absent and clicked in player.options and time_left else None
    assert seen["recovered"] > 5 and seen["slip"] > 5, seen


def test_real_shoppers_search_what_people_say(tmp_path):
    """Bug: on human goals a shopper searches the shop's own word, which the task does not hold: nobody can learn it."""
    for name in FILES:
        (tmp_path / name).write_bytes(gzip.decompress((GOLDEN / f"webshop_{name}.gz").read_bytes()))
    shop, hidden = WebShop(tmp_path, human_goals=True), 0
    for goal in range(len(shop.goals)):
        said = set(re.findall(r"\w+", shop.goals[goal]["instruction_text"].lower()))
        game = shop.clone()
        game.reset(goal)
        player = RealShopper(game, goal, "general", [], random.Random(goal))
        player.habits = set()
        words = re.findall(r"\w+", player._search()[1].removeprefix("search"))
        assert set(words) <= said, (words, shop.goals[goal]["instruction_text"])
        hidden += not set(re.findall(r"\w+", shop.goals[goal]["query"])) <= said
    assert hidden, "of some goals the shop's word is not said"


def test_a_slip_onto_what_the_page_has_is_none(shops):
    """Bug: the product opens, the shopper takes another for the open one, or none, and a cold start breaks off."""
    game = shops[False].clone()
    game.reset(0)
    player = RealShopper(game, 0, "general", [], random.Random(0))
    observation = game.step(player._search()[1])[0]
    first, second = results(observation, game.available_actions()["clickables"])[:2]
    away = next(asin for asin in shops[False].products if asin.lower() not in observation.lower())
    for drawn, clicked in ((second.asin, first), (away, None)):
        chance = SimpleNamespace(random=iter((0.0, 0.9)).__next__, choice=lambda products, drawn=drawn: drawn)
        player.opened, player.rng = None, chance
        _, action = player._open(first, "")
        assert player.mistaken == (clicked is None) and player.opened == clicked
        assert action == f"click[{clicked.asin if clicked else away.lower()}]"


def test_exercises_in_the_made_up_shop_are_refused(monkeypatch):
    """Bug: --reading is taken without data and does nothing, in silence."""
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with pytest.raises(ValueError, match="--reading"):
        envs.make("webshop", reading=0.5)

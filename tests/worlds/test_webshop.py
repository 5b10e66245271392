"""Tests of worlds/webshop/world.py: which goals there are, and what a page shows."""

import random

import envs
from tests.real import REAL_SHOP
from worlds.webshop import world as shopping


def test_splits_are_disjoint_and_the_same_for_every_split_asked_for(env):
    """The fork's workers shuffle with their own seeds, so its validation goals overlap its training goals."""
    worlds = {split: envs.make("webshop", split) for split in ("train", "dev", "test")}
    tasks = [set(world.tasks) for world in worlds.values()]
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == len(env.shop.goals)
    for world in worlds.values():
        assert world.train_tasks == env.tasks and not set(world.train_tasks) & set(world.dev_tasks)
        assert [world.goal(t) for t in (0, 500, 900)] == [env.goal(t) for t in (0, 500, 900)]


def test_real_splits_are_webshops_own(real_shop):
    """Test goals are 0-499 and dev goals 500-1499 on the real data, as every published number assumes."""
    assert real_shop.tasks == real_shop.train_tasks == list(range(1500, 6910))
    assert real_shop.dev_tasks == list(range(500, 1500))
    winnable = envs.make("webshop", "test", data=REAL_SHOP, winnable_only=True)
    assert set(winnable.tasks) < set(range(500)) and len(winnable.tasks) == 500 - 29
    assert winnable.describe() == real_shop.describe()  # eval.py takes a run for one of another world otherwise
    families = [real_shop.family(task) for task in real_shop.train_tasks]
    assert set(families) == set(shopping.KEYWORDS) | {"other"} and families.count("other") < len(families) / 5


def test_pages_show_every_clickable_once_in_brackets(env):
    """A button that is not shown cannot be learned; one shown twice costs tokens on every page."""
    rng = random.Random(0)
    for task in env.train_tasks[:20]:
        game = env.start(task)
        for _ in range(10):
            available = env_actions(game)
            for name in available:
                if name != "search":
                    assert f"[{name}]" in game.page, (name, game.page)
            assert env.goal(task) not in game.page  # `step` puts it below a new page, once
            clicks = [f"click[{name}]" for name in available if name != "buy now"]
            game.step(rng.choice(clicks + ["search[men's shoes]"]))


def env_actions(game):
    return game.shop.available_actions()["clickables"]


def test_an_unchanged_page_is_not_repeated(env):
    """Clicking an option changes no text; sending the page again cost a third of the prompt."""
    game = env.start(env.train_tasks[0])
    page = game.step(f"search[{env.goal(env.train_tasks[0])}]")
    asin = next(name for name in env_actions(game) if name.startswith("b0"))
    task = f"\nTask: {env.goal(env.train_tasks[0])}"
    assert asin in page and game.step(f"click[{asin}]") == game.page + task and task not in game.page
    assert game.step("click[no such button]") == "Same page." and len(game.page) > 20

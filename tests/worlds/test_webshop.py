"""Tests of worlds/webshop/world.py: which goals there are, and what a page shows."""

import json
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

import envs
from policy import load
from tests.real import REAL_SHOP
from worlds.webshop import catalogue
from worlds.webshop import world as shopping


def test_splits_are_disjoint_and_the_same_for_every_split_asked_for(env):
    """The fork's workers shuffle with their own seeds, so its validation goals overlap its training goals."""
    worlds = {split: envs.make("webshop", split) for split in ("train", "dev", "test")}
    tasks = [set(world.tasks) for world in worlds.values()]
    assert sum(map(len, tasks)) == len(set.union(*tasks)) == len(env.shop.goals)
    for world in worlds.values():
        assert world.train_tasks == env.tasks and not set(world.train_tasks) & set(world.dev_tasks)
        assert [world.goal(t) for t in (0, 500, 900)] == [env.goal(t) for t in (0, 500, 900)]


def test_real_splits_are_webshops_own(real_shop, winnable_shop):
    """Test goals are 0-499 and dev goals 500-1499 on the real data, as every published number assumes."""
    assert real_shop.tasks == real_shop.train_tasks == list(range(1500, 6910))
    assert real_shop.dev_tasks == list(range(500, 1500))
    assert set(winnable_shop.tasks) < set(range(500)) and len(winnable_shop.tasks) == 500 - 29
    assert winnable_shop.describe() == real_shop.describe()  # eval.py takes a run for one of another world otherwise
    families = [real_shop.family(task) for task in real_shop.train_tasks]
    assert set(families) == set(shopping.KEYWORDS) | {"other"} and families.count("other") < len(families) / 5


def test_even_goals_want_every_value_as_often_and_words_that_are_copied_are_tokens(real_shop):
    """Bug: a value that one goal in 5,000 wants is never learnt, nor one that is spelled by letters."""
    plain, even = real_shop, envs.make("webshop", "train", data=REAL_SHOP, even=True)
    extra = even.train_tasks[len(plain.train_tasks):]
    assert even.train_tasks[:-len(extra)] == plain.train_tasks and set(extra) < set(plain.train_tasks)
    assert even.tasks == plain.tasks and even.fingerprint() == plain.fingerprint()
    wanted = Counter(value.lower() for task in extra for value in even.shop.goals[task]["goal_options"].values())
    every = {value.lower() for task in plain.train_tasks for value in plain.shop.goals[task]["goal_options"].values()}
    assert set(wanted) == every and min(wanted.values()) == 5
    policy = load("tiny", text=even.vocabulary())
    words, split = policy.tokenizer.get_vocab(), policy.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    for product in even.shop.products.values():
        for value in {value for values in product.options.values() for value in values}:
            assert all(piece in words for piece, _ in split(value)), value


def changed(folder, file, change):
    """A copy of a catalogue whose file has other content, JSON."""
    new = Path(shutil.copytree(folder, folder.parent / f"copy {len(list(folder.parent.iterdir()))}"))
    content = json.loads((new / file).read_text(encoding="utf-8")) if (new / file).is_file() else {}
    (new / file).write_text(json.dumps(change(content)), encoding="utf-8")
    return new


def test_a_catalogue_is_known_by_its_content_wherever_it_lies(tmp_path):
    """Bug: other products, as many as before, pass for the run's; the same ones in another folder do not."""
    shop = catalogue.make(tmp_path / "shops" / "shop", products=84)
    first = envs.make("webshop", "train", shop)

    def same(folder, **options):
        other = envs.make("webshop", "test", folder, **options)
        return other.fingerprint() == first.fingerprint()

    def first_item(**change):
        return changed(shop, "items_shuffle_1000.json", lambda items: [{**items[0], **change}, *items[1:]])

    assert same(changed(shop, "items_shuffle_1000.json", lambda items: items)), "another folder, date and white space"
    assert same(shop, winnable_only=True, families="footwear", base=0.1), "the run's own flags are compared as flags"
    assert not same(changed(shop, "items_shuffle_1000.json", lambda items: items[::-1])), "goals have other numbers"
    assert not same(first_item(pricing="$1.00")) and not same(first_item(name="A name of as many words"))
    assert not same(first_item(full_description="Other words.")) and not same(first_item(customization_options=""))
    assert not same(changed(shop, "nouns.json", lambda nouns: {next(iter(first.shop.products.values())).name: ["x"]}))
    assert not same(shop, human_goals=True) and not same(None)
    shutil.rmtree(shop)
    assert first.fingerprint() == first.fingerprint(), "of what was read"


def test_the_same_catalogue_has_the_same_fingerprint_on_every_machine(env):
    """Bug: it depends on a hash seed or on a Python, and no run can be resumed elsewhere."""
    assert env.fingerprint() == "a1634ef9944c00de"


def test_a_fingerprint_takes_no_time(env):
    """Bug: each start of a run reads thousands of files a second time."""
    start = time.process_time()
    env.fingerprint()
    assert time.process_time() - start < 0.2


def test_data_that_is_named_and_not_there_is_one_line(tmp_path, monkeypatch):
    """Bug: nobody knows whether a flag or the variable names the wrong folder; ~ is a folder of that name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "empty").mkdir()
    for wrong in ("~/empty", "~/nowhere", str(tmp_path / "empty")):
        with pytest.raises(FileNotFoundError, match=f"^--data {tmp_path}.*(empty|nowhere)"):
            envs.make("webshop", data=wrong)
        monkeypatch.setenv("WEBSHOP_DATA", wrong)
        with pytest.raises(FileNotFoundError, match=rf"^\$WEBSHOP_DATA {tmp_path}.*(empty|nowhere)"):
            envs.make("webshop")
        monkeypatch.delenv("WEBSHOP_DATA")
    catalogue.make(tmp_path / "shop", products=84)
    monkeypatch.setenv("WEBSHOP_DATA", "~/shop")
    assert envs.make("webshop").describe().startswith("webshop, data in shop: 84 products")
    (tmp_path / "shop" / "items_shuffle_1000.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="items_shuffle_1000.json: the file is nested too deeply"):
        envs.make("webshop")


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

"""The made-up shop is a fair game: balanced, possible, the same everywhere."""

import json
import random
import re
from collections import Counter

import pytest

from worlds.webshop.catalogue import ASSORTMENT, make

FILES = ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.json")
FAMILY_OF = {kind: name for name, family in ASSORTMENT.items() for kind in family.kinds}


def test_same_arguments_same_bytes(tmp_path):
    """Bug: a set's order or a global random state leaks in, and no two machines measure the same shop."""
    random.seed(1)
    one = make(tmp_path / "one", 70, 3)
    random.seed(2)
    two = make(tmp_path / "two", 70, 3)
    other = make(tmp_path / "other", 70, 4)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    assert sorted(path.name for path in one.iterdir()) == sorted(FILES), "something was left beside the files"


def test_complete_files_are_left_alone_and_real_ones_are_safe(tmp_path):
    """Bug: a second process rewrites the files while the first reads them; or make() destroys a downloaded WebShop."""
    directory = make(tmp_path / "one", 28)
    before = [(directory / name).stat().st_mtime_ns for name in FILES]
    make(directory, 28)
    assert before == [(directory / name).stat().st_mtime_ns for name in FILES]
    (directory / FILES[1]).write_text("{")  # as a killed copy would leave it
    make(directory, 28)
    assert len(json.loads((directory / FILES[1]).read_text())) == 28
    (directory / FILES[0]).write_text("[]")
    with pytest.raises(FileExistsError):
        make(directory, 28)


def test_families_are_balanced_and_named_by_the_kind(shops, items):
    """Bug: one family has too few tasks to probe on, or a task's words point to two families."""
    shop = shops[False]
    counts = Counter(FAMILY_OF[product["query"]] for product in items.values())
    assert set(counts) == set(ASSORTMENT) and len(set(counts.values())) == 1
    tasks = Counter(FAMILY_OF[goal["query"]] for goal in shop.goals)
    assert min(tasks.values()) > 0.4 * len(shop.goals) / len(ASSORTMENT)
    nouns = {kind.split()[-1]: family for kind, family in FAMILY_OF.items()}
    for goal in shop.goals + shops[True].goals:
        words = set(re.findall(r"[a-z-]+", goal["instruction_text"].lower()))
        assert {nouns[word] for word in words & set(nouns)} == {FAMILY_OF[goal["query"]]}, goal["instruction_text"]


def test_the_engine_loads_every_product(shops, items):
    """Bug: the format drifts from WebShop's, and the engine drops products without a word."""
    for human, shop in shops.items():
        assert set(shop.products) == set(shop.prices) == set(items) and len(items) == 252
        assert {goal["asin"] for goal in shop.goals} <= set(items) and len(shop.goals) > 250
        assert all(isinstance(goal["goal_options"], list if human else dict) for goal in shop.goals)
    assert {goal["asin"] for goal in shops[False].goals} == set(items)


def test_goals_are_possible_on_paper(shops, items):
    """Bug: a goal asks for an option, a price or a quality which its own product does not have."""
    for human, shop in shops.items():
        for goal in shop.goals:
            item = items[goal["asin"]]
            assert shop.prices[goal["asin"]] <= goal["price_upper"] < 1000
            text = " ".join([item["name"], item["full_description"], *item["small_description"]]).lower()
            assert all(quality in text for quality in goal["attributes"])
            groups = (item["customization_options"] or {}).values()
            values = [value["value"].lower() for group in groups for value in group]
            assert len(values) == len(set(values)), "two option groups share a value, so one of them cannot be clicked"
            assert not any("tan" in value for value in values), "WebShop would take it for the colour tan"
            assert set(goal["goal_options"] if human else goal["goal_options"].values()) <= set(values)


def test_titles_are_short_and_lookalikes_differ(items):
    """Bug: observations eat the context, or the first hit is as good as any."""
    assert all(5 <= len(item["name"].split()) <= 9 for item in items.values())
    alike = Counter(item["name"].split(maxsplit=1)[1] for item in items.values())  # without the brand
    assert set(alike.values()) == {3}
    pricing = Counter(item["pricing"].count("$") for item in items.values())
    assert pricing[0] >= 3 and pricing[2] >= 5 and pricing[1] > 200, pricing  # none, a range, one

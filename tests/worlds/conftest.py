"""Worlds that several files play in and none changes."""

import json
import sys

import pytest

import envs
from tests.real import REAL_SHOP
from worlds.webshop import WebShop
from worlds.webshop.catalogue import make


@pytest.fixture(scope="session")
def made():
    """Generated games of ALFWorld: for training fewer than by default."""
    return envs.make("alfworld", "train", games=20)


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    """The made-up shop's files."""
    return make(tmp_path_factory.mktemp("catalogue"))


@pytest.fixture(scope="session")
def shops(directory):
    """{human goals or not: the shop}."""
    return {human: WebShop(directory, human_goals=human) for human in (False, True)}


@pytest.fixture(scope="session")
def items(directory):
    return {item["asin"]: item for item in json.loads((directory / "items_shuffle_1000.json").read_text())}


@pytest.fixture(scope="session")
def winnable_shop(real_shop):
    """The same without the goals that nobody can win; which these are takes seconds to find out."""
    return envs.make("webshop", "test", data=REAL_SHOP, winnable_only=True)


@pytest.fixture(scope="session")
def real_shop():
    """The world of WebShop's own 1,000 products."""
    if not (REAL_SHOP / "items_shuffle_1000.json").is_file():
        pytest.skip(f"no real WebShop data at {REAL_SHOP}")
    return envs.make("webshop", "train", data=REAL_SHOP)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """ALFWorld's own engine, one for all games: each new one takes a copy of a C++ library with it.

    `import alfworld` makes a folder, pddl2sas writes over sys.argv: both undone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(tmp_path_factory.mktemp("alfworld")))
        patch.setattr(sys, "argv", sys.argv)
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld import EnvInfos
        from textworld.envs.pddl import PddlEnv

        patch.delenv("ALFWORLD_DATA")  # an empty directory that is named is an error, and others play here, too
        yield AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True)))

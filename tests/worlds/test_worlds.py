"""What every world must give, whichever it is."""

import functools
import random
import sys

import pytest

import envs
import train
import worlds
from tools.coldstart import corpus, demonstrations
from worlds.alfworld import world as household

MEMBERS = [name for protocol in (envs.Env, worlds.World) for name in (
    *protocol.__annotations__, *(name for name, value in vars(protocol).items() if callable(value)))
    if not name.startswith("_")]


@pytest.fixture(scope="module", autouse=True)
def few_houses():
    """Two generated games per family and split: 220 take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(household, "GENERATED", dict.fromkeys(household.SPLITS, 2))
        yield


def make(name, split="train"):
    return envs.make(name, split, **({"games": 2} if name == "alfworld" else {}))


@functools.cache
def opened(name):
    try:
        return make(name)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", worlds.names())
def test_a_world_has_what_the_protocol_asks_for(name, monkeypatch):
    """Bug: a world without `tail` or `player` is found in the middle of a run."""
    env = opened(name)
    monkeypatch.setattr(type(env), "corpus_chats", 10)
    assert len(MEMBERS) >= 18 and [member for member in MEMBERS if not hasattr(env, member)] == []
    assert not set(env.train_tasks) & set(env.dev_tasks) and env.tasks == env.train_tasks
    game = env.start(env.tasks[0])
    assert game.page and game.observation and not game.done and 0.0 <= game.score <= 1.0
    player = env.player(game, env.tasks[0], [], random.Random(0))
    thought, action = player.act(game.observation)
    assert thought and action and isinstance(game.step(action), str) and player.mistaken in (True, False)
    assert env.family(env.tasks[0]) in {env.family(task) for task in env.train_tasks}
    assert len(corpus(env)) > 50 and env.describe().startswith(name)


@pytest.mark.parametrize("name", worlds.names())
def test_a_world_is_the_same_for_every_split(name):
    """Bug: the fingerprint is the split's, so that no evaluation takes a run for one of its own world."""
    env = opened(name)
    assert worlds.identity(env) == worlds.identity(make(name, "test")) and worlds.identity(env)["fingerprint"]


def test_worlds_are_told_apart_by_fingerprint_or_by_their_words():
    """Bug: runs from before fingerprints cannot be resumed; or other games are taken for the same."""
    now = {"world": "shop, data in b: 3 goals", "fingerprint": "22"}
    for before in ({}, {"env": "webshop"}, {"world": "shop, data in a: 3 goals", "fingerprint": "22"},
                   {"world": "shop, data in b: 3 goals"}):
        assert worlds.other_games(before, now) == ""
    for before in ({"world": "shop, data in b: 3 goals", "fingerprint": "11"}, {"world": "shop, data in a: 3 goals"}):
        line = worlds.other_games(before, now)
        assert before["world"] in line and now["world"] in line and "\n" not in line

    class Plain:
        def describe(self):
            return "a world of somebody else"

    assert set(worlds.identity(Plain()).values()) == {"a world of somebody else"}


@pytest.mark.parametrize("name", worlds.names())
def test_demonstrations_are_whole_chats(name):
    """Bug: a world's player and its game do not fit together, and the cold start learns half an episode."""
    for chat in demonstrations(opened(name), 3, seed=1):
        assert [message["role"] for message in chat[:3]] == ["system", "user", "assistant"]
        assert "The episode is over" in chat[-2]["content"] and "<tool_call>" in chat[-1]["content"]


@pytest.mark.parametrize("name", worlds.names())
def test_a_split_that_a_world_lacks_is_refused_in_one_line(name):
    """Bug: a misspelt --split is a KeyError in the template that others copy."""
    opened(name)
    with pytest.raises(ValueError, match="--split tests"):
        make(name, "tests")


def test_a_new_folder_is_a_new_world(tmp_path, monkeypatch):
    """Bug: a world must be entered in a list somewhere before it is found."""
    (tmp_path / "made_for_a_test").mkdir()
    (tmp_path / "made_for_a_test" / "world.py").write_text("class World:\n    options = {'fair': (True, 'a coin')}\n")
    monkeypatch.setattr(worlds, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(worlds, "__path__", [str(tmp_path)])
    assert worlds.names() == ["made_for_a_test"] and worlds.load("made_for_a_test").options
    with pytest.raises(ValueError, match="--env chess: there is no such world; choose from made_for_a_test"):
        worlds.load("chess")
    sys.modules.pop("worlds.made_for_a_test.world")


def test_options_are_the_worlds_own(capsys):
    """Bug: --human_goals is taken by every world in silence, or known to none but in train.py."""
    flags = train.read_flags(["--env", "webshop", "--human_goals", "--base", "0.2"])
    assert flags.options == {"human_goals": True, "winnable_only": False, "base": 0.2, "reading": 0.0, "families": "",
                             "even": False}
    assert train.read_flags(["--env", "guess"]).options == {}
    with pytest.raises(SystemExit):
        train.read_flags(["--env", "guess", "--human_goals"])
    assert "--human_goals" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--human_goals: --env guess has no such option"):
        envs.make("guess", human_goals=True)
    assert envs.make("guess", human_goals=False).tasks
    assert envs.make("webshop", base=0.0).base == 0, "0 is a value, not a missing one"
    for wrong in ({"base": 1.5}, {"base": -0.1}):
        with pytest.raises(ValueError, match="--base .*: is a share, from 0 to 1"):
            envs.make("webshop", **wrong)
    for wrong in ({"rules": -2}, {"drift": -1}, {"data": "somewhere"}, {"evidence": 7.0}):
        with pytest.raises(ValueError, match=f"--{min(wrong)} "):
            envs.make("counter", **wrong)
    with pytest.raises(SystemExit):
        train.read_flags(["--help"])
    text = capsys.readouterr().out
    assert "flags of --env webshop" in text and "{dual,single}" in text and "how much:" in text


def test_unknown_world_and_split_are_refused_in_one_line():
    """A typo in --env or --split used to be a KeyError from the depths."""
    for kwargs in (dict(name="webshoop"), dict(name="webshop", split="validation")):
        with pytest.raises(ValueError) as error:
            envs.make(**kwargs)
        assert "\n" not in str(error.value) and list(kwargs.values())[-1] in str(error.value)

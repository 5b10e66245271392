"""Tests of worlds/alfworld: which games are played, what the policy reads of them, and players that obey skills."""

import gzip
import json
import os
import re
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import envs
import eval as evaluation
import policy as policies
import probes
import train
from dualadv_grpo import FORCED
from policy import logprobs
from skillbank import SkillBank
from tests.real import GOLDEN, REAL_HOUSE
from tools.coldstart import corpus
from worlds import GameError
from worlds.alfworld import rooms
from worlds.alfworld import world as household

RECORDED = json.loads(gzip.decompress((GOLDEN / "alfworld_game.json.gz").read_bytes()))
FAMILY = "pick_clean_then_place_in_recep"
package = pytest.mark.skipif(find_spec("alfworld") is None, reason="no alfworld package to make games from")


def put(root, name, trial="trial_1", **changes):
    path = root / "json_2.1.1" / name / trial / "game.tw-pddl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**RECORDED["game"], **changes}))
    return path


@pytest.fixture
def download(tmp_path):
    """A small ALFWorld: three training games, one valid_unseen, and what must be left out."""
    for i in range(3):
        put(tmp_path, f"train/{FAMILY}-SoapBar-None-Cabinet-428", f"trial_{i}")
    put(tmp_path, "valid_unseen/look_at_obj_in_light-Mug-None-DeskLamp-308")
    put(tmp_path, "train/pick_and_place_with_movable_recep-Mug-Bowl-Shelf-1")
    put(tmp_path, f"train/{FAMILY}-AppleSliced-None-Fridge-2")
    put(tmp_path, f"train/{FAMILY}-Apple-None-Fridge-3", solvable=False)
    put(tmp_path, f"train/{FAMILY}-Apple-None-Fridge-4", solvable=None)
    return tmp_path


# ---- Which games ----------------------------------------------------------------------------------------------------


def test_a_download_is_found_as_alfworld_finds_it(download, monkeypatch):
    """Bug: movable, sliced or unsolvable games are played and the score is no longer the published protocol's."""
    monkeypatch.setenv("ALFWORLD_DATA", str(download))
    env = envs.make("alfworld", "train")
    assert [env.family(task) for task in env.tasks] == [FAMILY] * 3 and env.tasks == env.train_tasks
    assert {env.goal(task) for task in env.tasks} == {"clean some soapbar and put it in cabinet"}
    unseen = envs.make("alfworld", "valid_unseen")
    assert [unseen.family(task) for task in unseen.tasks] == ["look_at_obj_in_light"]
    assert unseen.tasks == envs.make("alfworld", "test").tasks == env.dev_tasks  # there is no valid_seen here
    assert envs.make("alfworld", "dev").tasks == env.dev_tasks, "dev is what runs are evaluated on"
    assert not set(unseen.tasks) & set(unseen.train_tasks) and unseen.train_tasks == env.train_tasks
    assert f"{FAMILY} 3/0/0" in env.describe() and "games in" in env.describe() and env.describe() == unseen.describe()


@pytest.mark.skipif(not (REAL_HOUSE / "json_2.1.1").is_dir(), reason=f"no real ALFWorld games at {REAL_HOUSE}")
def test_real_games_are_counted_by_family():
    """Bug: a family is dropped, or a file counted twice."""
    env = envs.make("alfworld", "valid_unseen", str(REAL_HOUSE))
    files = sorted((REAL_HOUSE.resolve() / "json_2.1.1" / "valid_unseen").glob("*/*/game.tw-pddl"))
    assert sorted(path for task in env.tasks for path in env.games[task][2]) == files
    for family in {path.parts[-3].split("-")[0] for path in files}:
        assert sum(path.parts[-3].startswith(f"{family}-") for path in files) == sum(
            env.family(task) == family for task in env.tasks)


def test_wrong_data_is_one_line(download, tmp_path, monkeypatch):
    """Bug: a typing error in a path silently plays generated games, or a traceback from json."""
    for wrong in (tmp_path / "nowhere", download / "json_2.1.1"):
        with pytest.raises(FileNotFoundError, match="--data .*must be the directory that holds json_2.1.1"):
            envs.make("alfworld", "train", str(wrong))
        monkeypatch.setenv("ALFWORLD_DATA", str(wrong))
        with pytest.raises(FileNotFoundError, match=rf"\$ALFWORLD_DATA {wrong}"):
            envs.make("alfworld", "train")
        monkeypatch.delenv("ALFWORLD_DATA")
    with pytest.raises(ValueError, match="--human_goals"):
        envs.make("alfworld", "train", str(download), human_goals=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="json_2.1.1"):
        envs.make("alfworld", "train", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="valid_unseen"):
        envs.make("alfworld", "tset", str(download))
    with pytest.raises(ValueError, match="no games in valid_seen"):
        envs.make("alfworld", "valid_seen", str(download))
    for text, words in [("{", "no ALFWorld game"), ("[1]", "list"), (json.dumps({"solvable": True}), "names no task")]:
        bad = put(download, f"train/{FAMILY}-Cup-None-Shelf-7", trial=f"trial_{len(text)}")
        bad.write_text(text)
        with pytest.raises(GameError, match=words) as error:
            envs.make("alfworld", "train", str(download))
        assert str(error.value).startswith(str(bad)) and "\n" not in str(error.value)
        bad.unlink()


def test_named_data_without_games_is_an_error_whoever_named_it(tmp_path, monkeypatch):
    """Bug: $ALFWORLD_DATA names a folder without games, and hours of generated ones are played."""
    empty = tmp_path / "empty"
    (empty / "json_2.1.1" / "train").mkdir(parents=True)
    put(empty, f"train/{FAMILY}-Apple-None-Fridge-3", solvable=False)
    for wrong in (empty, tmp_path):
        monkeypatch.setenv("ALFWORLD_DATA", str(wrong))
        with pytest.raises(FileNotFoundError, match=rf"\$ALFWORLD_DATA {wrong}: no json_2.1.1/.*game.tw-pddl"):
            envs.make("alfworld")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALFWORLD_DATA", "~/empty")
    with pytest.raises(FileNotFoundError, match=rf"\$ALFWORLD_DATA {empty}: no json_2.1.1/"):
        envs.make("alfworld")
    put(empty, f"train/{FAMILY}-SoapBar-None-Cabinet-428")
    for named in ("~/empty", str(empty)):
        monkeypatch.setenv("ALFWORLD_DATA", named)
        assert envs.make("alfworld").source == envs.make("alfworld", data=named).source == "games in empty"
    with pytest.raises(FileNotFoundError, match="--data .*nowhere"):
        envs.make("alfworld", data="~/nowhere")


@package
def test_nobodys_download_means_generated_games(download, tmp_path, monkeypatch):
    """Bug: a folder that nobody named, and that is not there, ends the run; or one that is there is not played."""
    monkeypatch.setattr(household, "DOWNLOAD", "~/.cache/alfworld")
    monkeypatch.setattr(household, "GENERATED", dict.fromkeys(household.SPLITS, 1))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert envs.make("alfworld", games=1).source == "generated games"
    (tmp_path / "home/.cache/alfworld").mkdir(parents=True)  # `import alfworld` makes it
    assert envs.make("alfworld", games=1).source == "generated games"
    (tmp_path / "home/.cache/alfworld/json_2.1.1").symlink_to(download / "json_2.1.1")
    assert envs.make("alfworld", games=1).source == "games in alfworld"
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert envs.make("alfworld", games=1).source == "generated games", "a container's user has no home"


def test_a_download_is_known_by_its_games_wherever_it_lies(download, tmp_path):
    """Bug: a game is exchanged by another of its family, and nobody notices; or files that were moved are refused."""
    first = envs.make("alfworld", "train", str(download)).fingerprint()
    assert envs.make("alfworld", "test", str(download), base=0.1).fingerprint() == first

    def copy(name):
        return Path(shutil.copytree(download, tmp_path / "copies" / name, ignore=shutil.ignore_patterns("copies")))

    def of(root):
        return envs.make("alfworld", "train", str(root)).fingerprint()

    moved = copy("moved here")
    for file in sorted(moved.rglob("game.tw-pddl"), reverse=True):  # written in another order, at another time
        text = file.read_text()
        file.unlink()
        file.write_text(text)
        os.utime(file, (1, 1))
    put(moved, "train/pick_and_place_with_movable_recep-Mug-Bowl-Shelf-9")  # is not played
    assert of(moved) == first
    game = f"json_2.1.1/train/{FAMILY}-SoapBar-None-Cabinet-428/trial_1/game.tw-pddl"
    for part in ("pddl_problem", "grammar", "pddl_domain"):
        exchanged = copy(part)
        text = RECORDED["game"][part]
        (exchanged / game).write_text(json.dumps({**RECORDED["game"], part: text[:-1] + "#"}))
        assert of(exchanged) != first, f"as many bytes, another {part}"
    renamed = copy("renamed")
    (renamed / game).parent.rename((renamed / game).parents[1] / "trial_9")
    assert of(renamed) != first, "games have other numbers"
    less = copy("less")
    (less / game).unlink()
    assert of(less) != first


@package
def test_generated_games_are_known_by_their_content(monkeypatch):
    """Bug: another release of the package makes other games from the same numbers, and a run goes on in them."""
    assert envs.make("alfworld", "train", games=3).fingerprint() == envs.make("alfworld", "dev", games=3).fingerprint()
    few = [household.generated(family, 0, "train", 0) for family in rooms.FAMILIES]
    game = rooms.game
    monkeypatch.setattr(rooms, "game", lambda *made: {**game(*made), "pddl_problem": "another room"})
    assert all(mine[:4] == other[:4] and mine != other for mine, other in zip(few, (
        household.generated(family, 0, "train", 0) for family in rooms.FAMILIES)))


def test_a_fingerprint_takes_no_time():
    """Bug: each start of a run takes a minute longer for 3,500 games."""
    start = time.process_time()
    for _ in range(350):
        household.checksum(RECORDED["game"])
    assert time.process_time() - start < 0.2, "a tenth of a download, on a machine with other work"


@package
def test_generated_games_on_disk_say_so_too(tmp_path):
    """Bug: made-up games, written to files, are called "games in mygames" and their score is taken for ALFWorld's."""
    rooms.write(tmp_path, 2, 1, 1)
    assert envs.make("alfworld", "train", str(tmp_path)).source == "generated games"


def test_without_held_out_games_training_says_so_before_it_starts(download, tmp_path, monkeypatch):
    """Bug: ZeroDivisionError in the first evaluation."""
    (download / "json_2.1.1" / "valid_unseen").rename(tmp_path / "elsewhere")
    flags = f"train.py --env alfworld --data {download} --model tiny --cold_start 1 --out {tmp_path / 'run'}"
    monkeypatch.setattr(sys, "argv", flags.split())
    with pytest.raises(SystemExit, match="no held-out games.*--eval_every 0"):
        train.main()


def test_a_game_that_turns_out_broken_ends_a_run_with_one_line(download, tmp_path, monkeypatch, capsys):
    """Bug: hours into a run or an evaluation a traceback, and the file's name nowhere."""
    model = tmp_path / "model"
    monkeypatch.setattr(household.World, "limit", 2)
    monkeypatch.setattr(household.World, "corpus_chats", 10)
    policies.load("tiny", text=corpus(envs.make("alfworld", "train", str(download)))[-100:]).save(model)
    for path in download.glob("json_2.1.1/train/*Cabinet*/trial_[12]/game.tw-pddl"):
        path.write_text(path.read_text().replace("?r CabinetType", "?r FridgeType"))
    household.load.cache_clear()
    monkeypatch.setattr(sys, "argv", [*f"train.py --env alfworld --data {download} --model {model} --tasks 3 --group 1 "
                                      "--cold_start 0 --steps 2 --act_tokens 8 --review_tokens 8 --eval_every 0 "
                                      f"--context 2000 --out {tmp_path / 'run'}".split()])
    with pytest.raises(SystemExit) as error:
        train.main()
    assert re.fullmatch(r"train.py: \S*trial_[12]/game.tw-pddl: its goal cannot be reached.*", str(error.value))
    monkeypatch.setattr(sys, "argv", [*f"eval.py {model} --env alfworld --data {download} --split train --act_tokens 8 "
                                      "--review_tokens 8 --context 2000 --protocols none".split()])
    with pytest.raises(SystemExit, match=r"eval.py: \S*game.tw-pddl: its goal cannot be reached"):
        evaluation.main()


def test_eval_plays_each_game_once_and_names_it(download, tmp_path, monkeypatch, capsys):
    """Bug: a number into a shuffled list, with which nobody can check a doubted average."""
    monkeypatch.setattr(household.World, "limit", 2)
    monkeypatch.setattr(household.World, "corpus_chats", 10)
    env = envs.make("alfworld", "train", str(download))
    policies.load("tiny", text=corpus(env)[-100:]).save(tmp_path / "model")
    monkeypatch.setattr(sys, "argv", [*f"eval.py {tmp_path / 'model'} --env alfworld --data {download} --split train "
                                      "--act_tokens 8 --review_tokens 8 --context 2000 --protocols none,online "
                                      f"--out {tmp_path / 'result.json'}".split()])
    evaluation.main()
    for protocol in json.loads((tmp_path / "result.json").read_text())["protocols"].values():
        assert sorted(e["game"] for e in protocol["episodes"]) == [
            f"{FAMILY}-SoapBar-None-Cabinet-428/trial_{i}" for i in range(3)]
        assert protocol["families"][FAMILY]["n"] == 3
    assert len(re.findall(r"success 0.000.* games in \S+", capsys.readouterr().out)) == 4


@package
def test_generated_games_say_so_and_are_the_same_again(made):
    """Bug: a score on made-up games is taken for ALFWorld's; or splits that share games."""
    again = envs.make("alfworld", "valid_unseen", games=20)
    assert "generated games" in made.describe() and made.source == "generated games"
    assert made.games == again.games and made.describe() == again.describe()
    assert len({game for _, _, game, *_ in made.games}) == len(made.games)
    assert {made.family(task) for task in made.dev_tasks[:24]} == set(rooms.FAMILIES)  # the first so many are mixed
    assert all(made.games[task][2][2] for task in again.tasks) and not any(made.games[t][2][2] for t in made.tasks)


def test_without_games_and_without_the_package_one_line_says_how(monkeypatch, tmp_path):
    """Bug: ModuleNotFoundError: alfworld, or worse, a shop that cannot be entered without it."""
    monkeypatch.setattr(rooms.importlib.util, "find_spec", lambda name: None)
    for cached in (rooms._data, rooms._package):
        getattr(cached, "cache_clear", lambda: None)()
    with pytest.raises(ImportError, match="pip install --no-deps alfworld"):
        envs.make("alfworld", "train")
    envs.make("webshop", "train")
    monkeypatch.setattr(sys, "argv", ["eval.py", "tiny", "--env", "alfworld"])
    with pytest.raises(SystemExit, match="pip install --no-deps alfworld"):
        evaluation.main()


# ---- What the policy reads ------------------------------------------------------------------------------------------


def test_messages_are_short_and_complete(download):
    """Bug: the full list of commands takes eight times the tokens; or a command that is needed is never told."""
    env = envs.make("alfworld", "train", str(download))
    game = env.start(env.tasks[0])
    assert game.page.startswith("You are in the middle of a room.") and "Your task" not in game.page
    pages = game.page
    for step in RECORDED["walk"][1:]:
        page = game.page
        reply = game.step(step["command"])
        if step["feedback"] == "Nothing happens.":
            assert reply == step["feedback"] and game.page == page
            continue
        told = reply[len(step["feedback"]):]
        assert reply == game.page and reply.startswith(step["feedback"]) and "help" not in told
        for command in [] if step["won"] else step["commands"]:
            verb, *words = command.split()
            if verb not in household.RULED:
                assert all(word in told for word in words), (command, told)
            elif verb in ("take", "open") and command.split(" from ")[-1] in step["feedback"]:
                assert verb in env.rules and set(words) - {"from"} <= set(re.findall(r"\w+", pages + reply)), command
        pages += reply
    assert game.done and game.won and game.score == 1.0


def test_an_answer_without_tags_is_its_last_thirty_characters(download):
    """Bug: another protocol than the peers'; WebShop's is the last twenty."""
    env = envs.make("alfworld", "train", str(download))
    assert envs.project("<think>x</think><action> Go to Shelf 1 </action>", env.tail) == ("go to shelf 1", True)
    assert envs.project("0123456789" * 4, env.tail) == ("0123456789" * 3, False)
    assert env.limit == 50 and env.kl == 0.01


def test_a_rollout_records_what_the_model_said_and_pays_ten_for_a_win(download, one_thread):
    """Bug: the second world takes another way through the loop than the first."""
    env = envs.make("alfworld", "train", str(download))
    env.limit, env.corpus_chats = 5, 10
    policy = policies.load("tiny", text=corpus(env)[-100:])
    how = envs.Sampling(act_tokens=8, review_tokens=8, context=2500)
    for episode in envs.rollout(policy, env, env.tasks[:2], SkillBank(), group=2, sampling=how):
        assert episode.steps == 5 and not episode.won
        assert sum(episode.rewards()) == -0.5 * sum(not turn.valid for turn in episode.turns)
        for segment in episode.segments:
            logp = logprobs(policy.model, torch.tensor([segment.ids]), torch.tensor([segment.job]) != FORCED)
            assert torch.allclose(logp, torch.tensor([segment.logp]), atol=2e-4)


def test_probes_are_training_games_of_the_family(download):
    """Bug: a skill for cleaning is probed on heating, or on the very game it was learned from."""
    env = envs.make("alfworld", "valid_unseen", str(download))
    for task in env.train_tasks:
        chosen = probes.select(env, task, 2, 0)
        assert len(chosen) == 2 and task not in chosen and set(chosen) <= set(env.train_tasks)

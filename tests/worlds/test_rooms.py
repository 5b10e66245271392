"""Made-up ALFWorld games must be fair, the same everywhere, and nothing but ALFWorld to the stock engine."""

import functools
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from tests.real import REAL_HOUSE, ROOT
from worlds.alfworld import rooms
from worlds.alfworld.pddl import GameFile
from worlds.alfworld.rooms import FAMILIES, KINDS, LAMP, OPENABLE, RECEPTACLES, TOOLS, UNSEEN, game, write

pytestmark = pytest.mark.skipif(find_spec("alfworld") is None, reason="no alfworld package to take rooms from")
stock = pytest.mark.skipif(find_spec("textworld") is None, reason="no textworld: the stock engine cannot play")
SEEDS = range(25)
GAMES = [(family, seed, unseen) for family in FAMILIES for seed in SEEDS for unseen in (False, True)]


def read(content):
    """-> {predicate: [its arguments]} at the start, the goal's object and receptacle kinds"""
    init, goal = content["pddl_problem"].split("(:init")[1].split("(:goal")
    facts = defaultdict(list)
    for fact in re.findall(r"\(([^()]+)\)", init):
        name, *arguments = fact.split()
        facts[name].append(arguments)
    recep = re.search(r"receptacleType \?r (\w+)", goal)
    return facts, re.findall(r"objectType \?o1? (\w+)", goal)[0], recep and recep[1]


def run(code, **environment):
    """-> what it prints in another process"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=ROOT, env={**os.environ, **environment}).stdout.strip()


@functools.cache
def made(*arguments):
    """A game of GAMES, for tests that only look at it."""
    return game(*arguments)


def digest():
    return hashlib.sha256(json.dumps([game(*arguments) for arguments in GAMES[::7]]).encode()).hexdigest()


# -- the same everywhere


def test_same_arguments_same_bytes():
    """Bug: a set's order or a global random state leaks in, and no two machines measure the same games."""
    for hash_seed in "12":
        code = "from tests.worlds.test_rooms import digest; print(digest())"
        assert digest() == run(code, PYTHONHASHSEED=hash_seed)
    assert len({made(*arguments)["pddl_problem"] for arguments in GAMES}) == len(GAMES)


def test_only_the_packages_files_are_needed():
    """Bug: an import of alfworld (it makes ~/.cache/alfworld), of textworld or numpy: --no-deps is not enough."""
    code = ("import sys; from worlds.alfworld.rooms import *; game(FAMILIES[0], 0); "
            "print([name for name in ('alfworld', 'textworld', 'numpy') if name in sys.modules])")
    assert run(code) == "[]"


def test_what_is_wrong_is_said_in_one_line(monkeypatch):
    """Bug: a KeyError from the depths for a misspelt family or an absent package."""
    with pytest.raises(ValueError, match="no family 'pick_and_place': it is one of pick_and_place_simple, look"):
        game("pick_and_place", 0)
    monkeypatch.setattr(rooms.importlib.util, "find_spec", lambda name: None)
    rooms._package.cache_clear()
    with pytest.raises(ImportError, match="no ALFWorld games.* pip install --no-deps alfworld$"):
        rooms._package()


# -- fair games


def test_the_target_never_starts_where_it_should_end():
    """Bug: a game is won at its start, or by a thing that the walkthrough never touched."""
    for arguments in GAMES:
        facts, obj, recep = read(made(*arguments))
        kind, home = dict(facts["objectType"]), dict(facts["receptacleType"])
        targets = [id for id in kind if kind[id] == obj]
        assert len(targets) >= 1 + (arguments[0] == "pick_two_obj_and_place")
        for id, receptacle in facts["inReceptacle"]:
            assert kind[id] != obj or home[receptacle] != recep, arguments
        assert not facts["isHot"] + facts["isCool"] + facts["isClean"] + facts["isToggled"] + facts["holds"]


def test_rooms_hold_what_the_family_needs():
    """Bug: no microwave to heat with, a lamp that stands nowhere, a receptacle that may not hold the target."""
    for arguments in GAMES:
        facts, obj, recep = read(made(*arguments))
        homes = {home for _, home in facts["receptacleType"]}
        if arguments[0] == "look_at_obj_in_light":
            lamp, = (id for id, kind in facts["objectType"] if kind == f"{LAMP}Type")
            assert facts["toggleable"] == [[lamp]] and lamp in dict(facts["inReceptacle"])
        else:
            assert recep in homes and [recep, obj] in facts["canContain"]
        if arguments[0] in TOOLS:
            verb, tool = TOOLS[arguments[0]]
            assert f"{tool}Type" in homes - {recep}
            assert {id for id, kind in facts["objectType"] if kind == obj} <= {id for id, in facts[f"{verb}able"]}


def test_everything_has_its_place_and_doors_are_closed():
    """Bug: things that are nowhere, or where the domain would not let them be put; an intro without the room."""
    for arguments in GAMES:
        facts, obj, _ = read(made(*arguments))
        kind, home, where = (dict(facts[name]) for name in ("objectType", "receptacleType", "inReceptacle"))
        at = dict(facts["receptacleAtLocation"])
        assert set(where) == set(kind) and set(at) == set(home)
        for id, receptacle in where.items():
            assert [home[receptacle], kind[id]] in facts["canContain"]
            assert [id, at[receptacle]] in facts["objectAtLocation"]
        assert {id for id, in facts["openable"]} == {id for id in home if home[id].removesuffix("Type") in OPENABLE}
        assert not facts["opened"]
        assert facts["atLocation"][0][1] not in at.values(), "an agent that starts at a receptacle sees no room"


def test_rooms_are_as_large_as_the_real_ones():
    """Bug: rooms so large that winning is luck; or so small that a real room is nothing that a model has seen."""
    sizes, things, hidden, long = [], [], 0, 0
    for arguments in GAMES:
        content = made(*arguments)
        facts, obj, _ = read(content)
        receptacles = facts["receptacleType"]
        sizes.append(len(receptacles))
        assert 6 <= len(receptacles) <= RECEPTACLES and 6 <= len({kind for _, kind in facts["objectType"]}) <= KINDS
        things.append(len(facts["inReceptacle"]))
        long += len(receptacles) + len(facts["openable"]) + len(content["walkthrough"]) > 50
        hidden += content["walkthrough"][1].startswith("open")
    assert max(sizes) == RECEPTACLES and len(GAMES) / 6 < hidden < len(GAMES) / 2, (max(sizes), hidden)
    assert long < len(GAMES) / 5, "rooms that cannot be searched as a whole in 50 steps are the exception"
    assert 18 < sum(sizes) / len(sizes) < 24 and 30 < sum(things) / len(things) < 42  # 122 real games: 22 and 36


def test_families_ask_for_many_things():
    """Bug: one room, one object or one sentence in all games of a family."""
    for family in FAMILIES:
        made = [rooms._make(family, seed, False) for seed in range(100)]
        assert len({key[:2] for key, _ in made}) >= 20 and len({scene for (*_, scene), _ in made}) >= 20, family
        sentences = [re.search(r"Your task is to: (.+?)\.\"", content["grammar"])[1] for _, content in made]
        assert len({sentence.split()[0] + sentence.split()[-2] for sentence in sentences}) > 1
        assert not any(re.search(r"slice|UNKNOWN|[{}A-Z]", sentence) for sentence in sentences)


def test_even_tasks_name_rare_places_too():
    """Bug: one game in 200 asks for a safe, so a model never learns the word; or such a game is won at its start."""
    plain, even = (Counter() for _ in range(2))
    for seed in range(60):
        plain[read(game("pick_and_place_simple", seed))[2]] += 1
        facts, obj, recep = read(game("pick_and_place_simple", seed, even=True))
        even[recep] += 1
        kind, home = dict(facts["objectType"]), dict(facts["receptacleType"])
        assert recep in home.values()
        assert not any(kind[id] == obj and home[at] == recep for id, at in facts["inReceptacle"])
    assert len(even) > len(plain) and max(even.values()) < max(plain.values())
    assert rooms._make("pick_and_place_simple", 0, True, True)[0][2] in UNSEEN, "even tasks leave the split"


def test_unseen_rooms_are_held_out():
    """Bug: the rooms of the unseen split are trained on."""
    scenes = {unseen: {rooms._make(family, seed, unseen)[0][2] for family in FAMILIES for seed in range(60)}
              for unseen in (False, True)}
    assert scenes[True] == set(UNSEEN) and not scenes[False] & set(UNSEEN) and len(scenes[False]) > 80


# -- words


def test_games_speak_all_dialects():
    """Bug: a model that has heard one download's words alone is lost in another's."""
    spoken = Counter(rooms.dialect(made(*arguments)["grammar"]) for arguments in GAMES)
    assert spoken.keys() == {*rooms.DIALECTS, "mixed"} and min(spoken.values()) > len(GAMES) / 10, spoken
    assert rooms.dialect(rooms._data().grammar) == "package"


@pytest.mark.parametrize("name, answers", [
    ("package", ["You arrive at shelf 3. On the shelf 3, you see a statue 2.", "You move the plate 1 to the shelf 3."]),
    ("older", ["You arrive at loc 3. On the shelf 3, you see a statue 2.", "You put the plate 1 in/on the shelf 3."]),
    ("no articles", ["You arrive at loc 3. On shelf 3, you see statue 2.", "You put plate 1 in/on shelf 3."])])
def test_a_dialect_says_the_same_in_other_words(name, answers):
    """Bug: a half-translated grammar, whose walkthrough no longer wins."""
    content = game("pick_heat_then_place_in_recep", 29, unseen=True)
    sentence = re.search(r"Your task is to: (.+?)\.\"", content["grammar"])[1]
    content["grammar"] = rooms._grammar(rooms.DIALECTS[name]).replace("UNKNOWN GOAL", sentence)
    assert rooms.dialect(content["grammar"]) == name
    played, said = GameFile(content, name).start(), []
    for command in content["walkthrough"]:
        words = command if name == "package" else re.sub("^move (.+) to ", r"put \1 in/on ", command)
        assert words in played.commands
        said.append(played.step(words))
    assert played.won and said[-2:] == answers


@pytest.mark.skipif(not (REAL_HOUSE / "json_2.1.1").is_dir(), reason=f"no real ALFWorld games at {REAL_HOUSE}")
def test_the_dialect_without_articles_is_that_of_real_files():
    """Bug: words of our own making, which no download has."""
    for path in sorted(REAL_HOUSE.glob("json_2.1.1/train/*/*/game.tw-pddl"))[::9]:
        theirs = json.loads(path.read_text())
        assert rooms.dialect(theirs["grammar"]) == "no articles"
        sentence = re.search(r"Your task is to: (.+?)\.?\"", theirs["grammar"])[1]
        grammar = rooms._grammar(rooms.DIALECTS["no articles"]).replace("UNKNOWN GOAL", sentence)
        one, rng = GameFile(theirs, path).start(), Random(0)
        other = GameFile({**theirs, "grammar": grammar}, path).start()
        for _ in range(40):
            commands = [command for command in one.commands if command != "help"]
            assert commands == [command for command in other.commands if command != "help"]
            command = rng.choice(commands)
            assert one.step(command) == other.step(command), command


# -- files


def test_written_files_are_where_alfworld_has_them(tmp_path):
    """Bug: a split is empty to those who glob; valid_seen repeats a training game; a second call writes anew."""
    paths = write(tmp_path, 2, 1, 1)
    assert paths == write(tmp_path, 2, 1, 1) and len(paths) == 24
    assert sorted(paths) == sorted(tmp_path.glob("json_2.1.1/*/*/trial_*/game.tw-pddl"))
    assert Counter(path.parts[-4] for path in paths) == {"train": 12, "valid_seen": 6, "valid_unseen": 6}
    assert len({path.read_bytes() for path in paths}) == 24
    assert sum(file.is_file() for file in tmp_path.rglob("*")) == 48, "something was left beside the files"
    before = [path.stat().st_mtime_ns for path in paths]
    write(tmp_path, 2, 1, 1)
    assert before == [path.stat().st_mtime_ns for path in paths]
    for path in paths:
        family, obj, mrecep, recep, scene = path.parts[-3].split("-")
        about = json.loads((path.parent / "traj_data.json").read_text())
        assert about["task_type"] == family and about["pddl_params"]["object_target"] == obj and mrecep == "None"
        assert recep in about["pddl_params"].values()
        assert (int(scene) in UNSEEN) == (path.parts[-4] == "valid_unseen")
        assert json.loads(path.read_text())["solvable"] is True
        assert not re.search("movable|Sliced", str(path.relative_to(tmp_path))), "the stock would skip it"


def test_real_games_are_safe(tmp_path):
    """Bug: write() destroys a download, or mixes made-up games into it and spoils its 140 and 134."""
    path = write(tmp_path / "ours", 1, 0, 0)[0]
    path.write_text("{}")
    with pytest.raises(FileExistsError, match="is no made-up game"):
        write(tmp_path / "ours", 1, 0, 0)
    assert path.read_text() == "{}"
    path.write_text('{"pddl_problem": "(define (problem made_up_by_an_earlier_version"}')
    write(tmp_path / "ours", 1, 0, 0)
    assert json.loads(path.read_text()) == game(FAMILIES[0], 0)
    real = tmp_path / "real" / "json_2.1.1" / "train" / "pick_and_place_simple-Mug-None-Desk-301" / "trial_T2019"
    real.mkdir(parents=True)
    with pytest.raises(FileExistsError, match="trial_T2019 is no made-up game"):
        write(tmp_path / "real", 1, 0, 0)
    assert not list(tmp_path.glob("real/**/game.tw-pddl"))


# -- the stock engine


def play(engine, path, content):
    """-> what was said, from the intro on; every command must be admissible, and only the last may win"""
    path.write_text(json.dumps(content))
    engine.load(str(path))
    state = engine.reset()
    said = [state.feedback]
    for command in content["walkthrough"]:
        assert not state["won"] and command in state["admissible_commands"], command
        state, _, done = engine.step(command)
        said.append(state.feedback)
    assert state["won"] and done
    return said


@stock
@pytest.mark.parametrize("family", ["look_at_obj_in_light", "pick_and_place_simple"])  # all of them: below
def test_the_stock_plays_the_walkthrough(engine, tmp_path, family):
    """Bug: a fact that the domain wants is missing, a number is another's, the game is won too early or never."""
    said = play(engine, tmp_path / "game.tw-pddl", game(family, 1))
    assert said[0].startswith("-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly")


@stock
@pytest.mark.slow
def test_the_docstring_tells_the_truth(engine, tmp_path):
    """Bug: a knob is turned, and the transcript that readers see first is no longer what happens."""
    content = game("pick_heat_then_place_in_recep", 29, unseen=True)
    said = play(engine, tmp_path / "game.tw-pddl", content)
    shown = [line.strip() for line in rooms.__doc__.splitlines() if line.startswith("    ")]
    assert shown[0] == said[0].splitlines()[-1]
    assert len(shown) == 1 + len(content["walkthrough"])
    for line, command, answer in zip(shown[1:], content["walkthrough"], said[1:]):
        left, right = re.split(" {2,}", line)
        assert left == f"> {command}" and re.fullmatch(re.escape(right).replace(r"\.\.\.", ".+"), answer), line


@stock
@pytest.mark.slow
def test_the_stock_plays_many_walkthroughs(engine, tmp_path):
    """Bug: a rare room (a basin that no layout places, a nameless corner) cannot be played."""
    for arguments in GAMES[::5]:
        play(engine, tmp_path / "game.tw-pddl", game(*arguments))


@stock
@pytest.mark.slow
def test_the_stock_finds_written_games(engine, tmp_path):
    """Bug: AlfredTWEnv skips the files, as it goes by traj_data.json and the solvable key."""
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    paths = write(tmp_path, 2, 1, 1)
    root = tmp_path / "json_2.1.1"
    config = {"dataset": {"data_path": str(root / "train"), "eval_id_data_path": str(root / "valid_seen"),
                          "eval_ood_data_path": str(root / "valid_unseen"),
                          "num_train_games": -1, "num_eval_games": -1},
              "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6], "domain_randomization": False,
                      "expert_type": "handcoded"},
              "general": {"training_method": "dqn"}, "rl": {"training": {"max_nb_steps_per_episode": 50}}}
    for split, folder in (("train", "train"), ("eval_in_distribution", "valid_seen"),
                          ("eval_out_of_distribution", "valid_unseen")):
        world = AlfredTWEnv(config, train_eval=split)
        assert sorted(world.game_files) == sorted(str(path) for path in paths if path.parts[-4] == folder)
    env = world.init_env(batch_size=1)
    for _ in world.game_files:
        _, infos = env.reset()
        for command in json.loads(Path(infos["extra.gamefile"][0]).read_text())["walkthrough"]:
            assert not infos["won"][0]
            _, _, done, infos = env.step([command])
        assert infos["won"][0] and done[0]
    env.close()

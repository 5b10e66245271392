"""ALFWorld as tasks with families, for envs.py; the engine is in pddl.py.

This file decides which games are played and what the policy reads. The games are a download's or, without one,
generated; a score on generated games is no ALFWorld score, and every printed line says "generated games".

A step has 13 to 66 admissible commands. A message lists those that the page does not show: what can be done with the
thing in hand, and a lamp's "use". Going to a place, opening it and taking a thing are in the rules; places and things
are on the pages; "Nothing happens." repeats no list. A reply then takes 26 of SmolLM2's tokens, 23 of them the page,
instead of 193 (generated games; real ones 23, 20, 222): studies/lab.py.
"""

import json
import os
import random
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from lib.files import expanded
from worlds import GameError, digest
from worlds.alfworld import rooms
from worlds.alfworld.helper import BASE, WAYS, Helper
from worlds.alfworld.pddl import GameFile

SPLITS = ("train", "valid_seen", "valid_unseen")
ALIASES = {"dev": "valid_seen", "test": "valid_unseen"}
DOWNLOAD = "~/.cache/alfworld"  # where alfworld-download puts its games, unless it is told otherwise
GENERATED = {"train": 200, "valid_seen": 10, "valid_unseen": 10}  # games per family where there is no download
RULED = ("go", "open", "close", "take", "look", "examine", "inventory", "help")  # commands that no message lists


class World:
    """Games below `data` or $ALFWORLD_DATA, else in DOWNLOAD; where none are named and none are there, generated ones.

    Files that the paper's numbers leave out (movable, sliced, unsolvable) are left out here, too. Where it
    has no valid_seen, valid_unseen is `dev` as well.
    """

    limit, kl, tail, graded, ways, corpus_chats = 50, 0.01, 30, False, WAYS, 1000
    home = known = "alfworld"  # the shipped model plays generated games and real ones, in all their dialects
    options: dict = {
        "base": (BASE, "how often scripted players have a useful habit that no skill names"),
        "reading": (0.0, "how often a scripted player's thought begins with exercises in reading the page"),
        "games": (GENERATED["train"], "generated training games of each family, where there is no download"),
        "even": (False, "generated training games name each kind of place as often: rare words are learnt, too"),
    }
    aliases: dict = {"pick_and_place": "pick_and_place_simple", "examine": "look_at_obj_in_light",  # SkillRL's names
                     "clean": "pick_clean_then_place_in_recep", "heat": "pick_heat_then_place_in_recep",
                     "cool": "pick_cool_then_place_in_recep"}
    rules = (
        "You are in a house, in a text game. Each turn answer <think>one short thought</think><action>one command"
        "</action>. Commands: go to PLACE, open PLACE, take THING from PLACE, look, inventory, examine PLACE, and "
        "those that stand behind 'You can:'. You carry one thing at most. You have 50 turns. Follow your skills."
    )

    def __init__(self, split, data=None, seed=0, base=BASE, reading=0.0, games=GENERATED["train"], even=False):
        self.base, self.reading = base, reading
        flag, named = "--data" if data else "$ALFWORLD_DATA", data or os.environ.get("ALFWORLD_DATA")
        root = Path(expanded(named)).resolve() if named else downloads()
        if named and (not root.is_dir() or (root / "train").is_dir()):
            raise FileNotFoundError(f"{flag} {root}: must be the directory that holds json_2.1.1")
        found = {name: discover(root, name) if root else [] for name in SPLITS}
        if named and not any(found.values()):
            raise FileNotFoundError(f"{flag} {root}: no json_2.1.1/<split>/*/*/game.tw-pddl that can be played")
        written = any(rooms.MARK in game[2][0].parent.name for games in found.values() for game in games)
        self.source = f"games in {root.name}" if any(found.values()) and not written else "generated games"
        if not any(found.values()):
            found = {name: [generated(family, seed, name, i, even and name == "train")
                            for i in range(n) for family in rooms.FAMILIES]
                     for name, n in {**GENERATED, "train": games}.items()}
        if not found["train"]:
            raise ValueError(f"{root if named else self.source}: no training games, on which skills are probed")
        # A task is a number into self.games: (family, the task's text, how to load it, dialect, checksum).
        self.games, self.splits = [], {}
        for name, records in found.items():
            random.Random(name).shuffle(records)  # shuffled, so that the first games are of all families
            self.splits[name] = list(range(len(self.games), len(self.games) + len(records)))
            self.games += records
        name = ALIASES.get(split, split)
        if name not in self.splits:
            raise ValueError(f"--split {split}: ALFWorld has {', '.join(SPLITS)}; dev is valid_seen, test valid_unseen")
        self.dev_tasks = self.splits["valid_seen"] or self.splits["valid_unseen"]
        self.tasks, self.train_tasks = self.dev_tasks if split == "dev" else self.splits[name], self.splits["train"]
        if not self.tasks:
            raise ValueError(f"{root}: no games in {name}")

    @staticmethod
    def presets(data):
        return {"tiny": {"context": 2048}}  # what it was cold-started with

    def describe(self):
        counts = {name: Counter(self.games[task][0] for task in tasks) for name, tasks in self.splits.items()}
        families = sorted({family for family, *_ in self.games})
        return (f"alfworld, {self.source}, {'/'.join(SPLITS)}: " + ", ".join(
            f"{family} {'/'.join(str(count[family]) for count in counts.values())}" for family in families))

    def fingerprint(self):
        """Of every game's name and content; not of the folder, nor of the split. Contents were read when it opened."""
        return digest([[self.name(task), self.games[task][4]] for tasks in self.splits.values() for task in tasks])

    def words(self):
        """Whose words the games of this split speak, for eval.py: "no articles 68"; see rooms.DIALECTS."""
        count = Counter(self.games[task][3] for task in self.tasks)
        return ", ".join(f"{name} {count[name]}" for name in (*rooms.DIALECTS, "mixed") if count[name])

    def family(self, task):
        return self.games[task][0]

    def goal(self, task):
        return self.games[task][1]

    def name(self, task):
        return "/".join(map(str, self.games[task][2][0].parts[-3:-1] if len(self.games[task][2]) == 1 else
                            self.games[task][2]))

    def start(self, task):
        return HouseholdGame(load(*self.games[task][2]), self.goal(task))

    def vocabulary(self):
        return rooms.words() * 2  # a word that occurs once gets no token of its own

    def player(self, game, task, skills, rng):
        return Helper(game, self.family(task), skills, rng, self.base, self.reading)


def downloads():
    """The directory of a download that nobody has named; None where there is no home directory, as in a container."""
    try:
        return Path(expanded(DOWNLOAD)).resolve()
    except ValueError:
        return None


def discover(root, split):
    """[(family, the task's text, (path,), dialect, checksum)] of a split's games that can be won, by their paths."""
    found = []
    for path in sorted((root / "json_2.1.1" / split).glob("*/*/game.tw-pddl")):
        name = path.parent.parent.name
        if "movable" in name or "Sliced" in name:
            continue
        data = read(path)
        if data.get("solvable") is True:
            found.append((name.split("-")[0], task_of(data, path), (path,), rooms.dialect(data["grammar"]),
                          checksum(data)))
    return found


def generated(family, seed, split, i, even=False):
    """The same record as in discover, for a game that is generated when it is played."""
    made = family, 10_000 * seed + i + rooms.SEEN_SEEDS * (split == "valid_seen"), split == "valid_unseen", even
    game = rooms.game(*made)
    return family, task_of(game, f"generated game {made}"), made, rooms.dialect(game["grammar"]), checksum(game)


def checksum(data):
    """Of a game file's rules, texts and room: another game has another one."""
    total = 0
    for part in ("pddl_domain", "grammar", "pddl_problem"):
        total = crc32(str(data.get(part)).encode("utf-8", "replace"), total)
    return total


def read(path):
    """The JSON of a game file. GameError if it is none."""
    try:
        data = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise GameError(f"{path}: no ALFWorld game, {error}; download it again or delete it") from None
    if not isinstance(data, dict):
        raise GameError(f"{path}: no ALFWorld game, it holds a {type(data).__name__}; download it again or delete it")
    return data


def task_of(data, path):
    text = re.search(r"Your task is to: ([^\"]*?)\.?\s*\"", str(data.get("grammar")))
    if not text:
        raise GameError(f"{path}: its grammar names no task")
    return text[1]


@lru_cache(maxsize=256)
def load(*game):
    """A GameFile by its path or, generated, by (family, number, unseen, even); the last 256 stay in memory."""
    if len(game) == 1:
        return GameFile(read(game[0]), game[0])
    return GameFile(rooms.game(*game), f"generated game {game}")


class HouseholdGame:
    """One episode, as envs.Game asks. `engine` is the engine's own state."""

    def __init__(self, game, task):
        self.engine, self.task = game.start(), task
        self.done = self.won = self.engine.won
        self.page = self._text(re.sub(r"^-= .* =-\s*|\s*Your task is to: [^\n]*\s*$", "", self.engine.feedback))
        self.observation = self.page

    @property
    def commands(self):
        """The actions that do something now, for people who play."""
        return sorted(self.engine.commands)

    @property
    def score(self):
        return float(self.won)

    def step(self, action):
        self.observation = self.engine.step(action)
        self.done = self.won = self.engine.won
        if self.observation == "Nothing happens.":
            return self.observation
        self.page = self._text(self.observation)
        return self.page

    def _text(self, feedback):
        listed = "; ".join(command for command in self.engine.commands if command.split()[0] not in RULED)
        return f"{feedback}\nYou can: {listed}" if listed and not self.won else feedback

"""The worlds: the games that the policy plays. A world is a folder with a world.py; see README.md."""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol


class GameError(ValueError):
    """A game that cannot be played. The message is one line that names the game and says what is wrong."""


class Game(Protocol):
    """One episode of a world, being played."""

    page: str  # what the agent sees now, in full
    done: bool
    won: bool
    score: float  # in [0, 1]

    def step(self, action: str) -> str: ...  # do it; returns the next user message, short where nothing changed


class World(Protocol):
    """What tools need of a world beside envs.Env, which has what a rollout needs. README.md shows how to write one."""

    home: str  # the folder in worlds/ whose tiny/ belongs to this data
    known: str  # what a `tiny` must have been trained on
    options: dict  # flags of its own: {name: (default, help)}
    graded: bool  # has its score values between 0 and 1?
    aliases: dict  # other people's names of its families: {theirs: ours}
    ways: Any  # players.Ways: the habits of its scripted players
    corpus_chats: int  # so many transcripts train the tokenizer of a new `tiny`

    def name(self, task: int) -> str: ...  # which game it is, for result files
    def player(self, game, task: int, skills: list, rng) -> "Player": ...  # for the cold start
    def vocabulary(self) -> list[str]: ...  # texts beyond the transcripts, for the same tokenizer


class Player(Protocol):
    """Writes the transcripts of the cold start by script; players.py has one that obeys skills.

    Its games also have `observation`: the page in the engine's own words.
    """

    mistaken: bool  # its last turn was a mistake: the transcript shows it, training skips it

    def act(self, observation: str) -> tuple: ...  # -> (thought, action)
    def review(self, won: bool, score: float, steps: int) -> tuple: ...  # -> (thought, tool, arguments)


def names() -> list[str]:
    """Every world there is, by the name of its folder."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/world.py"))


def load(name: str) -> Any:
    """The class `World` of a world. ValueError, one line, if there is no such world."""
    if name not in names():
        raise ValueError(f"--env {name}: there is no such world; choose from {', '.join(names())}")
    return import_module(f"worlds.{name}.world").World


def open_world(name: str, split: str, data: str | None, seed: int, options: dict) -> Any:
    """A `World`. options: flags of worlds; those of other worlds must have no value. ValueError, one line, else."""
    world = load(name)
    if unknown := {option for option, value in options.items() if value} - world.options.keys():
        raise ValueError(f"--{min(unknown)}: --env {name} has no such option")
    for option in options.keys() & world.options.keys():
        if isinstance(world.options[option][0], float) and not 0 <= options[option] <= 1:
            raise ValueError(f"--{option} {options[option]}: is a share, from 0 to 1")
    return world(split, data, seed, **{option: options[option] for option in options.keys() & world.options.keys()})


def identity(env) -> dict:
    """What a run keeps of its world: the data in words, for people, and a fingerprint of its games, to compare.

    A world without a method `fingerprint` is known by its words.
    """
    words = env.describe()
    return {"world": words, "fingerprint": env.fingerprint() if hasattr(env, "fingerprint") else words}


def other_games(before: dict, now: dict) -> str:
    """"" where the identity in `before` is the one in `now`, else both in words. Older runs have no fingerprint."""
    known = "fingerprint" if "fingerprint" in before else "world"
    if known not in before or before[known] == now[known]:
        return ""
    games = [f" (games {one[known]})" if known == "fingerprint" else "" for one in (before, now)]
    return f"{before.get('world')}{games[0]}, these are other games, {now['world']}{games[1]}"


def digest(content) -> str:
    """Sixteen digits that tell one content from another; it is of lists, dicts, texts and numbers."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def add_options(parser, name: str) -> dict:
    """Add a world's own flags to an argparse parser: {flag: default}. None, where there is no such world."""
    options = load(name).options if name in names() else {}
    group = parser.add_argument_group(f"flags of --env {name}")
    for option, (default, text) in options.items():
        action = {"action": "store_true"} if isinstance(default, bool) else {"type": type(default)}
        group.add_argument(f"--{option}", default=None, help=f"{text} (default: {default})", **action)
    return {option: default for option, (default, _) in options.items()}


def at(env, step: int):
    """Set a world to iteration `step`, counted from 0: some change in the middle of a run, the others stay."""
    if hasattr(env, "at"):
        env.at(step)


def seeded(name: str) -> tuple:
    """A world's own flags that are the run's --seed where they are not given; () where there is no such world."""
    return getattr(load(name), "seeded", ()) if name in names() else ()

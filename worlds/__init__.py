"""The worlds: the games that the policy plays. A world is a folder with a world.py; see README.md."""

from importlib import import_module
from pathlib import Path
from typing import Any


class GameError(ValueError):
    """A game that cannot be played. The message is one line that names the game and says what is wrong."""


def names() -> list[str]:
    """Every world there is, by the name of its folder."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/world.py"))


def load(name: str) -> Any:
    """The class `World` of a world. ValueError, one line, if there is no such world."""
    if name not in names():
        raise ValueError(f"--env {name}: there is no such world; choose from {', '.join(names())}")
    return import_module(f"worlds.{name}.world").World


def add_options(parser, name: str) -> dict:
    """Add a world's own flags to an argparse parser: {flag: default}. None, where there is no such world."""
    options = load(name).options if name in names() else {}
    group = parser.add_argument_group(f"flags of --env {name}")
    for option, (default, text) in options.items():
        action = {"action": "store_true"} if isinstance(default, bool) else {"type": type(default)}
        group.add_argument(f"--{option}", default=None, help=f"{text} (default: {default})", **action)
    return {option: default for option, (default, _) in options.items()}

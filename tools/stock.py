"""
Our ALFWorld engine against the stock one, in one run: `python -m tools.stock [--games N] [--data DIR]`.

Random walks with invalid commands among them, on real games ($ALFWORLD_DATA or --data) and on generated ones, which are
also won by their walkthrough: every feedback, list of admissible commands and win is compared, every call is timed.
Needs the whole of alfworld (pip install alfworld: textworld, fast-downward).
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from worlds.alfworld import rooms
from worlds.alfworld.pddl import GameFile


class Stock:
    """The one stock environment of this process: each new one takes a copy of a C++ library with it."""

    env = None

    def __init__(self, path):
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.core import EnvInfos
        from textworld.envs.pddl import PddlEnv

        if not Stock.env:
            Stock.env = AlfredDemangler(PddlEnv(EnvInfos(won=True, admissible_commands=True)))
        self.env.load(str(path))
        self.state = self.env.reset()

    def step(self, command):
        self.state, _, _ = self.env.step(command)

    def sees(self):
        return self.state.feedback, self.state.admissible_commands, self.state.won


def walk_both(path, steps, rng, walkthrough=None, seconds=None):
    """Random commands in both engines, then, if there is one, the walkthrough. AssertionError where they differ.

    seconds: {what: [...]}, to which times are added. Returns how many answers were compared.
    """
    seconds, compared = defaultdict(list) if seconds is None else seconds, 0

    def timed(what, call, *arguments):
        start = time.perf_counter()
        result = call(*arguments)
        seconds[what].append(time.perf_counter() - start)
        return result

    game = timed("load", lambda: GameFile(json.loads(Path(path).read_text()), path))
    for commands in [None] + ([walkthrough] if walkthrough else []):
        ours = timed("reset", game.start)
        theirs = timed("stock load and reset", Stock, path)
        assert (ours.feedback, ours.commands, ours.won) == theirs.sees(), path
        for i in range(len(commands or range(steps))):
            # Going about is most of what is possible and least of what can go wrong.
            doing = [c for c in ours.commands if not c.startswith(("go to", "look", "help"))]
            command = rng.choice(doing if doing and rng.random() < 0.6 else ours.commands)
            command = rng.choice([command] * 9 + ["go to the moon", command.upper(), f" {command} "])
            command = commands[i] if commands else command
            assert not (commands and ours.won), (path, "won before the walkthrough's end")
            timed("step", ours.step, command)
            timed("stock step", theirs.step, command)
            assert (ours.feedback, ours.commands, ours.won) == theirs.sees(), (path, command)
            compared += 1
    assert not walkthrough or ours.won, (path, "not won by its walkthrough")
    return compared


def made(directory, games):
    """Generated games as files: [(path, walkthrough)]. games: [(family, seed, unseen)]."""
    paths = []
    for family, seed, unseen in games:
        content = rooms.game(family, seed, unseen)
        paths.append((Path(directory) / f"{family}-{seed}-{unseen}.json", content["walkthrough"]))
        paths[-1][0].write_text(json.dumps(content))
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--games", type=int, default=24, help="real ones at most, and generated ones (default: 24)")
    parser.add_argument("--steps", type=int, default=40, help="of each random walk (default: 40)")
    parser.add_argument("--data", default=os.environ.get("ALFWORLD_DATA", ""), help="default: $ALFWORLD_DATA")
    args = parser.parse_args()
    real = sorted(Path(args.data).glob("json_2.1.1/*/*/*/game.tw-pddl")) if args.data else []
    random.Random(0).shuffle(real)
    families = rooms.FAMILIES
    games = [(families[i % len(families)], 100 + i, i // len(families) % 2 == 1) for i in range(args.games)]
    with tempfile.TemporaryDirectory() as directory:
        for name, paths in (("real", [(path, None) for path in real[:args.games]]),
                            ("generated", made(directory, games))):
            seconds = defaultdict(list)
            compared = sum(walk_both(path, args.steps, random.Random(str(path.name)), walkthrough, seconds)
                           for path, walkthrough in paths)
            print(f"{len(paths)} {name} games, {compared} answers compared: all equal")
            for what, some in seconds.items():
                print(f"  {what:22} median {1000 * statistics.median(some):8.2f} ms  worst {1000 * max(some):8.2f} ms",
                      flush=True)


if __name__ == "__main__":
    main()

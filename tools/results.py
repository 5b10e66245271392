"""Result files of eval.py and tools.audit: one per settings, and what cannot be written is said before the first game.

    runs/a/eval_test.json                              python eval.py runs/a
    runs/a/eval_test_protocols-none_limit-20.json      python eval.py runs/a --protocols none --limit 20
    eval_test_tiny.json                                python eval.py tiny

The same command writes the same file again. A file that holds another result, since the run went on or --out names it
twice, is renamed first: result.json is result.1.json then.
"""

import json
import os
import re
from dataclasses import asdict
from itertools import count
from pathlib import Path

import worlds
from lib import distributed
from lib.files import read_json, try_to_write, write_atomic

# Flags that do not change a result, and those that the name has already or never.
UNNAMED = {"target", "out", "retire", "device", "rows", "split"}
NAME = 100  # most characters of a name; a longer one ends in a checksum


def place(args, name: str, key: str) -> Path:
    """Where a result goes: --out, or in the run, or here; the default's name says what differs from the defaults.

    key: every such result has it. OSError or ValueError, one line, where the file cannot be written, or is another.
    """
    inside = (Path(args.target) / "latest").is_file()
    if args.out:
        path = Path(args.out)
    else:
        words = [name] + [word("", Path(args.target).resolve())] * (not inside)
        words += [word(f"{flag}-", value) for flag, value in args.given.items() if flag not in UNNAMED]
        whole = "_".join(words)
        short = whole if len(whole) <= NAME else f"{whole[:NAME]}_{worlds.digest(whole)}"
        path = Path(args.target if inside else ".") / f"{short}.json"
    try_to_write(path, given=bool(args.out))
    if filled(path) and key not in read_json(path, "name another file with --out"):
        raise ValueError(f"{path} holds something else; name another file with --out")
    return path


def word(start: str, value) -> str:
    """A part of a file's name: `limit-20`, `human_goals`; of a path its last part."""
    if value is True:
        return start.rstrip("-")
    return start + re.sub(r"[^\w.+-]+", "-", Path(str(value)).name, flags=re.A)


def settings_of(args, env, bank, sampling) -> dict:
    """All that decides a result. Data and banks count by what they hold, not by where they lie."""
    target = Path(args.target)
    own = {name: value for name, value in vars(args).items() if isinstance(value, int | float | str | list)
           and name not in UNNAMED | {"data", "bank", "model"}}
    played = {name: value for name, value in asdict(sampling).items() if name not in ("rows", "outcomes")}
    return {"target": str(target.resolve()) if target.exists() else args.target, "model": Path(args.model).name,
            "split": args.split, **own, **args.options, **played,
            "fingerprint": worlds.identity(env)["fingerprint"], "bank": worlds.digest(bank.to_dict())}


def flags_of(args, env) -> dict:
    """The settings of a command whose flags all decide its result, but for --out and --device; and its games."""
    return {**{name: value for name, value in vars(args).items() if name not in UNNAMED},
            "fingerprint": worlds.identity(env)["fingerprint"]}


def write(path: Path | str, result: dict) -> None:
    """Write a result with its "settings". One of other settings that is there is kept under another name."""
    if not distributed.leader():
        return
    path = Path(path)
    text = json.dumps(result, indent=1) + "\n"
    if filled(path):
        try:
            same = read_json(path, "").get("settings") == json.loads(text)["settings"]
        except ValueError:
            same = False
        if not same:
            set_aside(path)
    write_atomic(path, text)


def filled(path: Path) -> bool:
    """Is something there that could be lost? An empty file, such as mktemp's, is nothing."""
    return path.exists() and path.stat().st_size > 0


def set_aside(path: Path) -> None:
    """Give a file that is in the way a free name, and say so."""
    free = next(one for n in count(1) if not (one := path.with_name(f"{path.stem}.{n}{path.suffix}")).exists())
    os.rename(path, free)
    print(f"{path} held another result, which is {free} now")

"""Command lines from a dataclass: every field is a flag, its metadata are the help, the choices and the least value.

train.py, tools.coldstart and every fork read theirs here. A wrong flag ends the program with one line.
"""

import argparse
import os
from dataclasses import field, fields
from pathlib import Path

import torch

import worlds
from lib.files import read_json

METAVAR: dict = {int: "N", float: "X", str: "TEXT"}


def flag(default, text, least=None, choices=None, group=None):
    """A flag: its default, its line in --help, the least value it may have. group: --help begins a new group here."""
    return field(default=default, metadata={"help": text, "least": least, "choices": choices, "group": group})


def presets_of(env, presets, data=""):
    """The presets of a program with those that a world adds for its data ("": made up): {model: {flag: value}}."""
    own = worlds.load(env).presets(data) if env in worlds.names() and hasattr(worlds.load(env), "presets") else {}
    return {model: {**presets.get(model, {}), **own.get(model, {})} for model in {**presets, **own}}


def preset_of(model, presets):
    """The preset of a model, by its name; a checkpoint of tools.coldstart says what it was made from.

    Such a checkpoint needs no second cold start.
    """
    if model in presets:
        return presets[model]
    try:
        config = read_json(Path(model) / "config.json", "")
    except (OSError, ValueError):  # no directory, or a damaged one: who loads it says so
        return {}
    made_from = config.get("made_from", "tiny" if "world" in config else "")
    return {**presets.get(made_from, {}), "cold_start": 0} if made_from else {}


def on_a_small_card(given):
    """{flag: value} that train the default model on a card of less than 44 GB, printed with the reason."""
    size = torch.cuda.get_device_properties(0).total_memory
    if size >= 44e9 or given.get("lora") or given.get("offload"):
        return {}
    print(f"a card of {size / 1e9:.0f} GB: LoRA (--lora 16 --lr 1e-4 --recompute), as training all weights of 1.5B "
          "takes 39 GB; or give --offload, which is slow", flush=True)
    return {"lora": 16, "lr": 1e-4, "recompute": True}


def parse(kind, presets, argv=None, program="train.py", text=""):
    """The command line as a `kind`, a dataclass of flags, the preset of its model filled in. A flag that is given wins.

    kind must have env, model, data, out, device and options; where its default for model is "", that is
    Qwen2.5-1.5B-Instruct on a GPU, else tiny.
    """
    known = {f.name: f for f in fields(kind) if f.name != "options"}
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", default=kind.env)
    first.add_argument("--data", default="")
    env, data = (getattr(first.parse_known_args(argv)[0], name) for name in ("env", "data"))
    presets = presets_of(env, presets, data or os.environ.get(f"{env.upper()}_DATA", ""))
    parser = argparse.ArgumentParser(prog=program, description=text, allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"{program}: {message}; --help lists the flags\n")  # type: ignore
    group: argparse._ActionsContainer = parser
    for f in known.values():
        group = parser.add_argument_group(f.metadata["group"]) if f.metadata["group"] else group
        special = "".join(f"; {name}: {preset[f.name]}" for name, preset in presets.items() if f.name in preset)
        line = f"{f.metadata['help']} (default: {f.default!r}{special})"
        if f.type is bool:
            group.add_argument(f"--{f.name}", action="store_true", default=None, help=line)
        else:
            choices = f.metadata["choices"]
            group.add_argument(f"--{f.name}", type=f.type, choices=choices, help=line,
                               metavar=None if choices else METAVAR[f.type])
    options = worlds.add_options(parser, env)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    for name, f in known.items():
        least = f.metadata["least"]
        if least is not None and name in given and not given[name] >= least:  # `not >=`, so NaN is refused, too
            parser.error(f"--{name} {given[name]}: must be at least {least}")
    gpu = torch.cuda.is_available() and not given.get("device", "").startswith("cpu")
    model = given.get("model") or kind.model or ("Qwen/Qwen2.5-1.5B-Instruct" if gpu else "tiny")
    seed = given.get("seed", known["seed"].default) if "seed" in known else 0
    seeded = worlds.seeded(env)
    own = {option: given.pop(option, seed if option in seeded else default) for option, default in options.items()}
    small = {} if given.get("model") or model == "tiny" else on_a_small_card(given)
    preset = {name: value for name, value in preset_of(model, presets).items() if name in known}
    return kind(**{**preset, **small, **given, "model": model, "options": own})

"""A dataclass as a command line: every field is a flag, its metadata are the help, the choices and the least value."""

import argparse
from dataclasses import field, fields
from pathlib import Path

import torch

import worlds

METAVAR: dict = {int: "N", float: "X", str: "TEXT"}


def flag(default, text, least=None, choices=None, group=None):
    """A flag: its default, its line in --help, the least value it may have. group: --help begins a new group here."""
    return field(default=default, metadata={"help": text, "least": least, "choices": choices, "group": group})


def parse(kind, presets, argv=None):
    """The command line as a `kind`, the preset of its model filled in. A wrong flag ends the program with one line."""
    parser = argparse.ArgumentParser(description="Train SkillMaster.", allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"train.py: {message}; --help lists the flags\n")  # type: ignore
    known = {f.name: f for f in fields(kind) if f.name != "options"}
    group: argparse._ActionsContainer = parser
    for f in known.values():
        group = parser.add_argument_group(f.metadata["group"]) if f.metadata["group"] else group
        special = "".join(f"; {name}: {preset[f.name]}" for name, preset in presets.items() if f.name in preset)
        text = f"{f.metadata['help']} (default: {f.default!r}{special})"
        if f.type is bool:
            group.add_argument(f"--{f.name}", action="store_true", default=None, help=text)
        else:
            choices = f.metadata["choices"]
            group.add_argument(f"--{f.name}", type=f.type, choices=choices, help=text,
                               metavar=None if choices else METAVAR[f.type])
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", default=kind.env)
    options = worlds.add_options(parser, first.parse_known_args(argv)[0].env)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    for f in known.values():
        least = f.metadata["least"]
        if least is not None and f.name in given and not given[f.name] >= least:  # `not >=`, so NaN is refused, too
            parser.error(f"--{f.name} {given[f.name]}: must be at least {least}")
    model = given.get("model") or ("Qwen/Qwen2.5-1.5B-Instruct" if torch.cuda.is_available() else "tiny")
    own = {option: given.pop(option, default) for option, default in options.items()}
    flags = kind(**{**presets.get(model, {}), **given, "model": model, "options": own})
    flags.out = flags.out or f"runs/{flags.env}-{Path(model).name}"
    return flags

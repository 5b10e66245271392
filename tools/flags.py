"""Command lines from a dataclass: every field is a flag, its metadata are the help, the choices and the least value.

train.py, tools.coldstart and every fork read theirs here. A wrong flag ends the program with one line.
"""

import argparse
import errno
import inspect
import math
import os
from dataclasses import field, fields
from pathlib import Path

import torch

import worlds
from lib import distributed
from lib.device import no_gpu
from lib.files import expanded, read_json
from tools.guard import ANEW
from tools.owned import config_of

METAVAR: dict = {int: "N", float: "X", str: "TEXT"}
PATHS = {"data", "out", "bank", "chats", "model", "like"}  # flags whose ~ is the home directory, where they are text


def flag(default, text, least=None, choices=None, group=None):
    """A flag: its default, its line in --help, the least value it may have. group: --help begins a new group here."""
    return field(default=default, metadata={"help": text, "least": least, "choices": choices, "group": group})


def path_of(text: str) -> str:
    """For argparse's `type`: a path, with the home directory in place of a ~ that the shell left."""
    try:
        path = expanded(text)
        os.stat(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except OSError as error:
        if error.errno == errno.ELOOP:  # Path.resolve makes a RuntimeError of it
            raise argparse.ArgumentTypeError(f"{path}: its links run in a circle") from None
    return path


def presets_of(env, presets, data="", lengths=()):
    """The presets of a program with those that a world adds for its data ("": made up): {model: {flag: value}}.

    A world's are for train.py. lengths: those flags of them that the cold start takes, beside what stands under "sft".
    """
    own = worlds.load(env).presets(data) if env in worlds.names() and hasattr(worlds.load(env), "presets") else {}
    if lengths:
        own = {model: {**{name: preset[name] for name in lengths if name in preset}, **preset.get("sft", {})}
               for model, preset in own.items()}
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
    made_from = str(config.get("made_from", "tiny" if "world" in config else ""))
    return {**presets.get(made_from, {}), "cold_start": 0} if made_from else {}


def on_a_small_card(given):
    """{flag: value} that train the default model on a card of less than 44 GB, printed with the reason."""
    try:  # the card that will be used
        size = torch.cuda.get_device_properties(torch.device(given.get("device") or "cuda")).total_memory
    except (RuntimeError, AssertionError, ValueError):  # there is no such device: who opens it says so
        return {}
    if size >= 44e9 or {"lora", "offload", "shard"} & given.keys():
        return {}
    print(f"a card of {size / 1e9:.0f} GB: LoRA (--lora 16 --lr 1e-4 --recompute), as training all weights of 1.5B "
          "takes 36 GB; or give --offload, which is slow", flush=True)
    return {"lora": 16, "lr": 1e-4, "recompute": True}


def parse(kind, presets, argv=None, program="train.py", text="", place="", lengths=()):
    """The command line as a `kind`, a dataclass of flags, the preset of its model filled in. A flag that is given wins.

    kind must have env, model, data, out, device and options; where its default for model is "", that is
    Qwen2.5-1.5B-Instruct on a GPU, else tiny.
    place: the run directory where --out is not given, with {env} and {model}; "": the program has no runs. With it,
    --resume takes what is not given from the run's config.json, and no preset: a run that was begun on one card goes on
    with the same command on another. lengths: see presets_of.
    """
    known = {f.name: f for f in fields(kind) if f.name != "options"}
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser = argparse.ArgumentParser(prog=program, description=text, allow_abbrev=False)
    for one in (first, parser):
        # Of several processes the leader says it; another's status would end it before it has.
        one.error = lambda message: parser.exit(2 * distributed.leader(), (  # type: ignore[method-assign]
            f"{program}: {message}; --help lists the flags\n"))
    for name in ("env", "model", "data", "out", "device"):
        first.add_argument(f"--{name}", default="", type=path_of if name in PATHS else str)
    first.add_argument("--resume", action="store_true")
    early, _ = first.parse_known_args(argv)
    gpu = torch.cuda.is_available() and not early.device.startswith("cpu")
    model = early.model or kind.model or ("Qwen/Qwen2.5-1.5B-Instruct" if gpu else "tiny")
    if not (early.model or kind.model or gpu or early.device or early.resume):
        if (why := no_gpu()) and "no NVIDIA driver" not in why:  # there is a card, or was to be one
            print(f"tiny, not Qwen2.5-1.5B: {why}", flush=True)
    out = early.out or place.format(env=early.env or kind.env, model=Path(model).name)
    run = settings_in(out, known, program) if place and early.resume else {}
    env = early.env or run.get("env", kind.env)
    data = early.data or run.get("data") or os.environ.get(f"{env.upper()}_DATA", "")
    presets = presets_of(env, presets, data, lengths)
    group: argparse._ActionsContainer = parser
    for f in known.values():
        group = parser.add_argument_group(f.metadata["group"]) if f.metadata["group"] else group
        special = "".join(f"; {name}: {preset[f.name]}" for name, preset in presets.items() if f.name in preset)
        line = f"{f.metadata['help']} (default: {f.default!r}{special})"
        if f.type is bool:
            group.add_argument(f"--{f.name}", action="store_true", default=None, help=line)
            # What a preset or the run to resume has switched on can be switched off.
            group.add_argument(f"--no_{f.name}", dest=f.name, action="store_false", default=None,
                               help=argparse.SUPPRESS)
        else:
            choices = f.metadata["choices"]
            group.add_argument(f"--{f.name}", type=path_of if f.name in PATHS else f.type, choices=choices, help=line,
                               metavar=None if choices else METAVAR[f.type])
    options = worlds.add_options(parser, env)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    for name, value in given.items():
        if isinstance(value, float) and not math.isfinite(value):
            parser.error(f"--{name} {value}: must be a finite number")
    for name, f in known.items():
        least = f.metadata["least"]
        if least is not None and name in given and given[name] < least:
            parser.error(f"--{name} {given[name]}: must be at least {least}")
    if run:
        model = early.model or run["model"]
        base = {name: value for name, value in run.items() if name in known}
    else:
        small = {} if given.get("model") or model == "tiny" else on_a_small_card(given)
        # What a subclass defines anew is its own default, whatever the model.
        anew = inspect.get_annotations(kind) if kind.__base__ is not object else {}
        preset = preset_of(model, presets)
        base = {name: value for name, value in preset.items() if name in known and name not in anew} | small
    seed = given.get("seed", known["seed"].default) if "seed" in known else 0
    seeded = dict.fromkeys(worlds.seeded(env), seed)  # options that are the run's --seed where they are not given
    own = {option: given.pop(option, {**options, **seeded, **run}[option]) for option in options}
    return kind(**{**base, **given, "model": model, "out": out, "options": own})


def settings_in(out, known, program):
    """The settings of the run in a directory, {} where there is none. A flag that they lack has its default.

    SystemExit, one line, where the file is damaged, or holds a value that the flag (`known`: its field) does not take.
    That it is another program's run is said later, by who resumes it.
    """
    try:
        run = config_of(out)
    except ValueError as error:
        raise SystemExit(f"{program}: {error}") from None
    except OSError:  # who opens the directory says so
        return {}
    flags = {name: (f.default, f.type, f.metadata["least"], f.metadata["choices"]) for name, f in known.items()}
    world = run.get("env")
    options = worlds.load(world).options if world in worlds.names() else {}
    flags |= {name: (default, type(default), None, None) for name, (default, _) in options.items()}
    for name, (default, kind, least, choices) in flags.items() if run else ():
        value = run.setdefault(name, default)
        ok = type(value) is kind or kind is float and type(value) is int
        ok = ok and not (choices and value not in choices or least is not None and not value >= least)
        if not ok and run.get("program", "train.py") == program:
            file = Path(out) / "config.json"
            raise SystemExit(f"{program}: {file}: {name} {value!r} is no value of --{name}; {ANEW}")
    return run

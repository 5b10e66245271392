"""The command lines of train.py and eval.py. A wrong flag ends the program with one line.

That of train.py is a dataclass: every field is a flag, its metadata are the help, the choices and the least value.
"""

import argparse
import os
from dataclasses import field, fields
from pathlib import Path

import torch

import worlds
from tools.runs import guard, target_of

METAVAR: dict = {int: "N", float: "X", str: "TEXT"}


def flag(default, text, least=None, choices=None, group=None):
    """A flag: its default, its line in --help, the least value it may have. group: --help begins a new group here."""
    return field(default=default, metadata={"help": text, "least": least, "choices": choices, "group": group})


def presets_of(env, presets, data=""):
    """The presets of train.py with those that a world adds for its data ("": made up): {model: {flag: value}}."""
    own = worlds.load(env).presets(data) if env in worlds.names() and hasattr(worlds.load(env), "presets") else {}
    return {model: {**presets.get(model, {}), **own.get(model, {})} for model in {**presets, **own}}


def on_a_small_card(given):
    """{flag: value} that train the default model on a card of less than 44 GB, printed with the reason."""
    size = torch.cuda.get_device_properties(0).total_memory
    if size >= 44e9 or given.get("lora") or given.get("offload"):
        return {}
    print(f"a card of {size / 1e9:.0f} GB: LoRA (--lora 16 --lr 1e-4 --recompute), as training all weights of 1.5B "
          "takes 39 GB; or give --offload, which is slow", flush=True)
    return {"lora": 16, "lr": 1e-4, "recompute": True}


def parse(kind, presets, argv=None):
    """The command line as a `kind`, the preset of its model filled in. A wrong flag ends the program with one line."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--env", default=kind.env)
    first.add_argument("--data", default="")
    env, data = (getattr(first.parse_known_args(argv)[0], name) for name in ("env", "data"))
    presets = presets_of(env, presets, data or os.environ.get(f"{env.upper()}_DATA", ""))
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
    options = worlds.add_options(parser, env)
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    for f in known.values():
        least = f.metadata["least"]
        if least is not None and f.name in given and not given[f.name] >= least:  # `not >=`, so NaN is refused, too
            parser.error(f"--{f.name} {given[f.name]}: must be at least {least}")
    gpu = torch.cuda.is_available() and not given.get("device", "").startswith("cpu")
    model = given.get("model") or ("Qwen/Qwen2.5-1.5B-Instruct" if gpu else "tiny")
    own = {option: given.pop(option, default) for option, default in options.items()}
    small = {} if given.get("model") or model == "tiny" else on_a_small_card(given)
    flags = kind(**{**presets.get(model, {}), **small, **given, "model": model, "options": own})
    flags.out = flags.out or f"runs/{flags.env}-{Path(model).name}"
    return flags


def evaluation(every, sampling, argv=None):
    """The command line of eval.py, with what its target holds: .model, .settings, .bank.

    every: the names of the protocols; sampling: fields, each is a flag of its own.
    """
    parser = argparse.ArgumentParser(description="Play every game of a split once, under three bank protocols.",
                                     allow_abbrev=False, add_help=False)
    parser.error = lambda message: parser.exit(2, f"eval.py: {message}; --help lists the flags\n")  # type: ignore
    parser.add_argument("target", nargs="*", help="a run directory of train.py, or a model (directory, HF id, smollm2, "
                                                  "tiny); several runs only with --plot and --report")
    parser.add_argument("--plot", metavar="PNG",
                        help="play nothing: draw the runs' curves into this picture and print their figures")
    parser.add_argument("--report", action="store_true", help="play nothing: write the run, or two runs side by side, "
                                                              "as one HTML page (RUN/report.html, or --out)")
    parser.add_argument("--watch", metavar="N", type=int, nargs="?", const=1,
                        help="show N games turn by turn (default: 1), with --probes K also what the edits are worth")
    parser.add_argument("--play", metavar="N", type=int, nargs="?", const=0,
                        help="play game N of the split yourself (default: 0); needs no target")
    parser.add_argument("--audit", action="store_true",
                        help="leave each skill of the bank out in turn: what is it worth today?")
    parser.add_argument("--retire", metavar="FILE", help="with --audit: write the bank without the harmful skills")
    parser.add_argument("--env", choices=worlds.names(), help="world (default: the run's, or webshop)")
    parser.add_argument("--split", default="test", help="train, dev or test; for alfworld also valid_seen or "
                                                        "valid_unseen, which is its test (default: test)")
    parser.add_argument("--data", metavar="DIR", help="directory of the real data (default: the run's, or the world's)")
    parser.add_argument("--bank", metavar="FILE", help="skill bank for frozen and online (default: the run's)")
    parser.add_argument("--protocols", metavar="LIST", default=",".join(every), help="default: %(default)s")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N games, for a quick look")
    parser.add_argument("--temperature", metavar="X", type=float, default=0.4, help="of sampling (default: 0.4)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the episodes' random streams (default: 0)")
    parser.add_argument("--probes", metavar="N", type=int,
                        help="K, probe tasks per edit (default: online 4, --audit 16, --watch none)")
    parser.add_argument("--batch", metavar="N", type=int, default=16,
                        help="online: episodes between two commits (default: 16)")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--out", metavar="JSON", help="result file (default: eval_<split>.json in the run, or here)")
    for f in sampling:
        parser.add_argument(f"--{f.name}", metavar="N", type=int, help="as in train.py (default: the run's)")
    first, _ = parser.parse_known_args(argv)
    drawn = first.plot or first.report
    if len(first.target) > 1 and not drawn:
        parser.error(f"{first.target[1]}: one target at a time, several only with --plot and --report")
    if len(first.target) > 2 and first.report:
        parser.error(f"{first.target[2]}: --report shows one run, or two side by side")
    if first.retire and not first.audit:
        parser.error("--retire FILE wants --audit: it is what finds harmful skills")
    with guard("eval.py", None, ValueError):
        model, settings, bank = target_of(first.target[0]) if first.target and not drawn else ("", {}, None)
    parser.add_argument("-h", "--help", action="help", help="show this and stop")
    options = worlds.add_options(parser, first.env or settings.get("env", "webshop"))
    args = parser.parse_args(argv)
    if not args.target and args.play is None:
        parser.error("name a run directory or a model")
    args.model, args.settings, args.env = str(model), settings, args.env or settings.get("env", "webshop")
    args.bank = args.bank or bank
    args.options = {name: settings.get(name, default) if getattr(args, name) is None else getattr(args, name)
                    for name, default in options.items()}
    if args.out and Path(args.out).is_dir():
        parser.error(f"--out {args.out}: is a directory; name a file")
    args.protocols = args.protocols.split(",")
    if unknown := set(args.protocols) - set(every):
        parser.error(f"--protocols {','.join(sorted(unknown))}: choose from {','.join(every)}")
    for name, least in dict(limit=1, temperature=0, probes=1, batch=1, watch=1, play=0, act_tokens=1, review_tokens=1,
                            context=1, rows=1, top_k=0).items():
        if getattr(args, name) is not None and not getattr(args, name) >= least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    return args

"""What eval.py, tools.watch and tools.audit are given: a run or a model, its world and its bank."""

import argparse
import math
import os
import re
from dataclasses import fields
from pathlib import Path

import envs
import policy as policies
import worlds
from lib import distributed
from lib.device import pick_device
from lib.files import read_json
from probes import Probing
from skillbank import SkillBank
from tools import check, results
from tools.flags import path_of, preset_of, presets_of
from tools.guard import ANEW, checkpoint_of, guard
from tools.runs import fit

SAMPLING = [f for f in fields(envs.Sampling) if f.name not in ("temperature", "outcomes")]  # each is a flag
PROBING = {"confirm": int, "alpha": float, "clip_utility": bool, "utility": str, "unpaired": bool}  # of a run, too


def parser_of(program: str, text: str) -> argparse.ArgumentParser:
    """A parser with the flags of every command that plays games of a target. A wrong flag ends it with one line."""
    parser = argparse.ArgumentParser(prog=program, description=text, allow_abbrev=False, add_help=False)
    parser.error = lambda message: parser.exit(2 * distributed.leader(), (  # type: ignore  # see flags.parse
        f"{program}: {message}; --help lists the flags\n"))
    parser.add_argument("target", nargs="?", type=path_of,
                        help="a run directory of train.py, or a model (directory, HF id, smollm2, tiny)")
    parser.add_argument("--env", choices=worlds.names(), help="world (default: the run's, or webshop)")
    parser.add_argument("--split", default="test", help="train, dev or test; for alfworld also valid_seen or "
                                                        "valid_unseen, which is its test (default: test)")
    parser.add_argument("--data", metavar="DIR", type=path_of,
                        help="directory of the real data (default: the run's, or the world's)")
    parser.add_argument("--bank", metavar="FILE", type=path_of, help="skill bank (default: the run's)")
    parser.add_argument("--temperature", metavar="X", type=float, default=0.4, help="of sampling (default: 0.4)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the episodes' random streams (default: 0)")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (default: cuda where there is one)")
    for f in SAMPLING:
        parser.add_argument(f"--{f.name}", metavar="N", type=int, help="as in train.py (default: the run's)")
    return parser


def read(parser: argparse.ArgumentParser, argv=None, least=(), wanted: bool = True) -> argparse.Namespace:
    """The command line, with what its target holds: .model, .settings, .bank, .options of its world.

    .given: {flag: value} of what differs from the defaults, which are the run's where it has them.

    least: {flag: least value} of the program's own flags; wanted: must a target be named?
    """
    first, _ = parser.parse_known_args(argv)
    with guard(parser.prog, None, (ValueError, OSError)):
        # The leader's answer is all processes': a run that trains meanwhile has another last checkpoint soon.
        model, settings, bank = distributed.from_leader(target_of, first.target) if first.target else ("", {}, None)
    parser.add_argument("-h", "--help", action="help", help="show this and stop")
    options = worlds.add_options(parser, first.env or settings.get("env", "webshop"))
    args = parser.parse_args(argv)
    if not args.target and wanted:
        parser.error("name a run directory or a model")
    for name, kind in {**{f.name: type(f.default) for f in SAMPLING}, **PROBING,
                       **{name: type(default) for name, default in options.items()}}.items():
        value = settings.get(name, kind())
        if not (type(value) is kind or kind is float and type(value) is int):
            parser.error(f"{first.target}/config.json: {name} {value!r} is no value of --{name}; {ANEW}")
    of_run = {"env", "data", *options, *(f.name for f in SAMPLING)}
    args.given = {name: value for name, value in vars(args).items() if value != parser.get_default(name)
                  and not (name in of_run and value == settings.get(name))}
    args.model, args.settings, args.env = str(model), settings, args.env or settings.get("env", "webshop")
    args.bank = args.bank or bank
    args.options = {name: settings.get(name, default) if getattr(args, name) is None else getattr(args, name)
                    for name, default in options.items()}
    for name, most in {"temperature": 0, "act_tokens": 1, "review_tokens": 1, "context": 1, "rows": 1, "top_k": 0,
                       **dict(least)}.items():
        if getattr(args, name) is not None and not most <= getattr(args, name) < math.inf:  # so NaN is refused, too
            parser.error(f"--{name} {getattr(args, name)}: must be at least {most}")
    return args


def evaluation(protocols, argv=None) -> argparse.Namespace:
    """The command line of eval.py; .protocols: a list of some of these."""
    parser = parser_of("eval.py", "Play every game of a split once, under three bank protocols.")
    parser.add_argument("--protocols", metavar="LIST", default=",".join(protocols), help="default: %(default)s")
    parser.add_argument("--limit", metavar="N", type=int, help="only the first N games, for a quick look")
    parser.add_argument("--probes", metavar="N", type=int, help="online: K, probe tasks per edit (default: 4)")
    parser.add_argument("--batch", metavar="N", type=int, default=16,
                        help="online: episodes between two commits (default: 16)")
    parser.add_argument("--out", metavar="JSON", type=path_of,
                        help="result file (default: eval_<split>.json in the run, or here; its name also says what "
                             "differs from the defaults)")
    args = read(parser, argv, least={"limit": 1, "probes": 1, "batch": 1})
    args.protocols = args.protocols.split(",")
    if unknown := set(args.protocols) - set(protocols):
        parser.error(f"--protocols {','.join(sorted(unknown))}: choose from {','.join(protocols)}")
    return args


def target_of(path):
    """What eval.py is given: (model to load, the run's settings, file of its bank or None).

    path: a run directory, one of its checkpoints, its reference, or any model. A shipped model's config.json names its
    world; other models have no settings.
    """
    path = Path(path)
    if checkpoint := checkpoint_of(path):
        return checkpoint, read_json(path / "config.json", ANEW), checkpoint / "skills.json"
    for run in list(path.resolve().parents)[:2]:  # RUN/reference, RUN/checkpoints/step_00005
        settings = read_json(run / "config.json", ANEW) if (run / "config.json").is_file() else {}
        if "env" in settings and (path / "config.json").is_file():
            bank = path / "skills.json"
            return path, settings, bank if bank.is_file() else None
    config = read_json(path / "config.json", ANEW) if (path / "config.json").is_file() else {}
    if "env" in config:
        raise ValueError(f"{path} is a run without a checkpoint yet; train.py --resume goes on with it")
    named = [str(config.get("world")).split(",")[0], path.resolve().parent.name if path.name == "tiny" else ""]
    world = next((name for name in named if name in worlds.names()), None)
    return path, {"env": world} if world else {}, None


def open_world(args):
    """(world, bank) of eval.py's target; flags win over the run's settings. One-line errors."""
    settings, bank = args.settings, SkillBank.load(args.bank) if args.bank else SkillBank()
    data = settings.get("data") if args.env == settings.get("env") else None  # another world's is no use here
    env = envs.make(args.env, args.split, args.data or data, **args.options)
    if not env.tasks:
        raise ValueError(f"--split {args.split}: none of its games is left to play")
    if changed := worlds.other_games(settings, worlds.identity(env)):
        # Other games are played where they are asked for.
        if not (args.data or args.given.keys() & {"env", *args.options}):
            raise ValueError(f"{args.target} was trained in {changed}; give --data: the run's data, or other data on "
                             "purpose")
        print(f"{args.target} was trained in {changed}")
    fit(bank, args.bank, env)
    return env, bank


def at_its_iteration(args, env):
    """Of a world that changes: as it was when the checkpoint was trained."""
    step = re.search(r"step_(\d+)$", args.model)
    worlds.at(env, max(int(step[1]) - 1, 0) if step else 0)


def open_target(args):
    """(policy, world, bank, sampling) to evaluate; flags win over the run's settings. One-line errors."""
    env, bank = open_world(args)
    at_its_iteration(args, env)
    device = pick_device(args.device)
    check.untested(device)
    policy = policies.load(args.model, device, world=env.home)
    settings = {**policy.model.cfg.hf.get("sampling", {}), **args.settings}  # a shipped model brings its lengths
    own = {f.name: getattr(args, f.name) for f in SAMPLING}
    own = {name: settings.get(name, getattr(envs.Sampling, name)) if value is None else value
           for name, value in own.items()}
    sampling = envs.Sampling(args.temperature, **own)
    envs.prompt_limit(policy, env, sampling)  # refuse a context that is too short before the first game
    return policy, env, bank, sampling


def probing_of(args, sampling, k: int) -> Probing:
    """How edits are probed: as in the run, of a shipped model as its world has it; with --probes or k tasks each.

    They are played as the evaluation is, at its temperature.
    """
    data = args.data or os.environ.get(f"{args.env.upper()}_DATA", "")
    settings = {**preset_of(args.model, presets_of(args.env, {}, data)), **args.settings}
    return Probing(args.probes or k, settings.get("confirm", Probing.fresh), settings.get("alpha", Probing.alpha),
                   settings.get("clip_utility", Probing.clip), settings.get("utility", Probing.utility),
                   not settings.get("unpaired", not Probing.paired), sampling)


def described(args, env, tasks, bank, sampling) -> dict:
    """Print what is evaluated on what; returns what the result file says of it."""
    # Whose words the games speak, where the world can tell.
    words = f" (words: {env.words()})" if hasattr(env, "words") else ""
    print(f"{env.describe()}; {len(tasks)} of {len(env.tasks)} {args.split} games{words}; bank: {len(bank.skills())} "
          "skills")
    return {"target": args.target, "env": env.describe(), "split": args.split, "games": len(tasks), "words": words,
            "temperature": args.temperature, "seed": args.seed,
            "settings": results.settings_of(args, env, bank, sampling)}

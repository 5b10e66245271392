"""A run directory: opened new or resumed, and saved so that a kill loses nothing but the last iterations.

    config.json      the flags of the run; --resume compares them
    metrics.jsonl    one line per iteration
    edits.jsonl      one line per edit that was probed
    samples/         two transcripts of each iteration
    skills.json      the bank
    reference/       the policy before the first iteration, for the KL
    checkpoints/     step_00005/: a directory that transformers opens, trainer.pt (the optimiser), skills.json
    latest           the name of the checkpoint that is complete
    cold_start.pt    the unfinished cold start
    wandb_id         the run's name at Weights & Biases
"""

import json
import os
import shutil
import signal
import sys
import threading
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]
import torch
from safetensors import SafetensorError

import dualadv_grpo as grpo
import envs
import policy as policies
import worlds
from lib import checkpoints, lora, memory
from lib.files import one_line, read_json, write_atomic
from probes import Probing
from skillbank import SkillBank
from tools import fits, report
from tools.coldstart import SAVED, cold_start, corpus, save_tensors

LOGS = ("metrics.jsonl", "edits.jsonl")  # appended to, an iteration at a time
FREE = {"resume", "steps", "save_every", "wandb", "device", "data", "out"}  # may change when a run is resumed
SAMPLING = [f for f in fields(envs.Sampling) if f.name != "temperature"]  # each is a flag of eval.py
ANEW = "restore it, or begin another run with --out"  # what to do about a damaged file
OUT_OF_MEMORY = (memory.TooSmall, torch.OutOfMemoryError)
# What a disk, a data file or a full card can do in the middle of a run.
BROKEN = (worlds.GameError, OSError, SafetensorError, *OUT_OF_MEMORY)
HELD: list[int] = []  # the open run directory that is locked, see `hold`


def checkpoint_of(run):
    """The newest checkpoint of a run directory, or None where it is no run. ValueError where it is not whole."""
    latest = Path(run) / "latest"
    if not latest.is_file():
        return None
    checkpoint = Path(run) / "checkpoints" / latest.read_text(encoding="utf-8", errors="replace").strip()
    if not (checkpoint / "trainer.pt").is_file():
        raise ValueError(f"{latest} names {checkpoint.name!r}, and there is no such checkpoint; {ANEW}")
    return checkpoint


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
    env = envs.make(args.env, args.split, args.data or settings.get("data"), **args.options)
    if not args.data and settings.get("world", env.describe()) != env.describe():
        raise ValueError(f"{args.target[0]} was trained in {settings['world']}, this is {env.describe()}; give --data")
    fit(bank, args.bank, env)
    return env, bank


def open_target(args):
    """(policy, world, bank, sampling) to evaluate; flags win over the run's settings. One-line errors."""
    env, bank = open_world(args)
    policy = policies.load(args.model, policies.pick_device(args.device), world=env.home)
    settings = {**policy.model.cfg.hf.get("sampling", {}), **args.settings}  # a shipped model brings its lengths
    own = {f.name: getattr(args, f.name) for f in SAMPLING}
    own = {name: settings.get(name, getattr(envs.Sampling, name)) if value is None else value
           for name, value in own.items()}
    sampling = envs.Sampling(args.temperature, **own)
    envs.prompt_limit(policy, env, sampling)  # refuse a context that is too short before the first game
    return policy, env, bank, sampling


def probing_of(args, sampling, k):
    """How edits are probed: as in the run, with --probes or k probe tasks each."""
    settings = args.settings
    utility = settings.get("utility", "success")
    return Probing(args.probes or k, settings.get("confirm", Probing.fresh), settings.get("alpha", Probing.alpha),
                   settings.get("clip_utility", Probing.clip), utility == "graded", sampling=sampling,
                   both=utility == "both")


@contextmanager
def guard(program, out, errors):
    """End the program with one line and an exit status on Ctrl-C (130), SIGTERM (143), or one of these errors (1).

    The line says what is saved in the run directory `out` (None where there is none). Other errors are bugs and pass.
    While it lasts no other process enters the same `out`.
    """
    def terminate(number, frame):
        raise SystemExit(128 + number)

    hold(program, out)
    main_thread = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    before = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        print(f"{program}: interrupted{saved(out)}", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGTERM:
            print(f"{program}: terminated{saved(out)}", file=sys.stderr)
        raise
    except errors as error:
        if isinstance(error, BrokenPipeError):  # `| head`: the interpreter's last flush would fail, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        less = "; --recompute, --offload, --lora 16 or a smaller --context or --budget take less memory"
        raise SystemExit(f"{program}: {one_line(error)}{less * isinstance(error, torch.OutOfMemoryError)}{saved(out)}"
                         ) from None
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)
        while HELD:
            os.close(HELD.pop())


def hold(program, out):
    """Lock a run directory, where it exists, until `guard` ends or the process does.

    SystemExit, one line, where another process holds it: two would write over each other's checkpoints.
    """
    if fcntl is None or HELD or not out or not Path(out).is_dir():
        return
    HELD.append(os.open(out, os.O_RDONLY))
    try:
        fcntl.flock(HELD[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(HELD.pop())
        raise SystemExit(f"{program}: another process is training in {out}; wait for it, or give another --out"
                         ) from None
    except OSError:  # a file system without locks
        pass


def saved(out):
    """The end of a line: what of a run is whole."""
    try:
        if out and (checkpoint := checkpoint_of(out)):
            return f"; step {int(checkpoint.name[5:])} is saved in {out}, --resume goes on from there"
        if out and (Path(out) / SAVED).is_file():
            return f"; part of the cold start is saved in {out}, --resume goes on from there"
    except (ValueError, OSError):
        pass
    return ""


def settings_of(flags, env):
    """What config.json says of a run: every flag, the world's own among them, and the world's description."""
    settings = asdict(flags)
    return {**{k: v for k, v in settings.items() if k != "options"}, **flags.options, "world": env.describe()}


def open_run(flags, env, sampling, bar):
    """(policy, reference, optimizer, bank, first step): a new run, cold-started, or the one to resume.

    ValueError or OSError, one line, where that is impossible.
    """
    if (flags.utility != "success" or flags.reward == "graded") and not env.graded:
        raise ValueError(f"--utility graded or both, --reward graded: --env {flags.env} has no graded score, games "
                         "are won or lost")
    if flags.eval_every and not env.dev_tasks:
        raise ValueError("there are no held-out games to evaluate on; --eval_every 0 trains without")
    out, device, checkpoint = Path(flags.out), policies.pick_device(flags.device), checkpoint_of(flags.out)
    if not flags.resume and (checkpoint or (out / SAVED).is_file() or (out / "reference").is_dir()):
        raise ValueError(f"{out} holds a run; --resume continues it, --out DIR starts another")
    if flags.resume:
        defaults = {f.name: f.default for f in fields(flags)} | {k: v for k, (v, _) in env.options.items()}
        check_flags(out, settings_of(flags, env), defaults)
    bank = SkillBank() if checkpoint else first_bank(flags, env)  # a wrong --bank: say so before the cold start
    say_small(flags, env)
    open_wandb(flags)
    if checkpoint:
        policy, bank, start, state = resumed(flags, checkpoint, device)
    else:
        policy, start, state = new_run(flags, env, sampling, bar, device), 0, None
    (out / SAVED).unlink(missing_ok=True)  # the cold start is in the reference now
    recompute = policy.model.recompute if policy else None
    policy, reference = with_reference(flags, policy, state, device)
    policy.model.recompute = fits.check(flags, policy) if recompute is None else recompute
    optimizer = grpo.AdamW(policy.model.parameters(), flags.lr, offload=flags.offload)
    if state:
        try:
            optimizer.load_state_dict(state["optimizer"])
            if state["optimizer"]["master"] is None:
                keep_float32(policy, optimizer, state["lora"] or checkpoints.read(str(checkpoint))[1])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{checkpoint / 'trainer.pt'} is of another model ({one_line(error)}); {ANEW}") from None
    return policy, reference, optimizer, bank, start


def check_flags(out, settings, defaults):
    """ValueError where there is no run to resume, or one that was made with other flags than these.

    defaults: of flags that runs from before them do not have in their config.json.
    """
    if not (out / "config.json").is_file():
        raise ValueError(f"--resume: {out} holds no run; without --resume a new one starts there")
    before = read_json(out / "config.json", ANEW)
    for name, value in settings.items():
        was = before.get(name, defaults.get(name))
        if name not in FREE and was != value:
            raise ValueError(f"--resume: {out} was run with {name} {was}, this is {value}; give the same flags, or "
                             "another --out")


def resumed(flags, checkpoint, device):
    """(policy, or None for LoRA, which starts from the reference; bank; first step; trainer state) of a checkpoint."""
    policy = None if flags.lora else policies.load(str(checkpoint), device)
    try:
        state = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch have many for a damaged file
        raise ValueError(f"{checkpoint / 'trainer.pt'} is cut short or damaged ({one_line(error)}); {ANEW}") from None
    if not isinstance(state, dict) or not {"step", "optimizer", "lora"} <= state.keys():
        raise ValueError(f"{checkpoint / 'trainer.pt'} holds no trainer's state; {ANEW}")
    for file in LOGS:
        report.cut(Path(flags.out) / file, state["step"])
    if policy:
        policy.model.recompute = fits.check(flags, policy)
    print(f"resuming {flags.out} after step {state['step']}")
    return policy, SkillBank.load(checkpoint / "skills.json"), state["step"], state


def new_run(flags, env, sampling, bar, device):
    """The policy of a new run, cold-started where that is asked for, and saved as its reference."""
    out, made_anew = Path(flags.out), flags.model == "tiny" and flags.cold_start
    if flags.resume and (out / "reference").is_dir():  # killed between the cold start and the first checkpoint
        begin_logs(out)
        return policies.load(str(out / "reference"), device)
    policy = policies.load(flags.model, device, seed=flags.seed, world=env.home,
                           text=corpus(env) if made_anew else None)
    if made_anew:  # it has seen no later position and no longer answer: eval.py should know
        lengths = {f.name: getattr(flags, f.name) for f in SAMPLING if f.name != "rows"}
        policy.model.cfg.hf |= {"max_position_embeddings": flags.context, "sampling": lengths}
    if flags.model == "tiny":
        world = policy.model.cfg.hf.setdefault("world", env.known)  # is in the config.json of what is shipped
        if world != env.known:
            raise ValueError(f"--model tiny: the shipped model knows other games than these, {env.source}. Make a new "
                             "one: --cold_start 4000")
    envs.prompt_limit(policy, env, sampling)  # too short a context: say so before the cold start
    write_atomic(out / "config.json", json.dumps(settings_of(flags, env), indent=1) + "\n")
    hold("train.py", out)
    begin_logs(out)
    policy.model.recompute = fits.check(flags, policy)
    if flags.cold_start:
        if flags.lora:
            lora.add(policy.model, flags.lora, flags.seed)
        cold_start(policy, env, flags, bar)
    policy.save(out / "reference")
    return policy


def keep_float32(policy, optimizer, weights):
    """A run saved in float32, on a CPU, goes on in bfloat16: its master weights are what was saved, not rounded."""
    names = {param: name for name, param in policy.model.named_parameters()}
    for param, master in zip(optimizer.params, optimizer.master):
        if master is not param:
            master.data.copy_(weights[names[param]])


def begin_logs(out):
    """Empty logs, as before the first iteration."""
    for file in LOGS:
        write_atomic(out / file, "")


def first_bank(flags, env):
    """The bank that a new run begins with."""
    bank = SkillBank.load(flags.bank) if flags.bank else SkillBank()
    fit(bank, flags.bank, env)
    return bank


def fit(bank, path, env):
    """Give a bank the world's names of families, and print those that the world does not have."""
    families = {env.family(task) for task in (*env.tasks, *env.train_tasks)}
    if unknown := bank.fit(families, env.aliases):
        print(f"{path}: skills of {', '.join(unknown)} are never shown, this world has the families "
              f"{', '.join(sorted(families))}")


def say_small(flags, env):
    """Print the families with fewer training games than an edit's probes and fresh probes want."""
    wanted, count = flags.probes + flags.confirm, Counter(env.family(task) for task in env.train_tasks)
    few = {family: n - 1 for family, n in sorted(count.items()) if n - 1 < wanted}  # never an edit's own game
    if few and flags.reviews == "on" and flags.commit == "positive":
        none = " Where none is left for --confirm, no skill of the family is committed." * (
            flags.confirm > 0 and min(few.values()) <= flags.probes)
        print(f"an edit wants {wanted} other training games of its family; there are fewer in "
              + ", ".join(f"{family} ({n})" for family, n in few.items()) + f": fewer probes.{none}", flush=True)


def with_reference(flags, policy, state, device):
    """(policy, reference): the reference is the run's, or with LoRA the policy itself with its adapters off."""
    saved = str(Path(flags.out) / "reference")
    if flags.lora:
        policy = policies.load(saved, device)
        lora.add(policy.model, flags.lora, flags.seed)
        policy.model.load_state_dict(state["lora"] if state else {}, strict=False)
        return policy, lora.Reference(policy.model)
    return policy, policies.load(saved, device).model.requires_grad_(False) if flags.kl else None


def save_every(flags, policy):
    """Iterations between two checkpoints: what was asked for, else 5, or 25 of a model whose checkpoints are large."""
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    half = policy.model.model["embed_tokens"].weight.element_size() == 2
    size = sum(p.numel() * p.element_size() for p in policy.model.parameters()) + trained * (12 if half else 8)
    every = flags.save_every or (25 if size > 10e9 else 5)
    if size > 1e9:
        print(f"a checkpoint takes {size / 1e9:.1f} GB, and twice that while it is written; one every {every} "
              "iterations (--save_every)", flush=True)
    return every


def save(flags, step, policy, optimizer, bank):
    """A checkpoint: HF directory + trainer.pt + skills.json, complete before `latest` names it."""
    out = Path(flags.out)
    new, name = out / "saving", f"step_{step:05d}"
    policy.save(new)
    bank.save(new / "skills.json")
    state = {"step": step, "optimizer": optimizer.state_dict(), "lora": lora.adapters(policy.model)}
    save_tensors(state, new / "trainer.pt")
    shutil.rmtree(out / "checkpoints" / name, ignore_errors=True)  # of a killed run that came this far before
    (out / "checkpoints").mkdir(exist_ok=True)
    os.rename(new, out / "checkpoints" / name)
    write_atomic(out / "latest", name + "\n")
    bank.save(out / "skills.json")  # for people; the checkpoint's copy is the one that is resumed
    for old in (out / "checkpoints").iterdir():
        if old.is_dir() and old.name != name:  # a stray file, such as a Mac's .DS_Store, is none
            shutil.rmtree(old)


def open_wandb(flags):
    """Open the run at Weights & Biases before anything is computed; a resumed run goes on in the same one.

    ValueError, one line, where that fails.
    """
    if not flags.wandb:
        return
    try:
        import wandb

        file = Path(flags.out) / "wandb_id"
        name = file.read_text().strip() if flags.resume and file.is_file() else uuid.uuid4().hex
        wandb.init(project=flags.wandb, name=Path(flags.out).name, config=asdict(flags), id=name, resume="allow")
    except Exception as error:  # no package, no login, no network: its own kinds of error, and others
        raise ValueError(f"--wandb {flags.wandb}: {one_line(error)}; `pip install wandb`, `wandb login`, or leave "
                         "--wandb out") from None
    write_atomic(file, name + "\n")


def log(flags, row):
    """A line of metrics.jsonl, and of wandb if that is asked for."""
    report.append(Path(flags.out) / "metrics.jsonl", [row])
    if flags.wandb:
        import wandb

        try:
            wandb.log(row, step=row["step"])
        except Exception as error:  # a service that is away must not end a run
            print(f"--wandb: {one_line(error)}; step {row['step']} is in metrics.jsonl only", flush=True)

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
import uuid
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

import torch

import dualadv_grpo as grpo
import envs
import policy as policies
import worlds
from lib import checkpoints, lora
from lib.device import pick_device
from lib.files import one_line, read_json, write_atomic
from skillbank import SkillBank
from tools import coldstart, fits, report
from tools.coldstart import save_tensors
from tools.guard import ANEW, UNFINISHED, checkpoint_of, hold

LOGS = ("metrics.jsonl", "edits.jsonl")  # appended to, an iteration at a time
# May change when a run is resumed; the world is compared by itself.
FREE = {"resume", "steps", "save_every", "wandb", "device", "data", "out", "world", "fingerprint"}


def settings_of(flags, env, program):
    """What config.json says of a run: every flag, the world's own too, the world in words, its games, the program."""
    settings = {name: value for name, value in asdict(flags).items() if name != "options"}
    return {**settings, **flags.options, **worlds.identity(env), "program": program}


def open_run(flags, env, sampling, program="train.py"):
    """(policy, reference, optimizer, bank, first step, state): a new run, cold-started, or the one to resume.

    state: what `save` was given of a method's own, {} in a new run; program: whose run it is, no other resumes it.
    ValueError or OSError, one line, where that is impossible.
    """
    if (flags.utility != "success" or flags.reward == "graded") and not env.graded:
        raise ValueError(f"--utility graded or both, --reward graded: --env {flags.env} has no graded score, games "
                         "are won or lost")
    if flags.eval_every and not env.dev_tasks:
        raise ValueError("there are no held-out games to evaluate on; --eval_every 0 trains without")
    out, device, checkpoint = Path(flags.out), pick_device(flags.device), checkpoint_of(flags.out)
    if not flags.resume and (checkpoint or (out / UNFINISHED).is_file() or (out / "reference").is_dir()):
        raise ValueError(f"{out} holds a run; --resume continues it, --out DIR starts another")
    if flags.resume:
        defaults = {f.name: f.default for f in fields(flags)} | {k: v for k, (v, _) in env.options.items()}
        check_flags(out, settings_of(flags, env, program), {**defaults, "program": "train.py"})
    bank = SkillBank() if checkpoint else first_bank(flags, env)  # a wrong --bank: say so before the cold start
    say_small(flags, env)
    open_wandb(flags)
    if checkpoint:
        policy, bank, start, trainer = resumed(flags, checkpoint, device)
    else:
        policy, start, trainer = new_run(flags, env, sampling, program, device), 0, {}
    (out / UNFINISHED).unlink(missing_ok=True)  # the cold start is in the reference now
    policy, reference = with_reference(flags, policy, trainer, device)
    optimizer = grpo.AdamW(policy.model.parameters(), flags.lr, offload=flags.offload)
    if trainer:
        try:
            optimizer.load_state_dict(trainer["optimizer"])
            if trainer["optimizer"]["master"] is None:
                keep_float32(policy, optimizer, trainer["lora"] or checkpoints.read(str(checkpoint))[1])
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f"{checkpoint / 'trainer.pt'} is of another model ({one_line(error)}); {ANEW}") from None
    flags.save_every = save_every(flags, policy)
    print(f"{flags.model}: {sum(p.numel() for p in policy.model.parameters()) / 1e6:.1f}M parameters on "
          f"{policy.device}; run in {flags.out}", flush=True)
    return policy, reference, optimizer, bank, start, trainer.get("state", {})


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
    if changed := worlds.other_games(before, settings):
        raise ValueError(f"--resume: {out} was run in {changed}; give it the data that it had, or another --out")


def resumed(flags, checkpoint, device):
    """(policy, of LoRA without its adapters; bank; first step; trainer's state) of a checkpoint."""
    policy = policies.load(str(Path(flags.out) / "reference" if flags.lora else checkpoint), device)
    try:
        trainer = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch have many for a damaged file
        raise ValueError(f"{checkpoint / 'trainer.pt'} is cut short or damaged ({one_line(error)}); {ANEW}") from None
    if not isinstance(trainer, dict) or not {"step", "optimizer", "lora"} <= trainer.keys():
        raise ValueError(f"{checkpoint / 'trainer.pt'} holds no trainer's state; {ANEW}")
    for file in LOGS:
        report.cut(Path(flags.out) / file, trainer["step"])
    use_memory(policy, fits.forecast(flags, policy))
    print(f"resuming {flags.out} after step {trainer['step']}")
    return policy, SkillBank.load(checkpoint / "skills.json"), trainer["step"], trainer


def new_run(flags, env, sampling, program, device):
    """The policy of a new run (of LoRA without its adapters), cold-started where asked for, saved as its reference."""
    out = Path(flags.out)
    if flags.resume and (out / "reference").is_dir():  # killed between the cold start and the first checkpoint
        begin_logs(out)
        return policies.load(str(out / "reference"), device)
    policy = policies.load(flags.model, device, world=env.home)
    if flags.model == "tiny":
        world = policy.model.cfg.hf.setdefault("world", env.known)  # is in the config.json of what is shipped
        if world != env.known:
            raise ValueError(f"--model tiny: the shipped model knows other games than these, {env.source}. Make a new "
                             f"one: python -m tools.coldstart --env {flags.env} --model tiny --steps 4000 --out DIR")
    envs.prompt_limit(policy, env, sampling)  # too short a context: say so before the cold start
    write_atomic(out / "config.json", json.dumps(settings_of(flags, env, program), indent=1) + "\n")
    hold(out)
    begin_logs(out)
    forecast = fits.forecast(flags, policy)
    use_memory(policy, forecast)
    if flags.cold_start:
        if flags.lora:
            lora.add(policy.model, flags.lora, flags.seed)
        coldstart.cold_start(policy, env, coldstart.of_run(flags))
    policy.save(out / "reference")
    if flags.lora and flags.cold_start:  # the adapters are in the saved weights
        policy = policies.load(str(out / "reference"), device)
        use_memory(policy, forecast)
    return policy


def use_memory(policy, forecast):
    """Set a policy up as it fits its device, and say so where that is not what the flags ask for."""
    if forecast.said:
        print(forecast.said, flush=True)
    policy.model.recompute = forecast.recompute
    policy.keep = forecast.keep


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
    for other in [name for name in bank.task_specific_skills if name not in families and name in env.aliases]:
        skills = bank.task_specific_skills.pop(other)
        bank.task_specific_skills.setdefault(env.aliases[other], []).extend(skills)
    if unknown := sorted(set(bank.task_specific_skills) - families):
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


def with_reference(flags, policy, trainer, device):
    """(policy, reference): the reference is the run's, or with LoRA the policy itself with its adapters off."""
    if flags.lora:
        lora.add(policy.model, flags.lora, flags.seed)
        policy.model.load_state_dict(trainer.get("lora", {}), strict=False)
        return policy, lora.Reference(policy.model)
    saved = str(Path(flags.out) / "reference")
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


def save(flags, step, policy, optimizer, bank, state=None):
    """A checkpoint: HF directory + trainer.pt + skills.json, complete before `latest` names it.

    state: what a method of its own wants back from `open_run`, a dict that torch.load takes with weights_only.
    """
    out = Path(flags.out)
    new, name = out / "saving", f"step_{step:05d}"
    policy.save(new)
    bank.save(new / "skills.json")
    trainer = {"step": step, "optimizer": optimizer.state_dict(), "lora": lora.adapters(policy.model),
               "state": state or {}}
    save_tensors(trainer, new / "trainer.pt")
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

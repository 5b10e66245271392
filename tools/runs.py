"""A run directory: opened new or resumed, and saved so that a kill loses nothing but the last iterations.

    config.json      the flags of the run; --resume compares them
    metrics.jsonl    one line per iteration
    edits.jsonl      one line per edit that was probed
    samples/         two transcripts of each iteration
    skills.json      the bank
    reference/       the policy before the first iteration, for the KL
    checkpoints/     step_00005/: a directory that transformers opens, trainer.pt (the optimiser), skills.json
    latest           the name of the checkpoint that is complete
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

import dualadv_grpo as grpo
import envs
import policy as policies
from lib import lora
from lib.files import write_atomic
from skillbank import SkillBank
from tools import report
from tools.coldstart import cold_start, corpus

LOGS = ("metrics.jsonl", "edits.jsonl")  # appended to, an iteration at a time
FREE = {"resume", "steps", "save_every", "wandb", "device", "data", "out"}  # may change when a run is resumed


def checkpoint_of(run):
    """The newest checkpoint of a run directory, or None where it is no run."""
    latest = Path(run) / "latest"
    return Path(run) / "checkpoints" / latest.read_text().strip() if latest.is_file() else None


def settings_of(flags, env):
    """What config.json says of a run: every flag, the world's own among them, and the world's description."""
    settings = asdict(flags)
    return {**{k: v for k, v in settings.items() if k != "options"}, **flags.options, "world": env.describe()}


def open_run(flags, env, sampling, bar):
    """(policy, reference, optimizer, bank, first step): a new run, cold-started, or the one to resume.

    ValueError or OSError, one line, where that is impossible.
    """
    out, device, checkpoint = Path(flags.out), policies.pick_device(flags.device), checkpoint_of(flags.out)
    if checkpoint and not flags.resume:
        raise ValueError(f"{out} holds a run; --resume continues it, --out DIR starts another")
    if flags.resume:
        check_flags(out, settings_of(flags, env))
    if checkpoint:
        policy, bank, start, state = resumed(flags, checkpoint, device)
    else:
        policy, bank, start, state = new_run(flags, env, sampling, bar, device), SkillBank(), 0, None
    policy, reference = with_reference(flags, policy, state, device)
    policy.model.recompute = flags.recompute
    optimizer = grpo.AdamW(policy.model.parameters(), flags.lr, offload=flags.offload)
    if state:
        optimizer.load_state_dict(state["optimizer"])
    return policy, reference, optimizer, bank, start


def check_flags(out, settings):
    """ValueError where a run was made with other flags than these."""
    if not (out / "config.json").is_file():
        return
    before = json.loads((out / "config.json").read_text())
    for name, value in settings.items():
        if name not in FREE and before.get(name) != value:
            raise ValueError(f"--resume: {out} was run with {name} {before.get(name)}, this is {value}; give the same "
                             "flags, or another --out")


def resumed(flags, checkpoint, device):
    """(policy, or None for LoRA, which starts from the reference; bank; first step; trainer state) of a checkpoint."""
    policy = None if flags.lora else policies.load(str(checkpoint), device)
    state = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
    for file in LOGS:
        report.cut(Path(flags.out) / file, state["step"])
    print(f"resuming {flags.out} after step {state['step']}")
    return policy, SkillBank.load(checkpoint / "skills.json"), state["step"], state


def new_run(flags, env, sampling, bar, device):
    """The policy of a new run, cold-started where that is asked for, and saved as its reference."""
    out, made_anew = Path(flags.out), flags.model == "tiny" and flags.cold_start
    policy = policies.load(flags.model, device, seed=flags.seed, world=flags.env,
                           text=corpus(env) if made_anew else None)
    if flags.model == "tiny":
        world = policy.model.cfg.hf.setdefault("world", env.describe())  # is in the config.json of what is shipped
        if world != env.describe():
            raise ValueError(f"--model tiny: the shipped model only knows the made-up games; these are {env.source}. "
                             "Make a new one: --cold_start 4000")
    envs.prompt_limit(policy, env, sampling)  # too short a context: say so before the cold start
    write_atomic(out / "config.json", json.dumps(settings_of(flags, env), indent=1) + "\n")
    for file in LOGS:
        write_atomic(out / file, "")
    policy.model.recompute = flags.recompute
    if flags.cold_start:
        if flags.lora:
            lora.add(policy.model, flags.lora, flags.seed)
        cold_start(policy, env, flags, bar)
    policy.save(out / "reference")
    return policy


def with_reference(flags, policy, state, device):
    """(policy, reference): the reference is the run's, or with LoRA the policy itself with its adapters off."""
    saved = str(Path(flags.out) / "reference")
    if flags.lora:
        policy = policies.load(saved, device)
        lora.add(policy.model, flags.lora, flags.seed)
        policy.model.load_state_dict(state["lora"] if state else {}, strict=False)
        return policy, lora.Reference(policy.model)
    return policy, policies.load(saved, device).model.requires_grad_(False) if flags.kl else None


def save(flags, step, policy, optimizer, bank):
    """A checkpoint: HF directory + trainer.pt + skills.json, complete before `latest` names it."""
    out = Path(flags.out)
    new, name = out / "saving", f"step_{step:05d}"
    policy.save(new)
    bank.save(new / "skills.json")
    state = {"step": step, "optimizer": optimizer.state_dict(), "lora": lora.adapters(policy.model)}
    torch.save(state, new / "trainer.pt")
    shutil.rmtree(out / "checkpoints" / name, ignore_errors=True)  # of a killed run that came this far before
    (out / "checkpoints").mkdir(exist_ok=True)
    os.rename(new, out / "checkpoints" / name)
    write_atomic(out / "latest", name + "\n")
    bank.save(out / "skills.json")  # for people; the checkpoint's copy is the one that is resumed
    for old in (out / "checkpoints").iterdir():
        if old.name != name:
            shutil.rmtree(old)


def log(flags, row):
    """A line of metrics.jsonl, and of wandb if that is asked for."""
    report.append(Path(flags.out) / "metrics.jsonl", [row])
    if flags.wandb:
        import wandb

        if wandb.run is None:
            wandb.init(project=flags.wandb, name=Path(flags.out).name, config=asdict(flags), resume="allow")
        wandb.log(row, step=row["step"])

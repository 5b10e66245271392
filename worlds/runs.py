"""A run directory: opened new or resumed, saved so that a kill at any moment loses nothing but the last iterations.

    config.json  metrics.jsonl  edits.jsonl  samples/  skills.json      for people; the flags are checked on --resume
    reference/                                                           the policy before RL, for the KL
    checkpoints/step_00005/  latest                                      HF directory + trainer.pt + skills.json
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
from skillbank import SkillBank
from worlds import lora, report
from worlds.coldstart import cold_start
from worlds.skillfiles import write_atomic

LOGS = ("metrics.jsonl", "edits.jsonl")  # appended to, an iteration at a time
FREE = {"resume", "steps", "save_every", "wandb", "device", "data", "out"}  # free to change in a resumed run


def checkpoint_of(run):
    """The newest checkpoint of a run directory, or None where it is no run."""
    latest = Path(run) / "latest"
    return Path(run) / "checkpoints" / latest.read_text().strip() if latest.is_file() else None


def open_run(cfg, env, how, bar):
    """(policy, reference, optimizer, bank, first step): a new run, cold-started, or the one to resume.

    ValueError or OSError, one line, where that cannot be.
    """
    out, device, checkpoint = Path(cfg.out), policies.pick_device(cfg.device), checkpoint_of(cfg.out)
    settings = {**asdict(cfg), "world": env.describe()}
    if checkpoint and not cfg.resume:
        raise ValueError(f"{out} holds a run; --resume continues it, --out DIR starts another beside it")
    if cfg.resume and (out / "config.json").is_file():
        before = json.loads((out / "config.json").read_text())
        for name, value in settings.items():
            if name not in FREE and before.get(name) != value:
                raise ValueError(f"--resume: {out} was run with {name} {before.get(name)}, this is {value}; "
                                 "give the same flags, or another --out")
    if checkpoint:
        policy = None if cfg.lora else policies.load(str(checkpoint), device)
        state = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
        for file in LOGS:
            report.cut(out / file, state["step"])
        bank, start = SkillBank.load(checkpoint / "skills.json"), state["step"]
        print(f"resuming {out} after step {start}")
    else:
        policy = policies.load(cfg.model, device, seed=cfg.seed, world=cfg.env,
                               text=env.corpus() if cfg.model == "tiny" and cfg.cold_start else None)
        if cfg.model == "tiny":
            world = policy.model.cfg.hf.setdefault("world", env.describe())  # stands in the shipped config.json
            if world != env.describe():
                raise ValueError(f"--model tiny, as shipped, knows the made-up games it was cold-started on, and these "
                                 f"are others ({env.source}); --cold_start 4000 makes one for them")
        envs.room(policy, env, how)  # too short a context: say so before the cold start
        write_atomic(out / "config.json", json.dumps(settings, indent=1) + "\n")
        for file in LOGS:
            write_atomic(out / file, "")
        if cfg.cold_start:
            if cfg.lora:
                lora.add(policy.model, cfg.lora, cfg.seed)
            cold_start(policy, env, cfg, bar)
        policy.save(out / "reference")
        bank, start, state = SkillBank(), 0, None
    reference = None
    if cfg.lora:  # without its adapters the model is the reference
        policy = policies.load(str(out / "reference"), device)
        lora.add(policy.model, cfg.lora, cfg.seed)
        policy.model.load_state_dict(state["lora"] if state else {}, strict=False)
        reference = lora.Reference(policy.model)
    elif cfg.kl:
        reference = policies.load(str(out / "reference"), device).model.requires_grad_(False)
    optimizer = grpo.AdamW(policy.model.parameters(), cfg.lr, offload=cfg.offload)
    if state:
        optimizer.load_state_dict(state["optimizer"])
    return policy, reference, optimizer, bank, start


def save(cfg, step, policy, optimizer, bank):
    """A checkpoint: HF directory + trainer.pt + skills.json, complete before `latest` names it."""
    out = Path(cfg.out)
    new, name = out / "saving", f"step_{step:05d}"
    policy.save(new)
    bank.save(new / "skills.json")
    state = {"step": step, "optimizer": optimizer.state_dict(), "lora": lora.adapters(policy.model)}
    torch.save(state, new / "trainer.pt")
    shutil.rmtree(out / "checkpoints" / name, ignore_errors=True)  # of a killed run that got here before
    (out / "checkpoints").mkdir(exist_ok=True)
    os.rename(new, out / "checkpoints" / name)
    write_atomic(out / "latest", name + "\n")
    bank.save(out / "skills.json")  # for people; the checkpoint's copy is the one that counts
    for old in (out / "checkpoints").iterdir():
        if old.name != name:
            shutil.rmtree(old)


def log(cfg, row):
    report.append(Path(cfg.out) / "metrics.jsonl", [row])
    if cfg.wandb:
        import wandb

        if wandb.run is None:
            wandb.init(project=cfg.wandb, name=Path(cfg.out).name, config=asdict(cfg), resume="allow")
        wandb.log(row, step=row["step"])

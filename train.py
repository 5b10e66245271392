"""
Train SkillMaster: one policy that acts in a text world and keeps its own skill bank.

    python train.py --env webshop                                   # tiny model, made-up shop, a laptop
    python train.py --env webshop --model smollm2 --data DIR        # SmolLM2-135M on the real WebShop
    python train.py --env webshop --model Qwen/Qwen2.5-1.5B-Instruct --data DIR       # one GPU

The whole method is the loop in `train` below: act, review, probe, normalise, update, commit. Every random choice is a
function of (seed, step), so there is no generator state to save: a run that was killed and resumed samples the same
tasks and the same tokens as one that was not. On a CPU the two are equal bit for bit.
"""

import os

# OpenMP threads that spin for long cost up to 10x where cores are shared, threads that sleep at once 3x where not.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import argparse
import json
import random
import resource
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import dualadv_grpo as grpo
import envs
import policy as policies
from envs import Sampling, rollout
from eval import checkpoint_of, evaluate, summary
from policy import logprobs, mix
from probes import edits_of, probe
from skillbank import SkillBank, commit, shaping
from worlds.checkpoints import read_chats
from worlds.skillfiles import write_atomic

# ---- Every knob -----------------------------------------------------------------------------------------------------


def knob(default, text):
    return field(default=default, metadata={"help": text})


@dataclass
class Config:
    env: str = knob("webshop", "world")
    model: str = knob("", "HF id or directory, smollm2, tiny; '' is Qwen/Qwen2.5-1.5B-Instruct on a GPU, else tiny")
    data: str = knob("", "directory of the real data; '' takes the world's variable ($WEBSHOP_DATA), else made up")
    human_goals: bool = knob(False, "WebShop: people's instructions instead of synthetic ones")
    winnable_only: bool = knob(False, "WebShop: leave out goals whose own product cannot score 1.0")
    out: str = knob("", "run directory; '' is runs/<env>-<model>")
    resume: bool = knob(False, "continue the run in --out")
    seed: int = knob(0, "of everything random")
    device: str = knob("", "cpu, cuda, ...; '' is cuda where there is one")
    # how much
    steps: int = knob(150, "iterations")
    tasks: int = knob(8, "tasks per iteration")
    group: int = knob(8, "rollouts per task: the group of GRPO")
    eval_every: int = knob(10, "evaluate before the first and after every so many iterations; 0: never")
    eval_tasks: int = knob(64, "dev games per evaluation")
    save_every: int = knob(5, "checkpoint every so many iterations")
    # sampling
    temperature: float = knob(1.0, "of training rollouts")
    eval_temperature: float = knob(0.4, "of evaluation")
    act_tokens: int = knob(256, "at most, per action turn")
    review_tokens: int = knob(512, "at most, per review")
    context: int = knob(8192, "tokens of one transcript before its oldest turns are dropped")
    rows: int = knob(64, "episodes played at once: bounds the memory of the KV cache")
    top_k: int = knob(3, "skills shown, of the general ones and of the family's each")
    # cold start (SFT before RL)
    cold_start: int = knob(100, "SFT steps on scripted transcripts (or --sft_data); 0: none")
    sft_data: str = knob("", 'JSON lines {"messages": [{"role", "content"}, ...]} to use instead')
    sft_batch: int = knob(16, "transcripts per SFT step")
    sft_lr: float = knob(1e-5, "peak learning rate of the cold start")
    # counterfactual utility
    probes: int = knob(4, "K: probe tasks per edit")
    probe_temperature: float = knob(0.4, "of probe runs")
    alpha: float = knob(0.3, "bonus for the share of probes won over those lost (released code: 0.2)")
    clip_utility: bool = knob(False, "max(0, U), as the released code does")
    commit: str = knob("positive", "which edits enter the bank: positive (U > 0), none (released training), all")
    # DualAdv-GRPO
    advantage: str = knob("dual", "dual, single (one advantage from R + S) or act_only (reviews get none)")
    skill_weight: float = knob(0.2, "lambda: weight of the review's advantage")
    lr: float = knob(1e-6, "learning rate")
    kl: float = knob(-1.0, "beta of the KL to the reference; -1 is the paper's for the world (WebShop 0.05)")
    clip: float = knob(0.2, "of the ratio")
    entropy: float = knob(0.001, "weight of the entropy bonus")
    max_norm: float = knob(1.0, "gradient clipping")
    budget: int = knob(4096, "tokens per micro-batch, padding included")
    recompute: bool = knob(False, "gradient checkpointing: less memory, a third more time")
    wandb: str = knob("", "project to log to; '' is none")


# What suits another model than a 1.5B one; a flag wins over these.
PRESETS = {
    "tiny": dict(steps=20, tasks=4, eval_every=5, act_tokens=64, review_tokens=160, context=3072, cold_start=800,
                 sft_batch=4, sft_lr=3e-3, lr=3e-4),
    "smollm2": dict(steps=20, tasks=4, eval_every=5, eval_tasks=16, act_tokens=64, review_tokens=160, context=4096,
                    rows=32, cold_start=20, sft_batch=4, sft_lr=2e-4, lr=1e-5, budget=2048),
}
CHOICES = {"advantage": ("dual", "single", "act_only"), "commit": ("positive", "none", "all")}
AT_LEAST = {"steps": 0, "tasks": 1, "group": 1, "eval_every": 0, "eval_tasks": 1, "save_every": 1, "act_tokens": 8,
            "review_tokens": 8, "rows": 1, "top_k": 0, "cold_start": 0, "sft_batch": 1, "probes": 1, "budget": 1,
            "temperature": 0, "eval_temperature": 0, "probe_temperature": 0, "lr": 0, "sft_lr": 0, "clip": 0,
            "entropy": 0, "skill_weight": 0, "alpha": 0, "max_norm": 0, "context": 1, "kl": -1}
FREE = {"resume", "steps", "save_every", "wandb", "device", "data", "out"}  # free to change in a resumed run


def read_flags(argv=None):
    """The command line as a Config, presets filled in; a wrong flag ends the program with one line."""
    parser = argparse.ArgumentParser(description="Train SkillMaster.", allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"train.py: {message}; --help lists the flags\n")
    for f in fields(Config):
        special = "".join(f"; {name}: {preset[f.name]}" for name, preset in PRESETS.items() if f.name in preset)
        text = f"{f.metadata['help']} (default: {f.default!r}{special})"
        if f.type is bool:
            parser.add_argument(f"--{f.name}", action="store_true", default=None, help=text)
        else:
            parser.add_argument(f"--{f.name}", type=f.type, choices=CHOICES.get(f.name), help=text, metavar="X")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    for name, least in AT_LEAST.items():
        if not given.get(name, least) >= least:  # nor is NaN
            parser.error(f"--{name} {given[name]}: must be at least {least}")
    model = given.get("model") or ("Qwen/Qwen2.5-1.5B-Instruct" if torch.cuda.is_available() else "tiny")
    cfg = Config(**{**PRESETS.get(model, {}), **given, "model": model})
    cfg.out = cfg.out or f"runs/{cfg.env}-{Path(model).name}"
    return cfg


# ---- Cold start -----------------------------------------------------------------------------------------------------


def cold_start(policy, env, cfg):
    """SFT on transcripts, scripted or given: every assistant token is trained, its stop token too, nothing else."""
    if cfg.sft_data:
        chats = read_chats(cfg.sft_data)
        batches = [random.Random(f"{cfg.seed}/sft/{step}").choices(chats, k=cfg.sft_batch)
                   for step in range(cfg.cold_start)]
    else:
        chats = env.demonstrations(cfg.cold_start * cfg.sft_batch, cfg.seed)
        batches = [chats[i:i + cfg.sft_batch] for i in range(0, len(chats), cfg.sft_batch)]
    optimizer = grpo.AdamW(policy.model, cfg.sft_lr)
    limit, cut, last = min(cfg.context, policy.model.cfg.max_len), 0, 0.0
    for step, batch in enumerate(bar("cold start")(batches)):
        rows = [policy.chat.transcript(chat) for chat in batch]
        cut += sum(len(ids) > limit for ids, _ in rows)
        rows = [(ids[:limit], said[:limit]) for ids, said in rows]
        total, last = sum(sum(said) for _, said in rows), 0.0
        for some in grpo.micro_batches([len(ids) for ids, _ in rows], cfg.budget):
            tokens = grpo.pad([rows[i][0] for i in some], torch.long, policy.device)  # (B, T)
            mask = grpo.pad([rows[i][1] for i in some], torch.bool, policy.device)
            loss = -logprobs(policy.model, tokens, mask).sum() / total
            loss.backward()
            optimizer.accumulate()
            last += loss.item()
        # Warm up over a tenth, then straight down to a tenth of the peak.
        done = (step + 1) / len(batches)
        optimizer.step(cfg.max_norm, cfg.sft_lr * min(done / 0.1, 1.1 - done))
    print(f"cold start: {cfg.cold_start} steps, {len(chats)} transcripts, loss {last:.3f} per token"
          + (f"; {cut} transcripts were longer than {limit} tokens and cut there" if cut else ""))


# ---- The loop -------------------------------------------------------------------------------------------------------


def train(cfg, env, policy, reference, optimizer, bank, start):
    """Iterations start .. cfg.steps - 1. README, method 1, line by line."""
    kl = env.kl if cfg.kl < 0 else cfg.kl
    for step in range(start, cfg.steps):
        clock, seed = [time.perf_counter()], mix(cfg.seed, step)
        tasks = random.Random(f"{cfg.seed}/tasks/{step}").sample(env.train_tasks, min(cfg.tasks, len(env.train_tasks)))

        # 1, 2: act, and review: each episode ends with propose | update | keep
        episodes = rollout(policy, env, tasks, bank, cfg.group, seed, sampling(cfg, cfg.temperature))
        clock.append(time.perf_counter())

        # 3: bank with the edit against bank without, same probe tasks, same random numbers
        edits = edits_of(episodes)
        probed = probe(policy, env, bank, edits, cfg.probes, seed, sampling(cfg, cfg.probe_temperature), cfg.alpha,
                       cfg.clip_utility)
        clock.append(time.perf_counter())

        # 4: reward of acting R, of reviewing S = U + shaping; each normalised against its own kind in its group
        utility = {edit.episode: edit.utility for edit in edits}
        R = [e.reward for e in episodes]
        S = [utility.get(i, 0.0) + shaping(e.review, e.edit) for i, e in enumerate(episodes)]
        groups = [i // cfg.group for i in range(len(episodes))]
        a_act, a_skill = grpo.dual_advantages(R, S, groups, cfg.skill_weight * (cfg.advantage == "dual"))
        if cfg.advantage == "single":  # the ablation that DualAdv replaces: one advantage from R + S for every token
            a_act = a_skill = grpo.group_advantage([r + s for r, s in zip(R, S)], groups)

        # 5: one clipped step
        segments = [(segment, i) for i, e in enumerate(episodes) for segment in e.segments]
        stats = grpo.update(policy.model, reference, optimizer, [segment for segment, _ in segments],
                            [(float(a_act[i]), float(a_skill[i])) for _, i in segments], logprobs, cfg.clip, kl,
                            cfg.entropy, cfg.temperature, cfg.budget, cfg.max_norm, bar("update"))
        clock.append(time.perf_counter())

        # 6: the only place where the bank changes
        committed = commit(bank, edits, cfg.commit)

        act_s, probe_s, update_s = (after - before for before, after in zip(clock, clock[1:]))
        row = {"step": step + 1, **summary(episodes)["all"], "reward": sum(R) / len(R), "skill_reward": sum(S) / len(S),
               "edits": len(edits), "utility": sum(e.utility for e in edits) / max(len(edits), 1),
               "probe_episodes": probed, "committed": len(committed), "skills": len(bank.skills()), **asdict(stats),
               "act_s": act_s, "probe_s": probe_s, "update_s": update_s,
               "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
               "gpu_mb": torch.cuda.max_memory_allocated() // 2**20 if torch.cuda.is_available() else 0}
        print(f"step {step + 1} | success {row['success']:.2f} score {row['score']:.2f} steps {row['steps']:.1f} "
              f"invalid {row['invalid']:.2f} | edits {len(edits)}/{len(episodes)} committed {len(committed)} bank "
              f"{row['skills']} | U {row['utility']:+.3f} ({probed} probe runs) | loss {stats.loss:+.4f} kl "
              f"{stats.kl:.4f} gnorm {stats.grad_norm:.2f} | {stats.tokens} tokens, {clock[-1] - clock[0]:.0f}s "
              f"(act {act_s:.0f} probe {probe_s:.0f} update {update_s:.0f})", flush=True)
        write_sample(Path(cfg.out) / "samples" / f"step_{step + 1:05d}.txt", episodes, edits, committed)
        if cfg.eval_every and (step + 1) % cfg.eval_every == 0:
            row |= dev_games(cfg, env, policy, bank, step + 1)
        log(cfg, row)
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:
            save(cfg, step + 1, policy, optimizer, bank)


def sampling(cfg, temperature):
    return Sampling(temperature, *(getattr(cfg, f.name) for f in fields(Sampling)[1:]))


def bar(name):
    """A progress bar that leaves nothing behind, and is silent where nobody watches."""
    return partial(tqdm, desc=name, leave=False, disable=None)


def dev_games(cfg, env, policy, bank, step):
    """Held-out games with the bank as it stands; always the same ones, so that evaluations compare."""
    start = time.perf_counter()
    dev = env.dev_tasks[:cfg.eval_tasks]
    result = summary(evaluate(policy, env, bank, dev, sampling(cfg, cfg.eval_temperature)))["all"]
    print(f"eval at step {step} | success {result['success']:.3f} score {result['score']:.3f} steps "
          f"{result['steps']:.1f} invalid {result['invalid']:.2f} | {result['n']} dev games, bank "
          f"{len(bank.skills())} | {time.perf_counter() - start:.0f}s", flush=True)
    return {f"eval_{name}": value for name, value in result.items()}


def write_sample(path, episodes, edits, committed):
    """The best and the worst episode of the iteration for a person to read, with the fate of their edits."""
    ranked = sorted(range(len(episodes)), key=lambda i: episodes[i].reward)
    lines = []
    for i in dict.fromkeys([ranked[-1], ranked[0]]):
        lines += [episodes[i].transcript(), f"--- the review's call: {episodes[i].edit['status']}"]
        for edit in [edit for edit in edits if edit.episode == i]:
            lines += [f"    probe {task}: score {before:.2f} without the edit, {after:.2f} with it"
                      for task, before, after in zip(edit.probes, edit.before, edit.after)]
            lines += [f"    utility {edit.utility:+.3f}, {'' if edit in committed else 'not '}committed"]
    write_atomic(path, "\n".join(lines) + "\n")


# ---- Save, resume, log ----------------------------------------------------------------------------------------------


def save(cfg, step, policy, optimizer, bank):
    """A checkpoint: HF directory + trainer.pt + skills.json, complete before `latest` names it."""
    out = Path(cfg.out)
    new, name = out / "saving", f"step_{step:05d}"
    policy.save(new)
    bank.save(new / "skills.json")
    torch.save({"step": step, "optimizer": optimizer.state_dict()}, new / "trainer.pt")
    shutil.rmtree(out / "checkpoints" / name, ignore_errors=True)  # of a killed run that got here before
    (out / "checkpoints").mkdir(exist_ok=True)
    os.rename(new, out / "checkpoints" / name)
    write_atomic(out / "latest", name + "\n")
    bank.save(out / "skills.json")  # for people; the checkpoint's copy is the one that counts
    for old in (out / "checkpoints").iterdir():
        if old.name != name:
            shutil.rmtree(old)


def log(cfg, row):
    with open(Path(cfg.out) / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
    if cfg.wandb:
        import wandb

        if wandb.run is None:
            wandb.init(project=cfg.wandb, name=Path(cfg.out).name, config=asdict(cfg), resume="allow")
        wandb.log(row, step=row["step"])


def open_run(cfg, env):
    """(policy, reference, optimizer, bank, first step): a new run, cold-started, or the one to resume."""
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
        policy = policies.load(str(checkpoint), device)
        optimizer = grpo.AdamW(policy.model, cfg.lr)
        state = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        lines = (out / "metrics.jsonl").read_text().splitlines()
        write_atomic(out / "metrics.jsonl", "".join(
            line + "\n" for line in lines if line.endswith("}") and json.loads(line)["step"] <= state["step"]))
        bank, start = SkillBank.load(checkpoint / "skills.json"), state["step"]
        print(f"resuming {out} after step {start}")
    else:
        policy = policies.load(cfg.model, device, text=env.corpus() if cfg.model == "tiny" else None, seed=cfg.seed)
        envs.room(policy, env, sampling(cfg, cfg.temperature))  # too short a context: say so before the cold start
        write_atomic(out / "config.json", json.dumps(settings, indent=1) + "\n")
        write_atomic(out / "metrics.jsonl", "")
        if cfg.cold_start:
            cold_start(policy, env, cfg)
        policy.save(out / "reference")
        optimizer, bank, start = grpo.AdamW(policy.model, cfg.lr), SkillBank(), 0
    reference = policies.load(str(out / "reference"), device).model.requires_grad_(False) if cfg.kl else None
    return policy, reference, optimizer, bank, start


def main():
    torch.set_flush_denormal(True)
    cfg = read_flags()
    new = checkpoint_of(cfg.out) is None
    policies.Decoder.recompute = cfg.recompute
    try:
        if cfg.wandb:
            import wandb  # noqa: F401 -- not there: say so now, not after the cold start
        env = envs.make(cfg.env, "train", cfg.data, human_goals=cfg.human_goals, winnable_only=cfg.winnable_only)
        print(f"{env.describe()}, {len(env.train_tasks)} to train on", flush=True)
        policy, reference, optimizer, bank, start = open_run(cfg, env)
        print(f"{cfg.model}: {sum(p.numel() for p in policy.model.parameters()) / 1e6:.1f}M parameters on "
              f"{policy.device}; run in {cfg.out}", flush=True)
        if new and cfg.eval_every:  # a baseline before any update
            log(cfg, {"step": 0, **dev_games(cfg, env, policy, bank, 0)})
    except (ValueError, OSError, ImportError) as error:  # a wrong path, file or size: one line, no traceback
        sys.exit(f"train.py: {error}")
    if new:
        save(cfg, 0, policy, optimizer, bank)
    train(cfg, env, policy, reference, optimizer, bank, start)


if __name__ == "__main__":
    main()

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
import random
import resource
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
from eval import evaluate, summary
from policy import logprobs
from probes import confirm, edits_of, probe
from skillbank import commit, shaping
from worlds import report, runs
from worlds.noise import mix

# ---- Every knob -----------------------------------------------------------------------------------------------------


def knob(default, text):
    return field(default=default, metadata={"help": text})


@dataclass
class Config:
    env: str = knob("webshop", "world: webshop, alfworld")
    model: str = knob("", "HF id or directory, smollm2, tiny (shipped; with --cold_start made anew); '' is "
                       "Qwen/Qwen2.5-1.5B-Instruct on a GPU, else tiny")
    data: str = knob("", "directory of the real data; '' is $WEBSHOP_DATA or $ALFWORLD_DATA, else made up")
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
    sft_muon: float = knob(0.0, "peak learning rate of Muon on the layers' matrices; 0: AdamW on everything")
    sft_prompt: float = knob(0.0, "weight of the loss on given tokens")
    sft_copy: float = knob(1.0, "weight of the loss on words copied from the task or a page")
    # counterfactual utility
    probes: int = knob(4, "K: probe tasks per edit")
    confirm: int = knob(8, "fresh probe tasks for a promising edit before it is committed; 0: commit without")
    probe_temperature: float = knob(0.4, "of probe runs")
    alpha: float = knob(0.3, "bonus for the share of probes won over those lost (released code: 0.2)")
    clip_utility: bool = knob(False, "max(0, U), as the released code does")
    commit: str = knob("positive", "which edits enter the bank: positive (U > 0), none (released training), all")
    # DualAdv-GRPO
    advantage: str = knob("dual", "dual, single (one advantage from R + S) or act_only (reviews get none)")
    skill_weight: float = knob(0.2, "lambda: weight of the review's advantage")
    lr: float = knob(1e-6, "learning rate")
    kl: float = knob(-1.0, "beta of the KL to the reference; -1 is the paper's (WebShop 0.05, ALFWorld 0.01)")
    clip: float = knob(0.2, "of the ratio")
    entropy: float = knob(0.001, "weight of the entropy bonus")
    max_norm: float = knob(1.0, "gradient clipping")
    budget: int = knob(4096, "tokens per micro-batch, padding included")
    lora: int = knob(0, "rank of LoRA on the layers' matrices (wants an lr near 1e-4); 0: train all weights")
    offload: bool = knob(False, "optimiser state and master weights in the CPU's memory")
    recompute: bool = knob(False, "gradient checkpointing: less memory, a third more time")
    wandb: str = knob("", "project to log to; '' is none")


# What suits another model than a 1.5B one; a flag wins over these.
PRESETS = {
    "tiny": dict(steps=20, tasks=4, eval_every=5, eval_tasks=128, act_tokens=96, review_tokens=160, context=3072,
                 top_k=4, cold_start=0, sft_batch=2, sft_lr=3e-3, sft_muon=0.02, sft_prompt=0.2, lr=3e-4,
                 skill_weight=0.5),
    "smollm2": dict(steps=20, tasks=4, eval_every=5, eval_tasks=16, act_tokens=64, review_tokens=160, context=4096,
                    rows=32, cold_start=20, sft_batch=4, sft_lr=2e-4, lr=1e-5, budget=2048),
}
CHOICES = {"advantage": ("dual", "single", "act_only"), "commit": ("positive", "none", "all")}
AT_LEAST = {name: least for least, names in {
    0: "steps eval_every top_k cold_start lora confirm temperature eval_temperature probe_temperature lr sft_lr "
       "sft_muon sft_prompt sft_copy clip entropy skill_weight alpha max_norm",
    1: "tasks group eval_tasks save_every rows sft_batch probes budget context",
    8: "act_tokens review_tokens", -1: "kl",
}.items() for name in names.split()}


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


# ---- The loop -------------------------------------------------------------------------------------------------------


def train(cfg, env, policy, reference, optimizer, bank, start):
    """Iterations start .. cfg.steps - 1. README, method 1, line by line."""
    kl, how = env.kl if cfg.kl < 0 else cfg.kl, sampling(cfg, cfg.probe_temperature)
    for step in range(start, cfg.steps):
        clock, seed = [time.perf_counter()], mix(cfg.seed, step)
        tasks = random.Random(f"{cfg.seed}/tasks/{step}").sample(env.train_tasks, min(cfg.tasks, len(env.train_tasks)))

        # 1, 2: act, and review: each episode ends with propose | update | keep
        episodes = rollout(policy, env, tasks, bank, cfg.group, seed, sampling(cfg, cfg.temperature))
        clock.append(time.perf_counter())

        # 3: bank with the edit against bank without, same probe tasks, same random numbers
        edits = edits_of(episodes)
        probed = probe(policy, env, bank, edits, cfg.probes, seed, how, cfg.alpha, cfg.clip_utility)
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

        # 6: what looks good is probed again on fresh tasks; then the only place where the bank changes
        good = edits
        if cfg.confirm and cfg.commit == "positive":
            good, again = confirm(policy, env, bank, edits, cfg.confirm, seed, how, cfg.alpha)
            probed += again
        committed = commit(bank, good, cfg.commit)
        clock.append(time.perf_counter())

        act_s, probe_s, update_s, confirm_s = (after - before for before, after in zip(clock, clock[1:]))
        row = {"step": step + 1, **summary(episodes)["all"], "reward": sum(R) / len(R), "skill_reward": sum(S) / len(S),
               "edits": len(edits), "utility": sum(e.utility for e in edits) / max(len(edits), 1),
               "probe_episodes": probed, "committed": len(committed), "skills": len(bank.skills()), **asdict(stats),
               "act_s": act_s, "probe_s": probe_s, "update_s": update_s, "confirm_s": confirm_s,
               "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
               "gpu_mb": torch.cuda.max_memory_allocated() // 2**20 if torch.cuda.is_available() else 0}
        print(f"step {step + 1} | {env.source} | success {row['success']:.2f} score {row['score']:.2f} steps "
              f"{row['steps']:.1f} invalid {row['invalid']:.2f} | edits {len(edits)}/{len(episodes)} committed "
              f"{len(committed)} bank {row['skills']} | U {row['utility']:+.3f} ({probed} probe runs) | "
              f"loss {stats.loss:+.4f} kl {stats.kl:.4f} gnorm {stats.grad_norm:.2f} | {stats.tokens} tokens, "
              f"{clock[-1] - clock[0]:.0f}s "
              f"(act {act_s:.0f} probe {probe_s:.0f} update {update_s:.0f} again {confirm_s:.0f})", flush=True)
        for edit in committed:
            print(f"  + {bank.find(edit.skill_id).line()} | U {edit.utility:+.2f}"
                  + ("" if edit.confirmed is None else f", confirmed {edit.confirmed:+.2f}"), flush=True)
        if step == start or (step + 1) % 10 == 0:  # something to watch
            print(report.story(episodes, edits, committed), flush=True)
        report.sample(Path(cfg.out) / "samples" / f"step_{step + 1:05d}.txt", episodes, edits, committed)
        report.append(Path(cfg.out) / "edits.jsonl", report.edit_rows(step + 1, edits, committed))
        if cfg.eval_every and (step + 1) % cfg.eval_every == 0:
            row |= dev_games(cfg, env, policy, bank, step + 1)
        runs.log(cfg, row)
        if (step + 1) % cfg.save_every == 0 or step + 1 == cfg.steps:
            runs.save(cfg, step + 1, policy, optimizer, bank)


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
          f"{result['steps']:.1f} invalid {result['invalid']:.2f} | {result['n']} dev games, {env.source}, bank "
          f"{len(bank.skills())} | {time.perf_counter() - start:.0f}s", flush=True)
    return {f"eval_{name}": value for name, value in result.items()}


def main():
    torch.set_flush_denormal(True)
    cfg = read_flags()
    new = runs.checkpoint_of(cfg.out) is None
    policies.Decoder.recompute = cfg.recompute
    try:
        if cfg.wandb:
            import wandb  # noqa: F401 -- not there: say so now, not after the cold start
        env = envs.make(cfg.env, "train", cfg.data, human_goals=cfg.human_goals, winnable_only=cfg.winnable_only)
        print(f"{env.describe()}, {len(env.train_tasks)} to train on", flush=True)
        if cfg.eval_every and not env.dev_tasks:
            raise ValueError("there are no held-out games to evaluate on; --eval_every 0 trains without")
        policy, reference, optimizer, bank, start = runs.open_run(cfg, env, sampling(cfg, cfg.temperature), bar)
        print(f"{cfg.model}: {sum(p.numel() for p in policy.model.parameters()) / 1e6:.1f}M parameters on "
              f"{policy.device}; run in {cfg.out}", flush=True)
        if new and cfg.eval_every:  # a baseline before any update
            runs.log(cfg, {"step": 0, **dev_games(cfg, env, policy, bank, 0)})
    except (ValueError, OSError, ImportError) as error:  # a wrong path, file or size: one line, no traceback
        sys.exit(f"train.py: {error}")
    if new:
        runs.save(cfg, 0, policy, optimizer, bank)
    try:
        train(cfg, env, policy, reference, optimizer, bank, start)
    except envs.GameError as error:
        sys.exit(f"train.py: {error}; --resume goes on once that is mended")


if __name__ == "__main__":
    main()

"""
Train SkillMaster: one policy that acts in a text world and keeps its own skill bank.

    python train.py --env webshop                                   # tiny model, made-up shop, a laptop
    python train.py --env webshop --model smollm2 --data DIR        # SmolLM2-135M on the real WebShop
    python train.py --env webshop --model Qwen/Qwen2.5-1.5B-Instruct --data DIR       # one GPU

The whole method is the loop in `train` below: act, review, probe, normalise, update, commit. Every random choice is a
function of (seed, step), so no generator state has to be saved: a run that was killed and resumed samples the same
tasks and the same tokens as one that was not. On a CPU the two are equal bit for bit.
"""

import os

# OpenMP: threads that spin for long cost up to 10x where cores are shared, threads that sleep at once 3x where not.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import random
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

import dualadv_grpo as grpo
import envs
import worlds
from envs import Env, Episode, Sampling, rollout
from eval import evaluate
from lib.files import print_anything
from lib.streams import mix
from policy import Policy, logprobs
from probes import Probing, confirm, edits_of, probe
from skillbank import SkillBank, commit, shaping
from tools import report, runs
from tools.flags import flag, parse

# ---- Every flag -----------------------------------------------------------------------------------------------------


@dataclass
class Flags:
    env: str = flag("webshop", "world to play", choices=worlds.names(), group="what to run")
    model: str = flag("", "HF id or directory, smollm2, tiny (shipped; with --cold_start made anew); '' is "
                      "Qwen/Qwen2.5-1.5B-Instruct on a GPU, else tiny")
    data: str = flag("", "directory of the real data; '' is $WEBSHOP_DATA or $ALFWORLD_DATA, else made-up games")
    out: str = flag("", "run directory; '' is runs/<env>-<model>")
    resume: bool = flag(False, "continue the run in --out")
    seed: int = flag(0, "seed of all random numbers")
    device: str = flag("", "cpu, cuda, ...; '' is cuda where there is one")
    bank: str = flag("", "skill bank to begin with, a JSON file or a directory of SKILL.md folders; '' is an empty one")
    wandb: str = flag("", "Weights & Biases project to log to; '' is none")

    steps: int = flag(150, "iterations", 0, group="how much")
    tasks: int = flag(8, "tasks per iteration", 1)
    group: int = flag(8, "rollouts per task: the group of GRPO", 1)
    eval_every: int = flag(10, "iterations between two evaluations, the first before training; 0: never", 0)
    eval_tasks: int = flag(64, "held-out games per evaluation", 1)
    save_every: int = flag(0, "iterations between two checkpoints; 0: 5, or 25 where a checkpoint takes over 10 GB", 0)

    temperature: float = flag(1.0, "sampling temperature in training", 0, group="sampling")
    eval_temperature: float = flag(0.4, "sampling temperature in evaluation", 0)
    act_tokens: int = flag(256, "most tokens per action turn", 8)
    review_tokens: int = flag(512, "most tokens per review", 8)
    context: int = flag(8192, "most tokens per transcript; the oldest turns beyond it are dropped", 1)
    rows: int = flag(64, "most episodes played at once: bounds the memory of the KV cache", 1)
    top_k: int = flag(3, "skills in a prompt: so many general ones, and so many of the task's family", 0)

    cold_start: int = flag(100, "SFT steps on scripted transcripts or on --sft_data; 0: none", 0,
                           group="cold start (supervised fine-tuning, SFT, before the first iteration)")
    sft_data: str = flag("", 'JSON lines {"messages": [{"role", "content"}, ...]} to train on instead')
    sft_batch: int = flag(16, "transcripts per SFT step", 1)
    sft_lr: float = flag(1e-5, "peak learning rate of SFT", 0)
    sft_muon: float = flag(0.0, "peak learning rate of Muon on the layers' matrices; 0: AdamW for everything", 0)
    sft_prompt: float = flag(0.0, "weight of the loss on prompt and page tokens", 0)
    sft_copy: float = flag(1.0, "weight of the loss on words copied from the task or a page", 0)

    reviews: str = flag("on", "off is plain GRPO: no review is sampled, nothing is probed, the bank stays as it is",
                        choices=("on", "off"), group="counterfactual utility, commit")
    utility: str = flag("success", "what a probe is scored by: success (the paper), the world's graded score, or both",
                        choices=("success", "graded", "both"))
    probes: int = flag(4, "K: probe tasks per edit", 1)
    confirm: int = flag(8, "fresh probe tasks for a promising edit before it is committed; 0: none", 0)
    probe_temperature: float = flag(0.4, "sampling temperature of probes", 0)
    unpaired: bool = flag(False, "other random numbers with the edit than without (ablation)")
    alpha: float = flag(0.3, "bonus for the share of probes won over those lost (released code: 0.2)", 0)
    clip_utility: bool = flag(False, "max(0, U), as in the released code")
    commit: str = flag("positive", "edits that enter the bank: U > 0; none (released training); all, unprobed",
                       choices=("positive", "none", "all"))

    reward: str = flag("success", "R pays 10 for a win, or 10 times the world's graded score",
                       choices=("success", "graded"), group="DualAdv-GRPO")
    advantage: str = flag("dual", "dual; single: one advantage from R + S; act_only: reviews are not trained; gigpo: "
                          "dual, and GiGPO's step-level advantage on acting",
                          choices=("dual", "single", "act_only", "gigpo"))
    skill_weight: float = flag(0.2, "lambda: weight of the review's advantage", 0)
    lr: float = flag(1e-6, "learning rate", 0)
    kl: float = flag(-1.0, "beta: weight of the KL to the reference; -1 is the paper's for the world", -1)
    clip: float = flag(0.2, "PPO clip: the ratio is kept in 1 +- this", 0)
    entropy: float = flag(0.001, "weight of the entropy bonus", 0)
    max_norm: float = flag(1.0, "gradient norm above which gradients are scaled down", 0)
    budget: int = flag(4096, "tokens per micro-batch, padding included", 1)
    lora: int = flag(0, "rank of LoRA on the layers' matrices (wants an --lr near 1e-4); 0: train all weights", 0)
    offload: bool = flag(False, "keep optimiser state and master weights in the CPU's memory")
    recompute: bool = flag(False, "gradient checkpointing: less memory, a third more time")

    options: dict = field(default_factory=dict)  # the world's own flags


# What another model than one of 1.5B needs. A flag that is given wins.
PRESETS = {
    "tiny": dict(steps=20, tasks=4, eval_every=5, eval_tasks=128, act_tokens=96, review_tokens=160, context=3072,
                 top_k=4, cold_start=0, sft_batch=2, sft_lr=3e-3, sft_muon=0.02, sft_prompt=0.2, lr=3e-4,
                 skill_weight=0.5),
    "smollm2": dict(steps=20, tasks=4, eval_every=5, eval_tasks=16, act_tokens=64, review_tokens=160, context=4096,
                    rows=32, cold_start=20, sft_batch=4, sft_lr=2e-4, lr=1e-5, budget=2048),
}


def read_flags(argv=None) -> Flags:
    """The command line as Flags, presets filled in. A wrong flag ends the program with one line."""
    return parse(Flags, PRESETS, argv)


# ---- The loop -------------------------------------------------------------------------------------------------------


def train(flags: Flags, env: Env, policy: Policy, reference, optimizer: grpo.AdamW, bank: SkillBank, start: int):
    """Iterations start .. flags.steps - 1."""
    kl = env.kl if flags.kl < 0 else flags.kl
    objective = grpo.Objective(flags.clip, kl, flags.entropy, flags.temperature, flags.max_norm, flags.budget)
    probing = Probing(flags.probes, flags.confirm, flags.alpha, flags.clip_utility, flags.utility == "graded",
                      not flags.unpaired, sampling_of(flags, flags.probe_temperature), flags.utility == "both")
    save_every = runs.save_every(flags, policy)
    for step in range(start, flags.steps):
        clock, seed = [time.perf_counter()], mix(flags.seed, step)
        rng = random.Random(f"{flags.seed}/tasks/{step}")
        tasks = rng.sample(env.train_tasks, min(flags.tasks, len(env.train_tasks)))

        # 1: act, then review: each episode ends with propose | update | keep
        episodes = rollout(policy, env, tasks, bank, flags.group, seed, sampling_of(flags, flags.temperature),
                           with_review=flags.reviews == "on")
        clock.append(time.perf_counter())

        # 2: bank with the edit against bank without: same probe tasks, same random numbers
        edits = edits_of(episodes)
        probed = probe(policy, env, bank, edits, seed, probing) if flags.commit != "all" else []
        clock.append(time.perf_counter())

        # 3: R pays acting, S = U + shaping pays reviewing
        U = {edit.episode: edit.utility for edit in edits}
        r = [e.rewards(flags.reward == "graded") for e in episodes]
        R = [sum(turns) for turns in r]
        S = [U.get(i, 0.0) + shaping(e.review, e.edit) if e.edit else 0.0 for i, e in enumerate(episodes)]

        # 4: each is normalised within its group against its own kind
        groups = [i // flags.group for i in range(len(episodes))]
        if flags.advantage == "single":  # the ablation that DualAdv replaces: one advantage from R + S for every token
            a_act = a_skill = grpo.group_advantage([r + s for r, s in zip(R, S)], groups, alone="reward")
        else:
            weight = 0.0 if flags.advantage == "act_only" else flags.skill_weight  # lambda
            a_act, a_skill = grpo.dual_advantages(R, S, groups, weight)
        a_turns: list = [()] * len(episodes)
        if flags.advantage == "gigpo":  # a baseline of the field: turns that saw the same page are compared, too
            a_turns = grpo.anchor_advantages([[turn.page for turn in e.turns] for e in episodes], r, groups)

        # 5: one clipped step; every token gets the advantage of the job it did
        segments = [segment for e in episodes for segment in e.segments]
        advantages = [grpo.per_token(segment, float(a_act[i]), float(a_skill[i]), a_turns[i])
                      for i, e in enumerate(episodes) for segment in e.segments]
        stats = grpo.update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                            bar("update"))
        clock.append(time.perf_counter())

        # 6: promising edits are probed again on fresh tasks; this is the only place where the bank changes
        good, confirming = edits, list[Episode]()
        if flags.confirm and flags.commit == "positive":
            good, confirming = confirm(policy, env, bank, edits, seed, probing)
        committed = commit(bank, good, flags.commit)
        clock.append(time.perf_counter())

        iteration = report.Iteration(step + 1, episodes, edits, committed, R, S, (a_act, a_skill, a_turns), probed,
                                     confirming, stats, clock)
        row = iteration.publish(Path(flags.out), env, bank, tell=step == start)
        if flags.eval_every and (step + 1) % flags.eval_every == 0:
            row |= dev_games(flags, env, policy, bank, step + 1)
        runs.log(flags, row)
        if (step + 1) % save_every == 0 or step + 1 == flags.steps:
            runs.save(flags, step + 1, policy, optimizer, bank)


def sampling_of(flags: Flags, temperature: float) -> Sampling:
    """The flags that say how episodes are sampled."""
    return Sampling(temperature, flags.act_tokens, flags.review_tokens, flags.context, flags.rows, flags.top_k)


def bar(name):
    """tqdm that erases itself, and is off when stderr is no terminal."""
    return partial(tqdm, desc=name, leave=False, disable=None)


def dev_games(flags: Flags, env: Env, policy: Policy, bank: SkillBank, step: int) -> dict:
    """Play held-out games with the bank as it is. They are always the same games, so that evaluations compare."""
    start = time.perf_counter()
    dev = env.dev_tasks[:flags.eval_tasks]
    result = report.summary(evaluate(policy, env, bank, dev, sampling_of(flags, flags.eval_temperature)))["all"]
    print(f"eval at step {step} | success {result['success']:.3f} score {result['score']:.3f} steps "
          f"{result['steps']:.1f} invalid {result['invalid']:.2f} | {result['n']} dev games, {env.source}, bank "
          f"{len(bank.skills())} | {time.perf_counter() - start:.0f}s", flush=True)
    return {f"eval_{name}": value for name, value in result.items()}


def main():
    torch.set_flush_denormal(True)
    print_anything()
    flags = read_flags()
    # A wrong path, file or size, Ctrl-C, SIGTERM, a full disk: one line, no traceback.
    with runs.guard("train.py", flags.out, (ValueError, ImportError, *runs.BROKEN)):
        new = runs.checkpoint_of(flags.out) is None
        env = envs.make(flags.env, "train", flags.data, **flags.options)
        print(f"{env.describe()}, {len(env.train_tasks)} to train on", flush=True)
        policy, reference, optimizer, bank, start = runs.open_run(flags, env, sampling_of(flags, flags.temperature),
                                                                  bar)
        print(f"{flags.model}: {sum(p.numel() for p in policy.model.parameters()) / 1e6:.1f}M parameters on "
              f"{policy.device}; run in {flags.out}", flush=True)
        if new and flags.eval_every:  # a baseline before any update
            runs.log(flags, {"step": 0, **dev_games(flags, env, policy, bank, 0)})
        if new:
            runs.save(flags, 0, policy, optimizer, bank)
    with runs.guard("train.py", flags.out, runs.BROKEN):
        train(flags, env, policy, reference, optimizer, bank, start)


if __name__ == "__main__":
    main()

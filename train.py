"""
Train SkillMaster: one policy that acts in a text world and keeps its own skill bank.

    python train.py --env webshop                                   # tiny model, made-up shop, a laptop
    python train.py --env webshop --model Qwen/Qwen2.5-1.5B-Instruct --data DIR       # one GPU

The whole method is the loop in `train` below: act, review, probe, normalise, update, commit. Every random choice is a
function of (seed, step), so no generator state has to be saved: a run that was killed and resumed draws the same tasks
and the same noise as one that was not. On a CPU with as many threads the two are equal bit for bit.
"""

import os

# OpenMP: threads that spin for long cost up to 10x where cores are shared, threads that sleep at once 3x where not.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import dualadv_grpo as grpo
import envs
import worlds
from envs import Env, Sampling, evaluate, rollout
from lib import distributed
from lib.files import print_anything
from lib.streams import mix
from policy import Policy, logprobs
from probes import Probing, confirm, edits_of, probe
from skillbank import SkillBank, commit, shaping
from tools import guard, report, runs
from tools.flags import flag, parse


@dataclass
class Flags:
    env: str = flag("webshop", "world to play", choices=worlds.names(), group="what to run")
    model: str = flag("", "HF id or directory, smollm2, tiny; '' is Qwen/Qwen2.5-1.5B-Instruct on a GPU, else tiny")
    data: str = flag("", "real data's directory; '': $WEBSHOP_DATA, $ALFWORLD_DATA, ~/.cache/alfworld, else made-up")
    out: str = flag("", "run directory; '' is runs/<env>-<model>, of a fork with its name behind")
    resume: bool = flag(False, "continue the run in --out, with its flags; --steps, memory and evaluation may change")
    seed: int = flag(0, "seed of all random numbers")
    device: str = flag("", "cpu, cuda, ...; '' is cuda where there is one")
    without: str = flag("", "parts that a GPU does without, by commas: recordings, compilation, bfloat16")
    bank: str = flag("", "skill bank to begin with: a run, a JSON file, SKILL.md folders; '' is an empty one")
    wandb: str = flag("", "Weights & Biases project to log to; '' is none")

    steps: int = flag(150, "iterations", 0, group="how much")
    cold_start: int = flag(100, "SFT steps on scripted transcripts before (tools.coldstart has more flags); 0: none", 0)
    tasks: int = flag(8, "tasks per iteration", 1)
    group: int = flag(8, "rollouts per task: the group of GRPO; 1: the reward itself is the advantage", 1)
    eval_every: int = flag(10, "iterations between two evaluations, the first before training; 0: never", 0)
    eval_tasks: int = flag(64, "held-out games per evaluation", 1)
    eval_plain: bool = flag(False, "evaluate without skills in the prompt")
    save_every: int = flag(0, "iterations between two checkpoints; 0: 5, or 25 where a checkpoint takes over 10 GB", 0)

    temperature: float = flag(1.0, "sampling temperature in training; 0: all of a group alike", 0, group="sampling")
    eval_temperature: float = flag(0.4, "sampling temperature in evaluation", 0)
    act_tokens: int = flag(256, "most tokens per action turn", 8)
    review_tokens: int = flag(512, "most tokens per review", 8)
    context: int = flag(8192, "most tokens per transcript; the oldest turns beyond it are dropped", 1)
    rows: int = flag(64, "most episodes played at once: bounds the memory of the KV cache", 1)
    top_k: int = flag(3, "skills in a prompt: so many general ones, and so many of the task's family", 0)

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
    not_found: float = flag(-0.4, "shaping of an update of a skill that is not there (released code: 0.1)")
    commit: str = flag("positive", "edits that enter: positive, U > 0; none (released training); all, unprobed, U = 0",
                       choices=("positive", "none", "all"))

    reward: str = flag("success", "R pays 10 for a win, or 10 times the world's graded score",
                       choices=("success", "graded"), group="DualAdv-GRPO")
    advantage: str = flag("dual", "dual; single: one advantage from R + S", choices=("dual", "single"))
    skill_weight: float = flag(0.2, "lambda: weight of the review's advantage (dual); 0: only KL, entropy train it", 0)
    lr: float = flag(1e-6, "learning rate", 0)
    kl: float = flag(-1.0, "beta: weight of the KL to the reference; below 0: the world's own", -1)
    clip: float = flag(0.2, "PPO clip: the ratio is kept in 1 +- this", 0)
    entropy: float = flag(0.001, "weight of the entropy bonus", 0)
    max_norm: float = flag(1.0, "gradient norm above which gradients are scaled down; 0: nothing moves", 0)
    budget: int = flag(4096, "most tokens per micro-batch, padding included; a longer transcript has its own", 1)
    lora: int = flag(0, "rank of LoRA on the layers' matrices (wants an --lr near 1e-4); 0: train all weights", 0)
    offload: bool = flag(False, "keep optimiser state and master weights in the CPU's memory")
    shard: bool = flag(False, "share what is trained out among the processes of torchrun, by FSDP2")
    recompute: bool = flag(False, "gradient checkpointing: less memory, a third more time")

    options: dict = field(default_factory=dict)  # the world's own flags


# Defaults of models other than one of 1.5B. A flag that is given wins.
PRESETS = {
    "tiny": dict(steps=20, tasks=4, eval_every=5, eval_tasks=128, act_tokens=96, review_tokens=160, context=3072,
                 top_k=4, cold_start=0, lr=3e-4, skill_weight=0.5),
    "smollm2": dict(steps=20, tasks=4, eval_every=5, eval_tasks=16, act_tokens=64, review_tokens=160, context=4096,
                    rows=32, cold_start=20, lr=1e-5, budget=2048),
}


def read_flags(argv=None, kind=Flags, program: str = "train.py") -> Flags:
    """The command line as `kind`; presets, or with --resume the run, fill it in. A wrong flag ends it with one line."""
    method = "" if program == "train.py" else f"-{program.rpartition('.')[2]}"
    return parse(kind, PRESETS, argv, program, f"Train by {program}.", place=f"runs/{{env}}-{{model}}{method}")


def train(flags: Flags, env: Env, policy: Policy, reference, optimizer: grpo.AdamW, bank: SkillBank, start: int, state):
    """Iterations start .. flags.steps - 1. state: what a fork's `finish` saved; {} here."""
    objective = objective_of(flags, env)
    probing = probing_of(flags)
    for step in range(start, flags.steps):
        clock = report.Clock()
        seed = mix(flags.seed, step)
        tasks = tasks_of(flags, env, step)

        # 1: act, then review: each episode ends with propose | update | keep
        episodes = rollout(policy, env, tasks, bank, flags.group, seed, sampling_of(flags, flags.temperature),
                           with_review=flags.reviews == "on")
        clock.lap("act")

        # 2: bank with the edit against bank without: same probe tasks, same random numbers
        edits = edits_of(episodes)
        probe_games = probe(policy, env, bank, edits, seed, probing) if flags.commit != "all" else []
        clock.lap("probe")

        # 3: R pays acting, S = U + shaping pays reviewing
        R = [sum(e.rewards(flags.reward == "graded")) for e in episodes]
        S = [e.edit.utility + shaping(e.review, e.edit, flags.not_found) if e.edit else 0.0 for e in episodes]

        # 4: each is normalised within its group against its own kind
        groups = [i // flags.group for i in range(len(episodes))]
        if flags.advantage == "single":  # what DualAdv replaces, kept as an ablation: one advantage from R + S for all
            a_act = a_skill = grpo.group_advantage([r + s for r, s in zip(R, S)], groups, alone="reward")
        else:
            a_act, a_skill = grpo.dual_advantages(R, S, groups, flags.skill_weight)  # lambda

        # 5: one clipped step; every token gets the advantage of the job it did
        segments, advantages = grpo.per_token(episodes, a_act, a_skill)
        stats = grpo.update(policy.model, reference, optimizer, segments, advantages, logprobs, objective,
                            report.bar("update"))
        clock.lap("update")

        # 6: promising edits are probed again on fresh tasks; this is the only place where the bank changes
        again = flags.confirm and flags.commit == "positive"
        good, confirm_games = confirm(policy, env, bank, edits, seed, probing) if again else (edits, [])
        committed = commit(bank, good, flags.commit)
        clock.lap("confirm")

        finish(flags, env, policy, optimizer, bank, report.Iteration(
            step + 1, episodes, stats, clock.laps, R, a_act, S, a_skill, committed=committed, probe_games=probe_games,
            confirm_games=confirm_games))


def tasks_of(flags: Flags, env: Env, step: int) -> list[int]:
    """The tasks of an iteration, drawn by (seed, step). It also sets a world that changes (worlds.at) to this step."""
    worlds.at(env, step)
    rng = random.Random(f"{flags.seed}/tasks/{step}")
    return rng.sample(env.train_tasks, min(flags.tasks, len(env.train_tasks)))


def objective_of(flags: Flags, env: Env) -> grpo.Objective:
    """What an update minimises."""
    kl = env.kl if flags.kl < 0 else flags.kl
    return grpo.Objective(flags.clip, kl, flags.entropy, flags.temperature, flags.max_norm, flags.budget)


def probing_of(flags: Flags) -> Probing:
    """How edits are probed."""
    return Probing(k=flags.probes, fresh=flags.confirm, alpha=flags.alpha, clip=flags.clip_utility,
                   utility=flags.utility, paired=not flags.unpaired,
                   sampling=replace(sampling_of(flags, flags.probe_temperature), outcomes=True))


def sampling_of(flags: Flags, temperature: float) -> Sampling:
    """The flags that say how episodes are sampled."""
    return Sampling(temperature, flags.act_tokens, flags.review_tokens, flags.context, flags.rows, flags.top_k)


def finish(flags: Flags, env: Env, policy: Policy, optimizer: grpo.AdamW, bank: SkillBank, iteration: report.Iteration,
           state: dict | None = None):
    """The end of an iteration, whatever the method: print it, evaluate and save where it is time.

    state: what a method of its own wants back when the run is resumed.
    """
    step = iteration.step
    row = iteration.publish(Path(flags.out), env, bank, policy.model)
    if flags.eval_every and step % flags.eval_every == 0:
        row |= dev_games(flags, env, policy, bank, step)
    runs.log(flags, row, policy)
    if step % flags.save_every == 0 or step == flags.steps:  # open_run has put a number where it was 0
        runs.save(flags, step, policy, optimizer, bank, state)


def dev_games(flags: Flags, env: Env, policy: Policy, bank: SkillBank, step: int) -> dict:
    """Play held-out games with the bank as it is. They are always the same games, so that evaluations compare."""
    start = time.perf_counter()
    bank = SkillBank() if flags.eval_plain else bank
    games = env.dev_tasks[:flags.eval_tasks]
    episodes = evaluate(policy, env, bank, games, sampling_of(flags, flags.eval_temperature))
    return report.dev_row(step, episodes, env.source, bank, time.perf_counter() - start)


def main(kind=Flags, loop=train, program: str = "train.py"):
    """Open a new run or one to resume, and go through its iterations. A fork has a loop and flags of its own."""
    torch.set_flush_denormal(True)  # on a CPU denormal numbers are slow
    distributed.start()
    print_anything()
    flags = read_flags(kind=kind, program=program)
    errors = [ValueError, ImportError, *guard.BROKEN]  # a wrong path, file or size, a full disk: one line, no traceback
    with guard.guard(program, flags.out, errors):
        new = runs.enter(flags, program)
        env = envs.make(flags.env, "train", flags.data, **flags.options)
        print(f"{env.describe()}, {len(env.train_tasks)} to train on", flush=True)
        if runs.finished(flags, env):
            return
        policy, reference, optimizer, bank, start, state = runs.open_run(
            flags, env, sampling_of(flags, flags.temperature), program)
        if new and flags.eval_every:  # a baseline before any update
            runs.log(flags, {"step": 0, **dev_games(flags, env, policy, bank, 0)}, policy)
        if new:
            runs.save(flags, 0, policy, optimizer, bank)
        errors[:] = guard.BROKEN  # from here on a ValueError is a bug
        loop(flags, env, policy, reference, optimizer, bank, start, state)


if __name__ == "__main__":
    main()

"""A run directory: opened new or resumed, and saved so that a kill loses nothing but the last iterations.

    config.json      the flags of the run, as they are now; --resume goes on with them
    metrics.jsonl    one line per iteration
    edits.jsonl      one line per edit that was probed
    reviews.jsonl    one line per review
    samples/         two transcripts of each iteration
    skills.json      the bank
    reference/       the policy before the first iteration, for the KL
    checkpoints/     step_00005/: a directory that transformers opens, trainer.pt (the optimiser), skills.json
    latest           the name of the checkpoint that is complete
    written.json     which checkpoints the run may remove, see tools/owned.py
    cold_start.pt    the unfinished cold start
    wandb_id         the run's name at Weights & Biases
"""

import io
import json
import os
import uuid
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path, PosixPath, WindowsPath

import torch

import dualadv_grpo as grpo
import envs
import policy as policies
import worlds
from lib import checkpoints, distributed, lora, memory, models, sharding
from lib.device import leave_out, pick_device, refuse_large
from lib.files import check_room, one_line, write_atomic
from lib.skillfiles import Source
from skillbank import Edit, Skill, SkillBank
from tools import check, coldstart, fits, owned, report
from tools.coldstart import save_tensors
from tools.guard import ANEW, UNFINISHED, checkpoint_of, claim, refused
from tools.owned import LOGS, config_of

# What a method may keep in its state beside numbers, texts, lists, dicts and tensors.
torch.serialization.add_safe_globals([envs.Episode, envs.Segment, envs.Turn, Edit, Skill, SkillBank, Source,
                                      frozenset, PosixPath, WindowsPath])
# What may change when a run is resumed: where it is and how long, how much memory it takes, how it is evaluated.
PLACE = {"resume", "steps", "save_every", "wandb", "device", "without", "data", "out", "threads", "processes",
         "sharded"}
MEMORY = {"recompute", "offload", "budget", "rows", "context"}
EVALUATION = {"eval_every", "eval_tasks", "eval_temperature", "eval_plain"}
FREE = PLACE | MEMORY | EVALUATION
# What decides how numbers are rounded: with the same of these a resumed run on a CPU is the one that was not stopped.
EXACT = {"threads", "processes", "sharded", "rows", "budget", "context"}
ONE = {"processes": 1, "sharded": False}  # what config.json leaves out
NOT_EXACT = "; on a CPU it is then not bit for bit the run that was not stopped"


def settings_of(flags, env, program):
    """What config.json says of a run: every flag, the world's own too, the world in words, its games, the program."""
    many = {"processes": distributed.this.size, "sharded": flags.shard} if distributed.this.size > 1 else {}
    return {**flags_of(flags, program), **worlds.identity(env), "threads": torch.get_num_threads(), **many}


def flags_of(flags, program):
    # --shard is how a process was started and is not inherited: whoever resumes on one has not to take it back.
    settings = {name: value for name, value in asdict(flags).items() if name not in ("options", "shard")}
    data = flags.data or os.environ.get(f"{flags.env.upper()}_DATA", "")  # it is resumed where the variable is not set
    return {"program": program, **settings, **flags.options, "resume": False, "data": data}


def enter(flags, program="train.py"):
    """Take the run directory before anything is computed. Is it a run's first start, so that its baseline is wanted?

    ValueError or guard.Held, one line, where it holds something else, another process, a run with other flags, or with
    --resume no run.
    """
    return distributed.from_leader(take, flags, program)


def take(flags, program):
    """What `enter` does, for all processes of a run."""
    out = Path(flags.out)
    refuse_sharding(flags)
    try:
        if flags.resume:
            compare(flags, program)
        elif out.is_dir():
            owned.refuse_others(out)
        if not flags.resume:
            claim(out, out / "checkpoints", os.path.realpath(out / "reference"))
            owned.refuse_others(out)  # it is locked only now
        checkpoint = checkpoint_of(out)
        if flags.resume:
            owned.refuse_taken(out, owned.number(checkpoint.name) + 1 if checkpoint else 0)
    except OSError as error:
        raise refused(out, error) from None
    return checkpoint is None


def refuse_sharding(flags):
    """ValueError where --shard cannot be."""
    if not flags.shard:
        return
    if distributed.this.size == 1:
        raise ValueError("--shard: one process has nobody to share with; start it with torchrun --standalone "
                         "--nproc_per_node N, or leave --shard out")
    if flags.offload:
        raise ValueError("--shard, --offload: with the first a part of the optimiser's state is on each card, with the "
                         "second all of it in the CPU's memory; leave one out")
    if flags.device.startswith("mps"):
        raise ValueError("--shard: works on CUDA and on CPUs, not on --device mps; leave one out")
    sharding.check()


def compare(flags, program):
    """ValueError where there is no run to resume, or one that was made with flags that may not change."""
    out, before = flags.out, config_of(flags.out)
    if not before:
        raise ValueError(f"--resume: {out} holds no run; without --resume a new one starts there")
    # Of flags that runs from before them do not have in their config.json.
    default = {"program": "train.py", **{f.name: f.default for f in fields(flags)},
               **{name: value for name, (value, _) in worlds.load(flags.env).options.items()}}
    for name, value in flags_of(flags, program).items():
        was = before.get(name, default[name])
        if name not in FREE and was != value:
            was, value = ("''" if one == "" else one for one in (was, value))
            way = "go on with that" if name == "program" else f"leave --{name} out"
            raise ValueError(f"--resume: {out} was run with {name} {was}, this is {value}; {way}, or give another "
                             "--out")


def finished(flags, env):
    """Has the run to resume nothing left to do? Then a line says so. ValueError where its games are others."""
    return distributed.from_leader(done, flags, env)


def done(flags, env):
    """What `finished` does, for all processes of a run."""
    checkpoint = checkpoint_of(flags.out) if flags.resume else None
    if not checkpoint or owned.number(checkpoint.name) < flags.steps:
        return False
    check_world(flags, env)
    last = owned.number(checkpoint.name)
    print(f"{flags.out} is finished: {last} iterations are done, --steps {flags.steps} asks for no more; a larger "
          "--steps goes on", flush=True)
    return True


def check_world(flags, env):
    """ValueError where the run to resume was made in another world than this."""
    if changed := worlds.other_games(config_of(flags.out), worlds.identity(env)):
        variable = f"{flags.env.upper()}_DATA"
        unset = f"unset ${variable}, " if os.environ.get(variable) else ""
        raise ValueError(f"--resume: {flags.out} was run in {changed}; {unset}give it the data that it had, or another "
                         "--out")


def open_run(flags, env, sampling, program="train.py"):
    """(policy, reference, optimizer, bank, first step, state): a new run, cold-started, or the one to resume.

    state: what `save` was given of a method's own, {} in a new run; program: whose run it is, no other resumes it.
    ValueError or OSError, one line, where that is impossible.
    """
    enter(flags, program)
    with distributed.leader_first():  # it makes the run, which the others then read
        policy, reference, bank, start, trainer, settings = opened(flags, env, sampling, program)
    optimizer = optimizer_of(flags, policy, reference, trainer)
    policy.rows = distributed.from_leader(go_on, flags, settings, policy, start)
    flags.save_every = save_every(flags, policy)
    if flags.shard:  # it is only sampled from: whoever trains it by mistake must hear of it
        policy.model.requires_grad_(False)
    of_each = f" in each of {distributed.this.size} processes" if distributed.this.size > 1 else ""
    of_each += ", which share out what is trained" * flags.shard
    print(f"{flags.model}: {sum(p.numel() for p in policy.model.parameters()) / 1e6:.1f}M parameters on "
          f"{policy.device}, {torch.get_num_threads()} threads{of_each}, at most "
          f"{policy.rows.kept or flags.rows} episodes at once; run in {flags.out}", flush=True)
    return policy, reference, optimizer, bank, start, trainer.get("state", {})


def opened(flags, env, sampling, program):
    """What `open_run` does, on one process after the other."""
    if (flags.utility != "success" or flags.reward == "graded") and not env.graded:
        raise ValueError(f"--utility graded or both, --reward graded: --env {flags.env} has no graded score, games "
                         "are won or lost")
    if not env.train_tasks:
        raise ValueError("there is no game to train on: --families, --winnable_only or --data leave none")
    if flags.eval_every and not env.dev_tasks:
        raise ValueError("there are no held-out games to evaluate on; --eval_every 0 trains without")
    leave_out(flags.without)
    out, device, checkpoint = Path(flags.out), pick_device(flags.device), checkpoint_of(flags.out)
    check.before_a_run(device)
    refuse_large(flags.device, models.size(out / "reference" if checkpoint else flags.model))
    settings = settings_of(flags, env, program)
    if flags.resume or checkpoint:
        check_world(flags, env)
        claim(out, out / "checkpoints", out / "samples")  # they can be written
    bank = SkillBank() if checkpoint else first_bank(flags, env)  # a wrong --bank: say so before the cold start
    say_small(flags, env)
    open_wandb(flags)
    if checkpoint:
        policy, bank, start, trainer = resumed(flags, checkpoint, device)
        envs.prompt_limit(policy, env, sampling)  # --context may be shorter now
    else:
        policy, start, trainer = new_run(flags, env, sampling, settings, device), 0, {}
    (out / UNFINISHED).unlink(missing_ok=True)  # the cold start is in the reference now
    policy, reference = with_reference(flags, policy, trainer, device)
    return policy, reference, bank, start, trainer, settings


def optimizer_of(flags, policy, reference, trainer):
    """The AdamW of a run, with what a checkpoint has of it. With --shard all processes make theirs together."""
    team, trained = distributed if distributed.this.size > 1 else None, policy.model.parameters()
    state = trainer["optimizer"] if trainer else None
    try:
        if trainer and state["master"] is None and policy.model.model["norm"].weight.dtype != torch.float32:
            weights = trainer["lora"] or checkpoints.read(str(checkpoint_of(flags.out)))[1]
            state = keep_float32(policy, state, weights)
        if flags.shard:
            team = sharding.Shards(policy.model, None if flags.lora else reference)
            trained, state = team.model.parameters(), team.split(state)
        optimizer = grpo.AdamW(trained, flags.lr, offload=flags.offload, team=team)
        if trainer:
            optimizer.load_state_dict(state)
    except torch.OutOfMemoryError:  # the file is whole
        raise
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        if not trainer or sharding.lost(error):
            raise
        raise ValueError(f"{checkpoint_of(flags.out) / 'trainer.pt'} is of another model ({one_line(error)}); "
                         f"{ANEW}") from None
    if flags.shard:
        team.fill()  # of a bfloat16 run that goes on in float32 the parts are exact, what samples is rounded
        optimizer.adam.register_step_post_hook(team.fill)
    return optimizer


def resumed(flags, checkpoint, device):
    """(policy, of LoRA without its adapters; bank; first step; trainer's state) of a checkpoint."""
    policy = policies.load(str(Path(flags.out) / "reference" if flags.lora else checkpoint), device)
    try:
        trainer = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True,
                             mmap=distributed.this.size > 1 or None)  # N processes do not read it N times
    except Exception as error:  # zipfile, pickle and torch have many for a damaged file
        raise ValueError(f"{checkpoint / 'trainer.pt'} is cut short or damaged ({one_line(error)}); {ANEW}") from None
    if not isinstance(trainer, dict) or not {"step", "optimizer", "lora"} <= trainer.keys():
        raise ValueError(f"{checkpoint / 'trainer.pt'} holds no trainer's state; {ANEW}")
    for file in LOGS if distributed.leader() else ():
        report.cut(Path(flags.out) / file, trainer["step"])
    use_memory(flags, policy)
    weights, state = coldstart.saved_bytes(policy.model)
    check_room(Path(flags.out) / "checkpoints", weights + (0 if flags.lora else state), "the next checkpoint")
    print(f"resuming {flags.out} after step {trainer['step']}")
    return policy, SkillBank.load(checkpoint / "skills.json"), trainer["step"], trainer


def go_on(flags, settings, policy, step):
    """The Rows of a policy. Prints what is not as it was when a resumed run stopped, and keeps it in config.json."""
    if not flags.resume:
        return memory.Rows()
    out, before = Path(flags.out), config_of(flags.out)
    if ONE.keys() & (before.keys() | settings.keys()):
        before, settings = {**ONE, **before}, {**ONE, **settings}
    changed = {name: [before[name], value] for name, value in settings.items()
               if name in before and before[name] != value and name not in ("resume", "out")}
    said, short = [f"{name} {was} -> {value}" for name, (was, value) in changed.items()], False
    logged = report.lines_of(out / "metrics.jsonl") if (out / "metrics.jsonl").is_file() else []
    rows = memory.Rows()
    if logged and "rows" not in changed:  # a number of rows that is given anew is tried anew
        rows.kept = logged[-1].get("rows_kept", 0)
        most = rows.kept or max(row.get("rows", 0) for row in logged)
        context = min(settings["context"], policy.model.cfg.max_len)
        fit, _, _ = memory.fitting(policy, most, context, policies.Session.PREFILL, 1.0 if rows.kept else memory.SHARE)
        if short := fit < most:
            said.append(f"{fit} episodes at a time for {most}, as memory is short")
    if said:
        print(f"{out} goes on with {', '.join(said)}{NOT_EXACT if short or EXACT & changed.keys() else ''}", flush=True)
    if changed:
        history = [*before.get("changed", []), {"step": step, **changed}]
        write_atomic(out / "config.json", json.dumps({**before, **settings, "changed": history}, indent=1) + "\n")
    return rows


def new_run(flags, env, sampling, settings, device):
    """The policy of a new run (of LoRA without its adapters), cold-started where asked for, saved as its reference."""
    out = Path(flags.out)
    # Killed between the cold start and the first checkpoint? Or has the leader made it?
    if (flags.resume or not distributed.leader()) and (out / "reference" / "config.json").is_file():
        begin_logs(out)
        policy = policies.load(str(out / "reference"), device)
        envs.prompt_limit(policy, env, sampling)  # --context may be shorter now
        use_memory(flags, policy)
        return policy
    policy = policies.load(flags.model, device, world=env.home)
    if flags.model == "tiny":
        world = policy.model.cfg.hf.setdefault("world", env.known)  # is in the config.json of what is shipped
        if world != env.known:
            raise ValueError(f"--model tiny: the shipped model knows other games than these, {env.source}. Make a new "
                             f"one: python -m tools.coldstart --env {flags.env} --model tiny --steps 4000 --out DIR")
    envs.prompt_limit(policy, env, sampling)  # too short a context: say so before the cold start
    if not flags.resume:
        owned.set_aside(out)
        write_atomic(out / "config.json", json.dumps(settings, indent=1) + "\n")
    begin_logs(out)
    use_memory(flags, policy)
    weights, state = coldstart.saved_bytes(policy.model)
    # An old checkpoint stays while the next one is written.
    saved = 2 * (weights + (0 if flags.lora else state))
    linked = (out / "checkpoints").is_symlink()  # to a larger disk
    check_room(out, weights if linked else weights + saved, "the reference with two checkpoints")
    if linked:
        check_room(out / "checkpoints", saved, "two checkpoints")
    if flags.cold_start:
        if flags.shard:
            fits.alone(flags, policy)
        if flags.lora:
            lora.add(policy.model, flags.lora, flags.seed)
        coldstart.cold_start(policy, env, coldstart.of_run(flags))
    policy.save(out / "reference")
    if flags.lora and flags.cold_start:  # the adapters are in the saved weights
        recompute, keep = policy.model.recompute, policy.keep
        policy = policies.load(str(out / "reference"), device)
        policy.model.recompute, policy.keep = recompute, keep
    return policy


def use_memory(flags, policy):
    """Set a run up as it fits its device, and say so where that is not what the flags ask for."""
    forecast = fits.forecast(flags, policy)
    if forecast.said:
        print(forecast.said, flush=True)
    if forecast.rows:
        print(f"{forecast.rows} episodes at once for {flags.rows}: so the cache and the recordings on it can be kept "
              "between rollouts, which is faster", flush=True)
    policy.model.recompute, policy.keep = forecast.recompute, forecast.keep
    flags.offload = flags.offload or forecast.offload
    flags.rows = forecast.rows or flags.rows


def keep_float32(policy, state, weights):
    """The state of an AdamW that goes on with a policy, its master weights among it.

    A run saved in float32, on a CPU, goes on in bfloat16: its master weights are what was saved, not rounded.
    weights: {name: tensor} of that checkpoint, of LoRA its adapters.
    """
    names = [name for name, weight in policy.model.named_parameters() if weight.requires_grad]
    return {**state, "master": [weights[name] for name in names]}


def begin_logs(out):
    """Empty logs, as before the first iteration."""
    for file in LOGS if distributed.leader() else ():
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
        none = " Where none is left for --confirm, the same games are played again, with other random numbers." * (
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
    size = sum(coldstart.saved_bytes(policy.model))
    every = flags.save_every or (25 if size > 10e9 else 5)
    if size > 1e9:
        print(f"a checkpoint takes {size / 1e9:.1f} GB, and twice that while it is written; one every {every} "
              "iterations (--save_every)", flush=True)
    return every


def save(flags, step, policy, optimizer, bank, state=None):
    """A checkpoint: HF directory + trainer.pt + skills.json, complete before `latest` names it.

    state: what a method of its own wants back from `open_run`, a dict that torch.load takes with weights_only.
    Of what is in checkpoints/ only older checkpoints of this run are removed, see owned.py.
    """
    if state:
        readable(state)
    sharded = isinstance(optimizer.team, sharding.Shards)
    moments = optimizer.team.whole(optimizer.state_dict()) if sharded else None  # all processes gather it
    if not distributed.leader():
        return
    out, name = Path(flags.out), f"step_{step:05d}"
    new = owned.room_for(out, name)
    policy.save(new)
    bank.save(new / "skills.json")
    trainer = {"step": step, "optimizer": moments or optimizer.state_dict(), "lora": lora.adapters(policy.model),
               "state": state or {}}
    save_tensors(trainer, new / "trainer.pt")
    owned.publish(out, new, name)
    write_atomic(out / "latest", name + "\n")
    bank.save(out / "skills.json")  # for people; the checkpoint's copy is the one that is resumed
    owned.remove_older(out, name)


def readable(state):
    """ValueError where a method's state could not be read back: better now than when the run is resumed."""
    file = io.BytesIO()
    try:
        torch.save(state, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as error:  # pickle and torch have many
        raise ValueError(f"the state of this method cannot be read back ({one_line(error)}); keep numbers, texts, "
                         "lists, dicts, tensors, episodes, edits or skills in it") from None


def open_wandb(flags):
    """Open the run at Weights & Biases before anything is computed; a resumed run goes on in the same one.

    ValueError, one line, where that fails.
    """
    if not flags.wandb or not distributed.leader():
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


def log(flags, row, policy=None):
    """A line of metrics.jsonl, and of wandb if that is asked for.

    With what decides how its numbers are rounded: the most episodes that were played at once, and the threads.
    """
    rows = getattr(policy, "rows", None) or memory.Rows()
    row = {**row, "rows": rows.played, "rows_kept": rows.kept, "threads": torch.get_num_threads()}
    rows.played = 0
    if not distributed.leader():
        return
    report.append(Path(flags.out) / "metrics.jsonl", [row])
    if flags.wandb:
        import wandb

        try:
            wandb.log(row, step=row["step"])
        except Exception as error:  # a service that is away must not end a run
            print(f"--wandb: {one_line(error)}; step {row['step']} is in metrics.jsonl only", flush=True)

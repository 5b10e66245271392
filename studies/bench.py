"""
How fast, next to the machine's bounds, transformers' generate and TRL: `python -m studies.bench` (--mini, --help).

    rollout   sampled tokens per second: HF generate called turn by turn, and Session without and with what it saves
    decode    a step's time against the bytes it must read; reading a prompt against the products it must compute
    flow      rows that draw at a time and decoding steps, in step (as on a CPU) and flowing (as on a GPU), and the
              bytes that a 1.5B would read in such a step, now and with other spans
    probes    episodes and seconds per edit: all edits in one rollout, and one edit after another
    iteration act, probe, update: one iteration of train.py's default size split, and the CUDA graphs that it recorded
    update    tokens per second, model-FLOP utilisation, padding, peak memory: full, recompute, LoRA, offload, budgets
    fit       which Qwen2.5 fits which card: computed from shapes, not measured
    cards     which Qwen2.5 fits how many cards with --shard, and what these send each other: computed, too
    trl       the turns of a group and one update on them, against TRL's GRPOTrainer, where TRL is installed

The work is what scripted players make of a world (--env; with $WEBSHOP_DATA or $ALFWORLD_DATA the real one): openings,
replies, lengths of turns. The bounds are the machine's own, measured first: copying a large buffer, a large product in
the model's dtype.

A part is a function of (args, env, bounds) that returns a table: its title, its rows as dicts, a note.
"""

import argparse
import copy
import importlib.metadata
import importlib.util
import itertools
import math
import multiprocessing
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import torch
import transformers

import dualadv_grpo as grpo
import envs
import policy as policies
from envs import Episode, Sampling, Segment, rollout
from lib import graphs, lora, memory
from lib.device import dtype_of, pick_device
from lib.files import one_line, try_to_write
from policy import Session, logprobs
from probes import Probing, edits_of, probe
from skillbank import SkillBank, review
from tools import fits, results
from tools.coldstart import demonstrations, scripted
from tools.flags import path_of
from tools.guard import BROKEN, guard
from tools.measure import QWEN, attention_flops, clear, machine_bounds, matrices, peak_gb, random_policy, shape, timed

GROUP, K = 8, 4  # rollouts per task, probe tasks per edit: the defaults of train.py

# ---- Models ---------------------------------------------------------------------------------------------------------


def load(args):
    """The policy: a checkpoint, or random weights."""
    if args.model not in QWEN:
        return policies.load(args.model, args.device, args.dtype, world=args.env)
    return random_policy(shape(QWEN[args.model]), args.device, args.dtype, args.env)


# ---- Measuring ------------------------------------------------------------------------------------------------------


def machine(args):
    """What it is, and its two bounds."""
    device, cuda = args.device, args.device.type == "cuda"
    copied, multiplied = machine_bounds(args.device, args.dtype)
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = cpu.partition("model name\t: ")[2].partition("\n")[0] or platform.machine()
    return {"device": torch.cuda.get_device_name(device) if cuda else name,
            "cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version(),
            "torch": torch.__version__, "transformers": transformers.__version__, "model": args.model, "env": args.env,
            "dtype": str(args.dtype).removeprefix("torch."), "mini": args.mini,
            "copy GB/s": copied / 1e9, "product TFLOP/s": multiplied / 1e12}


def table(title, rows, note):
    """Print records with the same keys: numbers with three digits, None as a dash. Of no records only the title."""
    def text(value):
        if value is None or isinstance(value, (str, bool)):
            return "-" if value is None else str(value)
        return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"

    lines = [list(row) for row in rows[:1]] + [[text(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    print(f"\n{title}" + (f"\n  ({note})" if note else ""))
    for first, *rest in lines:
        print("  " + "  ".join([first.ljust(widths[0])] + [word.rjust(w) for word, w in zip(rest, widths[1:])]))


# ---- The work: what scripted players do -----------------------------------------------------------------------------


def transcripts(policy, env, count, context):
    """Whole episodes that fit the context: [(ids, sampled)], sampled True on the player's tokens."""
    chats = [policy.chat.transcript(chat) for chat in demonstrations(env, 4 * count, seed=0)]
    fitting = [(ids, sampled) for ids, sampled in chats if len(ids) <= context]
    assert len(fitting) >= count, f"{len(fitting)} of {len(chats)} transcripts fit {context} tokens, {count} are needed"
    return fitting[:count]


def conversations(policy, env, groups, context):
    """GROUP rows for each of `groups` transcripts of 5 or more turns: per turn (ids to read, how many to sample).

    A row samples .75 to 1.25 of what the player wrote.
    """
    rng = random.Random("bench")
    rows: list = []
    for ids, sampled in transcripts(policy, env, 4 * groups, context * 4 // 5):
        spans = [[token for token, _ in span] for _, span in itertools.groupby(zip(ids, sampled), lambda pair: pair[1])]
        if len(spans) // 2 >= 5 and len(rows) < GROUP * groups:  # given, sampled, given, ...
            rows += [[(given, max(round(len(mine) * rng.uniform(0.75, 1.25)), 1))
                      for given, mine in zip(spans[::2], spans[1::2])] for _ in range(GROUP)]
    assert len(rows) == GROUP * groups and max(map(length, rows)) <= context
    return rows


def length(row):
    """Tokens of a conversation."""
    return sum(len(given) + count for given, count in row)


def reviews(env, tasks, group):
    """The edits of an empty bank that scripted players propose, `group` of them per task: duplicates as they come."""
    episodes = []
    for task, i in itertools.product(tasks, range(group)):
        game, family = env.start(task), env.family(task)
        player = env.player(game, task, [], random.Random(f"review/{task}/{i}"))
        text = scripted(env, task, [], game, player)[-1]["content"]
        episodes.append(Episode(task, family, i, [], (), edit=review(text, SkillBank(), family, task)))
    return edits_of(episodes)


def lengths(args, env, policy, **more):
    """The lengths of an episode: tiny as shipped; another model would babble up to every limit, which takes long."""
    sampling = Sampling(act_tokens=96, review_tokens=160, context=3072, top_k=4, **more)
    if args.model != "tiny":
        env.limit = 5
        sampling = replace(sampling, act_tokens=32, context=min(8192, policy.model.cfg.max_len))
    return sampling


# ---- The parts ------------------------------------------------------------------------------------------------------


def turns(rows):
    """Per turn: the rows that are still open, the tokens each reads, the number each samples."""
    for turn in range(max(map(len, rows))):
        live = [i for i, row in enumerate(rows) if turn < len(row)]
        yield live, [list(rows[i][turn][0]) for i in live], [rows[i][turn][1] for i in live]


def by_session(policy, keep, fork, rows):
    """(sampled ids per row, prompt tokens read). keep: the cache over turns; fork: a group reads its prompt once."""
    session = Session(policy, len(rows), max(map(length, rows)))
    out: list = [[] for _ in rows]
    read = 0
    for turn, (live, given, limits) in enumerate(turns(rows)):
        shared = fork and turn == 0  # as envs.begin does
        if not keep:
            given = [session.ids[i] + new for i, new in zip(live, given)]
            for i in live:
                session.reset(i)
        feed = live[::GROUP] if shared else live
        given = given[::GROUP] if shared else given
        session.feed(feed, given)
        read += sum(map(len, given))
        if shared:
            session.fork(feed, GROUP)
        for i, (ids, _) in zip(live, session.sample(live, limits, stop=())):
            out[i] += ids
    return out, read


def by_generate(model, rows):
    """The same by transformers' generate: each turn on the whole prompt, the live rows as a left-padded batch.

    It has no limit per row, so a turn runs until the longest row is done; only the wanted tokens are kept and counted.
    """
    ids: list = [[] for _ in rows]
    out: list = [[] for _ in rows]
    read = 0
    for live, given, limits in turns(rows):
        for i, new in zip(live, given):
            ids[i] += new
        width = max(len(ids[i]) for i in live)
        pads = [width - len(ids[i]) for i in live]
        tokens = torch.tensor([[0] * pad + ids[i] for i, pad in zip(live, pads)], device=model.device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=model.device)
        drawn = model.generate(input_ids=tokens, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
                               top_p=1.0, max_new_tokens=max(limits), pad_token_id=0)[:, width:].tolist()
        read += width * len(live)
        for i, new, limit in zip(live, drawn, limits):
            ids[i] += new[:limit]
            out[i] += new[:limit]
    return out, read


def as_transformers(policy, args):
    """The same weights, opened by transformers."""
    with tempfile.TemporaryDirectory() as folder:
        policy.save(f"{folder}/policy")
        model = transformers.AutoModelForCausalLM.from_pretrained(f"{folder}/policy", dtype=args.dtype)
    model.generation_config.eos_token_id = None  # as stop=(): no row ends before its length
    return model.to(args.device).eval()


def bench_rollout(args, env, bounds):
    policy, groups = load(args), 2 if args.mini or args.device.type == "cpu" else 8
    rows = conversations(policy, env, groups, min(2048 if args.mini else 8192, policy.model.cfg.max_len))
    wanted = sum(count for row in rows for _, count in row)
    results, drawn = [], []
    for name, way in {"a: HF generate, turn by turn": partial(by_generate, as_transformers(policy, args)),
                      "b: Session, every turn from scratch": partial(by_session, policy, False, False),
                      "c: Session, cache kept over turns": partial(by_session, policy, True, False),
                      "d: and the group's opening read once": partial(by_session, policy, True, True)}.items():
        way([[(given, 4) for given, _ in row[:2]] for row in rows])  # warms up
        seconds, (ids, read) = timed(args.device, partial(way, rows))
        drawn.append([token for row in ids for token in row])
        assert len(drawn[-1]) == wanted, name
        results.append({"": name, "s": seconds, "tokens/s": wanted / seconds, "read": read,
                        "x a": results[0]["s"] / seconds if results else 1.0})
    # Rounding hardly ever flips a draw in float32. In bfloat16 it does, and that row goes its own way from there.
    same = sum(one == other for one, other in zip(drawn[2], drawn[3])) / wanted
    assert args.dtype != torch.float32 or same > 0.9, "c and d sampled different tokens"
    return (f"rollout: {groups} groups of {GROUP}, {sum(map(len, rows)) / len(rows):.1f} turns, {wanted:,} sampled "
            f"tokens, transcripts of up to {max(map(length, rows)):,}", results,
            "read: prompt tokens, a's with padding")


def bench_decode(args, env, bounds):
    policy, results = load(args), []
    cfg, context, steps, warm = policy.model.cfg, 512 if args.mini else 2048, 32, 8
    layers, head = matrices(cfg)
    for rows in (1, 8, 16, 32, 64):
        session = Session(policy, rows, context + 1 + warm + steps)
        for _ in range(2):  # the first one warms up
            for row in range(rows):
                session.reset(row)
            prompts = [[row + 1] * (context + 1) for row in range(rows)]  # the newest token is not read
            reading, _ = timed(args.device, partial(session.feed, range(rows), prompts))
        session.sample(range(rows), warm, stop=())
        decoding, _ = timed(args.device, partial(session.sample, range(rows), steps, stop=()))
        cached = 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * rows * (context + warm + steps / 2)
        needed = args.dtype.itemsize * (layers + head + cached)  # bytes a step must read
        flops = 2 * layers * rows * context + attention_flops(cfg, [context] * rows)  # the LM head does not run
        results.append({
            "rows": rows, "tokens/s": rows * steps / decoding, "ms/step": 1000 * decoding / steps,
            "MB/step": needed / 1e6, "of copy": needed * steps / decoding / (bounds["copy GB/s"] * 1e9),
            "read tokens/s": rows * context / reading,
            "of product": flops / reading / (bounds["product TFLOP/s"] * 1e12)})
    return (f"decode, {args.model} at a context of {context:,}, and reading it", results,
            "MB/step: weights, and keys and values so far; what fits a CPU's caches is not bound by its memory")


def slots_read(lengths):
    """Slots of the cache that a card reads to decode one token of rows of these lengths, by what decides it.

    now: every row to the span of the longest, in the shapes that are recorded; 2^n spans: of 256, 512, 1,024 ... slots;
    two groups: the long rows and the others, each to its own span, parted where that reads least; lengths: no more
    than there is, as paged attention does.
    """
    lengths = sorted((n + 8 for n in lengths), reverse=True)  # eight tokens are drawn between two reads
    rows, span = graphs.bucket(len(lengths), lengths[0])
    parted = [math.prod(graphs.bucket(n, lengths[0])) + math.prod(graphs.bucket(len(lengths) - n, lengths[n]))
              for n in range(1, len(lengths))]
    return {"now": rows * span, "2^n spans": rows * max(256, 1 << (span - 1).bit_length()),
            "two groups": min([rows * span, *parted]), "lengths": sum(lengths)}


def bench_flow(args, env, bounds):
    """The same episodes played in step and flowing: how many rows draw at a time, in how many decoding steps."""
    policy, results, drawn = load(args), [], []
    cfg = shape(QWEN["qwen2.5-1.5b"])
    weights, slot = 2 * sum(matrices(cfg)), 4 * cfg.layers * cfg.kv_heads * cfg.head_dim  # bytes in bfloat16

    class Counted(policies.Session):
        def _draw(self, active, *rest):
            drawn.append([self.length[c] for c in active])
            return super()._draw(active, *rest)

    tasks = env.train_tasks[:8 if args.mini else 24]
    sampling = lengths(args, env, policy, rows=16 if args.mini else 64)
    usual, envs.Session = envs.Session, Counted
    try:
        for flowing in (False, True):
            drawn.clear()
            policy.flows = flowing
            play = partial(rollout, policy, env, tasks, SkillBank(), GROUP, sampling=sampling)
            seconds, _ = timed(args.device, play)
            steps, read = len(drawn), [slots_read(lengths) for lengths in drawn]
            results.append({"": "flowing" if flowing else "in step", "rows that draw": sum(map(len, drawn)) / steps,
                            "decoding steps": steps * (8 if args.device.type == "cuda" else 1), "s": seconds,
                            **{f"GB, {name}": (weights + slot * sum(one[name] for one in read) / steps) / 1e9
                               for name in read[0]}})
    finally:
        envs.Session = usual
    return (f"flow: {len(tasks) * GROUP} episodes in {sampling.rows} rows", results,
            "a CPU plays in step, a GPU flowing; GB: weights, keys and values that a 1.5B would read per decoding step "
            "at these lengths, now and otherwise")


def bench_probes(args, env, bounds):
    policy, bank, alone = load(args), SkillBank(), 4 if args.mini else 8
    edits = reviews(env, env.train_tasks[:4], GROUP)
    some = [replace(edit) for edit in edits[::len(edits) // alone][:alone]]  # of every task
    probing = Probing(K, sampling=lengths(args, env, policy, temperature=0.4))

    def play(edits):
        return len(probe(policy, env, bank, edits, probing=probing))

    probe(policy, env, bank, [replace(edits[0])], probing=replace(probing, k=1))  # warms up
    single, played = timed(args.device, lambda: sum(play([edit]) for edit in some))
    joint, together = timed(args.device, lambda: play(edits))
    results = [{"": name, "edits": n, "episodes": count, "per edit": count / n, "of 2K": count / (2 * K * n),
                "s": seconds, "s/edit": seconds and seconds / n} for name, n, count, seconds in (
                    ("as released, counted", len(edits), 2 * K * len(edits), None),
                    ("one edit after another", len(some), played, single),
                    ("all in one rollout", len(edits), together, joint))]
    return (f"probes: {len(edits)} edits, {len({edit.identity for edit in edits})} different, K = {K}, empty bank: "
            f"{results[1]['s/edit'] / results[2]['s/edit']:.2f} times as fast together", results,
            "tiny as shipped" if args.model == "tiny" else f"{env.limit} turns of up to 32 tokens")


def one_update(args, segments, budget, rank=0, recompute=False, offload=False):
    """(seconds, peak memory in GB) of an update of a fresh model, after a small one; None, None where it cannot be."""
    policy = load(args)
    host = 20 * sum(p.numel() for p in policy.model.parameters())  # master weights, moments, gradients, some on the way
    if offload and (args.device.type == "cpu" or memory.free("cpu") < host):
        return None, None
    policy.model.recompute = recompute
    if rank:
        lora.add(policy.model, rank)
    advantages = [[(-1.0) ** i] * len(segment.ids) for i, segment in enumerate(segments)]
    try:
        reference = lora.Reference(policy.model) if rank else copy.deepcopy(policy.model).requires_grad_(False)
        optimizer = grpo.AdamW(policy.model.parameters(), 1e-6, offload=offload)
        run = partial(grpo.update, policy.model, reference, optimizer, logprobs=logprobs,
                      objective=grpo.Objective(budget=budget))
        run(segments[:2], advantages[:2])
        clear(args.device)
        return timed(args.device, lambda: run(segments, advantages))[0], peak_gb(args.device)
    except torch.OutOfMemoryError:
        return None, None


def bench_update(args, env, bounds):
    policy, results = load(args), []
    cfg = policy.model.cfg
    rows = transcripts(policy, env, 8 if args.mini else 64, min(8192, cfg.max_len))
    del policy
    # Whatever the old log-probabilities and whichever of its two jobs a token does: the work is the same.
    segments = [Segment(ids, [grpo.ACT if mine else grpo.FORCED for mine in sampled], [0.0] * len(ids))
                for ids, sampled in rows]
    sizes, count = [len(ids) for ids, _ in rows], sum(sum(sampled) for _, sampled in rows)
    layers, head = matrices(cfg)
    for name, budget, kind in (
            ("full", 2048, {}), ("full", 4096, {}), ("full", 16384, {}), ("recompute", 16384, {"recompute": True}),
            ("LoRA r 16", 4096, {"rank": 16}), ("offload", 4096, {"offload": True})):
        clear(args.device)
        seconds, peak = one_update(args, segments, budget, **kind)
        padded = sum(len(rows) * sizes[rows[0]] for rows in grpo.micro_batches(sizes, budget))
        # Forward, backward to the activations, to the weights (not with LoRA), and the reference's forward.
        products = 2 * (layers * sum(sizes) + head * count) * (3 if "rank" in kind else 4)
        flops = products + 4 * attention_flops(cfg, sizes)
        results.append({
            "": name, "budget": budget, "padding": 1 - sum(sizes) / padded, "s": seconds,
            "tokens/s": seconds and sum(sizes) / seconds,
            "of product": seconds and flops / seconds / (bounds["product TFLOP/s"] * 1e12), "peak GB": peak})
    return (f"update: {len(segments)} transcripts, {sum(sizes):,} tokens, {count:,} of them sampled", results,
            "FLOPs: LM head on sampled tokens only, the reference's pass counts, recomputation does not; peak: tensors "
            "on a GPU, else resident; -: no memory, or not for a CPU")


def bench_iteration(args, env, bounds):
    """train.py's default: 8 tasks x 8 rollouts, K = 4. Random weights play every episode to the limit."""
    policy, bank, results = load(args), SkillBank(), []
    tasks, group = (1, 4) if args.mini else (8, GROUP)
    env.limit = 6  # turns, as players take them
    sampling = Sampling(act_tokens=24, review_tokens=48, context=min(8192, policy.model.cfg.max_len))
    edits = reviews(env, env.train_tasks[:4], tasks * group // 4)
    reference = copy.deepcopy(policy.model).requires_grad_(False)
    optimizer = grpo.AdamW(policy.model.parameters(), 1e-6)
    for number in (1, 2):
        play = partial(rollout, policy, env, env.train_tasks[:tasks], bank, group, sampling=sampling)
        act, episodes = timed(args.device, play)
        probing, _ = timed(args.device, partial(probe, policy, env, bank, edits, probing=Probing(K, sampling=sampling)))
        segments, advantages = grpo.per_token(episodes, [1.0] * len(episodes), [1.0] * len(episodes))
        update = partial(grpo.update, policy.model, reference, optimizer, segments, advantages, logprobs)
        updating, _ = timed(args.device, update)
        recorded = policy.kept.graphs.recorded.values() if policy.kept and policy.kept.graphs else ()
        results.append({"iteration": number, "act s": act, "probe s": probing, "update s": updating,
                        "s": act + probing + updating, "graphs": sum(map(bool, recorded))})
    return (f"iteration, {args.model}: {tasks * group} episodes of up to 6 turns", results,
            "a turn draws up to 24 tokens, a review 48; random weights draw all; graphs: recorded so far")


# Memory, bandwidth and bfloat16 products of a card as its maker states them: an RTX 4090, an L40S, an H100, an H200.
CARDS = {"24 GB": (1.0e12, 165e12), "48 GB": (0.86e12, 362e12), "80 GB": (3.35e12, 989e12), "141 GB": (4.8e12, 989e12)}
OF_COPY, OF_PRODUCT, SAMPLED = 0.6, 0.4, 0.2  # assumed: shares of those that are reached, share of sampled tokens


def speeds(cfg, rows, context, rank, card):
    """(sampled tokens/s at that many tokens per row, tokens/s of an update with --recompute), computed."""
    layers, head = matrices(cfg)
    step = 2 * (layers + head + 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * rows * context)  # bytes it must read
    passes = 4 if rank else 5  # forward, again, backward to activations (and weights), the reference's
    flops = passes * (2 * (layers + SAMPLED * head) + attention_flops(cfg, [context]) / context)
    return OF_COPY * CARDS[card][0] * rows / step, OF_PRODUCT * CARDS[card][1] / flops


def bench_fit(args, env, bounds):
    results, context, most = [], 8192, 64
    for name, rank, offload in itertools.product(QWEN, (0, 16), (False, True)):
        cfg = shape(QWEN[name])
        how = fits.Training(2, longest=context, recompute=True, offload=offload, lora=rank)
        parts = fits.of_training(cfg, how)
        update = sum(parts.values())
        rest = sum(parts[part] for part in ("weights", "reference", "master weights", "moments"))
        row = {"": name, "train": f"LoRA r {rank}" if rank else "full", "offload": "yes" if offload else "no",
               "rest GB": rest / 1e9, "update GB": update / 1e9,
               "host GB": 4 * parts["gradients"] * offload / 1e9}  # master weights, gradients, moments: float32
        for card in CARDS:
            size = float(card.split()[0]) * 1e9
            rows = sum(memory.of_rollout(cfg, n, context, 2, Session.PREFILL) <= memory.SHARE * (size - rest)
                       for n in range(1, most + 1))
            fast = speeds(cfg, rows, context // 4, rank, card) if rows else ()
            row[card] = " ".join([f"{rows}", *(f"{speed / 1000:.1f}k" for speed in fast)]) if (
                rows and update <= memory.SHARE * size) else None
        results.append(row)
    return (f"fit, computed: rows of {context:,} tokens at once (of {most}), sampled tokens/s at {context // 4:,} "
            "tokens per row, tokens/s of an update", results,
            f"assumed: {OF_COPY:.0%} of the maker's bandwidth, {OF_PRODUCT:.0%} of its products, a tenth of it free, "
            "--recompute, rows of up to 8,192 tokens; offload's time is not counted; -: does not fit")


# What an update under --shard sends, and what a rollout's exchange does not: 64 episodes of so many tokens, at so many
# bytes/s between two cards. Assumed: two thirds of NVLink's 450 GB/s; a little less than PCIe 4's 32 GB/s.
EPISODES, TOKENS, LINKS = 64, 4096, {"NVLink": 300e9, "PCIe": 25e9}
SHARED = {  # as in measure.QWEN
    "qwen2.5-7b": QWEN["qwen2.5-7b"],
    "qwen2.5-14b": (5120, 48, 40, 8, 13824, 152064, False),
    "qwen2.5-32b": (5120, 64, 40, 8, 27648, 152064, False),
}


def bench_cards(args, env, bounds):
    results, context, most = [], 8192, 64
    for name, cards in itertools.product(SHARED, (2, 4, 8)):
        cfg, rank = shape(SHARED[name]), 16 if name == "qwen2.5-32b" else 0
        parts = fits.of_training(cfg, fits.Training(2, context, context, recompute=True, lora=rank, cards=cards))
        rest = sum(parts[part] for part in ("weights", "reference", "master weights", "moments"))
        portions = -(-EPISODES * TOKENS // context // cards)  # micro-batches of each card
        # Of every trained weight: gathered for forward and for backward, its gradient in float32; the reference's.
        trained = parts["moments"] / 8 * cards
        sent = trained * (2 + 2 + 4) + (0 if rank else parts["weights"])
        total = (portions * sent + 2 * trained) * (cards - 1) / cards  # at last the whole decoder is filled
        row = {"": name, "train": f"LoRA r {rank}" if rank else "full", "cards": cards, "rest GB": rest / 1e9,
               "update GB": sum(parts.values()) / 1e9}
        for card in ("80 GB", "141 GB"):
            size = float(card.split()[0]) * 1e9
            rows = sum(memory.of_rollout(cfg, n, context, 2, Session.PREFILL) <= memory.SHARE * (size - rest)
                       for n in range(1, most + 1))
            row[card] = rows if rows and sum(parts.values()) <= memory.SHARE * size else None
        row |= {"sent GB": total / 1e9, **{f"s by {link}": total / speed for link, speed in LINKS.items()},
                "s computing": EPISODES * TOKENS / cards / speeds(cfg, 1, context // 4, rank, "80 GB")[1]}
        results.append(row)
    return (f"cards, computed: --shard on 2, 4 and 8 cards, rows of {context:,} tokens at once on each (of {most}), "
            f"and an update of {EPISODES} episodes of {TOKENS:,} tokens", results,
            f"assumed: micro-batches of {context:,} tokens, --recompute, a tenth of a card free, "
            + ", ".join(f"{link} {speed / 1e9:.0f} GB/s" for link, speed in LINKS.items())
            + f", {OF_PRODUCT:.0%} of an H100's products; sent and received by each card; -: does not fit")


# ---- Against TRL's GRPOTrainer: each side in processes of its own ---------------------------------------------------


def play_turns(args, turn, pages, new):
    """(seconds of each turn, the ids of each row, the job of each id); turn(chats, new): what each chat samples."""
    seconds, chats, jobs = [], [[]] * GROUP, []
    for page in pages:
        chats = [chat + page for chat in chats]
        took, drawn = timed(args.device, partial(turn, chats, new))
        assert all(len(ids) == new for ids in drawn)
        seconds.append(took)
        chats, jobs = [chat + ids for chat, ids in zip(chats, drawn)], jobs + [0] * len(page) + [grpo.ACT] * new
    return seconds, chats, jobs


def by_us(args, work):
    """Of the last (pages, new) in `work`: seconds of each turn of a group, seconds of an update on it, its peak GB."""
    def turn(chats, new):
        if not session.ids[0]:  # as envs.begin does
            session.feed([0], chats[:1])
            session.fork([0], GROUP)
        session.feed(range(GROUP), [chat[len(ids):] for chat, ids in zip(chats, session.ids)])
        return [ids for ids, _ in session.sample(range(GROUP), new, stop=())]

    policy = load(args)
    for pages, new in work:
        session = Session(policy, GROUP, sum(map(len, pages)) + new * len(pages))
        seconds, chats, jobs = play_turns(args, turn, pages, new)
    policy = session = None  # an update loads its own
    segments = [Segment(ids, jobs, [0.0] * len(jobs)) for ids in chats]
    updating, peak = one_update(args, segments, GROUP * len(jobs))  # one micro-batch, as TRL's
    if updating is None:
        raise torch.OutOfMemoryError("ours")
    return seconds, updating, peak


def by_trl(args, work):
    """The same by steps of a GRPOTrainer. A turn is what its loop of tools makes of one: it reads the whole chats."""
    import trl
    from datasets import Dataset

    def play(prompts, trainer):
        def turn(chats, new):
            trainer.generation_config.max_new_tokens = trainer.generation_config.min_new_tokens = new
            return trainer._generate_single_turn(chats, None, {}, GROUP)[0]

        pages, new = work[trainer.state.global_step]
        seconds, chats, jobs = play_turns(args, turn, pages, new)
        clear(args.device)
        found.update(seconds=seconds, begun=time.perf_counter())
        first = len(pages[0])
        return {"prompt_ids": [ids[:first] for ids in chats], "completion_ids": [ids[first:] for ids in chats],
                "logprobs": None, "env_mask": [jobs[first:]] * GROUP}

    class Ends(transformers.TrainerCallback):
        def on_step_end(self, *rest, **more):
            timed(args.device, int)  # waits
            found.update(updating=time.perf_counter() - found["begun"], peak=peak_gb(args.device))

    found, cpu = {}, args.device.type == "cpu"
    transformers.utils.logging.set_verbosity_error()
    config = trl.GRPOConfig(
        args.model, per_device_train_batch_size=GROUP, num_generations=GROUP, max_steps=len(work), beta=0.01,
        bf16=not cpu, use_cpu=cpu, gradient_checkpointing=False, report_to="none", save_strategy="no")
    trl.GRPOTrainer(args.model, lambda completions, **more: [(-1.0) ** i for i in range(GROUP)], config,
                    Dataset.from_list([{"prompt": ""}] * GROUP), callbacks=[Ends()], rollout_func=play).train()
    return found["seconds"], found["updating"], found["peak"]


def bench_trl(args, env, bounds):
    if not importlib.util.find_spec("trl"):
        return "trl: skipped, as TRL is not installed (pip install trl)", [], ""
    policy, pairs, new = load(args), 3 if args.mini else 7, 16 if args.mini else 64
    row = conversations(policy, env, 1, min(8192, policy.model.cfg.max_len))[0]
    pages = [page[:96 if args.mini else None] for page, _ in row[:3 if args.mini else 5]]
    with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1, None, (), 1) as process:
        policy.save(f"{folder}/policy")
        asked = argparse.Namespace(**{**vars(args), "model": f"{folder}/policy"}), [(pages[:1], 4), (pages, new)]
        del policy
        try:
            found = [(process.apply(by_us, asked), process.apply(by_trl, asked)) for _ in range(pairs)]
        except torch.OutOfMemoryError:
            return f"trl: skipped, as an update of all weights of {args.model} does not fit {args.device}", [], ""
    tokens, rows = GROUP * (sum(map(len, pages)) + new * len(pages)), []
    for title, figure in {"sampled tokens/s, first turn": lambda turns, update, peak: GROUP * new / turns[0],
                          "s, last turn": lambda turns, update, peak: turns[-1],
                          "tokens/s of the update": lambda turns, update, peak: tokens / update,
                          "its peak GB": lambda turns, update, peak: peak}.items():
        ours, theirs = ([figure(*side) for side in sides] for sides in zip(*found))
        rows.append({"": title, "ours": statistics.median(ours), "from": min(ours), "to": max(ours),
                     "TRL": statistics.median(theirs), "from ": min(theirs), "to ": max(theirs),
                     "ours / TRL": statistics.median(a / b for a, b in zip(ours, theirs))})
    return (f"trl: a group of {GROUP}, turns that read {', '.join(str(len(page)) for page in pages)} tokens and sample "
            f"{new} each, an update on all {tokens:,}", rows,
            f"TRL {importlib.metadata.version('trl')}; medians of {pairs} interleaved pairs of processes")


PARTS = {"rollout": bench_rollout, "decode": bench_decode, "flow": bench_flow, "probes": bench_probes,
         "iteration": bench_iteration, "update": bench_update, "fit": bench_fit, "cards": bench_cards, "trl": bench_trl}


def main():
    parser = argparse.ArgumentParser(description="Measure rollouts, decoding, probes and updates.")
    parser.add_argument("--model", type=path_of, default="",
                        help="tiny, smollm2, a checkpoint, or qwen2.5-0.5b, -1.5b, -3b, -7b "
                             "with random weights (default: qwen2.5-1.5b on a GPU, else tiny)")
    parser.add_argument("--env", default="webshop", help="%(default)s (default) or alfworld")
    parser.add_argument("--device", default="", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, by commas (default: %(default)s)")
    parser.add_argument("--mini", action="store_true", help="less of everything: about two minutes on two CPU cores")
    parser.add_argument("--out", type=path_of, default="runs/bench.json",
                        help="every figure as JSON (default: %(default)s)")
    args = parser.parse_args()
    if not set(args.parts.split(",")) <= set(PARTS):
        parser.error(f"--parts {args.parts}: choose from {', '.join(PARTS)}")
    torch.set_flush_denormal(True)
    transformers.utils.logging.disable_progress_bar()
    try:
        try_to_write(args.out)
        args.device = pick_device(args.device)
        cuda = args.device.type == "cuda"
        args.model = args.model or ("qwen2.5-1.5b" if cuda else "tiny")
        settings = {**results.flags_of(args, envs.make(args.env)), "device": str(args.device)}
        args.dtype = dtype_of(args.device)
        result: dict = {"settings": settings, "machine": machine(args)}
        table("machine", [{"": name, " ": value} for name, value in result["machine"].items()], "")
        for part in args.parts.split(","):
            clear(args.device)
            env = envs.make(args.env)  # anew: some parts change its limit
            try:
                seconds, (title, rows, note) = timed(args.device, partial(PARTS[part], args, env, result["machine"]))
            except (torch.OutOfMemoryError, memory.TooSmall) as error:  # a later part may take less
                print(f"\n{part}: too little memory, left out ({one_line(error)})", flush=True)
                continue
            table(title, rows, note)
            print(f"  ({part} took {seconds:.0f} s)", flush=True)
            result[part] = {"title": title, "note": note, "rows": rows, "seconds": seconds}
            results.write(args.out, result)  # after each part: a later one may fail
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"studies.bench: {error}")


if __name__ == "__main__":
    with guard("studies.bench", None, BROKEN):
        main()

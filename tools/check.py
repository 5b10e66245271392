"""
Does this device compute what a CPU computes, and how fast? `python -m tools.check [--device X] [--model Y]`

    device    a kernel ran; what the device is
    noise     the noise of a draw is the CPU's
    draw      the compiled draw and rotation are the plain ones, and they were compiled
    attention in the device's dtype against float64, at scores of thousands: decoding, prefill, training
    episodes  the shipped tiny in float32 plays what it plays on a CPU; on a card also recorded as unrecorded
    graphs    a card: recorded steps of a 0.5B are the unrecorded ones; MB and ms of each recording
    ratio     sampler against trainer, before any step: of --model, else of random weights with large key biases
    update    the peak of an update against the computed one
    short     a card: a rollout with 2 GB left
    train     train.py new, resumed and with LoRA, in processes of their own
    speed     tokens/s of decoding, prefill and an update, and their share of the measured bandwidth and product

One JSON line per check: its name, ok (null: not for this device, and why), figures, seconds. Status 1 where one fails.
train.py runs the first five before its first iteration on anything but a CPU.
"""

import argparse
import copy
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import torch
import torch.nn.functional as F

import dualadv_grpo as grpo
import envs
import policy as policies
from lib import fused, graphs, lora, memory
from lib.device import WITHOUT, dtype_of, pick_device, run_a_kernel
from lib.files import one_line, print_anything
from lib.streams import gumbel, mix
from policy import Session, draw, logprobs, rotate
from skillbank import SkillBank
from tools import fits
from tools.flags import path_of
from tools.guard import alone
from tools.measure import MINI, QWEN, attention_flops, clear, machine_bounds, matrices, random_policy, shape, timed

FIRST = ("device", "noise", "draw", "attention", "episodes")  # before a run
LONG = 600  # seconds that a run of `train` may take; on two busy cores it takes 20
TIE = 1e-3  # two tokens whose scores are as near as this may be drawn one for the other
SMALL = ("--env webshop --tasks 1 --group 2 --cold_start 0 --eval_every 0 --act_tokens 8 --review_tokens 8 --probes 1 "
         "--confirm 1 --context 1500 --lr 1e-3 --save_every 1").split()


class Wrong(Exception):
    """A check has failed; the message says by how much."""


class Skipped(Exception):
    """A check is not for this device; the message says why."""


@contextmanager
def without(part):
    """Do without a part of lib.device.PARTS for a while."""
    before = set(WITHOUT)
    WITHOUT.add(part)
    try:
        yield
    finally:
        WITHOUT.clear()
        WITHOUT.update(before)


def need(ok, what):
    if not ok:
        raise Wrong(what)


def a_card(device):
    if device.type != "cuda":
        raise Skipped("for a card that records its steps")


def seeds_of(count, device):
    return torch.tensor([mix(0, i) for i in range(count)], dtype=torch.int32, device=device)


# ---- The checks: functions of (device, --model) that return figures, or raise Wrong or Skipped ----------------------


@contextmanager
def made_up():
    """Whatever $WEBSHOP_DATA says: the shop of a check is the made-up one."""
    data = os.environ.pop("WEBSHOP_DATA", None)
    try:
        yield
    finally:
        if data is not None:
            os.environ["WEBSHOP_DATA"] = data


def check_device(device, model):
    run_a_kernel(device)
    figures = {"device": str(device), "torch": torch.__version__, "dtype": name_of(dtype_of(device)),
               "gb_free": memory.free(device) / 1e9}
    if device.type == "cuda":
        figures |= {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda or torch.version.hip,
                    "capability": ".".join(map(str, torch.cuda.get_device_capability(device)))}
    return figures


def half_of(device):
    """What is checked for its rounding: what the device computes in, on a CPU bfloat16 all the same."""
    return torch.bfloat16 if device.type == "cpu" else dtype_of(device)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def check_noise(device, model):
    """Integers that wrap, shifts and logarithms: the streams of a run are the same on every device."""
    here, there = gumbel(seeds_of(64, "cpu"), 5000, "cpu"), gumbel(seeds_of(64, device), 5000, device).cpu()
    apart = (here - there).abs().max().item()
    need(torch.equal(here.argmax(-1), there.argmax(-1)), "other tokens would be drawn than on a CPU")
    need(apart < 1e-4, f"the noise differs from the CPU's by {apart:.1e}")
    return {"apart": apart}


def check_draw(device, model):
    """What is compiled on a card; on a CPU with a C++ compiler it is compiled for this check alone."""
    if device.type == "mps" or "compilation" in WITHOUT:
        raise Skipped("nothing is compiled here")
    torch.manual_seed(0)
    logits, seeds = 3 * torch.randn(48, 5000, device=device), seeds_of(48, device)
    x, angle = torch.randn(2, 4, 9, 32, device=device).to(half_of(device)), torch.randn(2, 1, 9, 32, device=device)
    wanted, fused.wanted = fused.wanted, lambda tensor: True
    try:
        with torch.no_grad():
            ids, logp = draw(logits, seeds, 0.7)
            turned = rotate(x, angle.cos(), angle.sin())
    finally:
        fused.wanted = wanted
    plain_ids, plain_logp = draw.__wrapped__(logits, seeds, 0.7)
    plain_turned = rotate.__wrapped__(x, angle.cos(), angle.sin())
    if any(one.compiled is one.__wrapped__ for one in (draw, rotate)):
        if device.type == "cpu":
            raise Skipped("torch.compile has no C++ compiler here")
        raise Wrong("torch.compile does not work here")
    apart = (logp - plain_logp).abs().max().item()
    need(torch.equal(ids, plain_ids), "compiled, other tokens are drawn")
    need(apart < 1e-4, f"compiled, log p is off by {apart:.1e}")
    other = (turned != plain_turned).float().mean().item()  # a product and a sum may be one operation, compiled
    need(other < 0.01, f"compiled, {other:.0%} of the rotated numbers differ")
    return {"apart": apart, "rotated_apart": other}


def check_attention(device, model):
    """A key bias of 300 in one dimension, queries of 20 or so there: one in scores of thousands is all that counts."""
    dtype, span, new = half_of(device), 200, 8
    generator = torch.Generator().manual_seed(0)

    def numbers(*shape):
        return torch.randn(shape, generator=generator)

    def exact(q, k, v, mask):  # of the rounded numbers
        scores = q.double() @ k.double().transpose(-1, -2) * q.shape[-1] ** -0.5 + mask.double()
        return scores.softmax(-1) @ v.double()

    k, v = numbers(3, 2, span, 64), numbers(3, 2, span, 64)
    k[..., -1] += 300
    one, many, whole = numbers(3, 2, 4, 64), numbers(3, 2, 4 * new, 64), numbers(3, 2, span, 64)
    for q in (one, many, whole):
        q[..., -1] *= 20
    k, v, one, many, whole = (t.to(dtype) for t in (k, v, one, many, whole))
    seen = torch.arange(span)[None] <= torch.arange(span - new, span)[:, None]  # (new, span)
    masks = {rows: torch.zeros(rows, span).masked_fill_(~seen[-1:] if rows == 4 else ~seen.repeat(4, 1), -math.inf)
             .expand(3, 1, rows, span).to(dtype) for rows in (4, 4 * new)}
    causal = torch.zeros(span, span).masked_fill_(torch.ones(span, span).triu(1).bool(), -math.inf)
    there = partial(torch.Tensor.to, device=device)
    found = {
        "decoding": (fused.attend(there(one), there(k), there(v), there(masks[4]), alone=True), one, masks[4]),
        "prefill": (fused.attend(there(many), there(k), there(v), there(masks[4 * new]), alone=False), many,
                    masks[4 * new]),
        "training": (F.scaled_dot_product_attention(there(whole), there(k), there(v), is_causal=True), whole, causal)}
    errors = {name: (out.cpu().double() - exact(q, k, v, mask)).abs().max().item()
              for name, (out, q, mask) in found.items()}
    scores = (one.float() @ k.float().transpose(-1, -2)).abs().max().item() * 64 ** -0.5
    need(max(errors.values()) < 0.05, f"attention is off by {errors} of numbers near 1, at scores up to {scores:.0f}")
    return {"dtype": name_of(dtype), "scores": scores, **errors,
            "products": device.type == "cuda" and fused.wide(device, dtype)}


def check_episodes(device, model):
    """The shipped tiny: on a card recorded, unrecorded and on the CPU, elsewhere all at once and flowing."""
    with made_up():
        env = envs.make("webshop")
    env.limit = 3
    sampling = envs.Sampling(act_tokens=64, review_tokens=64, context=1200, top_k=4)

    def played(policy, flows):  # without envs.rollout, where the processes of torchrun would wait for each other
        policy.flows, most = flows, envs.prompt_limit(policy, env, sampling)
        plays = [envs.prepare(policy, env, env.train_tasks[i // 2], SkillBank(), i, sampling.top_k, most)
                 for i in range(8)]
        return envs.play(plays, policy, env, 1, sampling, True, "check")

    reference, policy = (policies.load("tiny", place, torch.float32) for place in ("cpu", device))
    plain, fast = played(reference, False), played(policy, True)
    figures = {"tokens": sum(job != grpo.FORCED for e in plain for s in e.segments for job in s.job)}
    others = {"as fast as it can": fast}
    if device.type == "cuda" and "recordings" not in WITHOUT:
        figures["recorded"] = sum(map(bool, policy.kept.graphs.recorded.values()))
        need(figures["recorded"], "no step was recorded")
        with without("recordings"):
            policy.kept = None
            others["without recordings"] = played(policy, True)
    for name, episodes in others.items():
        for one, other in zip(plain, episodes, strict=True):
            compare(reference, one, other, sampling.temperature, f"{name}, ")
    for one, other in zip(fast, others.get("without recordings", fast), strict=True):
        compare(reference, one, other, sampling.temperature, "recorded against unrecorded, ")
    figures["same"] = sum(a.segments[-1].ids == b.segments[-1].ids for a, b in zip(plain, fast)) / len(plain)
    return figures


def compare(policy, one, other, temperature, name):
    """Wrong where an episode draws another token though none was as likely, or gives one another probability.

    policy: on the CPU, it says how near the two were; name: what the line says of the pair. What comes after a tie is
    another episode.
    """
    for mine, theirs in zip(one.segments, other.segments):
        for i, (token, drawn) in enumerate(zip(mine.ids, theirs.ids)):
            if token != drawn:
                need(mine.job[i] != grpo.FORCED, f"{name}another page came though the answers were the same")
                begun = next(j for j in range(i, -1, -1) if j == 0 or mine.turn[j - 1] != mine.turn[i])
                seed = mix(1, one.key, mine.turn[i], i - begun)
                with torch.no_grad():
                    logits = policy.model(torch.tensor([mine.ids[:i]]))[0, -1].float() / temperature
                scores = logits + gumbel([seed], len(logits), "cpu")[0]
                apart = (scores[token] - scores[drawn]).abs().item()
                need(apart < TIE, f"{name}another token is drawn, whose score is {apart:.2g} apart")
                return
            apart = abs(mine.logp[i] - theirs.logp[i])
            need(apart < TIE, f"{name}log p of a token is {apart:.2g} apart")
        need(len(mine.ids) == len(theirs.ids), f"{name}{len(theirs.ids)} tokens came, not {len(mine.ids)}")
    counts = len(other.segments), len(one.segments)
    need(counts[0] == counts[1], f"{name}an episode has {counts[0]} stretches of transcript, not {counts[1]}")


def prompts(count, length):
    rng = random.Random(0)
    return [[rng.randrange(3, 1500) for _ in range(length + 7 * i)] for i in range(count)]


def check_graphs(device, model):
    """Steps of a 0.5B that are recorded and replayed, against the same steps one kernel at a time."""
    a_card(device)
    if "recordings" in WITHOUT:
        raise Skipped("nothing is recorded here")
    policy, costs = random_policy(shape(QWEN["qwen2.5-0.5b"]), device, dtype_of(device)), []
    record = graphs.Graphs._record

    def timed_record(self, step, *shape):
        before = torch.cuda.memory_reserved(device)
        seconds, recording = timed(device, lambda: record(self, step, *shape))
        costs.append({"rows": shape[0], "span": shape[1], "ms": 1000 * seconds,
                      "mb": (torch.cuda.memory_reserved(device) - before) / 2**20})
        return recording

    def turns():
        policy.kept = None
        session = Session(policy, 16, 1024)
        session.feed(range(16), prompts(16, 300))
        return session.sample(range(16), [16 + 12 * i for i in range(16)], stop=())

    graphs.Graphs._record = timed_record
    try:
        fast = turns()
    finally:
        graphs.Graphs._record = record
    with without("recordings"):
        plain = turns()
    same = sum(a == b for one, other in zip(plain, fast) for a, b in zip(one[0], other[0]))
    count = sum(len(ids) for ids, _ in plain)
    need(costs, "nothing was recorded")
    need(same == count, f"{count - same} of {count} tokens differ where steps are recorded")
    return {"tokens": count, "recordings": costs}


def check_ratio(device, model):
    """The log-ratio of trainer to sampler before any step: train.py's `mismatch`."""
    if model:
        policy = policies.load(model, device)
    else:
        big = device.type == "cuda"
        policy = random_policy(shape(QWEN["qwen2.5-0.5b"] if big else MINI), device,
                               half_of(device), key_bias=300.0, std=0.02 if big else 0.05)
    rows, apart = 8, []
    session, asked = Session(policy, rows, 512), prompts(rows, 150)
    session.feed(range(rows), [list(ids) for ids in asked])
    for ids, (drawn, logp) in zip(asked, session.sample(range(rows), 64)):
        tokens = torch.tensor([ids + drawn], device=device)
        mask = torch.arange(tokens.shape[1], device=device)[None] >= len(ids)
        with torch.no_grad():
            apart.append(logprobs(policy.model, tokens, mask)[mask].cpu() - torch.tensor(logp))
    log_ratio = torch.cat(apart)
    std, outside = log_ratio.std().item(), ((log_ratio.exp() - 1).abs() > 0.2).float().mean().item()
    need(std < 0.05 and outside < 0.01, f"mismatch {std:.3f}, {outside:.1%} of the tokens outside 1 +- 0.2")
    return {"model": model or "random, key biases of 300", "dtype": name_of(policy.model.model.norm.weight.dtype),
            "tokens": len(log_ratio), "mismatch": std, "outside": outside}


def segments_of(rows, length):
    return [SimpleNamespace(ids=ids[:length], logp=[-1.0] * length, job=[0] * 20 + [1] * (length - 20))
            for ids in prompts(rows, length)]


def check_update(device, model):
    """The peak of an update against tools.fits: on a CPU counted by what torch allocates, on a card measured."""
    half = dtype_of(device).itemsize == 2
    cfg, length = (shape(QWEN["qwen2.5-0.5b"]), 2048) if device.type == "cuda" else (shape(MINI), 256)
    how, figures = fits.Training(2 if half else 4, 2 * length, length, reference=True), {}
    for name, more in (("all weights", {}), ("LoRA, recomputed", {"lora": 8, "recompute": True})):
        how = fits.Training(**{**vars(how), **more})
        clear(device)
        computed, counted = sum(fits.of_training(cfg, how).values()), fits.Alive()
        if computed > memory.SHARE * memory.free(device):
            raise Skipped(f"an update of a 0.5B takes {computed / 1e9:.1f} GB")
        with counted if device.type != "cuda" else memory_of(device) as peak:
            policy = random_policy(cfg, device, dtype_of(device))
            if how.lora:
                lora.add(policy.model, how.lora)
            policy.model.recompute = how.recompute
            reference = lora.Reference(policy.model) if how.lora else copy.deepcopy(policy.model).requires_grad_(False)
            optimizer = grpo.AdamW(policy.model.parameters(), 1e-6)
            for _ in range(2):  # the moments are there from the second step on
                peak.peak = peak.now
                grpo.update(policy.model, reference, optimizer, segments_of(2, length), [[1.0] * length] * 2, logprobs,
                            grpo.Objective(budget=how.budget))
            measured = peak.peak
        figures[name] = {"peak_gb": measured / 1e9, "computed_gb": computed / 1e9, "of_computed": measured / computed}
        need(measured <= 1.05 * computed, f"{name}: {measured / 1e9:.2f} GB, computed were {computed / 1e9:.2f}")
        del policy, reference, optimizer
    return figures


@contextmanager
def memory_of(device):
    """As fits.Alive, by a card's own count: .now, and .peak since it was last set."""

    class Card:
        now = property(lambda self: torch.cuda.memory_allocated(device))
        peak = property(lambda self: torch.cuda.max_memory_allocated(device),
                        lambda self, value: torch.cuda.reset_peak_memory_stats(device))

    yield Card()


def check_short(device, model):
    """A rollout whose memory is nearly gone plays fewer episodes at once, and plays them."""
    a_card(device)
    policy = random_policy(shape(QWEN["qwen2.5-0.5b"]), device, dtype_of(device))
    policy.keep, policy.rows = False, memory.Rows()
    with made_up():
        env = envs.make("webshop")
    env.limit = 2
    clear(device)
    taken = torch.empty(max(torch.cuda.mem_get_info(device)[0] - 2 * 10**9, 0), dtype=torch.uint8, device=device)
    left = memory.free(device)
    episodes = envs.rollout(policy, env, env.train_tasks[:8], SkillBank(), 8, sampling=envs.Sampling(
        act_tokens=16, review_tokens=16, context=8192))
    del taken
    need(len(episodes) == 64 and all(e.steps for e in episodes), "not all episodes were played")
    need(policy.rows.played < 64, f"all 64 episodes were played at once with {left / 1e9:.1f} GB left")
    return {"gb_left": left / 1e9, "episodes": len(episodes), "at_once": policy.rows.played}


def check_train(device, model):
    """Whole runs as a user starts them; a failure shows their last lines."""
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, more in (("new", ["--steps", "1"]), ("resumed", ["--steps", "2", "--resume"]),
                           ("lora", ["--steps", "1", "--lora", "4"])):
            out = Path(folder) / ("lora" if name == "lora" else "whole")
            where = ["--model", "tiny", "--device", str(device), "--out", str(out)]
            begin = time.perf_counter()
            with made_up():
                ended = subprocess.run([sys.executable, "train.py", *SMALL, *where, *more], text=True,
                                       errors="replace", cwd=Path(__file__).parents[1], stdout=subprocess.PIPE,
                                       stderr=subprocess.STDOUT, timeout=LONG)
            need(ended.returncode == 0, f"{name}: " + " / ".join(ended.stdout.splitlines()[-3:]))
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            need([row["step"] for row in rows] == list(range(1, len(rows) + 1)), f"{name}: an iteration is missing")
            need(rows[-1]["mismatch"] < 0.05, f"{name}: mismatch {rows[-1]['mismatch']:.3f}")
            figures[name] = {"seconds": time.perf_counter() - begin, "mismatch": rows[-1]["mismatch"]}
    return figures


def check_speed(device, model):
    """Tokens/s of random weights; shares of what this machine reads and multiplies at most, measured here."""
    big = device.type == "cuda"
    name, rows, context, steps = ("qwen2.5-0.5b", 64, 1024, 64) if big else ("mini", 8, 128, 16)
    dtype = dtype_of(device)
    policy = random_policy(shape(QWEN.get(name, MINI)), device, dtype)
    cfg, (read, multiplied) = policy.model.cfg, machine_bounds(device, dtype)
    layers, head = matrices(cfg)
    session = Session(policy, rows, context + 8 * rows + 2 * steps)
    for _ in range(2):  # the first one warms up
        for row in range(rows):
            session.reset(row)
        asked = [ids[:context + 1] for ids in prompts(rows, context + 1)]
        reading, _ = timed(device, partial(session.feed, range(rows), asked))
    session.sample(range(rows), steps, stop=())
    decoding, _ = timed(device, partial(session.sample, range(rows), steps, stop=()))
    cached = 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * rows * (context + 1.5 * steps)
    step_bytes = dtype.itemsize * (layers + head + cached)
    prefill_flops = 2 * layers * rows * context + attention_flops(cfg, [context] * rows)  # the LM head does not run
    del session
    policy.kept = None
    clear(device)
    optimizer, some = grpo.AdamW(policy.model.parameters(), 1e-6), segments_of(4, context)
    update = partial(grpo.update, policy.model, None, optimizer, some, [[1.0] * context] * 4, logprobs,
                     grpo.Objective(kl=0.0, budget=2 * context))
    update()  # warms up
    updating, _ = timed(device, update)
    update_flops = 3 * (2 * (layers + head) * 4 * context + attention_flops(cfg, [context] * 4))
    return {"model": name, "dtype": name_of(dtype), "copy_gb_s": read / 1e9, "product_tflop_s": multiplied / 1e12,
            "decode_tokens_s": rows * steps / decoding, "decode_of_copy": step_bytes * steps / decoding / read,
            "prefill_tokens_s": rows * context / reading, "prefill_of_product": prefill_flops / reading / multiplied,
            "update_tokens_s": 4 * context / updating, "update_of_product": update_flops / updating / multiplied}


CHECKS = {"device": check_device, "noise": check_noise, "draw": check_draw, "attention": check_attention,
          "episodes": check_episodes, "graphs": check_graphs, "ratio": check_ratio, "update": check_update,
          "short": check_short, "train": check_train, "speed": check_speed}


# ---- Running them ---------------------------------------------------------------------------------------------------


def run(name, device, model=""):
    """A check as what is printed of it: {"check", "ok": True, False or None, figures or "why", "seconds"}."""
    begin = time.perf_counter()
    try:
        with redirect_stdout(sys.stderr):  # the command's output is one JSON line per check
            found = {"ok": True, **CHECKS[name](device, model)}
    except Skipped as why:
        found = {"ok": None, "why": str(why)}
    except Wrong as why:
        found = {"ok": False, "why": str(why)}
    except Exception as error:  # whatever a device, its driver or a compiler can do
        found = {"ok": False, "why": f"{type(error).__name__}: {one_line(error)}"}
    if device.type != "cpu":
        clear(device)
    return {"check": name, **found, "seconds": time.perf_counter() - begin}


def before_a_run(device):
    """The first checks on a device that a run is to train on: it goes on without what is wrong, or not at all.

    ValueError, one line, where the device computes something else with nothing left to leave out.
    """
    if device.type == "cpu":
        return
    for name in FIRST:
        part = {"draw": "compilation", "episodes": "recordings"}.get(name)
        found = run(name, device)
        if found["ok"] is False and device.type == "cuda" and part and part not in WITHOUT:
            WITHOUT.add(part)
            print(f"{device}, check {name}: {found['why']}; going on without {part}", flush=True)
            found = run(name, device)
        if found["ok"] is False:
            raise ValueError(f"--device {device} computes something else than a CPU (check {name}: {found['why']}); "
                             "`python -m tools.check` says more, --device cpu trains on the CPU")
    for one in (draw, rotate):  # what was compiled here counts against the number of shapes that a run may compile
        one.compiled = one.__wrapped__ if one.compiled is one.__wrapped__ else None
    torch.compiler.reset()
    if device.type == "mps":
        print("mps: the checks pass, and no run was ever made on this kind of device; please report how it went",
              flush=True)


def untested(device):
    """`before_a_run` for all that trains nothing or begins no run: where nobody has ever seen such a device."""
    if device.type == "mps":
        before_a_run(device)


def rounded(value):
    """Figures with four digits, as they are read."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(argv=None):
    parser = argparse.ArgumentParser(prog="tools.check", allow_abbrev=False, description=(
        "Check that a device computes what a CPU computes, and how fast: one JSON line per check."))
    parser.error = lambda message: parser.exit(2, f"tools.check: {message}; --help lists the flags\n")  # type: ignore
    parser.add_argument("--device", default="", help="cpu, cuda, mps ... (default: cuda where there is one)")
    parser.add_argument("--model", default="", type=path_of, help="whose weights `ratio` takes (default: random ones)")
    parser.add_argument("--checks", default=",".join(CHECKS), help="some of them, by commas (default: %(default)s)")
    args = parser.parse_args(argv)
    alone("tools.check")
    names = args.checks.split(",")
    if unknown := sorted(set(names) - CHECKS.keys()):
        parser.error(f"--checks: there is no {unknown[0]}")
    print_anything()
    torch.set_flush_denormal(True)
    try:
        device = pick_device(args.device)
    except ValueError as error:
        print(json.dumps({"check": "device", "ok": False, "why": str(error)}), flush=True)
        raise SystemExit(1) from None
    failed = False
    for name in names:
        found = run(name, device, args.model)
        print(json.dumps(rounded(found)), flush=True)
        failed |= found["ok"] is False
    if WITHOUT:  # a check went on without them: it computes right, and slowly
        print(json.dumps({"check": "parts", "ok": False, "why": f"went on without {', '.join(sorted(WITHOUT))}"}))
        failed = True
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()

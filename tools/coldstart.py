"""
The cold start: supervised fine-tuning (SFT) on transcripts before the first iteration. The paper starts from such a
model. train.py --cold_start N does it with the settings below; as a command it makes a checkpoint:

    python -m tools.coldstart --env guess --model tiny --steps 50 --out runs/guesser     # a new tiny, from nothing
    python train.py --env guess --model runs/guesser

A pretrained model needs some dozen steps of plain AdamW to learn the form of a turn and of a review. `tiny` starts from
nothing. It must first learn to read: that takes Muon on the matrices, many small batches and a share of the loss on the
prompt tokens. Then it must learn to copy: that takes a higher weight on copied words. This was done once and is
shipped, see worlds/*/tiny/README.md.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import math
import random
import time
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

import dualadv_grpo as grpo
import envs
import policy as policies
import worlds
from lib import models
from lib.chat import read_chats
from lib.context import drop_oldest
from lib.device import pick_device, refuse_large
from lib.files import check_room, one_line, print_anything
from lib.skillfiles import SKILL
from policy import logprobs
from skillbank import Skill, review_prompt, tool_call
from tools import check, report
from tools.flags import flag, parse, preset_of, presets_of
from tools.guard import BROKEN, UNFINISHED, claim, guard
from worlds.players import WORDINGS

EVERY = 10  # seconds between two saves at least; more where a save takes long, so that saving costs a twentieth at most
DISK = 5e8  # bytes/s of a disk, assumed until the first save has been timed


@dataclass
class Flags:
    env: str = flag("webshop", "world whose scripted players write the transcripts", choices=worlds.names(),
                    group="what to make")
    model: str = flag("tiny", "HF id or directory to begin with; tiny: a new one, made from nothing")
    like: str = flag("", "directory of another tiny, which lends a new one its layers and its vectors of words")
    spread: bool = flag(False, "move those of its vectors apart that have drifted to one: words it hardly met")
    out: str = flag("", "directory of the checkpoint")
    data: str = flag("", "directory of the real data; '' is $WEBSHOP_DATA or $ALFWORLD_DATA, else made-up games")
    resume: bool = flag(False, "go on with the unfinished cold start in --out")
    seed: int = flag(0, "seed of all random numbers")
    device: str = flag("", "cpu, cuda, ...; '' is cuda where there is one")

    steps: int = flag(100, "SFT steps", 1, group="how")
    chats: str = flag("", 'JSON lines {"messages": [{"role", "content"}, ...]} to train on instead')
    batch: int = flag(16, "transcripts per step", 1)
    lr: float = flag(1e-5, "peak learning rate", 0)
    muon: float = flag(0.0, "peak learning rate of Muon on the layers' matrices; 0: AdamW for everything", 0)
    adam_beta: float = flag(0.999, "how long AdamW remembers a gradient's size; .95 forgets those of rare words", 0)
    eps: float = flag(1e-8, "what AdamW adds to it: of much smaller gradients it makes smaller steps", 0)
    prompt: float = flag(0.0, "weight of the loss on prompt and page tokens", 0)
    copy: float = flag(1.0, "weight of the loss on words copied from the task or a page", 0)
    keep_absent: bool = flag(False, "no gradient for the vectors of words that a step's transcripts do not have (what "
                                    "Adam remembers still moves them a little); else each step pushes them all one way")
    max_norm: float = flag(1.0, "gradient norm above which gradients are scaled down", 0)
    budget: int = flag(4096, "tokens per micro-batch, padding included", 1)
    offload: bool = flag(False, "keep optimiser state and master weights in the CPU's memory")
    recompute: bool = flag(False, "gradient checkpointing: less memory, a third more time")

    context: int = flag(8192, "most tokens per transcript; the oldest turns beyond it are dropped", 1,
                        group="lengths that a new tiny remembers, see train.py")
    act_tokens: int = flag(256, "most tokens per action turn", 8)
    review_tokens: int = flag(512, "most tokens per review", 8)
    top_k: int = flag(3, "skills in a prompt", 0)

    options: dict = field(default_factory=dict)  # the world's own flags


PRESETS = {
    "tiny": dict(batch=2, lr=3e-3, muon=0.02, adam_beta=0.95, prompt=0.2, context=3072, act_tokens=96,
                 review_tokens=160, top_k=4),
    "smollm2": dict(batch=4, lr=2e-4, budget=2048, context=4096),
}
LENGTHS = ("act_tokens", "review_tokens", "context", "top_k")
# What may change when a cold start is resumed: the memory that it takes, and what the machine gives.
FREE = ("budget", "offload", "recompute", "context", "threads")
LESS = "--recompute, --offload, a smaller --budget or --context take less memory"
# What the cold start of a run takes from the run's flags; the rest is the preset of its model.
SHARED = ("env", "model", "out", "data", "resume", "seed", "device", "max_norm", "budget", "offload", "recompute",
          *LENGTHS, "options")


def of_run(flags) -> Flags:
    """The settings of the cold start that train.py --cold_start N makes."""
    shared = {name: getattr(flags, name) for name in SHARED}
    data = flags.data or os.environ.get(f"{flags.env.upper()}_DATA", "")
    preset = preset_of(flags.model, presets_of(flags.env, PRESETS, data, LENGTHS))
    preset = {name: value for name, value in preset.items() if name != "cold_start"}
    return Flags(**{**preset, **shared, "steps": flags.cold_start})


def cold_start(policy, env, flags: Flags):
    """Train `policy` on flags.steps batches of transcripts, scripted or from flags.chats, and print the loss.

    Every assistant token is trained, its stop token too, and each given token with weight flags.prompt; a player's
    mistakes count as given. flags.muon: learning rate of Muon on the matrices inside the layers; 0: AdamW for
    everything. With flags.resume it goes on where the file UNFINISHED in flags.out
    stopped; on a CPU the result is equal bit for bit.
    """
    batches = batches_of(env, flags)
    file = Path(flags.out) / UNFINISHED
    optimizers = Optimizers(policy, flags)
    rules = set(policy.chat.encode(env.rules + review_prompt("general", True, 0.0, 0, 0)))
    limit = min(flags.context, policy.model.cfg.max_len)
    settings = settings_of(flags, env)
    first, cut, losses = restore(file, policy, optimizers, settings) if flags.resume and file.is_file() else (0, 0, [])
    size = sum(saved_bytes(policy.model))
    there = file.stat().st_size if file.is_file() else 0
    check_room(file.parent, 2 * size - there, "the unfinished cold start")  # the old one stays while it is written
    begun = saved = time.monotonic()
    cost = size / DISK  # seconds of the last save
    for step, batch in enumerate(report.bar("cold start")(batches[first:]), first):
        rows = [policy.chat.transcript(chat) for chat in batch]
        cut += sum(len(ids) > limit for ids, _ in rows)
        rows = [shorten(ids, sampled, limit) for ids, sampled in rows]
        weights = [weigh(ids, sampled, rules, flags.copy) for ids, sampled in rows]
        if not sum(map(sum, weights)):
            raise ValueError(f"cold start: nothing to learn in {limit} tokens of a transcript; raise --context")
        present = sorted({token for ids, _ in rows for token in ids}) if flags.keep_absent else None
        losses.append(sft_step(policy, rows, weights, flags.prompt, flags.budget,
                               partial(optimizers.accumulate, present)))
        # Warm up over a fiftieth, then straight down (from .03 above the peak) to a twentieth of it.
        done = (step + 1) / len(batches)
        optimizers.step(min(done / 0.02, 1.05 - done))
        left = (time.monotonic() - begun) / (step + 1 - first) * (len(batches) - step - 1)
        if 10 * (step + 1) // len(batches) > 10 * step // len(batches):  # ten times, or after each of fewer steps
            last = losses[-max(len(batches) // 10, 1):]
            print(f"cold start: {step + 1} steps, {(step + 1) * flags.batch} transcripts, loss "
                  f"{sum(last) / len(last):.3f} per token, {left / 60:.0f} min left", flush=True)
        if time.monotonic() - saved >= (max(EVERY, 20 * cost) if EVERY else 0):
            begin = time.monotonic()
            file.parent.mkdir(parents=True, exist_ok=True)
            state = {"step": step + 1, "cut": cut, "losses": losses, "model": policy.model.state_dict(),
                     "optimizers": optimizers.state_dict(), "settings": settings}
            save_tensors(state, file)
            saved = time.monotonic()
            cost = saved - begin
    if cut:
        print(f"cold start: {cut} transcripts were longer than {limit} tokens and lost their oldest turns")


def settings_of(flags: Flags, env) -> dict:
    """The settings of a cold start that its file keeps; of games, or of chats, what they hold.

    When it is resumed they are the same, but for those in FREE.
    """
    kept = {name: value for name, value in {**vars(flags), **flags.options}.items()
            if name not in ("resume", "device", "out", "data", "options", "chats", "like")}
    read = worlds.identity(env)["fingerprint"]  # of chats, too: a new tiny's words are the world's
    read = f"{zlib.crc32(Path(flags.chats).read_bytes())} for {read}" if flags.chats else read
    return {**kept, "transcripts from": read, "threads": torch.get_num_threads()}


def restore(file, policy, optimizers, settings):
    """(first step, cut transcripts, losses) of a saved cold start, whose weights and moments are put in place."""
    try:  # to the CPU: a card that holds the model and its optimiser has no room for both once more
        state = torch.load(file, map_location="cpu", weights_only=True)
        before = {**settings, **state.get("settings", {})}
        if all(before[name] == value or name in FREE for name, value in settings.items()):  # else it is said below
            policy.model.load_state_dict(state["model"])
            optimizers.load_state_dict(state["optimizers"])
    except torch.OutOfMemoryError:  # the file is whole
        raise
    except Exception as error:  # zipfile, pickle and torch have many for a damaged file
        raise ValueError(f"{file} is cut short or damaged ({one_line(error)}); delete it, and --resume begins the cold "
                         "start again") from None
    changed = []
    for name, value in settings.items():
        if (was := before[name]) != value:
            if name not in FREE:
                raise ValueError(f"--resume: {file} was begun with {name} {was}, this is {value}; give the same flags "
                                 "and data")
            changed.append(f"{name} {was} -> {value}")
    said = f" with {', '.join(changed)}, which may round otherwise" if changed else ""
    print(f"cold start: going on after {state['step']} steps{said}", flush=True)
    return state["step"], state["cut"], state["losses"]


def saved_bytes(model):
    """(bytes of the weights, of the optimiser's state) on the disk: master weights are saved of bfloat16 alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return (sum(p.numel() * p.element_size() for p in model.parameters()),
            sum(p.numel() * (12 if p.element_size() == 2 else 8) for p in trained))


def save_tensors(state, file):
    """torch.save under another name, then a rename. OSError where the disk is full (torch raises RuntimeError)."""
    new = Path(f"{file}.new")
    try:
        torch.save(state, new)
    except RuntimeError as error:
        raise OSError(f"{file} could not be written ({one_line(error)}); is the disk full?") from error
    os.replace(new, file)


def batches_of(env, flags):
    """The chats of each step: lists of messages."""
    if flags.chats:
        chats = read_chats(flags.chats)
        return [random.Random(f"{flags.seed}/sft/{step}").choices(chats, k=flags.batch)
                for step in range(flags.steps)]
    chats = demonstrations(env, flags.steps * flags.batch, flags.seed)
    return [chats[i:i + flags.batch] for i in range(0, len(chats), flags.batch)]


class Optimizers:
    """AdamW, or Muon on the matrices of the layers and AdamW on the rest."""

    def __init__(self, policy, flags):
        self.flags, self.muon = flags, None
        # The vectors of words, and where they are others, those that score the next word.
        self.words = [p for p in policy.model.parameters()
                      if p.requires_grad and p.dim() == 2 and len(p) == policy.model.cfg.vocab_size]
        rest = [p for p in policy.model.parameters() if p.requires_grad]
        if flags.muon:
            if not hasattr(torch.optim, "Muon"):
                raise ValueError(f"--muon: torch {torch.__version__} has no Muon, 2.9 has; or --muon 0")
            matrices = [p for p in policy.model.model["layers"].parameters() if p.dim() == 2 and p.requires_grad]
            rest = [p for p in rest if all(p is not matrix for matrix in matrices)]
            self.muon = torch.optim.Muon(matrices, flags.muon, weight_decay=0.0)
        self.adam = grpo.AdamW(rest, flags.lr, (0.9, flags.adam_beta), flags.offload)
        self.adam.adam.param_groups[0]["eps"] = flags.eps

    def accumulate(self, present=None):
        """Call it after each backward. present: the only words whose vectors are trained; None: all."""
        for words in self.words if present is not None else ():
            kept = words.grad[present]
            words.grad.zero_()[present] = kept
        self.adam.accumulate()

    def state_dict(self):
        return {"adam": self.adam.state_dict(), "muon": self.muon.state_dict() if self.muon else None}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        if self.muon:
            self.muon.load_state_dict(state["muon"])

    def step(self, scale):
        """One step at `scale` times the peak learning rates."""
        norm = self.adam.step(self.flags.max_norm, self.flags.lr * scale)
        if self.muon:
            self.muon.param_groups[0]["lr"] = self.flags.muon * scale
            if math.isfinite(norm):  # as AdamW's
                self.muon.step()
            self.muon.zero_grad()


def sft_step(policy, rows, weights, prompt_weight=0.0, budget=4096, accumulate=lambda: None):
    """Gradients of one step of weighted maximum likelihood, in micro-batches of `budget` tokens; no optimiser step.

    rows: (ids, sampled) per transcript, sampled True on the tokens to learn; weights: the loss's weight of each token,
    a list per transcript (advantages do as well); prompt_weight: that of every given token; accumulate: called after
    each backward. Returns the mean loss of the learned tokens, unweighted.
    """
    total, count, loss = sum(map(sum, weights)), sum(sum(sampled) for _, sampled in rows), 0.0
    for some in grpo.micro_batches([len(ids) for ids, _ in rows], budget):
        tokens = grpo.pad([rows[i][0] for i in some], torch.long, policy.device)  # (B, T)
        sampled = grpo.pad([rows[i][1] for i in some], torch.bool, policy.device)
        mask = sampled
        if prompt_weight:  # every token but the padding and the first, which has nothing before it
            mask = grpo.pad([[i > 0 for i in range(len(rows[i][0]))] for i in some], torch.bool, policy.device)
        weight = grpo.pad([weights[i] for i in some], torch.float32, policy.device)  # (B, T)
        weight = weight + prompt_weight * ~sampled
        # A card has less memory than a CPU: there the logits come in smaller chunks.
        logp = logprobs(policy.model, tokens, mask, **{} if tokens.is_cuda else {"chunk": budget})  # (B, T)
        (-(weight * logp).sum() / total).backward()
        accumulate()
        loss -= logp.detach()[sampled].sum().item() / count
    return loss


def shorten(ids, sampled, limit):
    """A transcript of at most `limit` tokens: the oldest turns after the task are dropped, as `rollout` drops them.

    The turn that then follows the task counts as given: a model should not learn to begin in the middle.
    """
    if len(ids) <= limit:
        return ids, sampled
    turns = [i for i in range(1, len(ids)) if sampled[i] and not sampled[i - 1]] or [len(ids)]
    # The last turn is the review: one action must stay before it.
    _, start = drop_oldest(turns[:-1], len(ids), lambda _, start: turns[0] + len(ids) - start <= limit)
    if start == len(ids):
        return ids[:limit], sampled[:limit]
    end = sampled.index(False, start)
    return ids[:turns[0]] + ids[start:], sampled[:turns[0]] + [False] * (end - start) + sampled[end:]


def weigh(ids, sampled, rules, copy):
    """The loss's weight of each token: 0 where given, `copy` on a word that was given before, else 1.

    Ids, prices and option values are copied from the task or a page; they decide an episode and are few. Tokens of the
    rules (a set of ids) are in every transcript and do not count as copied.
    """
    seen, weights = set(), []
    for token, mine in zip(ids, sampled):
        weights.append((copy if token in seen and token not in rules else 1.0) if mine else 0.0)
        if not mine:
            seen.add(token)
    return weights


# ---- Transcripts of scripted players --------------------------------------------------------------------------------


def demonstrations(env, count, seed):
    """`count` chats of a world's scripted players on training tasks, with some random skills in the prompt."""
    rng, chats = random.Random(f"demonstrations/{seed}"), []
    while len(chats) < count:
        task = rng.choice(env.train_tasks)
        # A world of hidden rules shows others each time; in any other world skills name the players' habits.
        world, texts = env.demonstration(task, rng) if hasattr(env, "demonstration") else (env, habits(env, task, rng))
        shown = [Skill(*(text[key] for key in SKILL)) for text in texts]
        game = world.start(task)
        chat = scripted(world, task, shown, game, world.player(game, task, shown, rng))
        if not (hasattr(env, "reserved") and env.reserved(chat)):
            chats.append(chat)
    return chats


def habits(env, task, rng):
    """Some random habits as skills to show: texts with ids."""
    family, ways = env.family(task), env.ways
    general = rng.randrange(5) if rng.random() < 0.5 else 0
    texts = some(rng, ways.texts("general", rng.randrange(WORDINGS)), general)
    texts += some(rng, ways.texts(family, rng.randrange(WORDINGS)), rng.randrange(5))
    return [{**text, "skill_id": f"dyn_{number:03d}"}
            for number, text in zip(rng.sample(range(1, 40), len(texts)), texts)]


def some(rng, texts, count):
    return rng.sample(texts, min(count, len(texts)))


def scripted(env, task, shown, game, player):
    """A whole episode of a player as a chat: exactly the messages that `rollout` would exchange."""
    system, user = envs.first_messages(env, task, game, shown)
    chat = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    steps = 0
    while not game.done and steps < env.limit:
        thought, action = player.act(game.observation)
        chat.append({"role": "assistant", "content": f"<think>{thought}</think><action>{action}</action>"})
        if player.mistaken:
            chat[-1]["weight"] = 0
        chat.append({"role": "user", "content": game.step(action)})
        steps += 1
    chat[-1]["content"] += "\n" + review_prompt(env.family(task), game.won, game.score, steps, env.limit)
    thought, name, arguments = player.review(game.won, game.score, steps)
    return chat + [{"role": "assistant", "content": f"<think>{thought}</think>{tool_call(name, arguments)}"}]


def corpus(env):
    """The world's own texts, for the tokenizer of a new `tiny`: its lists, its pages and its players' words."""
    chats = demonstrations(env, env.corpus_chats, seed=0)
    return env.vocabulary() + [message["content"] for chat in chats for message in chat]


# ---- The command ----------------------------------------------------------------------------------------------------


def make(flags):
    """Write the checkpoint that the flags ask for. ValueError or OSError, one line, where that is impossible."""
    out = Path(flags.out)
    claim(out, os.path.dirname(os.path.realpath(out)))  # the checkpoint is put together beside it
    if {file.name for file in out.iterdir()} - {UNFINISHED, f"{UNFINISHED}.new"}:
        raise ValueError(f"--out {out}: holds something else; name a new directory")
    if (out / UNFINISHED).is_file() and not flags.resume:
        raise ValueError(f"--out {out}: holds an unfinished cold start; --resume goes on with it, with the same flags")
    env = envs.make(flags.env, "train", flags.data, **flags.options)
    print(f"{env.describe()}, {len(env.train_tasks)} to train on", flush=True)
    if not env.train_tasks and not flags.chats:
        raise ValueError("there is no game to write transcripts of: --families, --winnable_only or --data leave none")
    new = flags.model == "tiny"
    lengths = {name: getattr(flags, name) for name in LENGTHS}
    device = pick_device(flags.device)
    check.untested(device)
    refuse_large(flags.device, models.size(flags.model))
    dtype = torch.float32 if flags.muon else None  # Muon has no master weights: bfloat16 would round small steps away
    policy = policies.load(flags.model, device, dtype, corpus(env) if new else None, flags.seed, env.home)
    if flags.spread and not flags.like:
        raise ValueError("--spread: moves vectors apart that another tiny lends; name it with --like")
    if flags.like:
        if not new:
            raise ValueError(f"--like {flags.like}: only a new tiny can be given layers; --model tiny makes one")
        models.lend(policy.model, policy.chat.tokenizer, flags.like, flags.spread)
    if new:  # it has seen no later position and no longer answer: eval.py should know
        policy.model.cfg.hf |= {"max_position_embeddings": flags.context, "world": env.known, "sampling": lengths}
    if flags.model in PRESETS:  # which preset of train.py the checkpoint wants
        policy.model.cfg.hf["made_from"] = flags.model
    envs.prompt_limit(policy, env, envs.Sampling(**lengths))  # too short a context: say so before the first step
    policy.model.recompute = flags.recompute
    cold_start(policy, env, flags)
    policy.save(out)
    print(f"wrote {out}; python train.py --env {flags.env} --model {out} trains it", flush=True)


def read_flags(argv=None) -> Flags:
    """The command line. Of a world's presets, which are train.py's, it takes the lengths, and what is for the SFT."""
    return parse(Flags, PRESETS, argv, "tools.coldstart", "Train a checkpoint on transcripts (SFT).", lengths=LENGTHS)


def main():
    torch.set_flush_denormal(True)
    print_anything()
    flags = read_flags()
    if not flags.out:
        raise SystemExit("tools.coldstart: --out DIR: name the directory of the checkpoint")
    with guard("tools.coldstart", flags.out, (ValueError, ImportError, *BROKEN), LESS):
        make(flags)


if __name__ == "__main__":
    main()

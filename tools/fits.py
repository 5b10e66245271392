"""Does training fit? The memory of the cold start and of an update, computed before the first of them starts.

The layers are not guessed: a decoder of the same shape runs forward and backward on fake tensors, which have sizes and
no content, and every byte that is alive is counted. That takes a second or two. The rest is arithmetic: weights,
reference, float32 master weights, gradients, Adam's moments, and the logits of one chunk. A card's fused kernels keep a
little less than what is counted here, a CPU's.
"""

import weakref
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import distributed, lora, memory
from policy import Decoder, Session

CHUNK = 1024  # positions whose logits exist at once: policy.logprobs
COPIES = 6  # of such a chunk's logits at the peak of the head's backward, float32, counted
# Assumed, to weigh fewer rows against recordings that are made anew: seconds of a recording with its first, plain step;
# shapes of a rollout; rollouts of an iteration; tokens of an episode; bytes/s that decoding reads on a small card.
RECORDING, SHAPES, ROLLOUTS, DRAWN, READ = 0.04, 40, 3, 400, 6e11


class Alive(TorchDispatchMode):
    """Counts the bytes of all tensors that are met under it and still alive: .now, and .peak; but not of `known`."""

    def __init__(self, known=()):
        super().__init__()
        self.now = self.peak = 0
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    self.now += self.sizes[key]
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self.gone, key)
        return result

    def gone(self, key):
        self.now -= self.sizes.pop(key, 0)


@dataclass(frozen=True)
class Training:
    """What decides the memory of a training step on a device."""

    itemsize: int = 4  # bytes of a weight: 2 in bfloat16
    budget: int = 4096  # tokens of a micro-batch
    longest: int = 4096  # tokens of the longest row
    recompute: bool = False
    offload: bool = False
    lora: int = 0  # rank
    reference: bool = True  # a KL to the first policy (with LoRA that is the same model)
    cards: int = 1  # that share out what is trained: --shard


def of_layers(cfg, how: Training):
    """(bytes alive between forward and backward, bytes at the peak, trained parameters, those of a layer, all)."""
    dtype = torch.get_default_dtype()
    with FakeTensorMode():
        torch.set_default_dtype({2: torch.bfloat16, 4: torch.float32}[how.itemsize])
        try:
            model = Decoder(cfg)
        finally:
            torch.set_default_dtype(dtype)
        if how.lora:
            lora.add(model, how.lora)
        model.recompute = how.recompute
        for weight in model.parameters() if how.cards > 1 else ():  # a layer's gradients are sent and gone
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
        rows = max(how.budget // how.longest, 1)
        tokens = torch.zeros(rows, how.longest, dtype=torch.long)
        with Alive(model.parameters()) as alive:  # of_training adds the weights
            hidden = model.hidden(tokens)  # (B, T, dim)
            between = alive.now
            hidden.backward(torch.ones_like(hidden))
        parameters = [p.numel() for p in model.parameters()]
        trained, layer = ([p.numel() for p in part.parameters() if p.requires_grad]
                          for part in (model, next(model.model["layers"].children())))
    return between, alive.peak, sum(trained), sum(layer), sum(parameters)


def of_training(cfg, how: Training) -> dict[str, int]:
    """Bytes on the device by what they are for; their sum is the peak of an update (without reference: of SFT)."""
    between, peak, trained, layer, parameters = of_layers(cfg, how)
    positions = max(how.budget, how.longest)
    head = COPIES * 4 * min(CHUNK, positions) * cfg.vocab_size
    if positions > CHUNK:  # gradients of the earlier chunks: of the hidden states, and of the head's matrix
        head += (positions + (0 if how.lora else cfg.vocab_size)) * cfg.dim * how.itemsize
    half, own, sharded = how.itemsize != 4, not how.offload, how.cards > 1
    rest = trained - cfg.layers * layer  # embedding and head: gathered once for all layers
    frozen = rest + (parameters - rest) // how.cards if sharded else parameters  # of the reference
    part = trained // how.cards
    return {
        "weights": parameters * how.itemsize,
        "reference": frozen * how.itemsize * (how.reference and not how.lora),
        "master weights": 4 * part * (half and own or sharded), "gradients": 4 * part * (half or sharded),
        "moments": 8 * part * own, "activations": max(between + head, peak),
        # Two layers and the buffer of a third; a layer's gradients, which are sent in float32; the rest with its own.
        "gathered": ((3 * layer + 2 * rest) * how.itemsize + layer * (how.itemsize + 4)) * sharded,
    }


def settings(flags, cfg, itemsize, reference) -> Training:
    return Training(itemsize, flags.budget, min(flags.context, cfg.max_len), flags.recompute, flags.offload, flags.lora,
                    reference, distributed.this.size if flags.shard else 1)


@dataclass(frozen=True)
class Forecast:
    """How a run fits its device."""

    recompute: bool  # must activations be computed again in backward?
    keep: bool = False  # does the cache of a rollout fit beside an update, so that it can be kept between rollouts?
    said: str = ""  # a line where that is not what the flags ask for
    offload: bool = False  # must optimiser state be in the CPU's memory though no flag says so? Only in a resumed run
    rows: int = 0  # play so many episodes at once and no more, so that the cache can be kept; 0: as the flags ask


def fewer_rows(flags, cfg, itemsize, weights, room) -> int:
    """With how many rows a cache fits `room` bytes, where keeping it is faster than more rows; 0 where it is not.

    What is not kept is recorded anew in each rollout. Fewer rows read the weights (bytes) more often.
    """
    context = min(flags.context, cfg.max_len)
    rows = memory.most(flags.rows, lambda n: memory.of_rollout(cfg, n, context, itemsize, Session.PREFILL) <= room)
    episodes = flags.tasks * flags.group * (2 + flags.probes if flags.reviews == "on" else 1)
    again = RECORDING * SHAPES * ROLLOUTS  # seconds
    return rows if rows and episodes * DRAWN * weights * (1 / rows - 1 / flags.rows) / READ < again else 0


def usable(policy):
    """(bytes of a weight, of all weights, that training may take: the weights are there already and count as free)."""
    itemsize = policy.model.model["embed_tokens"].weight.element_size()
    there = sum(p.numel() for p in policy.model.parameters()) * itemsize
    return itemsize, there, memory.SHARE * (memory.free(policy.device) + there)


def forecast(flags, policy) -> Forecast:
    """How the run fits its card, computed; nothing is set. ValueError, one line, where it does not fit at all.

    On a CPU nothing is computed: memory that is short there is slow, not the end.
    """
    if policy.device.type == "cpu":
        return Forecast(flags.recompute)
    cfg, (itemsize, there, available) = policy.model.cfg, usable(policy)

    def needed(**more):
        how = Training(**{**vars(settings(flags, cfg, itemsize, flags.kl != 0)), **more})
        return sum(of_training(cfg, how).values())

    if flags.offload and not flags.resume:  # a run that goes on did fit
        of_host, there_is = of_offload(cfg, settings(flags, cfg, itemsize, False))
        if of_host > there_is:
            raise ValueError(f"--offload takes {of_host / 1e9:.1f} GB of the computer's memory in each process, "
                             f"{there_is / 1e9:.1f} GB are free for each; --lora 16, a smaller --model or fewer "
                             "processes take less")

    cache = memory.of_rollout(cfg, flags.rows, min(flags.context, cfg.max_len), itemsize, Session.PREFILL)
    plain, recomputed = needed(), needed(recompute=True)
    keep = recomputed + cache <= available
    beside = cache * keep
    if plain + beside <= available or recomputed + beside <= available:
        recompute = flags.recompute or plain + beside > available
        said = "" if recompute == flags.recompute else (
            f"training would take {(plain + beside) / 1e9:.1f} GB, {available / 1e9:.1f} GB may be used on "
            f"{policy.device}: activations are recomputed (--recompute), which takes a third more time")
        room = available - (recomputed if recompute else plain)
        rows = 0 if keep or policy.device.type != "cuda" else fewer_rows(flags, cfg, itemsize, there, room)
        return Forecast(recompute, keep or rows > 0, said, rows=rows)
    less: dict = {"recompute": True, "offload": True}
    # It was begun on a larger card.
    if flags.resume and not flags.offload and not flags.shard and needed(**less) <= available:
        said = (f"training would take {plain / 1e9:.1f} GB, {available / 1e9:.1f} GB may be used on "
                f"{policy.device}: it goes on as with --recompute --offload, which is slow")
        return Forecast(True, False, said, True)
    lora = {} if flags.resume else {"--recompute --lora 16 --lr 1e-4": {"recompute": True, "lora": 16}}
    cards = distributed.this.size
    parts = {"--recompute --shard": {"recompute": True, "offload": False, "cards": cards}} if cards > 1 else {}
    of_host, there_is = of_offload(cfg, settings(flags, cfg, itemsize, False))
    ways: dict = {**parts, **({} if flags.shard or of_host > there_is else {"--recompute --offload": less}), **lora}
    ways |= {f"{name} --context {flags.context // 2}": {**ways[name], "longest": flags.context // 2}
             for name in list(ways) if "--lora" not in name}
    fit = [name for name, more in ways.items() if needed(**more) <= available]
    smaller = "begin another run, with --lora 16 or a smaller --model" if flags.resume else "choose a smaller --model"
    smaller += ", or more processes" * flags.shard
    raise ValueError(f"training takes {plain / 1e9:.1f} GB with these flags, {available / 1e9:.1f} GB may be "
                     f"used on {policy.device}; " + (f"{' or '.join(fit)} would fit" if fit else smaller))


def of_offload(cfg, how: Training) -> tuple[int, float]:
    """Bytes that --offload takes of the computer's memory, and those that each process here may have."""
    trained = of_layers(cfg, how)[2]
    return 16 * trained, memory.SHARE * memory.free("cpu")  # master weights, moments and gradients, in float32


def alone(flags, policy):
    """ValueError where a cold start does not fit: with --shard, too, one process makes it without the others."""
    if policy.device.type == "cpu":
        return
    itemsize, _, available = usable(policy)
    how = replace(settings(flags, policy.model.cfg, itemsize, False), cards=1, recompute=policy.model.recompute)
    needed = sum(of_training(policy.model.cfg, how).values())
    if needed > available:
        raise ValueError(f"one process makes the cold start, which takes {needed / 1e9:.1f} GB, {available / 1e9:.1f} "
                         f"GB may be used on {policy.device}; give --cold_start 0, or as --model what tools.coldstart "
                         "has made")

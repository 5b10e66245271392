"""
The policy: one decoder that both acts and reviews, its KV cache, and a sampler you can read.

Three families share this decoder, as they differ in two lines: Llama (plain), Qwen2/2.5 (a bias on q, k, v) and Qwen3
(an RMSNorm on q and k). Parameters have the checkpoint's names, so what we save opens in transformers.

Why a sampler by hand? An episode is ONE growing chat. A new observation should cost its own tokens and nothing else;
eight rollouts of a task should read it once; an episode that is over should leave the batch. `Session` does that with
one KV cache that lives as long as the episodes. The released code reads the whole prompt again every turn.

    session = Session(policy, rows=16, max_len=2048, seed=0)
    session.feed([0, 8], [ids_of_task_a, ids_of_task_b])    # read two prompts ...
    session.fork([0, 8], 8)                                 # ... and open sixteen conversations
    turns = session.sample(range(16), max_new=64)           # [(token ids, log-probabilities)], one per conversation

A conversation is one chat and has a fixed number; a row is a place in the cache. Two rules connect them:
  * slot = position: the token at position p of a conversation is in slot p of its row, and attends to slots <= p;
  * the newest token of a conversation is never in the cache: the next `feed` or `sample` reads it, a stop token too.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from lib import buffers, checkpoints, graphs, lora, models
from lib.chat import Chat
from lib.checkpoints import Config
from lib.fused import attend, fused
from lib.rope import Rope
from lib.streams import gumbel, mix


class KVCache:
    """Keys and values of every row: (layers, rows, kv_heads, max_len + 1, head_dim). Padding writes to the last slot.

    It begins with zeros, not with empty memory: a masked slot has weight 0, and 0 * NaN would still be NaN.
    """

    def __init__(self, cfg, rows, max_len, device, dtype):
        shape = (cfg.layers, rows, cfg.kv_heads, max_len + 1, cfg.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)

    def append(self, layer, rows, positions, k, v, span):
        """Write k, v (B, T, kv_heads, D) at (rows, positions); return each row's first `span` slots (B, kv, span, D).

        rows: a slice, where they lie together (a view comes back, nothing is copied), or a LongTensor (B,) (a copy).
        """
        index = torch.arange(rows.start, rows.stop, device=k.device) if isinstance(rows, slice) else rows
        self.k[layer][index[:, None], :, positions] = k
        self.v[layer][index[:, None], :, positions] = v
        return self.k[layer][rows, :, :span], self.v[layer][rows, :, :span]

    def copy(self, source, target, length):
        """Copy the first `length` slots of row `source` to row `target`."""
        for cache in (self.k, self.v):
            cache[:, target, :, :length] = cache[:, source, :, :length]

    def swap(self, a, b, length):
        """Exchange the first `length` slots of two rows."""
        for cache in (self.k, self.v):
            kept = cache[:, a, :, :length].clone()
            cache[:, a, :, :length] = cache[:, b, :, :length]
            cache[:, b, :, :length] = kept


class Past(NamedTuple):
    """Where one layer's new keys and values go in the cache, and what the new tokens may attend to."""

    cache: KVCache
    layer: int
    rows: slice | torch.Tensor  # as in KVCache.append
    positions: torch.Tensor  # (B, T)
    mask: torch.Tensor  # (B, 1, H / KV * T, span), added to the scores: 0 where visible, else -inf
    span: int  # slots that are read


@fused
def rotate(x, cos, sin):
    """RoPE on x (B, heads, T, D) by float32 cos, sin (B, 1, T, D), rounded once. Pairs: i and i + D/2."""
    a, b = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-b, a), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = cfg.heads, cfg.kv_heads, cfg.head_dim
        self.q_proj = nn.Linear(cfg.dim, cfg.heads * cfg.head_dim, bias=cfg.qkv_bias)
        self.k_proj = nn.Linear(cfg.dim, cfg.kv_heads * cfg.head_dim, bias=cfg.qkv_bias)
        self.v_proj = nn.Linear(cfg.dim, cfg.kv_heads * cfg.head_dim, bias=cfg.qkv_bias)
        self.o_proj = nn.Linear(cfg.heads * cfg.head_dim, cfg.dim, bias=cfg.o_bias)
        self.q_norm = nn.RMSNorm(cfg.head_dim, cfg.eps) if cfg.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(cfg.head_dim, cfg.eps) if cfg.qk_norm else nn.Identity()

    def forward(self, x, cos, sin, past=None):
        B, T, _ = x.shape
        H, KV, D = self.heads, self.kv_heads, self.head_dim
        q = rotate(self.q_norm(self.q_proj(x).view(B, T, H, D)).transpose(1, 2), cos, sin)  # (B, H, T, D)
        k = rotate(self.k_norm(self.k_proj(x).view(B, T, KV, D)).transpose(1, 2), cos, sin)  # (B, KV, T, D)
        v = self.v_proj(x).view(B, T, KV, D)  # (B, T, KV, D)
        if past is None:
            # Right-padded training batch: the causal mask alone keeps every real token from seeing the padding.
            k, v = (t.repeat_interleave(H // KV, dim=1) for t in (k, v.transpose(1, 2)))  # (B, H, T, D)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            k, v = past.cache.append(past.layer, past.rows, past.positions, k.transpose(1, 2), v, past.span)
            # k, v (B, KV, span, D)
            # The query heads that share a KV head become more queries of it, so no key is ever repeated.
            q = q.reshape(B, KV, H // KV * T, D)
            y = attend(q, k, v, past.mask, alone=T == 1).reshape(B, H, T, D)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, H * D))


class MLP(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.gate_proj = nn.Linear(cfg.dim, cfg.ffn, bias=cfg.mlp_bias)
        self.up_proj = nn.Linear(cfg.dim, cfg.ffn, bias=cfg.mlp_bias)
        self.down_proj = nn.Linear(cfg.ffn, cfg.dim, bias=cfg.mlp_bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(cfg.dim, cfg.eps)
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = nn.RMSNorm(cfg.dim, cfg.eps)
        self.mlp = MLP(cfg)

    def forward(self, x, cos, sin, past=None):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, past)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Llama, Qwen2/2.5 or Qwen3. Calling it gives logits (B, T, vocab); `hidden` stops before the LM head."""

    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.recompute = False  # gradient checkpointing: compute activations again in backward instead of keeping them
        self.rope = Rope(cfg)
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(cfg.vocab_size, cfg.dim),
            "layers": nn.ModuleList(Block(cfg) for _ in range(cfg.layers)),
            "norm": nn.RMSNorm(cfg.dim, cfg.eps),
        })
        if not cfg.tied:
            self.lm_head = nn.Linear(cfg.dim, cfg.vocab_size, bias=False)

    def hidden(self, tokens, cache=None, rows=None, positions=None, span=None):
        """tokens (B, T) -> final hidden states (B, T, dim).

        Without a cache: a right-padded batch from position 0. With one: the tokens are appended to the cache's `rows`
        at `positions` (B, T); each attends to those of the first `span` slots whose number is <= its position.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        x = self.model.embed_tokens(tokens)  # (B, T, dim)
        cos, sin = self.rope(positions)  # (B, 1, T, D)
        mask = None
        if cache is not None:
            # Made once, as numbers: attention turns a mask of bools into numbers, in every layer again.
            unseen = torch.arange(span, device=tokens.device) > positions[..., None]  # (B, T, span)
            mask = torch.zeros(unseen.shape, dtype=x.dtype, device=x.device).masked_fill_(unseen, -math.inf)
            mask = mask[:, None].repeat(1, 1, self.cfg.heads // self.cfg.kv_heads, 1)  # (B, 1, H/KV * T, span)
        for i, block in enumerate(self.model.layers):
            if cache is not None:
                x = block(x, cos, sin, Past(cache, i, rows, positions, mask, span))
            elif self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, cos, sin, use_reentrant=False)
            else:
                x = block(x, cos, sin)
        return self.model.norm(x)

    def head(self, hidden):
        """Hidden states (..., dim) -> logits (..., vocab)."""
        return F.linear(hidden, self.model.embed_tokens.weight if self.cfg.tied else self.lm_head.weight)

    def forward(self, tokens):
        return self.head(self.hidden(tokens))


def logprobs(model, tokens, mask, temperature=1.0, entropy=False, chunk=1024):
    """Log-probability of the masked tokens, each given all tokens before it.

    tokens: (B, T) right-padded ids; mask: (B, T) bool, True where a token was sampled (never at t = 0).
    Returns (B, T) float32, 0 outside the mask; with entropy=True also the entropy (B, T) of each of those draws.
    The LM head, by far the widest product, runs on the masked positions only, `chunk` at a time, and each chunk's
    logits are recomputed in backward: (B, T, vocab) numbers never exist at once.
    """
    mask = mask.bool()
    if mask[:, 0].any():
        raise ValueError("logprobs: the first token of a row has nothing before it and cannot have been sampled")
    hidden = model.hidden(tokens)[:, :-1][mask[:, 1:]]  # (N, dim): the state that predicts each masked token
    target = tokens[mask]  # (N,)

    def head(hidden, target):
        logits = model.head(hidden).float() / (temperature or 1.0)  # (n, vocab)
        logz = logits.logsumexp(-1)  # (n,)
        entropies = (logz - (logits.softmax(-1) * logits).sum(-1),) if entropy else ()  # of each draw (n,)
        return logits.gather(-1, target[:, None])[:, 0] - logz, *entropies

    parts = [checkpoint(head, h, t, use_reentrant=False) if torch.is_grad_enabled() else head(h, t)
             for h, t in zip(hidden.split(chunk), target.split(chunk))]
    zeros = torch.zeros(mask.shape, device=tokens.device)
    scattered = [zeros.masked_scatter(mask, torch.cat(part)) for part in zip(*parts)]
    return tuple(scattered) if entropy else scattered[0]


# ---- The sampler ----------------------------------------------------------------------------------------------------


@fused
def draw(logits, seeds, temperature):
    """logits (B, vocab) -> a token of each row (B,), by the Gumbel-max trick, and its log-probability (B,)."""
    logits = logits.float() / (temperature or 1.0)
    noise = gumbel(seeds, logits.shape[1], logits.device) if temperature else 0.0
    drawn = (logits + noise).argmax(-1)
    return drawn, logits.gather(-1, drawn[:, None])[:, 0] - logits.logsumexp(-1)


class Session:
    """`rows` parallel conversations over one KV cache, each with its own length and its own random stream.

    seed and keys: conversation c draws its tokens from the stream (seed, keys[c]); keys are the numbers of the
    conversations by default. Whoever begins a conversation may set its key and its turn. The noise of a draw depends on
    the stream, on the turn (how often the conversation was sampled) and on the place in the turn, not on the others in
    the batch. Two conversations with one key get the same noise even where their prompts differ: this pairs the probes.
    """

    PREFILL = 4096  # tokens of one prefill batch, padding included
    CHUNK = 512  # tokens of one conversation in one prefill step; bounds the attention mask

    def __init__(self, policy: "Policy", rows: int, max_len: int, seed: int = 0, keys=None):
        self.policy, self.max_len, self.seed = policy, max_len, seed
        self.keys = list(range(rows)) if keys is None else list(keys)
        self.ids: list[list[int]] = [[] for _ in range(rows)]  # every token; all but the newest are in the cache
        self.length = [0] * rows  # how many of them are in the cache
        self.turn = [0] * rows  # how often the conversation was sampled: part of its random stream
        self.row = list(range(rows))  # conversation -> row of the cache; decoding wants the active ones in front
        self.buffers = buffers.take(policy, self, KVCache, rows, max_len)
        self.cache, self.spare, self.graphs = self.buffers.cache, self.buffers.spare, self.buffers.graphs
        self.tokens, self.positions = self.buffers.tokens, self.buffers.positions
        self.seeds, self.logp = self.buffers.seeds, self.buffers.logp
        # Reading tokens on the host makes a GPU wait: there 8 are drawn at once, and what follows a stop is dropped.
        self.block = 8 if self.graphs else 1
        self.flow = False  # True: `sample` does not wait for the longest turns
        self.open: dict[int, tuple[list, list]] = {}  # turns that `sample` has begun and not finished

    def room(self, c: int) -> int:
        """How many more tokens conversation c can hold."""
        return self.max_len - len(self.ids[c])

    @torch.no_grad()
    def feed(self, conversations, ids) -> None:
        """Append token ids (a list per conversation): a ragged prefill of the new tokens only, after what is there."""
        for c, new in zip(conversations, ids):
            if len(new) > self.room(c):
                raise ValueError(f"conversation {c}: {len(self.ids[c])} + {len(new)} tokens do not fit {self.max_len}")
        for c, new in zip(conversations, ids):
            self.ids[c] += new
        # Conversations with equally much to read share a batch, so padding stays small.
        waiting = sorted((c for c in conversations if self._unread(c) > 0), key=self._unread)
        while waiting:
            batch = [waiting.pop()]
            width = min(self._unread(batch[0]), self.CHUNK)
            while waiting and (len(batch) + 1) * width <= self.PREFILL:
                batch.append(waiting.pop())
            while any(self._unread(c) for c in batch):
                self._read([c for c in batch if self._unread(c)])

    def _unread(self, c):
        return max(len(self.ids[c]) - 1 - self.length[c], 0)

    def _read(self, batch):
        """One prefill step: up to CHUNK tokens of each conversation of the batch, padded to the longest."""
        device = self.cache.k.device
        batch = sorted(batch, key=self.row.__getitem__)
        new = [self.ids[c][self.length[c]:-1][:self.CHUNK] for c in batch]
        width = max(map(len, new))
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in new], device=device)  # (B, width)
        positions = torch.tensor([
            list(range(self.length[c], self.length[c] + len(ids))) + [self.spare] * (width - len(ids))
            for c, ids in zip(batch, new)
        ], device=device)  # (B, width); padding goes to the spare slot, which no token attends to
        first, last = self.row[batch[0]], self.row[batch[-1]]
        together = last - first + 1 == len(batch)
        rows = slice(first, last + 1) if together else torch.tensor([self.row[c] for c in batch], device=device)
        for c, ids in zip(batch, new):
            self.length[c] += len(ids)
        span = max(self.length[c] for c in batch)
        span = min(graphs.whole(span), self.spare + 1) if self.graphs else span
        self.policy.model.hidden(tokens, self.cache, rows, positions, span)

    @torch.no_grad()
    def sample(self, conversations, max_new, stop=None, temperature: float = 1.0) -> list:
        """Decode each conversation until it draws a stop token or has max_new tokens (an int, or one per conversation).

        Returns [(ids, logp)] in the order given: the drawn tokens, the stop token among them, and the log-probability
        of each under the full softmax at this temperature (at 1.0 where temperature is 0, which takes the argmax).
        With self.flow it returns when an eighth has finished, with None for the others: name these again to go on.
        """
        conversations = list(conversations)
        stop = self.policy.stop if stop is None else set(stop)
        limits = dict(zip(conversations, [max_new] * len(conversations) if isinstance(max_new, int) else max_new))
        for c in conversations:
            if not self.ids[c]:
                raise ValueError(f"conversation {c} is empty: feed it a prompt before sampling")
            if limits[c] - len(self.open.get(c, [[]])[0]) > self.room(c):
                raise ValueError(f"conversation {c}: {len(self.ids[c])} + {limits[c]} tokens do not fit {self.max_len}")
        out = {c: self.open.pop(c, ([], [])) for c in conversations}
        active = buffers.in_front(self, [c for c in conversations if limits[c] > 0])
        least = max(len(conversations) // 8, 1) if self.flow else len(conversations)
        while active and len(conversations) - len(active) < least:
            count = [len(out[c][0]) for c in active]
            for c, before, ids, logp in zip(active, count, *self._draw(active, count, limits, temperature)):
                ids = ids[:limits[c] - before]
                ids = ids[:next((i + 1 for i, token in enumerate(ids) if token in stop), len(ids))]
                self.ids[c] += ids
                self.length[c] += len(ids)
                out[c][0].extend(ids)
                out[c][1].extend(logp[:len(ids)])
            # Finished conversations leave the batch: the last active one takes the row.
            for i in reversed(range(len(active))):
                c = active[i]
                if out[c][0][-1] in stop or len(out[c][0]) == limits[c]:
                    buffers.swap(self, i, len(active) - 1)
                    active[i] = active[-1]
                    active.pop()
        for c in conversations:
            self.turn[c] += c not in active
        self.open |= {c: out[c] for c in active}
        return [out[c] if c not in active else None for c in conversations]

    def _draw(self, active, count, limits, temperature):
        """The next `block` tokens of the conversations in the cache's first rows: (ids, log-probabilities), per row.

        count: how many tokens of its turn each has. What is drawn after a stop or a limit is beyond the conversation's
        length in the cache: nothing attends to it before it is overwritten.
        """
        n = rows = len(active)
        steps = min(self.block, max(limits[c] - have for c, have in zip(active, count)))
        span = max(self.length[c] for c in active) + steps
        if self.block > 1:  # the rows that fill the shape up read and write the spare slot
            rows, span = map(min, graphs.bucket(rows, span), (self.buffers.rows, self.spare + 1))
        device = self.cache.k.device
        self.tokens[:n] = torch.tensor([[self.ids[c][-1]] for c in active], device=device)
        positions = [[self.length[c]] for c in active] + [[self.spare]] * (rows - n)
        self.positions[:rows] = torch.tensor(positions, device=device)
        keys, turns, count = np.array([[self.keys[c], self.turn[c], have] for c, have in zip(active, count)]).T
        seeds = mix(self.seed, keys[:, None], turns[:, None], count[:, None] + np.arange(steps))  # (n, steps)
        seeds = torch.as_tensor(seeds, dtype=torch.int32, device=device)
        drawn = []
        for step in range(steps):
            self.seeds[:n] = seeds[:, step]
            graphs.run(self.graphs, self._step, rows, span, temperature)
            drawn.append((self.tokens[:n].clone(), self.logp[:n].clone()))
        ids, logp = zip(*drawn)
        return torch.cat(ids, dim=1).tolist(), torch.stack(logp, dim=1).tolist()

    def _step(self, rows, span, temperature):
        """Read the newest token of each of the cache's first `rows` rows, draw the next, move on."""
        hidden = self.policy.model.hidden(self.tokens[:rows], self.cache, slice(0, rows), self.positions[:rows], span)
        logits = self.policy.model.head(hidden[:, 0])  # (rows, vocab)
        self.tokens[:rows, 0], self.logp[:rows] = draw(logits, self.seeds[:rows], temperature)
        self.positions[:rows] = (self.positions[:rows] + 1).clamp(max=self.spare)

    def fork(self, conversations, n: int) -> list[list[int]]:
        """Copy each conversation into n - 1 empty ones; returns the n numbers for each, itself first. Keys stay."""
        empty = [c for c, ids in enumerate(self.ids) if not ids]
        if len(empty) < len(conversations) * (n - 1):
            raise ValueError(f"fork: {len(conversations)} x {n - 1} empty rows needed, {len(empty)} left")
        groups = []
        for c in conversations:
            # Prefer the next ones, so that a group's conversations are neighbours.
            copies = sorted(empty, key=lambda other: (other < c, other))[:n - 1]
            for other in copies:
                empty.remove(other)
                self.cache.copy(self.row[c], self.row[other], self.length[c])
                self.ids[other], self.length[other] = list(self.ids[c]), self.length[c]
            groups.append([c] + copies)
        return groups

    def reset(self, c: int) -> None:
        """Forget the conversation's tokens; its random stream goes on where it was."""
        self.ids[c] = []
        self.length[c] = 0


class Policy:
    """A decoder, its tokenizer and its chat template. `stop`: the ids that end an assistant turn."""

    def __init__(self, model, tokenizer, name):
        self.model, self.tokenizer = model, tokenizer
        self.chat = Chat(tokenizer, name)
        eos = model.cfg.hf.get("eos_token_id")  # a number, several (Llama 3), or none
        self.stop = {self.chat.end, tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        self.keep, self.kept = self.device.type == "cuda", None  # keep the last Session's Buffers? They are `kept`
        self.rows = None  # in a run lib.memory.Rows: how many episodes are played at once
        self.flows = self.device.type == "cuda"  # rollouts keep all rows busy, see envs.play

    @property
    def device(self):
        return self.model.model.embed_tokens.weight.device

    def save(self, path):
        """Write a directory that transformers' AutoModelForCausalLM opens, then rename it into place."""
        hf = {**self.model.cfg.hf, "eos_token_id": sorted(self.stop)}
        checkpoints.write(path, hf, lora.merged(self.model), self.tokenizer)


def load(model: str, device="cpu", dtype=None, text=None, seed: int = 0, world: str = "webshop") -> Policy:
    """Open a policy. ValueError or OSError, one line, says what is missing and what to do.

    model: a directory or HF id of a Llama, Qwen2/2.5 or Qwen3 checkpoint; `smollm2`; or `tiny`: the one shipped for
    that world, or, with `text` (strings to train its tokenizer on), a new one with random weights.
    dtype: default float32 on a CPU (bfloat16 is slower there), bfloat16 on a GPU that has it.
    """
    hf, weights, tokenizer = models.read(model, world, text, seed)
    cfg = Config(**checkpoints.architecture(hf, f"{model}/config.json"))
    checkpoints.check_pair(tokenizer, cfg, model)
    with torch.device("meta"):  # shapes only: the weights are the checkpoint's
        decoder = Decoder(cfg)
    shapes = {key: tuple(value.shape) for key, value in decoder.state_dict().items()}
    decoder.load_state_dict(checkpoints.fit(weights, shapes, cfg, device, dtype, model), assign=True)
    return Policy(decoder.requires_grad_(True), tokenizer, model)

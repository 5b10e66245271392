"""
The policy: one decoder that both acts and reviews, its KV cache, and a sampler you can read.

Three families share this one decoder, because they differ in two lines: Llama (plain), Qwen2/2.5 (a bias on q, k, v)
and Qwen3 (an RMSNorm on q and k). Parameters carry the names they have in the checkpoint, so loading is
`load_state_dict` and what we save opens in transformers.

Why a sampler by hand? An episode is ONE growing chat: a new observation should cost its own tokens and nothing else,
eight rollouts of a task should read the task once, and an episode that is over should leave the batch. `Session` does
just that over one KV cache that lives as long as the episodes; the released code re-prompts every turn from scratch.

    session = Session(policy, rows=16, max_len=2048, seed=0)
    session.feed([0, 8], [ids_of_task_a, ids_of_task_b])    # two prompts read ...
    session.fork([0, 8], 8)                                 # ... sixteen conversations open
    turns = session.sample(range(16), max_new=64)           # [(token ids, log-probabilities)] per row

Two invariants hold everything together:
  * slot = position: the token at position p of a row lies in slot p of that row's cache, and attends to slots <= p;
  * the newest token of a row is never in the cache: `sample` begins by reading it. So the stop token that `sample`
    drew needs no special case, it is simply read together with whatever is fed next.
"""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from worlds import checkpoints, graphs, lora
from worlds.noise import gumbel, mix

# ---- The decoder ----------------------------------------------------------------------------------------------------


class KVCache:
    """Keys and values of every row: (layers, rows, kv_heads, max_len + 1, head_dim). Padding writes to the last slot.

    Zeros, not empty memory: a masked slot has weight 0, and 0 * NaN would still be NaN.
    """

    def __init__(self, cfg, rows, max_len, device, dtype):
        shape = (cfg.layers, rows, cfg.kv_heads, max_len + 1, cfg.head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)

    def append(self, layer, rows, positions, k, v, span):
        """Write k, v (B, T, kv_heads, D) at (rows, positions); return each row's first `span` slots (B, kv, span, D).

        rows: a slice (decoding: a view comes back, nothing is copied) or a LongTensor (B,) (prefill: a copy).
        """
        index = torch.arange(rows.stop, device=k.device) if isinstance(rows, slice) else rows
        self.k[layer][index[:, None], :, positions] = k
        self.v[layer][index[:, None], :, positions] = v
        return self.k[layer][rows, :, :span], self.v[layer][rows, :, :span]

    def copy(self, source, target, length):
        """Row `source`'s first `length` slots over row `target`'s."""
        for cache in (self.k, self.v):
            cache[:, target, :, :length] = cache[:, source, :, :length]

    def swap(self, a, b, length):
        for cache in (self.k, self.v):
            kept = cache[:, a, :, :length].clone()
            cache[:, a, :, :length] = cache[:, b, :, :length]
            cache[:, b, :, :length] = kept


def rotate(x, cos, sin):
    """RoPE on x (B, heads, T, D), cos and sin (B, 1, T, D): the halves of D are the pairs, as in the checkpoints."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


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
            # Right-padded training batch: causality alone keeps every real token from seeing the padding.
            k, v = (t.repeat_interleave(H // KV, dim=1) for t in (k, v.transpose(1, 2)))  # (B, H, T, D)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            cache, layer, rows, positions, mask, span = past
            k, v = cache.append(layer, rows, positions, k.transpose(1, 2), v, span)  # (B, KV, span, D)
            # The query heads that share a KV head become more queries of it, so no key is ever repeated.
            q = q.reshape(B, KV, H // KV * T, D)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(B, H, T, D)
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

    recompute = False  # gradient checkpointing: activations are recomputed in backward

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg
        self.freq = None  # RoPE's frequencies, made on the device of the first tokens
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
        at `positions` (B, T), and see the first `span` slots as far as slot <= position.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        if self.freq is None or self.freq.device != tokens.device:
            self.freq = self.cfg.inv_freq().to(tokens.device)  # (D/2,)
        angle = positions[..., None] * self.freq  # (B, T, D/2)
        angle = torch.cat((angle, angle), dim=-1)[:, None]  # (B, 1, T, D)
        x = self.model.embed_tokens(tokens)  # (B, T, dim)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        mask = None
        if cache is not None:
            mask = torch.arange(span, device=tokens.device) <= positions[..., None]  # (B, T, span)
            mask = mask[:, None].repeat(1, 1, self.cfg.heads // self.cfg.kv_heads, 1)  # (B, 1, H/KV * T, span)
        for i, block in enumerate(self.model.layers):
            if cache is not None:
                x = block(x, cos, sin, (cache, i, rows, positions, mask, span))
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
    The LM head, by far the widest product of a small model, runs on the masked positions only, `chunk` at a time, and
    each chunk's logits are recomputed in backward: at no time do (B, T, vocab) numbers exist.
    """
    mask = mask.bool()
    if mask[:, 0].any():
        raise ValueError("logprobs: the first token of a row has nothing before it and cannot have been sampled")
    hidden = model.hidden(tokens)[:, :-1][mask[:, 1:]]  # (N, dim): the state that predicts each masked token
    target = tokens[mask]  # (N,)

    def head(hidden, target):
        logits = model.head(hidden).float() / (temperature or 1.0)  # (n, vocab)
        logz = logits.logsumexp(-1)  # (n,)
        spread = logz - (logits.softmax(-1) * logits).sum(-1) if entropy else logz
        return logits.gather(-1, target[:, None])[:, 0] - logz, spread

    parts = [checkpoint(head, h, t, use_reentrant=False) if torch.is_grad_enabled() else head(h, t)
             for h, t in zip(hidden.split(chunk), target.split(chunk))]
    zeros = torch.zeros(mask.shape, device=tokens.device)
    scattered = [zeros.masked_scatter(mask, torch.cat(part)) for part in zip(*parts)] or [zeros, zeros]
    return tuple(scattered) if entropy else scattered[0]


# ---- The sampler ----------------------------------------------------------------------------------------------------


class Session:
    """`rows` parallel conversations over one KV cache, each with its own length and its own random stream.

    seed and keys: row r draws its tokens from the stream (seed, keys[r]); keys default to the row numbers. The noise
    of a draw depends on the stream, the turn (how often the row was sampled) and the place in the turn, so a row's
    samples do not depend on who shares the batch, and two rows with the same key see the same random numbers even
    where their prompts differ: that is what pairs the probes with and without an edit.
    """

    PREFILL = 4096  # tokens of one prefill batch, padding included
    CHUNK = 512  # tokens of one row in one prefill step; bounds the attention mask

    def __init__(self, policy, rows, max_len, seed=0, keys=None):
        self.policy, self.max_len, self.seed = policy, max_len, seed
        self.keys = list(range(rows)) if keys is None else list(keys)
        self.ids = [[] for _ in range(rows)]  # every token of a row; all but the newest are in the cache
        self.length = [0] * rows  # how many of them are in the cache
        self.turn = [0] * rows  # how often the row was sampled: part of the random stream
        self.place = list(range(rows))  # conversation -> row of the cache; decoding wants the active ones in front
        weight = policy.model.model.embed_tokens.weight
        self.cache = KVCache(policy.model.cfg, rows, max_len, weight.device, weight.dtype)
        # What a decoding step reads and writes, per row of the cache: the newest token, its position, the seed of the
        # next one, and that one's log-probability.
        self.tokens, self.positions = torch.zeros(2, rows, 1, dtype=torch.long, device=weight.device)
        self.seeds = torch.zeros(rows, dtype=torch.int32, device=weight.device)
        self.logp = torch.zeros(rows, device=weight.device)
        # A look at what was drawn makes a GPU wait, so it draws some tokens at a time; what follows a stop is dropped.
        self.block, self.graphs = (8, graphs.Graphs()) if weight.is_cuda else (1, None)

    def room(self, row):
        """How many more tokens the row can hold."""
        return self.max_len - len(self.ids[row])

    @torch.no_grad()
    def feed(self, rows, ids):
        """Append token ids (a list per row) to `rows`: prefill of new tokens only, ragged, after whatever is there."""
        for row, new in zip(rows, ids):
            if len(new) > self.room(row):
                raise ValueError(f"row {row}: {len(self.ids[row])} + {len(new)} tokens do not fit {self.max_len}")
        for row, new in zip(rows, ids):
            self.ids[row] += new
        # Rows with equally much to read share a batch, so padding stays small.
        waiting = sorted((row for row in rows if self._unread(row) > 0), key=self._unread)
        while waiting:
            batch = [waiting.pop()]
            width = min(self._unread(batch[0]), self.CHUNK)
            while waiting and (len(batch) + 1) * width <= self.PREFILL:
                batch.append(waiting.pop())
            while any(self._unread(row) for row in batch):
                self._read([row for row in batch if self._unread(row)])

    def _unread(self, row):
        return max(len(self.ids[row]) - 1 - self.length[row], 0)

    def _read(self, batch):
        """One prefill step: up to CHUNK tokens of each row of the batch, padded to the longest."""
        device = self.cache.k.device
        new = [self.ids[row][self.length[row]:-1][:self.CHUNK] for row in batch]
        width = max(map(len, new))
        tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in new], device=device)  # (B, width)
        positions = torch.tensor([
            list(range(self.length[row], self.length[row] + len(ids))) + [self.max_len] * (width - len(ids))
            for row, ids in zip(batch, new)
        ], device=device)  # padding lies in the spare slot, which no token ever sees
        places = torch.tensor([self.place[row] for row in batch], device=device)
        for row, ids in zip(batch, new):
            self.length[row] += len(ids)
        self.policy.model.hidden(tokens, self.cache, places, positions, max(self.length[row] for row in batch))

    @torch.no_grad()
    def sample(self, rows, max_new, stop=None, temperature=1.0):
        """Decode each row until it draws a stop token or has max_new tokens (an int, or one per row).

        Returns [(ids, logp)] in the order of rows: the drawn tokens, the stop token among them, and the log-probability
        of each under the full softmax at this temperature (at 1.0 where temperature is 0, which takes the argmax).
        """
        rows, stop = list(rows), self.policy.stop if stop is None else set(stop)
        limits = dict(zip(rows, [max_new] * len(rows) if isinstance(max_new, int) else max_new))
        for row in rows:
            if not self.ids[row]:
                raise ValueError(f"row {row} is empty: feed it a prompt before sampling")
            if limits[row] > self.room(row):
                raise ValueError(f"row {row}: {len(self.ids[row])} + {limits[row]} tokens do not fit {self.max_len}")
        out = {row: ([], []) for row in rows}
        active = [row for row in rows if limits[row] > 0]
        for i, row in enumerate(active):
            self._swap(i, self.place[row])
        while active:
            said = [len(out[row][0]) for row in active]
            for row, before, ids, logp in zip(active, said, *self._draw(active, said, limits, temperature)):
                ids = ids[:limits[row] - before]
                ids = ids[:next((i + 1 for i, token in enumerate(ids) if token in stop), len(ids))]
                self.ids[row] += ids
                self.length[row] += len(ids)
                out[row][0].extend(ids)
                out[row][1].extend(logp[:len(ids)])
            # Finished rows leave the batch: the last active row takes their place.
            for i in reversed(range(len(active))):
                row = active[i]
                if out[row][0][-1] in stop or len(out[row][0]) == limits[row]:
                    self._swap(i, len(active) - 1)
                    active[i] = active[-1]
                    active.pop()
        for row in rows:
            self.turn[row] += 1
        return [out[row] for row in rows]

    def _draw(self, active, said, limits, temperature):
        """The next `block` tokens of the conversations in the cache's first rows: ids and log-probabilities, per row.

        said: how many tokens of its turn each has. What comes after a stop or a limit lies behind the row's length in
        the cache, where nothing attends to it before it is overwritten.
        """
        n, steps = len(active), min(self.block, max(limits[row] - start for row, start in zip(active, said)))
        rows, span = n, max(self.length[row] for row in active) + steps
        if self.block > 1:  # the rows beside them read and write the spare slot
            rows, span = map(min, graphs.bucket(rows, span), (len(self.ids), self.max_len + 1))
        device = self.cache.k.device
        self.tokens[:n] = torch.tensor([[self.ids[row][-1]] for row in active], device=device)
        positions = [[self.length[row]] for row in active] + [[self.max_len]] * (rows - n)
        self.positions[:rows] = torch.tensor(positions, device=device)
        keys, turns, said = np.array([[self.keys[row], self.turn[row], start] for row, start in zip(active, said)]).T
        seeds = mix(self.seed, keys[:, None], turns[:, None], said[:, None] + np.arange(steps))  # (n, steps)
        seeds, drawn = torch.as_tensor(seeds, dtype=torch.int32, device=device), []
        for step in range(steps):
            self.seeds[:n] = seeds[:, step]
            if self.graphs:
                self.graphs.run(self._step, rows, span, temperature)
            else:
                self._step(rows, span, temperature)
            drawn.append((self.tokens[:n].clone(), self.logp[:n].clone()))
        ids, logp = zip(*drawn)
        return torch.cat(ids, dim=1).tolist(), torch.stack(logp, dim=1).tolist()

    def _step(self, rows, span, temperature):
        """Read the newest token of each of the cache's first `rows` rows, draw the next, move on."""
        hidden = self.policy.model.hidden(self.tokens[:rows], self.cache, slice(0, rows), self.positions[:rows], span)
        logits = self.policy.model.head(hidden[:, 0]).float() / (temperature or 1.0)  # (rows, vocab)
        noise = gumbel(self.seeds[:rows], logits.shape[1], logits.device) if temperature else 0.0
        drawn = (logits + noise).argmax(-1)  # (rows,)
        self.logp[:rows] = logits.gather(-1, drawn[:, None])[:, 0] - logits.logsumexp(-1)
        self.tokens[:rows, 0] = drawn
        self.positions[:rows] = (self.positions[:rows] + 1).clamp(max=self.max_len)

    def _swap(self, a, b):
        """Exchange two rows of the cache, whichever conversations lie there."""
        if a == b:
            return
        one, two = self.place.index(a), self.place.index(b)
        self.cache.swap(a, b, max(self.length[one], self.length[two]))
        self.place[one], self.place[two] = b, a

    def fork(self, rows, n):
        """Copy each row into n - 1 empty ones; returns the n conversations of each row, itself first. Keys stay."""
        empty = [row for row, ids in enumerate(self.ids) if not ids]
        if len(empty) < len(rows) * (n - 1):
            raise ValueError(f"fork: {len(rows)} x {n - 1} empty rows needed, {len(empty)} left")
        families = []
        for row in rows:
            # Prefer the rows right behind, so that a group's conversations lie together.
            copies = sorted(empty, key=lambda other: (other < row, other))[:n - 1]
            for other in copies:
                empty.remove(other)
                self.cache.copy(self.place[row], self.place[other], self.length[row])
                self.ids[other], self.length[other] = list(self.ids[row]), self.length[row]
            families.append([row] + copies)
        return families

    def reset(self, row):
        """Forget the row's tokens; its random stream goes on where it was."""
        self.ids[row], self.length[row] = [], 0


# ---- A policy -------------------------------------------------------------------------------------------------------


class Policy:
    """A decoder, its tokenizer and its chat template. `stop`: the ids that end an assistant turn."""

    def __init__(self, model, tokenizer, name):
        self.model, self.tokenizer = model, tokenizer
        self.chat = checkpoints.Chat(tokenizer, name)
        eos = model.cfg.hf.get("eos_token_id")  # a number, several (Llama 3), or none
        self.stop = {self.chat.end, tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}

    @property
    def device(self):
        return self.model.model.embed_tokens.weight.device

    def save(self, path):
        """Write a directory that transformers.AutoModelForCausalLM.from_pretrained opens; beside, then renamed."""
        hf = {**self.model.cfg.hf, "eos_token_id": sorted(self.stop)}
        checkpoints.write(path, hf, lora.merged(self.model), self.tokenizer)


def pick_device(name=""):
    """The torch device of that name; by default the GPU where there is one. ValueError for one that is not there."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def load(model, device="cpu", dtype=None, text=None, seed=0, world="webshop"):
    """Open a policy.

    model: a directory or HF id of a Llama, Qwen2/2.5 or Qwen3 checkpoint; `smollm2`; or `tiny`, the one shipped for
    that world, or with `text` (a list of strings, to train its tokenizer on) a new one, made from nothing.
    dtype: default float32 on a CPU (bfloat16 is slower there), bfloat16 on a GPU.
    Errors: ValueError or OSError with one line that says what is missing and what to do.
    """
    dtype = dtype or (torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16)
    if model == "tiny":
        shipped = str(checkpoints.TINY / world)
        hf, weights, tokenizer = checkpoints.read(shipped) if text is None else checkpoints.tiny(text, seed)
    elif model == "smollm2":
        hf, weights, tokenizer = checkpoints.smollm2()
    else:
        hf, weights, tokenizer = checkpoints.read(model)
    cfg = checkpoints.Config.from_hf(hf, f"{model}/config.json")
    if len(tokenizer) > cfg.vocab_size:
        raise ValueError(f"{model}: the tokenizer has {len(tokenizer)} tokens, the model {cfg.vocab_size}: not a pair")
    with torch.device("meta"):  # shapes only: the weights are the checkpoint's
        decoder = Decoder(cfg)
    shapes = {key: tuple(value.shape) for key, value in decoder.state_dict().items()}
    decoder.load_state_dict(checkpoints.fit(weights, shapes, cfg, device, dtype, model), assign=True)
    return Policy(decoder.requires_grad_(True), tokenizer, model)

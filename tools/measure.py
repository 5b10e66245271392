"""Models of a known shape, and what a machine is measured by: for tools.check and studies.bench.

`qwen2.5-*` have that model's shape and random weights: the text is noise, the work is the same.
"""

import ctypes
import gc
import os
import time
from pathlib import Path

import torch

import policy as policies
from lib import checkpoints, models

# Of the config.json on the hub: hidden, layers, heads, KV heads, intermediate, vocabulary, tied.
QWEN = {
    "qwen2.5-0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "qwen2.5-1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-3b": (2048, 36, 16, 2, 11008, 151936, True),
    "qwen2.5-7b": (3584, 28, 28, 4, 18944, 152064, False),
}
MINI = (128, 4, 4, 2, 384, 2048, True)  # the same decoder, small enough for a CPU


def shape(numbers):
    """The Config of a Qwen2.5: of the numbers of one in QWEN."""
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
            "vocab_size", "tie_word_embeddings")
    return policies.Config(**checkpoints.architecture({
        **dict(zip(keys, numbers)), "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "rope_theta": 1e6, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "hidden_act": "silu"}))


def random_policy(cfg, device, dtype, world="webshop", key_bias=0.0, std=0.02):
    """A policy with random weights and tiny's tokenizer, whose ids are in every vocabulary here.

    key_bias: the bias of one dimension of each key head, which meets queries with biases of 30 or so. Trained models
    have such a dimension, and scores of thousands by it; random weights alone have none.
    """
    torch.manual_seed(0)
    with torch.device("meta"):
        model = policies.Decoder(cfg).to(dtype)
    model = model.to_empty(device=device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, std)
        for block in model.model.layers if key_bias else ():
            block.self_attn.q_proj.bias.normal_(0.0, 30.0)
            block.self_attn.k_proj.bias.view(cfg.kv_heads, cfg.head_dim)[:, -1] = key_bias
    return policies.Policy(model, checkpoints.read(models.shipped(world))[2], "random weights")


def matrices(cfg):
    """How many numbers: in the matrices of all layers, and in the LM head."""
    attention = 2 * cfg.dim * cfg.head_dim * (cfg.heads + cfg.kv_heads)
    return cfg.layers * (attention + 3 * cfg.dim * cfg.ffn), cfg.vocab_size * cfg.dim


def attention_flops(cfg, lengths):
    """Of a causal forward pass over whole sequences: scores and mixing, 2 FLOPs a number each, per pair of tokens."""
    return 4 * cfg.layers * cfg.heads * cfg.head_dim * sum(n * (n + 1) // 2 for n in lengths)


def timed(device, call):
    """(seconds, result) of a call; on a GPU until its work is done."""
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device.type, int)
    wait()
    start = time.perf_counter()
    result = call()
    wait()
    return time.perf_counter() - start, result


def machine_bounds(device, dtype):
    """The machine's own bounds: bytes/s of copying a large buffer, read and written, and FLOP/s of a large product."""
    size, n = (2**31, 8192) if device.type == "cuda" else (2**28, 1024)
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    copying = min(timed(device, lambda: target.copy_(source))[0] for _ in range(7))  # the best: the first warms up
    product = min(timed(device, lambda: [a @ b for _ in range(5)])[0] / 5 for _ in range(7))
    return 2 * size / copying, 2 * n**3 / product


LINUX = os.access("/proc/self/clear_refs", os.W_OK)


def clear(device):
    """Give back what dropped models and caches held, and begin a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    elif LINUX:
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)  # glibc keeps freed memory otherwise
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb(device):
    """Since `clear`: on a GPU what tensors took, on a CPU the resident memory of the process, None where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    lines = Path("/proc/self/status").read_text().splitlines() if LINUX else []
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM")), None)

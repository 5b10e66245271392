"""Small kernels made into one: a function of a dozen elementwise steps reads and writes its numbers once.

On a card each step of such a function is a kernel of its own, which moves all numbers through the memory again: the
noise of a draw moves six times the bytes of the LM head itself. torch.compile makes one or two kernels of them.
"""

import functools

import torch

from lib.files import one_line


def fused(function):
    """`function`, compiled where its first argument is on a card and no gradient is wanted, else as it is.

    Where it cannot be compiled, for want of Triton say, one line tells so, and the function runs as it is.
    """
    compiled = None

    @functools.wraps(function)
    def call(first, *rest):
        nonlocal compiled
        if compiled is function or not wanted(first):
            return function(first, *rest)
        try:
            compiled = compiled or torch.compile(function, dynamic=True)
            return compiled(first, *rest)
        except Exception as error:  # torch, Triton and the C compiler have many
            compiled = function
            print(f"torch.compile: {function.__name__} stays in pieces ({one_line(error)}); going on", flush=True)
            return function(first, *rest)

    return call


def wanted(tensor):
    return tensor.is_cuda and not torch.is_grad_enabled()


def attend_one(q, k, v, attn_mask):
    """Attention of one new token per row as two plain products, which fill a card where fused kernels leave it idle.

    q (B, KV, H / KV, D); k, v (B, KV, span, D), views of the cache whose first two axes are one to a product: no copy.
    """
    scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5 + attn_mask.float()  # (B, KV, H / KV, span)
    return scores.softmax(-1).to(v.dtype) @ v

"""Small kernels made into one: a function of a dozen elementwise steps reads and writes its numbers once.

On a card each step of such a function is a kernel of its own, which moves all numbers through the memory again: the
noise of a draw moves six times the bytes of the LM head itself. torch.compile makes one or two kernels of them.
"""

import functools

import torch
import torch.nn.functional as F

from lib.device import WITHOUT
from lib.files import one_line


def fused(function):
    """`function`, compiled where its first argument is on a card and no gradient is wanted, else as it is.

    Where it cannot be compiled, for want of Triton say, one line tells so, and the function runs as it is.
    """
    @functools.wraps(function)
    def call(first, *rest):
        if call.compiled is function or not wanted(first):
            return function(first, *rest)
        try:
            call.compiled = call.compiled or torch.compile(function, dynamic=True)
            return call.compiled(first, *rest)
        except Exception as error:  # torch, Triton and the C compiler have many
            call.compiled = function
            print(f"torch.compile: {function.__name__} stays in pieces ({one_line(error)}); going on", flush=True)
            return function(first, *rest)

    call.compiled = None  # `function` itself where it could not be compiled
    return call


def wanted(tensor):
    return tensor.is_cuda and not torch.is_grad_enabled() and "compilation" not in WITHOUT


@functools.cache
def wide(device, dtype):
    """Does this card hand back the float32 sums of a product of such numbers? On CUDA since torch 2.8."""
    ones = torch.ones(1, 16, 16, device=device, dtype=dtype)
    try:
        return dtype == torch.float32 or bool((torch.bmm(ones, ones, out_dtype=torch.float32) == 16).all())
    except (RuntimeError, TypeError):  # there is no such operation, or an older torch does not know the word
        return False


def product(a, b):
    """a (N, n, D) times b (N, D, m) as float32 (N, n, m): of bfloat16 numbers, `a @ b` would round the sums."""
    if a.is_cuda and a.dtype != torch.float32:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a.float(), b.float())


def attend(q, k, v, mask, alone):
    """Attention of q (B, KV, n, D) to the cache's k, v (B, KV, span, D); mask (B, 1, n, span) is added to the scores.

    alone: each row has one new token, read by as many queries as query heads share a KV head.
    """
    if alone and q.is_cuda and wide(q.device, q.dtype):
        return attend_one(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attend_one(q, k, v, mask):
    """Attention of one new token per row as two plain products, which fill a card where fused kernels leave it idle.

    k and v are views of the cache whose first two axes are one to a product, so nothing is copied. The scores stay
    float32: the key biases of Qwen2 make them thousands, where bfloat16 has steps of 16 and more.
    """
    scores = product(q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2))  # (B * KV, H / KV, span)
    scores = scores.unflatten(0, q.shape[:2]) * q.shape[-1] ** -0.5 + mask  # (B, KV, H / KV, span)
    return scores.softmax(-1).to(v.dtype) @ v

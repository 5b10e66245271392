"""The random streams: seeds hashed from whole numbers, and noise that depends on its seed and nothing else.

A generator has a state, so its next number depends on all numbers before. Here the noise of a draw is a function of the
stream, the turn and the place in the turn. Batches, order and a resumed run change nothing, on any device.
"""

import numpy as np
import torch


def mix(*words):
    """Hash integers, or arrays of them that broadcast, to signed 32-bit integers (splitmix64): seeds of the noise."""
    x = np.zeros(1, np.uint64)  # an array: numpy warns where a single number wraps around
    for word in words:
        word = np.array(word & 0xFFFFFFFFFFFFFFFF if isinstance(word, int) else word).astype(np.uint64)
        x = (x ^ word) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    x = (x & np.uint64(0xFFFFFFFF)).astype(np.int64) - 0x80000000
    return x if any(isinstance(word, np.ndarray) for word in words) else int(x[0])


def gumbel(seeds, vocab, device):
    """Gumbel noise (len(seeds), vocab) float32 that depends on each seed and nothing else: no generator, no state.

    An integer hash (lowbias32, keyed twice) of (seed, token id) gives a uniform number u; -log(-log1p(-u)) makes it
    Gumbel. The uniform numbers are the same on every device.
    """
    key = torch.as_tensor(seeds, dtype=torch.int32, device=device)[:, None]  # (B, 1)
    x = torch.arange(vocab, dtype=torch.int32, device=device) * -1640531535  # Knuth's 2654435761 as int32
    for _ in range(2):  # the second round removes the pattern in token id ^ key, and costs little next to the LM head
        x = x ^ key  # (B, vocab)
        x ^= (x >> 16) & 0xFFFF  # int32 shifts are arithmetic, so the sign bits are masked off
        x *= 0x7FEB352D
        x ^= (x >> 15) & 0x1FFFF
        x *= -2073254261  # 0x846CA68B as int32
        x ^= (x >> 16) & 0xFFFF
    u = ((x & 0x7FFFFFFF).float() + 0.5) * 2.0**-31  # finest near 0: large noise comes from small u
    u = u.clamp_(max=1 - 2.0**-24)  # u may round to 1: its noise would be -inf, and a sure token could never be drawn
    return u.neg_().log1p_().neg_().log_().neg_()

"""RoPE's frequencies, with the scalings that checkpoints ask for."""

import math

import torch


def frequencies(rope: dict, head_dim: int) -> torch.Tensor:
    """Angular frequencies (head_dim / 2,) float32. rope: rope_type, rope_theta and what the type needs."""
    freq = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim)
    if rope["rope_type"] == "linear":
        freq = freq / rope["factor"]
    if rope["rope_type"] == "llama3":  # long wavelengths are stretched, short ones kept, a ramp between
        factor, low, high = (rope[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
        turns = rope["original_max_position_embeddings"] * freq / (2 * math.pi)
        smooth = ((turns - low) / (high - low)).clamp(0, 1)
        freq = (1 - smooth) * freq / factor + smooth * freq
    return freq

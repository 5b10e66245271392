"""RoPE's frequencies, with the scalings that checkpoints ask for. The formulas are those of transformers."""

import math

import torch

# Scaling -> the numbers it needs, besides rope_theta.
NEEDS = {"default": (), "linear": ("factor",), "yarn": ("factor", "original_max_position_embeddings"),
         "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}
# All numbers that a scaling may have.
NUMBERS = {"rope_theta", "partial_rotary_factor", "attention_factor", "beta_fast", "beta_slow", "mscale",
           "mscale_all_dim"}.union(*NEEDS.values())


def settings(hf: dict) -> dict:
    """rope_type, rope_theta and the rest from a config.json; an unknown scaling is left for the caller to refuse.

    transformers 5 writes one dict `rope_parameters`; older checkpoints have `rope_theta` and `rope_scaling`. Where both
    are there, transformers takes `rope_scaling` and forgets the other, its theta too.
    """
    rope = dict(hf.get("rope_scaling") or hf.get("rope_parameters") or {})
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    rope["rope_theta"] = float(rope.get("rope_theta") or hf.get("rope_theta") or 10000.0)
    if rope["rope_type"] in ("llama3", "yarn"):
        trained = hf.get("original_max_position_embeddings")
        default = hf.get("max_position_embeddings", 2048)
        rope["original_max_position_embeddings"] = trained or rope.get("original_max_position_embeddings") or default
    return rope


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
    if rope["rope_type"] == "yarn":  # the same idea, with the ramp over dimensions (Peng et al. 2023)
        low, high = (head_dim * math.log(rope["original_max_position_embeddings"] / (turns * 2 * math.pi))
                     / (2 * math.log(rope["rope_theta"]))
                     for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1))
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        high += 0.001 if low == high else 0
        ramp = ((torch.arange(head_dim // 2).float() - low) / (high - low)).clamp(0, 1)
        freq = ramp * freq / rope["factor"] + (1 - ramp) * freq
    return freq


def attention_factor(rope: dict) -> float:
    """What cos and sin are multiplied by: 1, but for yarn."""
    if rope["rope_type"] != "yarn":
        return 1.0

    def scale(m):
        return 1.0 if rope["factor"] <= 1 else 0.1 * m * math.log(rope["factor"]) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope["mscale"]) / scale(rope["mscale_all_dim"])
    return scale(1.0)


class Rope:
    """cos and sin of every position, (B, 1, T, D) float32, of a decoder's Config."""

    def __init__(self, cfg):
        self.cfg = cfg
        self.freq = None  # (D / 2,), made on the device of the first positions

    def __call__(self, positions):
        if self.freq is None or self.freq.device != positions.device:
            self.freq = frequencies(self.cfg.rope, self.cfg.head_dim).to(positions.device)
        angle = positions[..., None] * self.freq  # (B, T, D/2)
        angle = torch.cat((angle, angle), dim=-1)[:, None]  # (B, 1, T, D)
        scale = attention_factor(self.cfg.rope)
        return angle.cos() * scale, angle.sin() * scale

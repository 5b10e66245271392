"""LoRA: train a low-rank difference to each matrix of the layers instead of the matrix (Hu et al. 2021).

    y = W x + (alpha / r) B A x        W is frozen; A (r, in) is random, B (out, r) starts at zero; alpha = 2 r

With its adapters off, the model is the initial one. So it is its own reference policy, and the KL term needs no second
model: `logprobs` calls `Reference(model)`. Gradients, master weights and Adam's moments exist for A and B only, about a
hundredth of the parameters. Saved checkpoints hold plain matrices, W + 2 B A.
"""

from contextlib import contextmanager

import torch
import torch.nn as nn
import torch.nn.functional as F


class Adapted(nn.Module):
    """A frozen linear layer and its low-rank difference."""

    def __init__(self, linear, rank, generator):
        super().__init__()
        self.linear, self.on = linear.requires_grad_(False), True
        a = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
        self.a = nn.Parameter(a.to(linear.weight))  # (r, in)
        self.b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))  # (out, r)

    def forward(self, x):
        y = self.linear(x)
        return y + 2.0 * F.linear(F.linear(x, self.a), self.b) if self.on else y


def add(model, rank, seed=0):
    """Freeze a decoder and give every matrix of its layers an adapter of this rank, the same for the same seed."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.model["layers"]:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.Linear):
                    setattr(part, name, Adapted(layer, rank, generator))


def adapters(model):
    """{name: tensor} of A and B alone; empty where there are none."""
    return {name: value for name, value in model.state_dict().items() if name.endswith((".a", ".b"))}


def merged(model):
    """The state dict of the plain decoder that computes the same: W + 2 B A, under the checkpoint's names."""
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith(".linear.weight"):
            layer = model.get_submodule(name.removesuffix(".linear.weight"))
            value = (value.float() + 2.0 * layer.b.float() @ layer.a.float()).to(value.dtype)
        if not name.endswith((".a", ".b")):
            weights[name.replace(".linear.", ".")] = value
    return weights


@contextmanager
def off(model):
    """Inside, the model is the one that training began with."""
    layers = [layer for layer in model.modules() if isinstance(layer, Adapted)]
    for layer in layers:
        layer.on = False
    try:
        yield
    finally:
        for layer in layers:
            layer.on = True


class Reference:
    """The model with its adapters off, as `logprobs` calls a model."""

    def __init__(self, model):
        self.model = model

    def parameters(self):
        return self.model.parameters()

    def hidden(self, tokens):
        with off(self.model):
            return self.model.hidden(tokens)

    def head(self, hidden):
        return self.model.head(hidden)

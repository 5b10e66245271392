"""`--shard`: of every trained weight, its gradient and its moments each of N processes holds 1/N, by FSDP2.

A rollout reads all weights for every token, so the decoder that samples stays whole in each process. `Shards` makes a
second one beside it, of float32 parts: an update gathers it layer by layer, and after every step the whole one is
filled from it, in place. So sampling, scoring and saving know of no parts, and CUDA graphs once recorded stay valid.
Frozen weights are not sharded, as they are whole in each process anyway: with LoRA only the adapters are.
"""

import copy

import torch
from torch.utils._pytree import tree_map

from lib import distributed


def check():
    """ValueError where this torch cannot add gradients up in fully_shard."""
    from torch.distributed import fsdp

    if not hasattr(getattr(fsdp, "FSDPModule", None), "set_force_sum_reduction_for_comms"):
        raise ValueError(f"--shard: torch {torch.__version__} is too old for it, 2.13 was tried; or leave it out")


def lost(error) -> bool:
    """Is this what a collective that torch makes by itself raises where another process has gone?"""
    ours = isinstance(error, RuntimeError) and distributed.this.size > 1
    return ours and (isinstance(error, torch.distributed.DistError) or "gloo" in str(error))


def spread(model, mesh, keep):
    """fully_shard a policy.Decoder layer by layer, in place; keep: parameters that stay as they are."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    # What is computed with is of the decoder's own type, gradients add up in float32. Inputs stay as they are: RoPE's
    # cosines are float32 in a bfloat16 decoder.
    types = MixedPrecisionPolicy(model.model["norm"].weight.dtype, torch.float32, cast_forward_inputs=False)
    for part in (*model.model["layers"], model):
        for module in part.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.requires_grad and weight.dtype != torch.float32:
                    setattr(module, name, torch.nn.Parameter(weight.detach().float()))
        # The LM head is used after `hidden`, which is all of the model that gathers.
        fully_shard(part, mesh=mesh, mp_policy=types, ignored_params=keep, reshard_after_forward=part is not model)
        # Of a loss that is one mean over all tokens of all processes the gradients are a sum, torch's default a mean.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    register_fsdp_forward_method(model, "hidden")


class Shards:
    """The sharded twin of a decoder: .model, and how its micro-batches are dealt (a team of dualadv_grpo.AdamW).

    whole: a policy.Decoder, from now on only sampled from; reference: the frozen one of the KL term, which is sharded
    in place but for embedding and head, or None. All processes must make theirs together.
    """

    def __init__(self, whole, reference=None):
        from torch.distributed.device_mesh import init_device_mesh

        weights = list(whole.parameters())
        self.mesh = init_device_mesh(weights[0].device.type, (distributed.this.size,))
        self.half = weights[0].dtype != torch.float32
        self.model = copy.deepcopy(whole, {id(weight): weight for weight in weights})  # of the same weights
        spread(self.model, self.mesh, {weight for weight in weights if not weight.requires_grad})
        self.pairs = [(weight, part) for weight, part in zip(weights, self.model.parameters()) if weight.requires_grad]
        if reference is not None:
            layers = set(reference.model["layers"].parameters())
            spread(reference, self.mesh, set(reference.parameters()) - layers)

    def deal(self, costs: list) -> list[int]:
        """Which micro-batches of known cost are this process's; -1: an empty one.

        All gather each layer together, so each has as many, and those that are computed at once are about as long.
        """
        order = sorted(range(len(costs)), key=lambda i: -costs[i])
        numbers = order[distributed.this.rank::distributed.this.size]
        return numbers + [-1] * (-(-len(costs) // distributed.this.size) - len(numbers))

    def add_up(self, optimizer, things: dict) -> list:
        """`distributed.gather`: the gradients were added up in backward."""
        return distributed.gather(things)

    @torch.no_grad()
    def fill(self, *of_a_step):
        """Give the whole decoder the weights of the sharded one, in place: a hook after each step of the optimiser."""
        for weight, part in self.pairs:
            weight.copy_(part.to(weight.dtype).full_tensor())

    def whole(self, state):
        """The state of an AdamW over parts as one over whole weights has it, in the leader's memory alone."""
        from torch.distributed.tensor import DTensor

        state = {**state, "master": [part for _, part in self.pairs] if self.half else None}

        def gathered(thing):
            thing = thing.detach().full_tensor() if isinstance(thing, DTensor) else thing
            return thing if not torch.is_tensor(thing) else thing.cpu() if distributed.leader() else None
        return tree_map(gathered, state)

    def split(self, state):
        """The other way round: of each tensor the part of this process."""
        from torch.distributed.tensor import Shard, distribute_tensor

        def part(thing):
            if not torch.is_tensor(thing) or not thing.dim():
                return thing
            thing = thing.to(self.mesh.device_type, torch.float32)
            return distribute_tensor(thing, self.mesh, [Shard(0)], src_data_rank=None)
        return tree_map(part, state)

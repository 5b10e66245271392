"""The memory of a `policy.Session`, which a policy keeps on a GPU: recorded steps hold its addresses."""

import torch

from lib import graphs


class Buffers:
    """The KV cache, and what a decoding step reads and writes per row of it.

    cache: a policy.KVCache of that many rows, of max_len slots and a spare one.
    """

    def __init__(self, cache, rows, max_len):
        device = cache.k.device
        self.rows, self.spare = rows, max_len  # the last slot is spare: padding writes there
        self.cache = cache
        # The newest token, its position, the seed of the next one, and the log-probability of that one.
        self.tokens, self.positions = torch.zeros(2, rows, 1, dtype=torch.long, device=device)
        self.seeds = torch.zeros(rows, dtype=torch.int32, device=device)
        self.logp = torch.zeros(rows, device=device)
        self.graphs = graphs.Graphs() if device.type == "cuda" else None
        self.user = None  # a weak reference to the Session that they belong to

"""The memory of a `policy.Session`, and who is in which row of it. Recorded steps on a GPU hold its addresses."""

import weakref

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


def take(policy, session, cache, rows, max_len) -> Buffers:
    """Buffers for a Session: those that the policy kept, where they are free and large enough, else new ones.

    cache: makes a KV cache, as policy.KVCache does.
    """
    kept, weight = policy.kept, policy.model.model.embed_tokens.weight
    max_len = graphs.whole(max_len + 1) - 1 if weight.is_cuda else max_len
    if kept and (kept.user() or kept.rows < rows or kept.spare < max_len or not policy.keep):
        kept = None
        if not policy.kept.user():
            policy.kept = None  # frees them first
            graphs.release()
    if not policy.keep and weight.is_cuda:  # the last Session's recordings are dead, and nobody gives their memory back
        graphs.release()
    new = kept or Buffers(cache(policy.model.cfg, rows, max_len, weight.device, weight.dtype), rows, max_len)
    new.user = weakref.ref(session)
    if policy.keep and not policy.kept:
        policy.kept = new
    return new


# ---- Rows: session.row says in which row of the cache a conversation is ---------------------------------------------


def in_front(session, active):
    """Give conversations the cache's first rows, moving as few as possible; returns them in the rows' order."""
    holder = {row: c for c, row in enumerate(session.row)}
    free = [row for row in range(len(active)) if holder[row] not in active]
    for c in active:
        if session.row[c] >= len(active):
            swap(session, free.pop(), session.row[c])
    return sorted(active, key=session.row.__getitem__)


def swap(session, a, b):
    """Exchange two rows of the cache, whichever conversations are there."""
    if a == b:
        return
    one, two = session.row.index(a), session.row.index(b)
    session.cache.swap(a, b, max(session.length[one], session.length[two]))
    session.row[one], session.row[two] = b, a

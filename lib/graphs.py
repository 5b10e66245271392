"""CUDA graphs: a decoding step launched as one piece instead of as its 500 kernels.

One token of a 1.5B model takes a card about a millisecond; launching its kernels one by one takes Python several, so
the GPU would wait most of the time. A recorded step replays all kernels at once, on the same addresses. For that reason
`Session._step` keeps its inputs and outputs in tensors of its own. A recording belongs to one shape, hence the buckets.
"""

from contextlib import suppress
from functools import cache

import torch

from lib.device import WITHOUT
from lib.files import one_line


def bucket(rows, span):
    """The shape that a step is rounded up to: few recordings, little wasted. 1, 2, 4, 8, 16, 32, 48 ... rows."""
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16, -(-span // 256) * 256


@cache
def side_stream():
    """The one stream that recordings are made on: cuBLAS keeps a workspace for each that it has seen."""
    return torch.cuda.Stream()


def whole(slots):
    """Slots in multiples of 64: other masks would be padded, that is copied, in every layer on a card."""
    return -(-slots // 64) * 64


def release():
    """Give the memory of dead recordings back to the card: it would pile up unseen."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run(recordings, step, *shape):
    """step(*shape), by the recordings where there are any (a Graphs, or None)."""
    if recordings:
        recordings.run(step, *shape)
    else:
        step(*shape)


def end_capture(pool):
    """Tell the allocator that nothing is recorded into this pool any more. It is not told where a capture has failed.

    As long as it believes in one, it gives no cached memory back, and an allocation fails beside gigabytes that are
    free. The call is not public: without it, and without a card, nothing happens.
    """
    with suppress(Exception):
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


class Graphs:
    """The recordings on one set of buffers. They share one memory pool, as nothing in it outlives a step."""

    def __init__(self):
        self.recorded, self.pool = {}, None

    def run(self, step, *shape):
        """step(*shape): the first call of a shape runs as it is and warms up, the second is recorded and replayed."""
        if shape not in self.recorded:
            self.recorded[shape] = None
            return step(*shape)
        if self.recorded[shape] is None and "recordings" not in WITHOUT:
            try:
                self.recorded[shape] = self._record(step, *shape)
            except RuntimeError as error:  # out of memory, too: without recordings it is slower, and right
                self.give_up(error)
        if self.recorded[shape] is None:
            return step(*shape)
        self.recorded[shape].replay()

    def give_up(self, error):
        """Go on without recordings, here and in all that comes in this process, and give their memory back."""
        self.recorded = dict.fromkeys(self.recorded)
        WITHOUT.add("recordings")
        print(f"CUDA graphs: a step could not be recorded ({one_line(error)}); going on without", flush=True)
        end_capture(self.pool)
        release()

    def _record(self, step, *shape):
        # As torch.cuda.graph, but without emptying all caches: that would cost more than the recording saves.
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(side_stream()):
            graph.capture_begin(pool=self.pool)
            try:
                step(*shape)
            finally:
                graph.capture_end()
        torch.cuda.synchronize()
        return graph

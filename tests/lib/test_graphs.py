"""As on a GPU: blocks of tokens and recorded steps draw what single, unrecorded steps draw."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib import graphs
from lib.buffers import Buffers, take
from lib.device import leave_out
from policy import KVCache, Session
from tests.small import FAMILIES, assert_same, prompts


def test_slots_come_in_wholes():
    """Bug: 8,193 slots, whose masks a card copies in every layer."""
    assert [graphs.whole(n) for n in (1, 64, 65, 8193)] == [64, 64, 128, 8256]


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: remembers every operation with its tensors, and runs them again on the same
    memory, whatever Python has changed meanwhile. Operations that a recording forbids fail here, too."""

    HOST = ("_local_scalar_dense", "nonzero", "lift_fresh")  # they need the host, or its memory

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(name in str(function) for name in self.HOST), f"{function} in a recorded step"
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self):
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(*(r if isinstance(r, (tuple, list)) else (r,) for r in (result, again))):
                if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():  # views share memory already
                    old.copy_(new)


class Taped(graphs.Graphs):
    recordings = replays = 0

    def _record(self, step, *shape):
        self.recordings += 1
        session = step.__self__
        before = session.tokens.clone(), session.positions.clone()
        with Tape() as tape:
            step(*shape)
        session.tokens[:], session.positions[:] = before  # recording a CUDA graph computes nothing
        return tape

    def run(self, step, *shape):
        self.replays += self.recorded.get(shape) is not None
        super().run(step, *shape)


@pytest.mark.parametrize("family, recorded, temperature", [
    ("llama", False, 0.7), *((family, True, 0.7) for family in FAMILIES), ("llama", True, 0.0)])
def test_blocks_and_recordings_draw_the_same(family, recorded, temperature, pair):
    """Bugs: a block's surplus tokens are kept, or seen by a later turn, or write past the cache; a recorded step has
    the first call's positions, seeds or cache rows baked in, reads the host, or needs a shape it was not made for."""
    ids, keys, policy = prompts(5, 90, 12, 33, 60, 7), [5, -3, 2**40, 1, 9, 11], pair(family)[1]

    def play(session):
        session.feed(range(6), [list(row) for row in ids])
        turns = session.sample(range(6), [40, 3, 40, 26, 1, 40], stop=range(30), temperature=temperature)
        session.feed([1, 4], prompts(6, 2, seed=1))
        turns += session.sample([4, 1, 0], 30, stop=range(9), temperature=temperature)
        room = [session.room(row) for row in range(6)]  # to the last slot of every row
        return turns + session.sample(range(6), room, stop=(), temperature=temperature), session.ids

    plain, expected = play(Session(policy, 6, 160, seed=3, keys=keys))
    session = Session(policy, 6, 160, seed=3, keys=keys)
    session.block, session.graphs = 8, Taped() if recorded else None
    turns, found = play(session)
    assert found == expected
    assert_same(turns, plain)
    assert all(len(row) == 160 for row in found)
    if recorded:
        assert 2 <= session.graphs.recordings <= len(session.graphs.recorded) < session.graphs.replays / 10


def test_the_next_session_replays_what_the_last_one_recorded(pair, monkeypatch):
    """Bug: every Session records anew, 428 times an iteration for 145 shapes, or replays on another's memory."""
    policy = pair("llama")[1]
    monkeypatch.setattr(graphs, "Graphs", Taped)
    monkeypatch.setattr(Buffers, "__init__", lambda self, *args, make=Buffers.__init__: (
        make(self, *args), setattr(self, "graphs", Taped()))[0])

    def play(rows, seed):
        session = Session(policy, rows, 200, seed=seed)
        session.feed(range(rows), prompts(*range(5, 5 + rows)))
        turns = session.sample(range(rows), 30, stop=range(9), temperature=0.7)
        return turns, session.buffers

    monkeypatch.setattr(policy, "keep", False)
    monkeypatch.setattr(policy, "kept", None)
    expected = [play(rows, seed)[0] for rows, seed in ((6, 1), (6, 2), (3, 3), (8, 4))]
    assert policy.kept is None
    monkeypatch.setattr(policy, "keep", True)
    first, kept = play(6, 1)
    recorded = kept.graphs.recordings
    assert recorded and policy.kept is kept
    second, again = play(6, 2)
    third, smaller = play(3, 3)  # fewer rows fit
    assert again is kept and smaller is kept
    play(6, 1)
    count = kept.graphs.recordings
    play(6, 1)
    assert kept.graphs.recordings == count, "an iteration like the last one records nothing"
    fourth, larger = play(8, 4)  # more rows do not
    assert larger is not kept and policy.kept is larger
    for turns, want in zip((first, second, third, fourth), expected):
        assert_same(turns, want)
    busy = Session(policy, 2, 100)
    assert busy.buffers is larger and Session(policy, 2, 100).buffers is not larger, "two Sessions at once"


def test_bucketed_shapes_hold_what_they_must():
    """Bug: a step is rounded down, and a row or its newest slot is left out; or every length is its own recording."""
    shapes = {graphs.bucket(rows, span) for rows in range(1, 130) for span in range(1, 4097)}
    assert all(one >= rows and two >= span for rows in range(1, 130) for span in range(1, 4097, 97)
               for one, two in [graphs.bucket(rows, span)])
    assert len(shapes) <= 13 * 16 and max(shapes) == (144, 4096)


def test_what_cannot_be_recorded_runs_as_it_is_and_gives_its_memory_back(monkeypatch, capsys):
    """Bug: every Session tries again and says so again; dead recordings hold gigabytes while an allocation fails."""
    ran: list = []
    monkeypatch.setattr(graphs, "release", lambda: ran.append("released"))

    class Invalidated(graphs.Graphs):
        def _record(self, step, *shape):
            if shape == (1,):
                return SimpleNamespace(replay=lambda: ran.append("replayed"))
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore")

    try:
        one = Invalidated()
        for shape in (1, 1, 1, 2, 2, 2, 1):
            one.run(ran.append, shape)
        assert ran == [1, "replayed", "replayed", 2, "released", 2, 2, 1]
        for _ in range(3):
            Invalidated().run(ran.append, 2)
        assert capsys.readouterr().out.count("a step could not be recorded (CUDA error: operation failed") == 1
    finally:
        leave_out("")


def test_a_cache_that_is_not_kept_gives_its_recordings_back(tiny, monkeypatch):
    """Bug: on cards of 24 to 48 GB each Session records anew, and the memory of the last one's is never released."""
    released: list = []
    monkeypatch.setattr(graphs, "release", lambda: released.append(1))
    weight = SimpleNamespace(is_cuda=True, device=torch.device("cpu"), dtype=torch.float32)
    model = SimpleNamespace(model=SimpleNamespace(embed_tokens=SimpleNamespace(weight=weight)), cfg=tiny.model.cfg)
    for keep, count in ((False, 1), (True, 1)):
        policy = SimpleNamespace(model=model, keep=keep, kept=None)
        take(policy, set(), KVCache, 2, 64)
        assert len(released) == count

"""What the bench compares must be the same work, and what it counts what a step reads."""

import json
import sys
from argparse import Namespace
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from dualadv_grpo import ACT
from studies import bench


def test_slots_are_counted_as_a_card_reads_them():
    """Bug: spans are changed for a saving that is none, or left alone for one that is there."""
    half = bench.slots_read([1000] * 32 + [200] * 32)
    assert half == {"now": 64 * 1024, "2^n spans": 64 * 1024, "two groups": 32 * 1024 + 32 * 256,
                    "lengths": 32 * 1008 + 32 * 208}
    assert bench.slots_read([1100] * 48)["2^n spans"] == 48 * 2048
    assert bench.slots_read([1000] * 32)["two groups"] == 32 * 1024, "equal rows gain nothing"
    assert bench.slots_read([1000]) == {"now": 1024, "2^n spans": 1024, "two groups": 1024, "lengths": 1008}


def test_without_trl_one_line_says_so(monkeypatch, capsys):
    """Bug: the whole bench ends with a traceback where nobody has installed what it is compared with."""
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "load", lambda args: 1 / 0)
    bench.table(*bench.bench_trl(None, None, {}))
    assert capsys.readouterr().out == "\ntrl: skipped, as TRL is not installed (pip install trl)\n"


def test_an_update_that_does_not_fit_is_said(monkeypatch, capsys):
    """Bug: a traceback ends the bench on a card that is too small for all weights, on either side."""
    args = Namespace(model="tiny", env="webshop", mini=True, device=torch.device("cpu"), dtype=torch.float32)
    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(bench, "one_update", lambda *rest: (None, None))
        bench.by_us(args, [([[1, 7]], 2)])

    def apply(side, asked):
        raise torch.OutOfMemoryError(side.__name__)

    context = SimpleNamespace(Pool=lambda *rest: nullcontext(SimpleNamespace(apply=apply)))
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda kind: context)
    monkeypatch.setattr(bench, "conversations", lambda *rest: [[([1, 7], 2)]])
    bench.table(*bench.bench_trl(args, None, {}))
    assert capsys.readouterr().out == "\ntrl: skipped, as an update of all weights of tiny does not fit cpu\n"


def test_a_part_that_does_not_fit_leaves_the_others(tmp_path, monkeypatch, capsys):
    """Bug: the largest part, an iteration, ends the bench on a small card, and what would follow is never measured."""
    def short(*given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    monkeypatch.setattr(bench, "PARTS", {"iteration": short, "fit": lambda *given: ("what fits", [{"a": 1}], "")})
    monkeypatch.setattr(bench, "machine", lambda args: {})
    monkeypatch.setattr(sys, "argv", ["bench", "--device", "cpu", "--env", "guess", "--parts", "iteration,fit",
                                      "--out", str(tmp_path / "bench.json")])
    bench.main()
    told = capsys.readouterr().out
    assert "iteration: too little memory, left out (CUDA out of memory. Tried to allocate 2 GiB)" in told
    assert {"settings", "machine", "fit"} == set(json.loads((tmp_path / "bench.json").read_text()))


def test_our_side_reads_and_samples_what_trl_is_given(monkeypatch):
    """Bug: ours is faster as it reads less of a page, samples fewer tokens or updates on other transcripts."""
    fed, updated = [], []

    class Session(bench.Session):
        def feed(self, conversations, ids):
            fed.append([list(new) for new in ids])
            super().feed(conversations, ids)

    monkeypatch.setattr(bench, "Session", Session)
    monkeypatch.setattr(bench, "one_update", lambda args, *rest: updated.append(rest) or (1, 2))
    args = Namespace(model="tiny", env="webshop", device=torch.device("cpu"), dtype=torch.float32)
    pages = [[1, 50, 51, 52], [1, 60, 61]]
    seconds, *rest = bench.by_us(args, [([[1, 7]], 2), (pages, 3)])
    (segments, budget), = updated
    assert rest == [1, 2] and len(seconds) == 2 and len(segments) == bench.GROUP and budget == 8 * 13
    for segment in segments:
        assert segment.ids[:4] == pages[0] and segment.ids[7:10] == pages[1] and len(segment.ids) == 13
        assert segment.job == [0] * 4 + [ACT] * 3 + [0] * 3 + [ACT] * 3
    read = [new for turn in fed[-3:] for new in turn if new]
    assert read == [pages[0]] + [pages[1]] * 8, "the first page is read once, the second by each row"

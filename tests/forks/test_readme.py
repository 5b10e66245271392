"""The worked example of forks/README.md is a fork that runs."""

import re
import sys
from importlib import util

import pytest

import train
from tests.real import ROOT
from tests.runs import COUNTER
from tools import report


@pytest.fixture
def example(tmp_path):
    """The README's example as a module."""
    code, = re.findall(r"```python\n(.*?)```", (ROOT / "forks/README.md").read_text(), re.S)
    (tmp_path / "rloo.py").write_text(code)
    spec = util.spec_from_file_location("forks_rloo", tmp_path / "rloo.py")
    module = util.module_from_spec(spec)
    sys.modules["forks_rloo"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["forks_rloo"]


def test_the_worked_example_runs_resumes_and_is_right(example, tmp_path, monkeypatch, one_thread):
    """Bug: a stranger's first ten minutes end with a name that has moved."""
    assert example.leave_one_out([10.0, 0.0, 2.0, 5.0, 5.0, 5.0], 3) == [9.0, -6.0, -3.0, 0.0, 0.0, 0.0]
    assert example.leave_one_out([10.0], 1) == [0.0]
    for steps in (["--steps", "1"], ["--steps", "2", "--resume"]):
        monkeypatch.setattr(sys, "argv", ["forks.rloo", *COUNTER, "--out", str(tmp_path / "run"), *steps])
        train.main(example.Flags, example.rloo, "forks.rloo")
    assert [row["step"] for row in report.lines_of(tmp_path / "run/metrics.jsonl")] == [1, 2]
    made = (tmp_path / "rloo.py").read_text().splitlines()
    assert len(made) < 50 and max(map(len, made)) <= 120
    assert train.read_flags(["--env", "counter"], example.Flags, "forks.rloo").out == "runs/counter-tiny-rloo"


def test_every_fork_has_a_row():
    """Bug: a method is there and nobody finds it."""
    text = (ROOT / "forks/README.md").read_text()
    for path in (ROOT / "forks").glob("*.py"):
        assert f"| [{path.name}]({path.name}) |" in text

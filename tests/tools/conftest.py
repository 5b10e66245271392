"""Small runs of train.py with a random policy."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.runs import SMALL


@pytest.fixture(scope="session")
def run(train_in_process):
    """run(run directory, *more flags)."""
    return partial(train_in_process, SMALL, 2)


@pytest.fixture(scope="session")
def first(run, tmp_path_factory):
    """A run of one iteration, on one thread as the tests that go on with a copy of it, `begun`: else bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "first"
    run(out)
    torch.set_num_threads(before)
    return out


@pytest.fixture
def begun(first, tmp_path):
    """A run of one iteration, this test's own."""
    return Path(shutil.copytree(first, tmp_path / "run"))

"""Every fork trains, and goes on after a kill as if there had been none."""

import re
from importlib import import_module

import pytest
import torch

from tests.real import ROOT
from worlds.counter.world import World, towns

# Flags with which two iterations come to what the method is about.
FLAGS = {
    "gigpo": "",
    "siri": "--need 1 --enough 0.5 --mine_every 1 --tests 1 --ramp 1",
    "teachers": "--term sgsd",
    "sapo": "--promote_every 2 --share 1",
    "skillc": "--audit_every 1 --bank {bank}",
    "slim": "--audit_every 1 --failures 2 --patience 1 --shown 1 --useless 0.5 --probes 2",
    "reskill": "--trial_steps 1 --trial_games 1 --decide paired",
    "evolving": "--candidates 4",
    "uniskill": "--p_min 0.3",
    "weaver": "",
    "skillrl": "--grow_every 1",
    "prompting": "--rule evoskill --score 2",
    "skill0": "--stage 2 --measure_every 1 --bank {bank}",
    "retro": "--progress score --prune_every 2",
    "ucob": "--bank {bank}",
    "sage": "",
}
LOOPS = sorted(path.stem for path in (ROOT / "forks").glob("*.py"))


def test_every_fork_is_tried_here():
    """Bug: a fork is added, and nothing ever runs it."""
    assert sorted(FLAGS) == LOOPS


QUICK = ("gigpo", "siri", "skillc", "skillrl", "prompting")  # of the others each takes ten seconds


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
                                  for name in FLAGS])
def test_a_fork_trains_and_resumes(name, play_fork):
    """Bug: a method does not run; or what it keeps cannot be saved, or is not what it takes up again."""
    flags = FLAGS[name].split()
    play_fork(name, *flags, "--steps", "1")
    _, rows = play_fork(name, *flags, "--steps", "2", "--resume")
    assert [row["step"] for row in rows] == [1, 2] and all(row["sampled"] > 0 for row in rows)


# Flags with which a method's own state matters after iterations 1 and 4: nothing of it is made anew just then.
RESUMED = FLAGS | {
    "siri": "--need 1 --enough 0.5 --mine_every 2 --tests 2 --ramp 4",
    "sapo": "--promote_every 3 --share 1",
    "skillc": "--audit_every 1 --least 0.5 --bank {bank}",
    "slim": "--audit_every 3 --failures 2 --patience 2 --shown 1 --useless 0.5 --probes 2 --bank {bank}",
    "uniskill": "--p_min 0.3 --bank {bank}",
    "skillrl": "--grow_every 3 --new 9 --low 1",
    "prompting": "--rule grasp --probes 2",
    "prompting, a frontier": "--rule evoskill --score 2",
    "skill0": "--stage 2 --measure_every 2 --bank {bank}",
    "retro": "--progress score --prune_every 3 --bank {bank} --top_k 1",
    "ucob": "--bank {bank} --top_k 1",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_fork_is_the_one_that_was_not_stopped(name, play_fork, monkeypatch):
    """Bug: a method's own counts, stored games or candidates are lost when the run is killed."""
    opened = World.__init__

    def few(self, *arguments, **more):  # so that tasks and families come again
        opened(self, *arguments, **more)
        self.train_tasks = [task for task in self.train_tasks if self.family(task) in towns[:2]][:6]

    monkeypatch.setattr(World, "__init__", few)
    name, flags = name.partition(",")[0], [*RESUMED[name].split(), "--lr", "1e-4"]
    whole, rows = play_fork(name, *flags, "--steps", "5", out="whole")
    for steps in ("1", "4", "5"):
        _, resumed = play_fork(name, *flags, "--steps", steps, *(["--resume"] if steps != "1" else []))
    parts = whole.parent / "run"
    for row in rows + resumed:  # times and memory are never the same
        for key in [key for key in row if key.endswith(("_s", "_mb"))]:
            del row[key]
    assert resumed == rows
    for file in ("edits.jsonl", "skills.json"):
        assert (parts / file).read_text() == (whole / file).read_text()
    one, other = (torch.load(run / "checkpoints/step_00005/trainer.pt", weights_only=True) for run in (whole, parts))
    # As text, since edits have no ==, and without the file that a bank was read from.
    kept, again = (re.sub(r"source=(None|Source\(.*?left=\(\)\))", "", repr(some["state"])) for some in (one, other))
    assert kept == again
    for key, moments in one["optimizer"]["adam"]["state"].items():
        same = torch.equal(moments["exp_avg"], other["optimizer"]["adam"]["state"][key]["exp_avg"])
        assert same, "the updates were others"


def test_no_fork_takes_a_flag_about_reviews_that_it_ignores():
    """Bug: --reviews off is taken, the method reviews all the same, and the figure is said to be without."""
    for name in LOOPS:
        field = import_module(f"forks.{name}").Flags.__dataclass_fields__["reviews"]
        assert field.metadata["choices"] == (field.default,), name


def test_a_fork_is_a_page():
    """Bug: a method spreads over pages, and nobody sees any more what it does."""
    for name in LOOPS:
        text = (ROOT / "forks" / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 120, name
        head = text.split('"""')[1]
        assert "ifference from SkillMaster" in head and "Measured" in head and "arXiv" in head, name

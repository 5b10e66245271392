"""Every fork trains, and goes on after a kill as if there had been none."""

import pytest
import torch

from tests.real import ROOT

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


@pytest.mark.slow
@pytest.mark.parametrize("name", FLAGS)
def test_a_resumed_fork_is_the_one_that_was_not_stopped(name, play_fork):
    """Bug: a method's own counts, stored games or candidates are lost when the run is killed."""
    flags = FLAGS[name].split()
    whole, _ = play_fork(name, *flags, "--steps", "4", out="whole")
    for steps in ("1", "3", "4"):
        play_fork(name, *flags, "--steps", steps, *(["--resume"] if steps != "1" else []))
    parts = whole.parent / "run"
    for file in ("edits.jsonl", "skills.json"):
        assert (parts / file).read_text() == (whole / file).read_text()
    one, other = (torch.load(run / "checkpoints/step_00004/trainer.pt", weights_only=True)["optimizer"]["adam"]
                  for run in (whole, parts))
    for key, moments in one["state"].items():
        assert torch.equal(moments["exp_avg"], other["state"][key]["exp_avg"]), "the updates were others"


def test_a_fork_is_a_page():
    """Bug: a method spreads over pages, and nobody sees any more what it does."""
    for name in LOOPS:
        text = (ROOT / "forks" / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 120, name
        head = text.split('"""')[1]
        assert "ifference from SkillMaster" in head and "Measured" in head and "arXiv" in head, name

"""What eval.py, tools.watch and tools.audit are given: a run, one of its checkpoints, or a model."""

import pytest

from eval import PROTOCOLS
from skillbank import Skill, SkillBank
from tests.real import ROOT
from tests.runs import ends
from tools.targets import evaluation, open_target

pytestmark = pytest.mark.usefixtures("one_thread")


def read(*argv):
    """eval.py's command line."""
    return evaluation(PROTOCOLS, [str(one) for one in argv])


def test_a_checkpoint_brings_its_bank_and_settings(run, tmp_path):
    """Bug: eval.py RUN/checkpoints/step_N plays with an empty bank and default lengths."""
    run(tmp_path / "run", "--act_tokens", "9")
    step = tmp_path / "run" / "checkpoints" / "step_00001"
    SkillBank([Skill("dyn_001", "a", "b", "c")]).save(step / "skills.json")
    for target, skills in ((tmp_path / "run", 1), (step, 1), (tmp_path / "run" / "reference", 0)):
        args = read(target)
        assert args.settings["act_tokens"] == 9 and args.env == "webshop"
        _, _, bank, sampling = open_target(args)
        assert len(bank.skills()) == skills and sampling.act_tokens == 9


def test_a_run_without_a_checkpoint_is_named(tmp_path, capsys):
    """Bug: eval.py RUN before the first checkpoint complains of a model_type None."""
    (tmp_path / "config.json").write_text('{"env": "webshop"}')
    assert "a run without a checkpoint yet" in ends(read, tmp_path)[0]


def test_a_shipped_model_names_its_world():
    """Bug: eval.py worlds/alfworld/tiny without --env plays the shop, and wins nothing."""
    for world in ("alfworld", "webshop"):
        args = read(ROOT / "worlds" / world / "tiny")
        assert args.env == world and args.bank is None
    assert read("tiny").env == "webshop"
    assert read("tiny", "--env", "guess").env == "guess"


@pytest.mark.parametrize("name", ["tiny", "worlds/webshop/tiny"])
def test_a_shipped_model_is_sampled_as_it_was_trained(name):
    """Bug: the same weights show other skills and stop at other lengths, by which of their names they are called."""
    name = str(ROOT / name) if "/" in name else name
    *_, sampling = open_target(read(name))
    assert (sampling.top_k, sampling.context, sampling.act_tokens, sampling.review_tokens) == (4, 3072, 96, 160)

"""The shipped models, one per world: small, open to others, and really obedient to the skills in their prompt."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import envs
import policy as policies
import train
from envs import Sampling, evaluate, rollout
from lib.models import shipped
from skillbank import Skill, SkillBank
from tests.real import ROOT
from tools.coldstart import demonstrations
from tools.report import summary
from worlds.webshop import catalogue
from worlds.webshop.shopper import WAYS

HOW = Sampling(temperature=0.4, act_tokens=96, review_tokens=160, context=3072, top_k=4)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def house():
    """Generated games: conftest.py sees to it."""
    try:
        return envs.make("alfworld", "dev", games=5)
    except ImportError as error:
        pytest.skip(str(error))


def bank_of(env, kind):
    """A bank with every skill of a kind in each family."""
    return SkillBank([], {family: [Skill(f"dyn_{i:03d}", text["title"], text["principle"], text["when_to_apply"])
                                   for i, text in enumerate(env.ways.texts(family)) if text["kind"] == kind]
                          for family in {env.family(task) for task in env.train_tasks}})


@pytest.mark.parametrize("fixture", ["env", "house", "real_shop"])
def test_it_is_small_and_opens_in_transformers(fixture, request):
    """Bug: a repository of a hundred megabytes; or weights that only our decoder can read."""
    env = request.getfixturevalue(fixture)
    tiny, folder = policies.load("tiny", world=env.home), shipped(env.home)
    assert tiny.model.cfg.hf["world"] == env.known
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= (12_000_000 if fixture == "real_shop" else 6_000_000)
    chat, = demonstrations(env, 1, seed=5)
    ids, _ = tiny.chat.transcript(chat)
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        tokens = torch.tensor([ids])
        torch.testing.assert_close(theirs(tokens).logits, tiny.model(tokens), atol=2e-3, rtol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for message in chat:
        assert tokenizer(message["content"])["input_ids"] == tiny.chat.encode(message["content"])
        assert tokenizer.decode(tiny.chat.encode(message["content"])) == message["content"]


def test_it_heeds_the_skills_in_its_prompt(env, tiny):
    """Bug: a checkpoint that ignores its skills: every utility is noise and the laptop has nothing to show."""
    games = env.dev_tasks[:12]
    none, useful, harmful = (summary(evaluate(tiny, env, bank_of(env, kind), games, HOW))["all"]["success"]
                             for kind in ("none", "useful", "harmful"))
    assert useful > none + 0.2 and harmful <= none, (none, useful, harmful)


@pytest.mark.slow
def test_it_wins_generated_games_and_heeds_its_skills(house):
    """Bug: a checkpoint whose commands are well formed and which finds nothing, or only as long as it has no skills."""
    policy, games = policies.load("tiny", world="alfworld"), house.dev_tasks + house.splits["valid_unseen"]
    useful, harmful = (summary(evaluate(policy, house, bank_of(house, kind), games, HOW))["all"]["success"]
                       for kind in ("useful", "harmful"))
    assert useful > 0.35 and harmful < useful - 0.05, (useful, harmful)


@pytest.mark.slow
def test_in_the_real_shop_it_wins_with_the_shipped_bank_and_copies_rare_words(real_shop):
    """Bug: words that were hardly met share a vector, and "flats" is searched for as "dyn_039"."""
    policy, games = policies.load("tiny", world="webshop/real"), real_shop.dev_tasks[:48]
    words = policy.model.model["embed_tokens"].weight.detach()
    unit = words / words.norm(dim=1, keepdim=True)
    assert (unit @ unit.T).mean() < 0.2, "the vectors lie apart"
    bank = SkillBank.load(ROOT / "worlds/webshop/real/bank/skills.json")
    without, with_bank = (summary(evaluate(policy, real_shop, some, games, HOW))["all"]["success"]
                          for some in (SkillBank(), bank))
    assert without < 0.1 and with_bank > 0.35, (without, with_bank)


def test_it_writes_all_kinds_of_skills(env, tiny):
    """Bug: reviews that do not parse, or that are all good already, leave nothing to learn."""
    episodes = rollout(tiny, env, env.train_tasks[:12], SkillBank(), sampling=Sampling(1.0, 96, 160, 3072, top_k=4))
    written = [e.edit.arguments for e in episodes if e.edit.status == "added"]
    assert len(written) >= 8, [e.edit.status for e in episodes]
    assert {WAYS.kind.get(WAYS.meaning(text)) for text in written} >= {"useful", "harmful"}


def test_it_is_refused_for_a_world_it_does_not_know(tmp_path, monkeypatch):
    """Bug: the shipped model plays another catalogue for an hour and looks broken."""
    catalogue.make(tmp_path / "shop", products=84, seed=9)
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "tiny", "--data", str(tmp_path / "shop"), "--out",
                                      str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        train.main()
    assert "python -m tools.coldstart" in stop.value.code and "\n" not in stop.value.code
    assert json.loads((shipped("webshop") / "config.json").read_text())["world"] == envs.make("webshop").describe()

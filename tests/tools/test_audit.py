"""Auditing a bank: a harmful skill is found, and what nobody is shown costs nothing."""

import json
import sys

import pytest

import envs
from envs import Sampling
from probes import Probing
from skillbank import Skill, SkillBank
from tools import audit
from worlds.webshop.shopper import WAYS

pytestmark = pytest.mark.usefixtures("one_thread")
HOW = Sampling(temperature=0.4, act_tokens=96, review_tokens=160, context=3072, top_k=4)


def skill(number, family, key):
    text = next(text for text in WAYS.texts(family) if text["key"] == key)
    return Skill(f"dyn_{number:03d}", text["title"], text["principle"], text["when_to_apply"])


def test_an_audit_finds_the_harmful_skill(env, tiny):
    """Bug: U has the wrong sign, so that the useful skills are retired and the harmful ones stay."""
    bank = SkillBank([skill(1, "general", "search"), skill(2, "general", "options"), skill(3, "general", "skip")],
                     {"footwear": [skill(4, "footwear", "plan")]})
    probing = Probing(2, utility="graded", sampling=HOW)
    found = audit.audit(tiny, env, bank, 0, probing)
    rows = {row["skill_id"]: row for row in found}
    assert rows["dyn_003"]["utility"] < 0 and rows["dyn_003"]["harmful"] and rows["dyn_003"]["hurts"]
    assert rows["dyn_001"]["utility"] > 0 and not rows["dyn_001"]["harmful"]
    assert rows["dyn_003"]["games"] == 14 and rows["dyn_004"]["games"] == rows["dyn_004"]["uses"] == 2
    for row in rows.values():
        assert row["interval"][0] <= row["utility"] <= row["interval"][1]
    assert "HARMFUL" in audit.table(found).splitlines()[-1] and len(bank.skills()) == 4, "the bank itself stays"


def test_the_command_retires_the_harmful_skills(tmp_path, monkeypatch, capsys):
    """Bug: the bank is written with the harmful skill, or over the one that was audited."""
    SkillBank([skill(1, "general", "search"), skill(3, "general", "skip")]).save(tmp_path / "bank.json")
    rows = [{"skill_id": "dyn_001", "harmful": False}, {"skill_id": "dyn_003", "harmful": True}]
    monkeypatch.setattr(audit, "audit", lambda policy, env, bank, seed, probing: rows)
    monkeypatch.setattr(audit, "table", str)
    monkeypatch.setattr(sys, "argv", f"audit tiny --bank {tmp_path}/bank.json --probes 5 --out {tmp_path}/audit.json "
                                     f"--retire {tmp_path}/left.json".split())
    audit.main()
    assert json.loads((tmp_path / "audit.json").read_text()) == {"k": 5, "skills": rows}
    assert [s.skill_id for s in SkillBank.load(tmp_path / "left.json").skills()] == ["dyn_001"]
    assert len(SkillBank.load(tmp_path / "bank.json").skills()) == 2
    assert "left.json, without dyn_003" in capsys.readouterr().out


def test_a_skill_that_is_not_shown_is_worth_nothing_and_costs_nothing(env, tiny, monkeypatch):
    """Bug: every skill is played against the bank anew, so an audit takes as long as the training."""
    bank = SkillBank([skill(1, "general", "search")], {"a family of another world": [skill(2, "footwear", "options")]})
    counted = []
    monkeypatch.setattr("probes.rollout", lambda *args, real=envs.rollout, **more: counted.append(args[2]) or real(
        *args, **more))
    rows = audit.audit(tiny, env, bank, 0, Probing(1, sampling=HOW))
    assert len(counted) == 1 and len(counted[0]) == 14, "seven families with the skill and without"
    assert rows[1]["games"] == 0 and rows[1]["utility"] == 0.0 and not rows[1]["harmful"]

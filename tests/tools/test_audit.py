"""Auditing a bank: a harmful skill is found, and what nobody is shown costs nothing."""

import json
import sys

import pytest

import envs
import policy as policies
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
    bank = SkillBank([skill(1, "general", "search"), skill(3, "general", "skip")],
                     {"footwear": [skill(4, "footwear", "plan")]})
    probing = Probing(1, utility="graded", sampling=HOW)
    found = audit.audit(tiny, env, bank, 0, probing)
    rows = {row["skill_id"]: row for row in found}
    assert rows["dyn_003"]["utility"] < 0 and rows["dyn_003"]["harmful"] and rows["dyn_003"]["hurts"]
    assert rows["dyn_001"]["utility"] > 0 and not rows["dyn_001"]["harmful"]
    assert rows["dyn_003"]["games"] == 7 and rows["dyn_004"]["games"] == rows["dyn_004"]["uses"] == 1
    for row in rows.values():
        assert row["interval"][0] <= row["utility"] <= row["interval"][1]
    assert "HARMFUL" in audit.table(found).splitlines()[-1] and len(bank.skills()) == 3, "the bank itself stays"


def test_one_pair_of_games_condemns_no_skill():
    """Bug: one difference has no spread, so its error is 0, and a skill is retired for one lost game."""
    one, two = audit.judge({"shoes": [-1.0]}, 0.3), audit.judge({"shoes": [-1.0, -0.9]}, 0.3)
    assert not one["harmful"] and not one["harms"] and one["hurts"] == {"shoes": -1.3}
    assert two["harmful"] and two["harms"] == ["shoes"]


def test_the_command_retires_the_harmful_skills(tmp_path, monkeypatch, capsys):
    """Bug: the bank is written with the harmful skill, or over the one that was audited."""
    SkillBank([skill(1, "general", "search"), skill(3, "general", "skip")]).save(tmp_path / "bank.json")
    rows = [{"skill_id": "dyn_001", "harmful": False}, {"skill_id": "dyn_003", "harmful": True}]
    monkeypatch.setattr(audit, "audit", lambda policy, env, bank, seed, probing: rows)
    monkeypatch.setattr(audit, "table", str)
    monkeypatch.setattr(sys, "argv", f"audit tiny --bank {tmp_path}/bank.json --probes 5 --out {tmp_path}/audit.json "
                                     f"--retire {tmp_path}/left.json".split())
    audit.main()
    result = json.loads((tmp_path / "audit.json").read_text())
    assert result["k"] == 5 and result["skills"] == rows and result["settings"]["probes"] == 5
    assert [s.skill_id for s in SkillBank.load(tmp_path / "left.json").skills()] == ["dyn_001"]
    assert len(SkillBank.load(tmp_path / "bank.json").skills()) == 2
    assert "left.json, without dyn_003" in capsys.readouterr().out


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """quick(*flags): the command without its games, on a bank of two skills, the second of them harmful."""
    SkillBank([skill(1, "general", "search"), skill(3, "general", "skip")]).save(tmp_path / "bank.json")
    monkeypatch.chdir(tmp_path)
    rows = [{"skill_id": "dyn_001", "harmful": False}, {"skill_id": "dyn_003", "harmful": True}]
    monkeypatch.setattr(audit, "audit", lambda policy, env, bank, seed, probing: rows)
    monkeypatch.setattr(audit, "table", str)

    def command(*flags):
        monkeypatch.setattr(sys, "argv", ["audit", "tiny", "--bank", "bank.json", *map(str, flags)])
        audit.main()

    return command


def test_a_second_audit_leaves_the_first_one_alone(quick, tmp_path, capsys):
    """Bug: audit.json of 16 probes is replaced by one of a single probe, or of another bank, without a word."""
    for flags in ([], ["--probes", 1], ["--probes", 2, "--seed", 1], ["--temperature", 1.0], []):
        quick(*flags)
    found = sorted(path.name for path in tmp_path.glob("audit*.json"))
    assert len(found) == 4 and "audit_tiny_bank-bank.json.json" in found, found
    assert "held another" not in capsys.readouterr().out
    quick("--probes", 1, "--out", "audit_tiny_bank-bank.json.json")
    assert len(list(tmp_path.glob("audit*.json"))) == 5 and "held another" in capsys.readouterr().out


def test_what_cannot_be_written_is_said_before_the_audit(quick, tmp_path, monkeypatch):
    """Bug: --retire in a folder that is none, found after the audit; or over a person's file, or the audited bank."""
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    (tmp_path / "audit_tiny_bank-bank.json.json").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    before = {path.name for path in tmp_path.iterdir()}
    for flags, what in (([], "is a directory"), (["--out", "notes.txt"], "--out"),
                        (["--out", "notes.txt/a.json"], "notes.txt is no directory"),
                        (["--out", "a.json", "--retire", "notes.txt/b.json"], "--retire notes.txt/b.json"),
                        (["--out", "a.json", "--retire", "notes.txt"], "--retire notes.txt holds something else"),
                        (["--out", "a.json", "--retire", "x" * 300], "--retire"),
                        (["--out", "a.json", "--retire", "a.json"], "--retire a.json"),
                        (["--out", "a.json", "--retire", "./bank.json"], "is the bank that is audited")):
        with pytest.raises(SystemExit) as stop:
            quick(*flags)
        assert what in stop.value.code and "\n" not in stop.value.code, (flags, stop.value.code)
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_retired_bank_replaces_no_other_bank(quick, tmp_path, capsys):
    """Bug: --retire names a bank that is there, and it is gone without a word."""
    SkillBank([skill(5, "general", "options")]).save(tmp_path / "left.json")
    quick("--retire", "left.json")
    quick("--retire", "left.json")  # the same again
    assert capsys.readouterr().out.count("left.json held another result, which is left.1.json now") == 1
    assert [[one.skill_id for one in SkillBank.load(tmp_path / name).skills()] for name in ("left.json", "left.1.json")
            ] == [["dyn_001"], ["dyn_005"]] and not (tmp_path / "left.2.json").exists()


def test_a_skill_that_is_not_shown_is_worth_nothing_and_costs_nothing(env, tiny, monkeypatch):
    """Bug: every skill is played against the bank anew, so an audit takes as long as the training."""
    bank = SkillBank([skill(1, "general", "search")], {"a family of another world": [skill(2, "footwear", "options")]})
    counted = []
    monkeypatch.setattr("probes.rollout", lambda *args, real=envs.rollout, **more: counted.append(args[2]) or real(
        *args, **more))
    rows = audit.audit(tiny, env, bank, 0, Probing(1, sampling=HOW))
    assert len(counted) == 1 and len(counted[0]) == 14, "seven families with the skill and without"
    assert rows[1]["games"] == 0 and rows[1]["utility"] == 0.0 and not rows[1]["harmful"]

"""Banks as folders of SKILL.md, and back, as a command."""

import sys

import pytest

from skillbank import SkillBank
from tests.skills import bank_of
from tools import skills


def test_a_bank_goes_to_folders_and_back(tmp_path, monkeypatch, capsys):
    """Bug: the command reads or writes another format than it is asked for, or loses a family."""
    bank_of(2, footwear=1).save(tmp_path / "skills.json")
    for source, target in (("skills.json", "folders"), ("folders", "again.json")):
        monkeypatch.setattr(sys, "argv", ["skills", str(tmp_path / source), str(tmp_path / target)])
        skills.main()
    assert SkillBank.load(tmp_path / "again.json") == SkillBank.load(tmp_path / "skills.json")
    assert len(list((tmp_path / "folders").glob("*/SKILL.md"))) == 3
    assert "wrote 3 skills to" in capsys.readouterr().out


def test_the_bank_of_a_run(first, tmp_path, monkeypatch):
    """Bug: a run directory is taken for folders of skills, and has none."""
    monkeypatch.setattr(sys, "argv", ["skills", str(first), str(tmp_path / "bank.json")])
    skills.main()
    assert (tmp_path / "bank.json").read_text() == (first / "skills.json").read_text()
    monkeypatch.setattr(sys, "argv", ["skills", str(tmp_path / "none.json"), str(tmp_path / "x.json")])
    with pytest.raises(SystemExit, match="tools.skills: .*none.json"):
        skills.main()

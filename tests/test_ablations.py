"""The comparison: every variant's flags exist, finished runs are not made again, the table is what the runs logged."""

import json
import sys
from types import SimpleNamespace

import pytest

import train
from skillbank import SkillBank
from tools import ablations, report


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_every_variant_is_a_command_that_train_takes(name, tmp_path):
    """Bug: a flag is renamed, and one line of the table is missing after ten hours."""
    args = SimpleNamespace(out=tmp_path, steps=3, model="tiny", flags="--lr 0.5")
    command = ablations.command(args, name, 2)
    flags = train.read_flags(command[2:])
    assert (flags.seed, flags.steps, flags.lr) == (2, 3, 0.5) and not flags.resume
    ablations.directory(args.out, name, 2).mkdir()
    (ablations.directory(args.out, name, 2) / "config.json").write_text("{}")
    assert train.read_flags(ablations.command(args, name, 2)[2:]).resume


def test_the_hand_written_bank_holds_every_useful_skill(tmp_path):
    """Bug: the frozen bank lacks a family, and looks useless."""
    ablations.hand_written().save(tmp_path / "bank.json")
    bank = SkillBank.load(tmp_path / "bank.json")
    assert len(bank.task_specific_skills) == 7 and len(bank.skills()) == 28


def log(out, name, seed, success):
    """A run of 10 iterations with an evaluation every 5."""
    run = ablations.directory(out, name, seed)
    run.mkdir(parents=True)
    rows = [{"step": step, "sampled": 100 * bool(step), **dict.fromkeys(report.SECONDS, 0.5),
             **({"eval_success": success[step // 5]} if step % 5 == 0 else {})} for step in range(11)]
    report.append(run / "metrics.jsonl", rows)
    (run / "latest").write_text("step_00010\n")


def test_the_table_counts_all_tokens_and_seconds(tmp_path, monkeypatch, capsys):
    """Bug: the evaluation's tokens are counted, the confirmation's are not; or seeds of different length are mixed."""
    log(tmp_path, "SkillMaster", 0, [0.0, 0.25, 0.75])
    log(tmp_path, "SkillMaster", 1, [0.0, 0.5, 0.7])
    log(tmp_path, "plain GRPO", 0, [0.0, 0.1, 0.2])
    monkeypatch.setattr(ablations, "make", lambda *rest: pytest.fail("nothing was to be made"))
    monkeypatch.setattr(sys, "argv", ["ablations", "--jobs", "0", "--steps", "10", "--out", str(tmp_path)])
    ablations.main()
    rows = {row["variant"]: row for row in json.loads((tmp_path / "ablations.json").read_text())["rows"]}
    assert rows["SkillMaster"]["tokens to .5"] == [750, 500] and rows["SkillMaster"]["seconds to .5"] == [15, 10]
    assert rows["SkillMaster"]["success"]["10"] == "0.725 +- 0.025" and rows["SkillMaster"]["tokens"] == 1000
    assert rows["plain GRPO"]["tokens to .5"] == [None] and "plain GRPO (1 seeds)" in capsys.readouterr().out


def test_finished_runs_are_not_made_again(tmp_path, monkeypatch):
    """Bug: a second call makes ten hours of runs anew."""
    log(tmp_path, "SkillMaster", 0, [0.0, 0.25, 0.75])
    begun = []
    monkeypatch.setattr(ablations.subprocess, "Popen", lambda command, **more: begun.append(command) or SimpleNamespace(
        poll=lambda: 0, returncode=0))
    monkeypatch.setattr(ablations.time, "sleep", lambda seconds: None)
    args = SimpleNamespace(out=tmp_path, steps=10, model="tiny", flags="", jobs=2)
    ablations.make(args, [("SkillMaster", 0), ("plain GRPO", 0), ("plain GRPO", 1)])
    assert len(begun) == 2 and all("--reviews" in command for command in begun)

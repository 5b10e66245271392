"""Banks as folders of SKILL.md for a person's agent, with what a run has measured, and back, as a command."""

import json
import shutil
import sys

import pytest

from skillbank import Skill, SkillBank
from tests.skills import agents_take, bank_of
from tools import skills


@pytest.fixture
def command(monkeypatch, capsys):
    """command(*arguments) -> what it printed."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["skills", *map(str, arguments)])
        skills.main()
        return capsys.readouterr().out

    return run


def test_a_bank_goes_to_folders_and_back(tmp_path, command):
    """Bug: the command reads or writes another format than it is asked for, or loses a family."""
    bank_of(2, footwear=1).save(tmp_path / "skills.json")
    assert "wrote 3 skills to" in command(tmp_path / "skills.json", tmp_path / "folders")
    command(tmp_path / "folders", "--out", tmp_path / "again.json")
    command(tmp_path / "folders", tmp_path / "third.json")
    for name in ("again.json", "third.json"):
        assert SkillBank.load(tmp_path / name) == SkillBank.load(tmp_path / "skills.json")
    assert len(list((tmp_path / "folders").glob("*/SKILL.md"))) == 3
    agents_take(tmp_path / "folders")


def test_the_bank_of_a_run(first, tmp_path, command):
    """Bug: a run directory is taken for folders of skills, and has none."""
    command(first, tmp_path / "bank.json")
    assert (tmp_path / "bank.json").read_text() == (first / "skills.json").read_text()
    with pytest.raises(SystemExit, match="tools.skills: .*none.json"):
        command(tmp_path / "none.json", tmp_path / "x.json")


def row(step, skill, **more):
    """A row of edits.jsonl, of an edit that gave a skill its text."""
    arguments = {"category": "general", "title": skill.title, "principle": skill.principle,
                 "when_to_apply": skill.when_to_apply, "evidence": "e"}
    return {"step": step, "episode": 1, "task": 3, "family": "apparel", "name": "propose_skill", "category": "general",
            "arguments": arguments, "kind": None, "probes": [5, 8, 13, 21], "before": [0.0, 1.2, 0.0, 1.5],
            "after": [1.6, 1.2, 1.7, 0.0], "utility": 0.525, "confirmed": 0.31, "committed": True,
            "skill_id": skill.skill_id} | more


@pytest.fixture
def trained(begun):
    """run(utility, *rows) -> a run whose bank has been trained with those edits. Its newest checkpoint is step 1."""
    one, two = Skill("dyn_001", "Search the kind", "Search the kind with its qualities.", "At the search bar."), Skill(
        "dyn_002", "Look", "Look at the price.", "On a page of results.")

    def run(utility="success", rows=None):
        bank = SkillBank([one, two])
        for file in (begun / "skills.json", begun / "checkpoints" / "step_00001" / "skills.json"):
            bank.save(file)
        settings = json.loads((begun / "config.json").read_text()) | {"utility": utility}
        (begun / "config.json").write_text(json.dumps(settings))
        rows = [row(1, one)] if rows is None else rows(one, two)
        (begun / "edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return begun

    return run


def evals_in(folder, name="benchmark"):
    return json.loads((folder / "search-the-kind" / "evals" / f"{name}.json").read_text())


def test_what_a_run_has_measured_goes_along(trained, tmp_path, command, env):
    """Bug: an agent is given one more rule among thousands, though the run knows what it is worth."""
    run = trained()
    out = command(run, "--out", tmp_path / "out")
    assert "wrote 2 skills" in out and "1 of them with what the run has measured" in out
    text = (tmp_path / "out" / "search-the-kind" / "SKILL.md").read_text()
    for line in ('description: "Search the kind with its qualities. Use when at the search bar."',
                 '  utility: "+0.525 (interval -1.278 to +2.328)"',
                 '  probes: "4 games: won 3 with the skill, 2 without it"', f'  world: "{env.describe()}"',
                 '  iteration: "1"'):
        assert f"{line}\n" in text
    benchmark, cases = evals_in(tmp_path / "out"), evals_in(tmp_path / "out", "evals")
    assert cases["skill_name"] == benchmark["skill_name"] == "search-the-kind"
    assert [case["id"] for case in cases["evals"]] == [1, 2, 3, 4]
    assert [case["prompt"] for case in cases["evals"]] == [env.goal(task) for task in (5, 8, 13, 21)]
    assert all(case["expected_output"] and case["assertions"] for case in cases["evals"])
    rates = {name: benchmark["run_summary"][name]["pass_rate"]["mean"] for name in ("with_skill", "without_skill")}
    assert rates == {"with_skill": 0.75, "without_skill": 0.5}
    assert benchmark["run_summary"]["delta"] == {"pass_rate": 0.25, "score": 0.45}
    assert (benchmark["utility"], benchmark["utility_on_fresh_games"], benchmark["games"]) == (0.525, 0.31, 4)
    assert (benchmark["better_with_skill"], benchmark["better_without_skill"], benchmark["equal"]) == (2, 1, 1)
    assert benchmark["model"] and benchmark["iteration"] == 1 and benchmark["world"] == env.describe()
    assert not (tmp_path / "out" / "look" / "evals").exists(), "of the other one nothing was measured"
    agents_take(tmp_path / "out")
    assert SkillBank.load(tmp_path / "out") == SkillBank.load(run), "and the bank is the same"


@pytest.mark.parametrize("utility, passed", [("success", (3, 2)), ("both", (3, 2)), ("graded", (2, 1))])
def test_wins_are_counted_only_where_they_are_known(trained, tmp_path, command, utility, passed):
    """Bug: a good score in few steps is worth what a slow win is, and is counted as one."""
    command(trained(utility), "--out", tmp_path / "out")
    runs = evals_in(tmp_path / "out")["runs"]
    assert passed == tuple(sum(run["passed"] for run in runs if run["configuration"] == name)
                           for name in ("with_skill", "without_skill"))


@pytest.mark.parametrize("rows", [
    lambda one, two: [row(1, one, committed=False, skill_id="")], lambda one, two: [row(2, one)],
    lambda one, two: [row(1, one), row(1, Skill("dyn_001", "Later", "text", "w"))],
    lambda one, two: [row(1, one, probes=[], before=[], after=[])], lambda one, two: [row(1, two, skill_id="dyn_001")],
    lambda one, two: [],
], ids=["not committed", "after the checkpoint", "an older text", "not probed", "another text", "none"])
def test_what_was_measured_of_another_text_is_left_out(trained, tmp_path, command, rows):
    """Bug: the skill shows the utility of an edit that was never committed, or of the text that it had before."""
    command(trained(rows=rows), "--out", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("evals"))


def test_the_last_edit_of_a_skill_counts(trained, tmp_path, command):
    """Bug: the first edit is taken, and the utility is that of the proposal, not of its update."""
    last = {"utility": 0.5, "probes": [7], "before": [0.0], "after": [1.5]}
    command(trained(rows=lambda one, two: [row(0, one), row(1, one, **last)]), "--out", tmp_path / "out")
    benchmark = evals_in(tmp_path / "out")
    assert (benchmark["utility"], benchmark["games"], benchmark["utility_interval"]) == (0.5, 1, None)


def test_measurements_are_written_again_and_go_with_the_text(trained, tmp_path, command):
    """Bug: after an update the folder still says what the old text was worth; a second export leaves its own files."""
    run = trained()
    for source in (run, run, run / "checkpoints" / "step_00001"):
        assert "left" not in command(source, "--out", tmp_path / "out")
    bank = SkillBank.load(tmp_path / "out")
    bank.save_folders(tmp_path / "out")
    assert evals_in(tmp_path / "out")["utility"] == 0.525, "the same text: what was measured still holds"
    assert "+0.525" in (tmp_path / "out" / "search-the-kind" / "SKILL.md").read_text()
    mine = tmp_path / "out" / "search-the-kind" / "evals" / "mine.json"
    mine.write_text("{}")
    bank.find("dyn_001").principle = "Search for something else."
    bank.save_folders(tmp_path / "out")
    assert [path.name for path in mine.parent.iterdir()] == ["mine.json"]
    assert "+0.525" not in (tmp_path / "out" / "search-the-kind" / "SKILL.md").read_text()


def test_a_persons_evals_are_left_alone(trained, tmp_path, command):
    """Bug: test cases that somebody wrote for a skill are written over with the games of a run."""
    run = trained()
    command(run, "--out", tmp_path / "out")
    cases = tmp_path / "out" / "search-the-kind" / "evals" / "evals.json"
    cases.write_text('{"evals": []}')
    assert f"left {cases} as it is" in command(run, "--out", tmp_path / "out")
    assert cases.read_text() == '{"evals": []}'


def test_a_run_whose_world_is_not_here(trained, tmp_path, command):
    """Bug: the data of a run are on another machine, and its bank cannot be exported here."""
    run = trained()
    elsewhere = {"world": "webshop, data of elsewhere", "fingerprint": "0123456789abcdef"}
    settings = json.loads((run / "config.json").read_text()) | elsewhere
    (run / "config.json").write_text(json.dumps(settings))
    assert "names the games by number only" in command(run, "--out", tmp_path / "out")
    assert evals_in(tmp_path / "out", "evals")["evals"][0]["prompt"] == "Game 5 of webshop, data of elsewhere."


def test_agents_find_the_default_place(trained, tmp_path, command, monkeypatch):
    """Bug: the folders are written where no agent looks for them."""
    run = trained()
    monkeypatch.chdir(tmp_path)
    command(run)
    assert (tmp_path / ".agents" / "skills" / "search-the-kind" / "SKILL.md").is_file()


def test_a_persons_change_is_said(trained, tmp_path, command):
    """Bug: a second export overwrites what a person has written into a skill, or says nothing of it."""
    run = trained()
    command(run, "--out", tmp_path / "out")
    file = tmp_path / "out" / "look" / "SKILL.md"
    file.write_text(file.read_text().replace("Look at", "Look twice at"))
    out = command(run, "--out", tmp_path / "out")
    assert f"left {file} as it is" in out and "wrote 1 skills" in out and "Look twice at" in file.read_text()


@pytest.mark.parametrize("arguments, line", [
    (["RUN", "--out", "RUN"], "is a run; name another directory"), (["RUN", "TO", "--out", "TO"], "name one place"),
    (["RUN", "--out", "other.json"], "holds something else than a skill bank"), ([], "arguments are required: FROM"),
    (["RUN", "--out", "file"], "file: is a file; name a directory"), (["nowhere"], "nowhere: no such skill bank"),
    (["RUN", "--out", "file/x.json"], "file"),
])
def test_what_cannot_be_done_is_said_in_one_line(trained, tmp_path, command, monkeypatch, capsys, arguments, line):
    """Bug: package.json or a run is written over with skills, or a wrong word ends in a traceback."""
    shutil.copytree(trained(), tmp_path / "RUN")
    (tmp_path / "other.json").write_text('{"name": "package"}')
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command(*arguments)
    said = f"{stop.value.code} {capsys.readouterr().err}"
    assert line in said and "tools.skills: " in said and len(said.strip().splitlines()) == 1
    assert (tmp_path / "other.json").read_text() == '{"name": "package"}'

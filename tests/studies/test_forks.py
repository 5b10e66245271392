"""The table of forks: rates are chosen on seeds of their own, runs go on until their tokens are there."""

import json
import shlex
import sys
from importlib import import_module

import pytest

import train
from studies import forks
from tests.real import ROOT
from tools import report


def call(monkeypatch, capsys, out, *argv):
    """What the study prints, line by line."""
    monkeypatch.setattr(sys, "argv", ["studies.forks", "--out", str(out), "--tokens", "900", *argv])
    capsys.readouterr()
    forks.main()
    return capsys.readouterr().out.splitlines()


def made(out, name, success, tokens=100, every=5, edits=()):
    """A run whose evaluations had these successes, with so many tokens and 2 seconds an iteration."""
    run = out / name
    run.mkdir(parents=True, exist_ok=True)
    rows = [{"step": step, "sampled": tokens * bool(step), "act_s": 2.0 * bool(step),
             **({"eval_success": success[step // every]} if step % every == 0 else {})}
            for step in range(every * (len(success) - 1) + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "edits.jsonl").write_text("".join(json.dumps({"step": 1, **edit}) + "\n" for edit in edits))
    (run / "config.json").write_text("{}")
    (run / "latest").write_text(f"step_{rows[-1]['step']:05d}\n")
    return run


def tuned(out, method="SAPO", best="6e-4"):
    """The tuning runs of a method, of which one rate did best."""
    for rate in forks.RATES:
        name = "".join(c if c.isalnum() else "_" for c in f"counter {method} {rate} {forks.TUNING}")
        made(out, name, [0.0, 0.1, 0.6 if rate == best else 0.3])


SOME = ("--worlds", "counter", "--only", "SAPO")


def test_every_command_is_one_that_its_program_takes(tmp_path, monkeypatch, capsys):
    """Bug: a fork's flag is renamed, and its row is missing after a night."""
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    lines = call(monkeypatch, capsys, tmp_path / "it's here", "--list")
    trained = [name for name in forks.METHODS if len(forks.rates_of(name)) > 1]
    assert len(lines) == 2 * (3 * len(trained) + 3 * (len(forks.METHODS) - len(trained)))
    for words in map(shlex.split, lines):
        program, argv = (words[1], words[2:-3]) if words[1] == "train.py" else (words[2], words[3:-3])
        kind = train.Flags if program == "train.py" else import_module(program).Flags
        flags = train.read_flags(argv, kind, program)
        assert flags.steps == 1 and flags.eval_every == 1 and not flags.resume
        assert str(flags.lr) == "0.0" if "prompting" in program else flags.lr in (2e-4, 6e-4, 2e-3)
        assert not flags.bank or (tmp_path / "it's here" / flags.bank.rpartition("/")[2]).is_file()
    files = {f"forks.{path.stem}" for path in (ROOT / "forks").glob("*.py")}
    assert files <= {word for line in lines for word in shlex.split(line)}, "a fork has no row"


def test_a_run_goes_on_until_its_tokens_are_there():
    """Bug: methods are compared at equal iterations, or a run is listed for ever without a further iteration."""
    assert forks.every_of([], 900) == forks.steps_of([], 900, 1) == 1
    assert forks.steps_of([(0, 0, 0.0, 0.1), (5, 500, 1.0, 0.2)], 900, 1) == 9
    assert forks.steps_of([(0, 0, 0.0, 0.1), (5, 40, 1.0, 0.2)], 900, 11) == 22, "of 112.5 iterations 20 at first"
    assert forks.steps_of([(100, 800, 1.0, 0.2)], 900, 11) == 121, "112.5 iterations of 8 tokens"
    assert forks.steps_of([(10, 899, 1.0, 0.2)], 900, 5) == 15
    assert forks.steps_of([(32, 88_150, 1.0, 0.2)], 90_000, 3, begun=35) == 36, "a checkpoint beyond the evaluation"
    assert forks.enough_of([(10, 900, 1.0, 0.2)], 900) and not forks.enough_of([(10, 899, 1.0, 0.2)], 900)


def test_every_run_is_evaluated_about_ten_times():
    """Bug: of a method that samples a fifth of the tokens in each iteration only the end is seen, and rates that differ
    look alike."""
    assert forks.every_of([(1, 20_000, 1.0, 0.2)], 90_000) == 1
    assert forks.every_of([(0, 0, 0.0, 0.2), (1, 2_250, 1.0, 0.2)], 90_000) == 4
    assert forks.every_of([(20, 30_000, 1.0, 0.2)], 90_000) == 6


def test_the_list_goes_from_rates_to_reported_runs_to_test_goals(tmp_path, monkeypatch, capsys):
    """Bug: the rate is chosen on the seeds that are reported; or a run is played on test goals before it is done."""
    lines = call(monkeypatch, capsys, tmp_path, "--list", *SOME)
    assert len(lines) == 3 and all(f"--seed {forks.TUNING}" in line for line in lines)
    tuned(tmp_path)
    lines = call(monkeypatch, capsys, tmp_path, "--list", *SOME)
    assert [line.split("--seed ")[1].split()[0] for line in lines] == ["0", "1", "2"]
    assert all("--lr 6e-4" in line and "eval.py" not in line for line in lines)
    made(tmp_path, "counter_SAPO_6e_4_0", [0.0, 0.2])
    run = made(tmp_path, "counter_SAPO_6e_4_1", [0.0, 0.2, 0.5])
    lines = call(monkeypatch, capsys, tmp_path, "--list", *SOME)
    assert "--steps 9 --resume" in lines[0] and "eval.py" not in lines[0]
    assert "eval.py" in lines[1] and "train" not in lines[1] and "forks.sapo" not in lines[1]
    played = {name: {"families": {"all": {"success": 0.5, "n": 4}}} for name in ("none", "frozen")}
    (run / "test_10.json").write_text(json.dumps({"protocols": played}))
    assert len(call(monkeypatch, capsys, tmp_path, "--list", *SOME)) == 2
    for seed in (0, 2):
        run = made(tmp_path, f"counter_SAPO_6e_4_{seed}", [0.0, 0.2, 0.5])
        (run / "test_10.json").write_text(json.dumps({"protocols": played}))
    assert call(monkeypatch, capsys, tmp_path, "--list", *SOME) == []


def test_a_row_worked_by_hand(tmp_path, monkeypatch, capsys):
    """Bug: success is read at the last evaluation, not at equal tokens; edits that wait count as in the bank."""
    tuned(tmp_path)
    kinds = [("right", True), ("wrong", False), ("half", False), ("wrong", True)]
    for seed, last in enumerate((0.5, 0.7)):
        run = made(tmp_path, f"counter_SAPO_6e_4_{seed}", [0.0, 0.2, last], edits=[
            {"kind": kind, "committed": committed} for kind, committed in kinds[:3]])
        with open(run / "edits.jsonl", "a") as file:  # written before, committed now: in the bank, and no new edit
            file.write('{"step": 2, "episode": 0, "kind": "wrong", "committed": false}\n'
                       '{"step": 9, "episode": null, "kind": "wrong", "committed": true}\n')
        protocols = {name: {"families": {"all": {"success": success, "n": 4}}}
                     for name, success in (("none", 0.25), ("frozen", 0.75))}
        (run / "test_10.json").write_text(json.dumps({"protocols": protocols}))
    lines = call(monkeypatch, capsys, tmp_path, *SOME)
    row, = json.loads((tmp_path / "forks.json").read_text())
    # 300 tokens lie between 0 and 500, 600 and 900 between 500 and 1,000.
    assert {tokens: value.split()[0] for tokens, value in row["success"].items()} == {
        "300": "0.120", "600": "0.280", "900": "0.520"}
    assert (row["lr"], row["seeds"], row["tokens"], row["seconds"]) == ("6e-4", 2, 1000, 18)
    assert row["right"] == 0.25 and row["right in bank"] == 0.5
    assert {name: value.split()[0] for name, value in row["test"].items()} == {"none": "0.250", "frozen": "0.750"}
    assert row["lines"] == len((ROOT / "forks/sapo.py").read_text().splitlines())
    assert any(line.startswith("| SAPO | 2 | 6e-4 |") for line in lines)
    # The same table elsewhere, where no run is, from the file that this one left; and the third seed is still listed.
    known, other = ("--known", str(tmp_path / "runs.json")), tmp_path / "other"
    assert call(monkeypatch, capsys, other, *SOME, *known) == lines
    listed = call(monkeypatch, capsys, other, "--list", *SOME, *known)
    assert len(listed) == 1 and "--seed 2 " in listed[0]


def test_the_readme_has_the_table_of_the_runs_that_are_shipped(tmp_path, monkeypatch, capsys):
    """Bug: the table is made again, and the page keeps the old one; or it has figures that no run had."""
    home = ROOT / "forks"
    monkeypatch.setattr(sys, "argv", ["studies.forks", "--out", str(tmp_path), "--known", str(home / "runs.json")])
    capsys.readouterr()
    forks.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    page = (home / "README.md").read_text()
    assert len(rows) > 2 and all(row in page for row in rows)


def test_a_whole_name_is_one_method():
    """Bug: SkillMaster alone cannot be asked for, as two other rows have its name in theirs."""
    assert forks.methods("SkillMaster") == ["SkillMaster"] and len(forks.methods("in SkillMaster")) == 2
    assert forks.methods("") == list(forks.METHODS) and not forks.methods("XYZ")


def test_schedules_scale_with_the_tokens(tmp_path, monkeypatch, capsys):
    """Bug: with fewer tokens a method that withdraws its bank in thirds never withdraws it."""
    flags = "--list", "--tokens", "9000", "--worlds", "counter", "--only", "SKILL0"
    line, *_ = call(monkeypatch, capsys, tmp_path, *flags)
    assert "--stage 4 " in line


def test_nothing_finished_is_an_empty_table(tmp_path, monkeypatch, capsys):
    """Bug: the table before the first run ends with a traceback."""
    assert any("method" in line for line in call(monkeypatch, capsys, tmp_path))
    assert json.loads((tmp_path / "forks.json").read_text()) == []


@pytest.mark.parametrize("argv, words", [(["--worlds", "moon"], "choose from"), (["--only", "XYZ"], "no method"),
                                         (["--seeds", "0"], "at least 1"), (["--known", "none.json"], "none.json"),
                                         (["--known", "none.json", "--flags", "--kl 0"], "without --flags")])
def test_a_wrong_flag_is_one_line(argv, words, tmp_path, monkeypatch, capsys):
    """Bug: a misspelt world is an empty table."""
    with pytest.raises(SystemExit):
        call(monkeypatch, capsys, tmp_path, *argv)
    assert words in capsys.readouterr().err


def test_the_rows_kinds_are_the_reports():
    """Bug: the kinds of a world are renamed, and no edit is right any more."""
    assert report.GOOD == ("useful", "right")

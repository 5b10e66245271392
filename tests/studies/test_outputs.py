"""What a study measures is kept: it can be written, and replaces nothing."""

import json
import sys

import pytest

import envs
import worlds
from lib.device import pick_device
from studies import attacks, bench, lab
from tests.runs import ends

# Study -> a part of it, and what stands in for that part.
STUDIES = [("bench", bench, "decode", ("title", [{"": "row"}], "note")), ("lab", lab, "players", {"figure": 1})]


@pytest.mark.parametrize("out", ["file/new.json", "file", "~/file/new.json", "x" * 300])
@pytest.mark.parametrize("name, study, part, result", STUDIES, ids=["bench", "lab"])
def test_a_file_that_cannot_be_written_is_said_first(name, study, part, result, out, tmp_path, monkeypatch):
    """Bug: an hour of measuring, and then the folder of --out is a file, or of somebody else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if out == "file":
        (tmp_path / "file").mkdir()
    else:
        (tmp_path / "file").write_text("x")
    monkeypatch.setattr(envs, "make", lambda *rest: pytest.fail("it began"))
    monkeypatch.setattr(sys, "argv", [name, f"--out={out}"])
    line, _ = ends(study.main)
    assert line.startswith(f"studies.{name}: ") and "cannot be written" in line and "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name, study, part, result", STUDIES, ids=["bench", "lab"])
def test_other_figures_are_not_replaced(name, study, part, result, tmp_path, monkeypatch, capsys):
    """Bug: a short second measurement replaces the long first one without a word."""
    monkeypatch.setattr(sys, "argv", [name, "--parts", part, "--out", str(tmp_path / "r.json")])
    monkeypatch.setitem(study.PARTS, part, lambda *rest: result)
    monkeypatch.setattr(bench, "machine_bounds", lambda *rest: (1e10, 1e12))  # seconds each time, and no test's matter
    study.main()
    (tmp_path / "r.json").write_text(json.dumps({"settings": {}, "rows": "long"}))
    study.main()
    study.main()
    assert capsys.readouterr().out.count("held another result") == 1
    assert json.loads((tmp_path / "r.1.json").read_text()) == {"settings": {}, "rows": "long"}


@pytest.mark.parametrize("name, study, part, result", STUDIES, ids=["bench", "lab"])
def test_a_result_tells_its_device_and_its_games(name, study, part, result, tmp_path, monkeypatch):
    """Bug: a bench on a card, or a lab in the real shop, is replaced by one on a CPU, or in the made-up shop."""
    monkeypatch.setattr(sys, "argv", [name, "--parts", part, "--out", str(tmp_path / "r.json")])
    monkeypatch.setitem(study.PARTS, part, lambda *rest: result)
    study.main()
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert settings["fingerprint"] == worlds.identity(envs.make("webshop"))["fingerprint"]
    assert name == "lab" or settings["device"] == str(pick_device("")) and settings["model"]


@pytest.mark.parametrize("study, argv, words", [
    (lab, ["--probes", "8"], "at least 12"), (lab, ["--games", "-1"], "at least 0"), (lab, ["--env", "counter"], "env"),
    (attacks, ["--trials", "0"], "at least 1"), (attacks, ["--confirm", "-1"], "at least 1")])
def test_a_flag_out_of_range_is_one_line(study, argv, words, monkeypatch, capsys):
    """Bug: K = 4 is correlated with itself and called a forecast; a slice of -1 games; a traceback after minutes."""
    monkeypatch.setattr(sys, "argv", ["study", *argv])
    with pytest.raises(SystemExit):
        study.main()
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_the_players_of_the_lab_have_the_habits_they_are_given(monkeypatch, capsys):
    """Bug: --base is read and not passed on, and the figures are those of the world's own players."""
    won = []
    for base in ("0", "1"):
        monkeypatch.setattr(sys, "argv", ["lab", "--parts", "players", "--games", "12", "--base", base])
        monkeypatch.setattr(lab, "KINDS", ())  # without skills alone
        lab.main()
        won.append(float(capsys.readouterr().out.split("success ")[1].split()[0]))
    assert won[0] < 0.2 and won[1] > 0.6, won

"""The lab: what cannot be kept is not measured."""

import json
import sys

import pytest

import envs
from studies import lab
from tests.runs import ends


@pytest.mark.parametrize("out", ["file/new.json", "file", "~/file/new.json", "x" * 300])
def test_a_file_that_cannot_be_written_is_said_first(out, tmp_path, monkeypatch):
    """Bug: an hour of measuring, and then the folder of --out is a file, or of somebody else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "file").mkdir() if out == "file" else (tmp_path / "file").write_text("x")
    monkeypatch.setattr(envs, "make", lambda *rest: pytest.fail("it began"))
    monkeypatch.setattr(sys, "argv", ["lab", f"--out={out}"])
    line, _ = ends(lab.main)
    assert line.startswith("studies.lab: ") and "cannot be written" in line and "\n" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_figures_are_not_replaced(tmp_path, monkeypatch, capsys):
    """Bug: a short second measurement replaces the long first one without a word."""
    monkeypatch.setattr(sys, "argv", ["lab", "--parts", "players", "--out", str(tmp_path / "r.json")])
    monkeypatch.setitem(lab.PARTS, "players", lambda *rest: {"figure": 1})
    lab.main()
    (tmp_path / "r.json").write_text(json.dumps({"settings": {}, "rows": "long"}))
    lab.main()
    lab.main()
    assert capsys.readouterr().out.count("held another result") == 1
    assert json.loads((tmp_path / "r.1.json").read_text()) == {"settings": {}, "rows": "long"}

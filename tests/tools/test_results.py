"""Result files: one per settings, and never in the place of another, or of something that a person made."""

import json
from types import SimpleNamespace

import pytest

from lib.files import write_atomic
from tools import results


def place(target, out=None, key="protocols", name="eval_test", **given):
    return results.place(SimpleNamespace(target=str(target), out=out, given=given), name, key)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "latest").write_text("step_00001\n")
    return tmp_path / "run"


def test_the_name_says_what_differs_from_the_defaults(run, tmp_path, monkeypatch):
    """Bug: a quick look at one game replaces the evaluation of five hundred."""
    assert place(run) == run / "eval_test.json"
    names = [place(run, **given).name for given in (
        {}, {"limit": 1}, {"limit": 11}, {"protocols": "none"}, {"protocols": "none,frozen"}, {"seed": 1},
        {"temperature": 0.7}, {"bank": "a/bank.json"}, {"bank": "a/other.json"}, {"human_goals": True},
        {"limit": 1, "seed": 1}, {"data": "../real shop"})]
    assert len(set(names)) == len(names) and names[1] == "eval_test_limit-1.json"
    assert names[4] == "eval_test_protocols-none-frozen.json" and names[9] == "eval_test_human_goals.json"
    assert place(run, device="cuda", rows=8, out=None).name == "eval_test.json", "these change no result"
    monkeypatch.chdir(tmp_path)
    assert str(place("tiny")) == "eval_test_tiny.json" and str(place("org/Model-1.5B")) == "eval_test_Model-1.5B.json"
    assert str(place(run / "checkpoints" / "step_00001")) == "eval_test_step_00001.json"
    assert str(place(".")) == f"eval_test_{tmp_path.name}.json"


def test_the_longest_names_are_files_still(run):
    """Bug: a bank's name of two hundred letters, or of a thousand bytes, and no result can be written."""
    names = {place(run, bank=letter * 200, families="ÄÖ漢" * 80 + letter).name for letter in "xyz漢"}
    assert len(names) == 4
    for name in names:
        write_atomic(run / name, "{}")


@pytest.mark.parametrize("content", ['{"general_skills": []}', "notes", "[1]", '{"skills": []}'])
def test_a_file_of_something_else_is_not_written_over(content, run, tmp_path):
    """Bug: --out skills.json, or a person's notes, are gone after the games."""
    (tmp_path / "theirs").write_text(content)
    with pytest.raises(ValueError, match="theirs .*name another file with --out"):
        place(run, out=tmp_path / "theirs")
    (run / "eval_test.json").write_text(content)
    with pytest.raises(ValueError, match="eval_test.json .*name another file with --out"):
        place(run)
    (tmp_path / "theirs").write_text("")
    assert place(run, out=tmp_path / "theirs"), "mktemp's empty file"


def test_what_is_in_the_way_is_said_at_once(run, tmp_path):
    """Bug: a directory of that name, a folder that is a file, are found after the games."""
    (run / "eval_test.json").mkdir()
    with pytest.raises(OSError, match="eval_test.json cannot be written .is a directory.; --out FILE names another"):
        place(run)
    with pytest.raises(OSError, match="--out .*latest is no directory.; name another file"):
        place(run, out=run / "latest" / "x.json")


def test_another_result_gets_another_name(tmp_path, capsys):
    """Bug: --out names one file twice, or the run went on, and the first result is gone without a word."""
    file = tmp_path / "r.json"
    for seed, value in ((0, 1), (0, 2), (1, 3), (2, 4)):  # the same settings, then others
        results.write(file, {"settings": {"seed": seed, "played": (1, 2)}, "value": value})
    told = capsys.readouterr().out
    assert told.count("held another result") == 2 and "r.1.json" in told and "r.2.json" in told
    values = [json.loads((tmp_path / name).read_text())["value"] for name in ("r.1.json", "r.2.json", "r.json")]
    assert values == [2, 3, 4]
    file.write_text('{"protocols": {"none": 1}}')  # of before there were settings
    results.write(file, {"settings": {}})
    assert json.loads((tmp_path / "r.3.json").read_text()) == {"protocols": {"none": 1}}
    (tmp_path / "empty.json").write_text("")
    results.write(tmp_path / "empty.json", {"settings": {}})
    assert not (tmp_path / "empty.1.json").exists()

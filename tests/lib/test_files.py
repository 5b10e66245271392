"""What is printed and read by everybody: any text, any terminal, one line for what is wrong; and files of people."""

import io
import os
import sys
from pathlib import Path

import pytest

import eval as evaluation
import train
from lib.files import expanded, one_line, read_json, try_to_write


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("program, flags", [(train, "train.read_flags"), (evaluation, "tools.targets.evaluation")])
def test_any_text_can_be_printed(program, flags, encoding, monkeypatch):
    """Bug: a sampled emoji ends the run where the terminal is not UTF-8."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(flags, lambda *some, **more: print("\U0001f4b0 \u4f60 \ud83d") or sys.exit(7))
    with pytest.raises(SystemExit, match="7"):
        program.main()
    terminal.flush()
    assert b"\\U0001f4b0" in terminal.buffer.getvalue()


def refused(path, **more):
    """The one line with which a file is refused."""
    with pytest.raises(OSError) as caught:
        try_to_write(path, **more)
    line = str(caught.value)
    assert "cannot be written" in line and "\n" not in line and len(line) < 400
    return line


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_that_can_be_written_is_not_made(tmp_path):
    """Bug: an empty result, or a folder for one, is left behind by a command that ends with an error."""
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "here").mkdir()
    for path in ("new.json", "old.json", "here/new.json", "not/yet/there/new.json", "here/../new.json"):
        try_to_write(tmp_path / path)
    assert below(tmp_path) == ["here", "old.json"] and (tmp_path / "old.json").read_text() == "old"


@pytest.mark.parametrize("path, why", [
    ("folder", "is a directory"), ("file/new.json", "file is no directory"), ("file/a/b/new.json", "no directory"),
    ("x" * 300, "too long"), ("x" * 300 + "/new.json", "too long"), ("none/../file", "none is not there"),
    ("none/a/../../file", "is not there"), ("pipe", "is no file"), ("", "is a directory")])
def test_a_file_that_cannot_be_written_is_one_line(path, why, tmp_path):
    """Bug: found after the games. A path through a folder that is not there yet names another file once it is."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    before = below(tmp_path)
    line = refused(tmp_path / path)
    assert why in line and line.startswith("--out ") and "name another file" in line
    assert "--out FILE" in refused(tmp_path / path, given=False)
    assert below(tmp_path) == before and (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_of_somebody_else_is_one_line(tmp_path):
    """Bug: found after the games. As root this is tried by the next test alone, which only plays it."""
    for name, mode in (("closed", 0o000), ("read only", 0o500)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        for path in ("new.json", "more/new.json"):
            assert "Permission denied" in refused(tmp_path / name / path)
        (tmp_path / name).chmod(0o700)
        assert below(tmp_path / name) == []


def test_what_the_system_forbids_is_one_line(tmp_path, monkeypatch):
    """Bug: as above: a read-only disk; and in /tmp a file of somebody else can be read, but not replaced."""
    def forbidden(*rest, **more):
        raise PermissionError(13, "Permission denied", "x")

    for method in ("write_bytes", "mkdir", "exists"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, forbidden)
            assert "Permission denied" in refused(tmp_path / "a" / "new.json")
        assert below(tmp_path) == []
    (tmp_path / "theirs.json").write_text("x")
    tmp_path.chmod(0o1777)
    try_to_write(tmp_path / "theirs.json")
    somebody = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: somebody)
    assert "belongs to somebody else" in refused(tmp_path / "theirs.json")
    try_to_write(tmp_path / "mine.json")


def test_the_home_directory_is_put_in_for_a_tilde(monkeypatch):
    """Bug: --out=~/x, $WEBSHOP_DATA=~/x and a path in quotes make, or miss, a folder that is called ~."""
    monkeypatch.setenv("HOME", "/users/jane")
    assert expanded("~/a b/c") == expanded(Path("~/a b/c")) == "/users/jane/a b/c" and expanded("~") == "/users/jane"
    for other in ("", "tiny", "a/~/b", "./~/b", "a~", "~nobody_of_that_name/x"):  # the last as in a shell
        assert expanded(other) == other


def test_without_a_home_directory_a_tilde_is_one_line(monkeypatch):
    """Bug: in a container, whose user has no entry and no $HOME, a folder called ~ is made, or there is a traceback."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    for path in ("~", "~/x"):
        with pytest.raises(ValueError, match="^~.*no home directory"):
            expanded(path)
    assert expanded("/x") == "/x"


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "{", "", "\xff", "[1]", "9" * 5000])
def test_a_file_that_is_no_json_object_is_named(content, tmp_path):
    """Bug: a config.json that is nested too deeply is a RecursionError."""
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match="config.json .*; restore it") as caught:
        read_json(tmp_path / "config.json", "restore it")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("text, line", [("\nfoo\nbar", "foo"), ("", "ValueError"), (" \n", "ValueError"), ("x", "x")])
def test_an_error_is_one_line_that_says_something(text, line):
    """Bug: transformers' messages begin with a newline, and what is printed is nothing."""
    assert one_line(ValueError(text)) == line

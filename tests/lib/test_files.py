"""What is printed and read by everybody: any text, any terminal, one line for what is wrong."""

import io
import sys

import pytest

import eval as evaluation
import train


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

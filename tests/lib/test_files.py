"""What is printed and read by everybody: any text, any terminal, one line for what is wrong."""

import io
import sys

import pytest

import eval as evaluation
import train


@pytest.mark.parametrize("program, encoding", [(train, "latin-1"), (train, "ascii"), (evaluation, "cp1252")])
def test_any_text_can_be_printed(program, encoding, monkeypatch):
    """Bug: a sampled emoji ends the run where the terminal is not UTF-8."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(program, "read_flags", lambda **more: print("\U0001f4b0 \u4f60 \ud83d") or sys.exit(7))
    with pytest.raises(SystemExit, match="7"):
        program.main()
    terminal.flush()
    assert b"\\U0001f4b0" in terminal.buffer.getvalue()

"""What is printed and read by everybody: any text, any terminal, one line for what is wrong."""

import os
import subprocess
import sys

import pytest

from tests.real import ROOT


@pytest.mark.parametrize("program, encoding", [("train", "latin-1"), ("train", "ascii"), ("eval", "cp1252")])
def test_any_text_can_be_printed(program, encoding):
    """Bug: a sampled emoji ends the run where the terminal is not UTF-8."""
    code = (f"import {program}; {program}.read_flags = lambda: print('\\U0001f4b0 \\u4f60 \\ud83d') or exit(7); "
            f"{program}.main()")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 7 and b"\\U0001f4b0" in done.stdout, done.stderr

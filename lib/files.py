"""Files that are never half written, and errors in one line."""

import os
from pathlib import Path


def write_atomic(path: Path | str, content: str | bytes) -> None:
    """Write a file beside its place and rename it there: a kill leaves the old file or the new one, never half of one.

    The directory is made where it is missing. Two processes may write the same file: each has its own name beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")  # half a surrogate pair is \udXXX, as in JSON
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_bytes(content)
    os.replace(beside, path)


def valid_text(text: str) -> str:
    """JSON can spell half a surrogate pair (\\ud800), which no file and no tokenizer takes: a question mark instead."""
    return text.encode("utf-8", "replace").decode()


def one_line(error: BaseException) -> str:
    """An exception's message in one line: some libraries write paragraphs, or nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]

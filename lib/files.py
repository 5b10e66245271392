"""Files that are never half written, and errors in one line."""

import json
import os
import sys
from pathlib import Path


def write_atomic(path: Path | str, content: str | bytes) -> None:
    """Write a file under another name and rename it: a kill leaves the old file or the new one, never half of one.

    The directory is made where it is missing. Two processes may write the same file: each has a name of its own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")  # half a surrogate pair is \udXXX, as in JSON
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_bytes(content)
    os.replace(new, path)


def read_json(path: Path | str, what: str) -> dict:
    """The object in a JSON file of ours. ValueError names the file where it is none; `what` says what to do then."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not even text, or brackets without end
        raise ValueError(f"{path} is not JSON ({one_line(error)}); {what}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; {what}")
    return content


def print_anything() -> None:
    """Let print() write any text: what the terminal's encoding lacks is escaped, as sampled text may hold anything."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a test's or a notebook's may lack it
            stream.reconfigure(errors="backslashreplace")


def valid_text(text: str) -> str:
    """JSON can spell half a surrogate pair (\\ud800), which no file and no tokenizer takes: a question mark instead."""
    return text.encode("utf-8", "replace").decode()


def one_line(error: BaseException) -> str:
    """An exception's message in one line: some libraries write paragraphs, or nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]

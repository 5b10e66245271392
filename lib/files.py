"""Files that are never half written, paths as people write them, and errors in one line."""

import json
import os
import shutil
import stat
import sys
from contextlib import suppress
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


def try_to_write(path: Path | str, flag: str = "--out", given: bool = True) -> None:
    """OSError, one line, where `write_atomic` could not write this file: say so before hours of work, not after.

    flag: names the file; given: was it, or is this the default? What is made to find out, an empty file and missing
    directories, is taken away again.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "is a directory" if path.is_dir() else "is no file")
        if path.exists() and not replaceable(path):
            raise OSError(0, "belongs to somebody else")
        missing = [folder for folder in path.parents if not folder.exists()]  # the innermost first
        if any(folder.name == ".." for folder in missing):  # missing/../run/latest would be the run's own file
            raise OSError(0, f"{missing[-1]} is not there")
        ground = path.parents[len(missing)]
        if not ground.is_dir():
            raise OSError(0, f"{ground} is no directory")
        new = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(b"")
        finally:
            for remove in (new.unlink, *(folder.rmdir for folder in missing)):
                with suppress(OSError):
                    remove()
    except OSError as error:
        text = shortened(path)
        raise OSError(f"{flag} {text} cannot be written ({error.strerror}); name another file" if given else
                      f"{text} cannot be written ({error.strerror}); {flag} FILE names another") from None


def check_room(folder: Path | str, needed: int, what: str) -> None:
    """ValueError where the disk cannot hold what will be written: before hours of work, not after."""
    place = Path(os.path.abspath(folder))
    free = shutil.disk_usage(next(one for one in (place, *place.parents) if one.exists())).free
    if needed > free:
        raise ValueError(f"{folder}: {what} takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free on that disk; "
                         "make room, or name an --out on another")


def nested(value, most: int) -> bool:
    """Has a value of JSON more than `most` levels of lists and dicts?"""
    level: list = [[value]]
    for _ in range(most + 1):
        level = [item for one in level for item in (one.values() if isinstance(one, dict) else one)
                 if isinstance(item, dict | list)]
    return bool(level)


def replaceable(path: Path) -> bool:
    """May we put another file in the place of this one? In /tmp only its owner may."""
    if not path.parent.stat().st_mode & stat.S_ISVTX:
        return True
    return os.geteuid() in (0, path.stat().st_uid, path.parent.stat().st_uid)


def shortened(path: Path | str) -> str:
    """A path for a line that people read: of 300 letters only the first and the last."""
    text = str(path)
    return text if len(text) <= 200 else f"{text[:80]}...{text[-80:]}"


def expanded(path: Path | str) -> str:
    """A path with the home directory in place of ~, which a shell leaves as it is in --out=~/x and in $WEBSHOP_DATA.

    ValueError where there is no home directory: nobody wants a folder that is called ~.
    """
    path = str(path)
    if not path.startswith("~"):
        return path
    whole = os.path.expanduser(path)
    if whole == path and Path(path).parts[0] == "~":
        raise ValueError(f"{path}: there is no home directory here (no $HOME, no entry for this user); write the whole "
                         "path")
    return whole


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
    return next((row for row in str(error).splitlines() if row.strip()), type(error).__name__)

"""What a run may remove and write over: what it wrote itself, nothing else.

A person keeps a copy in checkpoints/, links checkpoints/ to a disk with other things on it, or names the folder of
another project in --out. So a run keeps a record of the checkpoints that it has written and not removed:

    written.json                      {"run": the run directory, "word": a random word, "names": ["step_00005"]}
    checkpoints/step_00005/written    the same word

Only a checkpoint that is in the record and holds the word is removed or replaced.
"""

import json
import os
import re
import shutil
import uuid
import zlib
from pathlib import Path

from lib.files import read_json, write_atomic
from tools.guard import ANEW, UNFINISHED

RECORD, MARK = "written.json", "written"
LOGS = ("metrics.jsonl", "edits.jsonl", "reviews.jsonl")  # appended to, an iteration at a time
STEP = re.compile(r"step_\d{5,}")
# What may lie in the directory of a new run: logs, a shell's or an earlier run's, and what systems leave everywhere.
STRAY = re.compile(r"((metrics|edits|reviews)\.jsonl|config\.json|samples)(\.\d+)?|wandb_id|.*\.(log|out|err|new)|"
                   r".*(log|out|err|output|console)\.txt|"
                   r"lost\+found|\.DS_Store|\._.*|\.nfs.*|\.gitkeep|\.directory|Thumbs\.db|desktop\.ini")


# ---- A new run ------------------------------------------------------------------------------------------------------


def config_of(out):
    """The config.json of a run of ours; {} where there is none, or that of something else. ValueError: damaged."""
    file = Path(out) / "config.json"
    config = read_json(file, ANEW) if file.is_file() else {}
    return config if {"env", "model", "seed"} <= config.keys() else {}


def refuse_others(out):
    """ValueError, one line, where a directory holds what a new run would write over: a run, or anything else."""
    ours = bool(config_of(out))
    names = [name for name in sorted(os.listdir(out)) if name not in ("reference", "checkpoints") or inside(out / name)]
    run = {"latest", "reference", "skills.json", UNFINISHED, RECORD} if ours else {"latest"}
    if run & set(names):
        raise ValueError(f"{out} holds a run; --resume continues it, --out DIR starts another")
    for name in names:
        link = name == "checkpoints" and (out / name).is_symlink()  # to a larger disk, where other things may be
        strange = name == "config.json" and not ours or name == "samples" and foreign(out / name)
        if strange or not link and not STRAY.fullmatch(name):
            first = "/".join([name, *inside(out / name)[:1]])
            raise ValueError(f"--out {out} holds something else than a run: {first}; name a new or an empty directory")
    refuse_taken(out, 0)


def inside(folder):
    """What is in a folder, without what systems leave everywhere; [] where it is no folder."""
    return [name for name in sorted(os.listdir(folder)) if not STRAY.fullmatch(name)] if folder.is_dir() else []


def foreign(samples):
    """Is this folder no run's samples/?"""
    return not samples.is_dir() or any(not STEP.match(name) for name in inside(samples))


def set_aside(out):
    """Rename the logs of an earlier run of which nothing else is left, or a new run would write over them."""
    old = [name for name in (*LOGS, "samples") if (out / name).is_dir() and inside(out / name)
           or (out / name).is_file() and (out / name).stat().st_size]
    for name in [*old, "config.json"] if old else []:
        if (out / name).exists():
            free = next(n for n in range(1, 10**6) if not os.path.lexists(out / f"{name}.{n}"))
            os.rename(out / name, out / f"{name}.{free}")
            print(f"{out / name} of an earlier run is {name}.{free} now", flush=True)


# ---- Its checkpoints ------------------------------------------------------------------------------------------------


def record_of(out):
    """The record of a run directory. That of a run from before there were records has the checkpoint `latest` names."""
    here, latest, names = os.path.realpath(out), out / "latest", []
    if (out / RECORD).is_file():
        record = read_json(out / RECORD, "delete it, and the run goes on and removes no checkpoint from before")
        if not (out / "checkpoints").is_symlink() or record.get("run") == here:
            return {"run": here, "word": "", "names": names, **record}
        # A copy of a run: its checkpoints/ links to the folder that the first one's links to.
    elif latest.is_file():
        names = STEP.findall(latest.read_text(encoding="utf-8", errors="replace"))
    return {"run": here, "word": uuid.uuid4().hex, "names": names}


def owns(out, name):
    """Did this run write the checkpoint of that name? A link, and what came in its place, is somebody else's."""
    checkpoint = out / "checkpoints" / name
    record, mark = record_of(out), checkpoint / MARK
    if name not in record["names"] or checkpoint.is_symlink() or not checkpoint.is_dir():
        return False
    if not os.listdir(checkpoint):  # a kill came in its removal
        return True
    if not (out / RECORD).is_file():
        return not mark.exists()
    return mark.is_file() and mark.read_text(encoding="utf-8", errors="replace").strip() == record["word"]


def number(name):
    """The iteration of a checkpoint, by its name; -1 for another name."""
    return int(name.removeprefix("step_")) if STEP.fullmatch(name) else -1


def refuse_taken(out, first):
    """ValueError, one line, where a checkpoint that this run did not write has the name of one from `first` on."""
    place = out / "checkpoints"
    if place.is_symlink() and not place.exists():
        raise ValueError(f"{place} is a link to {os.readlink(place)}, which is not there; make that directory, or "
                         "mount its disk")
    for name in inside(place):
        if number(name) >= first and not owns(out, name):
            raise ValueError(f"{place / name}: this run did not write it, and would have to write over it; move it, or "
                             "name another --out")


def room_for(out, name):
    """Where to put together what will be checkpoints/`name`: beside it, as a rename works on one disk only.

    OSError where the name is taken by what this run did not write.
    """
    folder = out / "checkpoints"
    if os.path.lexists(folder / name) and not owns(out, name):
        raise FileExistsError(f"{folder / name} is there, and this run did not write it; move it")
    folder.mkdir(exist_ok=True)
    record = record_of(out)
    if not (out / RECORD).is_file():  # a run from before there were records: what it has gets the mark
        for old in [old for old in record["names"] if owns(out, old)]:
            (folder / old / MARK).write_text(record["word"] + "\n")
    write_atomic(out / RECORD, json.dumps({**record, "names": sorted({*record["names"], name})}) + "\n")
    # Two runs whose checkpoints/ link to one folder must not meet there.
    return folder / f".saving_{zlib.crc32(os.fsencode(os.path.realpath(out))):08x}"


def publish(out, new, name):
    """Make the directory `new`, complete now, the checkpoint of that name."""
    (new / MARK).write_text(record_of(out)["word"] + "\n")
    target, old = out / "checkpoints" / name, new.with_name(f"{new.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():  # of a killed run that came this far before
        os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old, ignore_errors=True)


def remove_older(out, name):
    """Remove the checkpoints of this run that are older than `name`: those files that `name` has, too, no others."""
    folder, record = out / "checkpoints", record_of(out)
    names = [other for other in record["names"] if owns(out, other)]
    older = [other for other in names if number(other) < number(name)]
    for other in older:
        for file in sorted(os.listdir(folder / name), key=lambda file: file == MARK):  # the mark last: a kill may come
            path = folder / other / file
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if kept := os.listdir(folder / other):
            print(f"{folder / other}: {kept[0]} is not of this run and stays there", flush=True)
        else:
            (folder / other).rmdir()
    write_atomic(out / RECORD, json.dumps({**record, "names": [one for one in names if one not in older]}) + "\n")

"""A run as one HTML page, or two runs with their curves over each other: `python -m tools.page RUN [RUN2]`.

The page needs no server and no network. All text of the world and of the policy is escaped by the template engine
(Jinja, which torch brings along), and the page's own policy lets no script run but ours, which only filters and sorts.
Without scripts everything can still be read.
"""

import argparse
import base64
import hashlib
import io
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers import AutoTokenizer

from dualadv_grpo import ACT
from lib.chat import Chat
from lib.files import print_anything, read_json, try_to_write, valid_text, write_atomic
from skillbank import SkillBank
from tools.figures import Panel, draw
from tools.flags import path_of
from tools.guard import guard
from tools.report import lines_of, seconds_of

EPISODES = 40  # at most so many transcripts, spread over the iterations: a page of a long run should open, too
SHARES = {"held-out games: success": "eval_success", "held-out games: score": "eval_score",
          "training games: success": "success", "training games: score": "score"}
CURVES = {"skills in the bank": "skills", "mean utility U of the edits": "utility", "entropy of sampling": "entropy",
          "tokens of an iteration": "sampled", "seconds of an iteration": "seconds",
          "mismatch: std of log(trainer / sampler)": "mismatch"}


def main(argv=None):
    print_anything()
    parser = argparse.ArgumentParser(prog="tools.page", allow_abbrev=False, description=(
        "Write a run as one HTML page: curves, the bank and its history, every edit, transcripts token by token."))
    parser.error = lambda message: parser.exit(2, f"tools.page: {message}; --help lists the flags\n")  # type: ignore
    parser.add_argument("run", type=path_of, metavar="RUN", help="run directory of train.py")
    parser.add_argument("second", type=path_of, metavar="RUN2", nargs="?", help="another run, to compare the two")
    parser.add_argument("--out", type=path_of, metavar="FILE", help="the page (default: RUN/report.html)")
    args = parser.parse_args(argv)
    runs = [Path(run) for run in (args.run, args.second) if run]
    file = Path(args.out) if args.out else runs[0] / "report.html"
    try:
        try_to_write(file, given=bool(args.out))
    except OSError as error:
        parser.error(str(error))
    with guard("tools.page", None, (ValueError, OSError)):
        if note := write(runs, file):
            print(note)
        print(f"wrote {file}")


def write(paths, file):
    """Write the page of one or two run directories; returns "", or in one line why it has no curves.

    ValueError or OSError, one line, where a run's files cannot be read.
    """
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = map(str, paths)
    runs = {valid_text(name): read(path, EPISODES // len(paths)) for name, path in zip(names, paths)}
    svg, note = curves(runs)
    here = Path(__file__).parent
    script = (here / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                           lstrip_blocks=True).get_template("page.html")
    page = template.render(runs=runs, svg=svg, note=note, script=script, digest=digest)
    write_atomic(file, valid_text(page))
    return note


def curves(runs):
    """(the curves of all runs as SVG, "") or ("", why there are none: no matplotlib). runs: {name: run}."""
    panels = []
    for title, key in {**SHARES, **CURVES}.items():
        lines = {name: [(row["step"], row[key]) for row in run["rows"] if key in row] for name, run in runs.items()}
        panels.append(Panel(lines, "iteration", title=title, top=1.0 if title in SHARES else None))
    file = io.BytesIO()
    try:
        draw(panels, file, height=2.4, columns=3)
    except ValueError as error:
        return "", f"no curves: {error}"
    text = file.getvalue().decode()
    return text[text.index("<svg"):], ""  # without the head of an XML file


def read(path, most):
    """All that the page shows of a run directory, `most` transcripts at most."""
    rows, edits = lines_of(path / "metrics.jsonl"), lines_of(path / "edits.jsonl")
    if not rows:
        raise ValueError(f"{path}/metrics.jsonl is empty: nothing to report yet")
    for row in rows:
        if row["step"]:
            row["seconds"] = seconds_of(row)
    committed = [edit for edit in edits if edit["committed"]]
    for edit in edits:  # what an update was to replace; the bank changes when an iteration ends
        target = edit["arguments"].get("skill_id", "none")
        earlier = [one for one in committed if one["skill_id"] == target and one["step"] < edit["step"]]
        edit["old"] = earlier[-1]["arguments"] if earlier else None
    bank = path / "skills.json"
    return {"settings": read_json(path / "config.json", "name run directories of train.py"), "rows": rows,
            "edits": edits, "bank": SkillBank.load(bank) if bank.is_file() else SkillBank(),
            "episodes": transcripts(path, most)}


def transcripts(path, most):
    """{(step, number): a sampled episode}, at most so many, evenly spread over the iterations; the last is there."""
    files = sorted((path / "samples").glob("step_*.json"), reverse=True)
    files = files[::math.ceil(2 * len(files) / most) or 1]  # a file has two episodes at most
    if not files:
        return {}
    chat = Chat(AutoTokenizer.from_pretrained(path / "reference"), str(path / "reference"))
    found = {}
    for file in reversed(files):
        for episode in read_json(file, "delete it, and the page leaves it out")["episodes"]:
            found[episode["step"], episode["number"]] = episode
            episode["parts"] = [part for number, segment in enumerate(episode["segments"])
                                for part in parts_of(chat, segment, number > 0, episode)]
    return found


def parts_of(chat, segment, later, episode):
    """A segment as parts: given text, and turns with the probability of each token and the advantage.

    later: it is not the first. It begins with turns that were shown before; only what follows them is new.
    """
    ids, parts, here = segment["ids"], [], 0
    for start, job, turn, logp in [*segment["sampled"], (len(ids), None, None, [])]:
        given = chat.decode(ids[here:start])
        dropped = later and here == 0
        parts.append({"text": given.rpartition("earlier turns dropped]")[2] if dropped else given, "dropped": dropped})
        here = start + len(logp)
        if logp:
            of_turn = episode["a_turns"][turn] if episode["a_turns"] and job == ACT else 0.0
            parts.append({"tokens": zip(split(chat, ids[start:here]), map(math.exp, logp)),
                          "label": f"step {turn + 1}" if job == ACT else "review",
                          "advantage": episode["a_act" if job == ACT else "a_skill"] + of_turn})
    return parts


def split(chat, ids):
    """The text of each token; a character that takes several tokens is the last one's."""
    text = chat.decode(ids)
    ends = [len(chat.decode(ids[:i]).rstrip("\ufffd")) for i in range(len(ids))] + [len(text)]
    return [text[start:end] for start, end in zip(ends, ends[1:])]


if __name__ == "__main__":
    main()

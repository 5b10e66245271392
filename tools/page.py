"""A run as one HTML page: `python eval.py RUN --report`, or two runs with their curves over each other.

The page needs no server and no network. All text of the world and of the policy is escaped by the template engine
(Jinja, which torch brings along), and the page's own policy lets no script run but ours, which only filters, sorts and
colours. Without scripts everything can still be read.
"""

import base64
import difflib
import hashlib
import math
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from transformers import AutoTokenizer

from dualadv_grpo import ACT
from lib.chat import Chat
from lib.files import read_json, valid_text, write_atomic
from skillbank import SkillBank
from tools.report import SECONDS, edits_of, lines_of

EPISODES = 40  # at most so many transcripts, spread over the iterations: a page of a long run should open, too
WIDTH, HEIGHT = 300, 160  # of a chart, without its labels
PURPOSES = ("act", "review", "probe", "confirm")


def write(runs, file=None):
    """Write the page of the run directories, by default into the first; returns its path.

    ValueError, one line, where a run's files cannot be read.
    """
    here = Path(__file__).parent
    runs = [Path(run) for run in runs]
    file = file or runs[0] / "report.html"
    rows = {run: lines_of(run / "metrics.jsonl") for run in runs}
    edits = {run: edits_of(run) for run in runs}
    if empty := [run for run in runs if not rows[run]]:
        raise ValueError(f"{empty[0]}/metrics.jsonl is empty: nothing to report yet")
    script = (here / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    episodes = [episode for run in runs for episode in transcripts(run, EPISODES // len(runs))]
    anchors = {episode["anchor"] for episode in episodes}
    listed = [row for run in runs for row in edit_table(run, edits[run], anchors)]
    template = Environment(loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                           keep_trailing_newline=True).get_template("page.html")
    page = template.render(
        title=" and ".join(run.name for run in runs), script=script, script_hash=f"sha256-{digest}",
        runs=[{"name": run.name, "about": about(run, rows[run])} for run in runs], charts=charts(rows),
        bank=bank_of(runs[0], listed), edits=listed, fates=sorted({row["fate"] for row in listed}), episodes=episodes)
    write_atomic(file, valid_text(page))
    return file


def about(run, rows):
    """A run in a line: what was played, with what, how long."""
    settings = read_json(run / "config.json", "name run directories of train.py")
    seconds = sum(row[part] for row in rows if row["step"] for part in SECONDS)
    return (f"{settings.get('world', settings['env'])}; model {Path(settings['model']).name}, seed {settings['seed']}; "
            f"{rows[-1]['step']} iterations, {sum(row.get('sampled', 0) for row in rows):,} sampled tokens, "
            f"{seconds / 60:.1f} minutes of iterations")


# ---- Curves ---------------------------------------------------------------------------------------------------------


def charts(rows):
    """Every chart of the page: curves of all runs, the second run's dashed. rows: {run: rows of metrics.jsonl}."""
    def curves(names, pick=lambda row, name: row.get(name)):
        return {name: [[(row["step"], pick(row, name)) for row in some if pick(row, name) is not None]
                       for some in rows.values()] for name in names}

    def iterations(name, label):
        return {label: [[(row["step"], row[name]) for row in some if row["step"] and name in row]
                        for some in rows.values()]}

    evaluated = {label: curves([name])[name] for label, name in (("success", "eval_success"), ("score", "eval_score"))}
    tokens = {name: iterations(f"{name}_sampled", name)[name] for name in PURPOSES}
    # A phase has the same colour in both pictures.
    seconds = {name: iterations(f"{name}_s", name)[name] for name in ("act", "update", "probe", "confirm")}
    return [chart("held-out games, with the bank", evaluated, 1.0),
            chart("training games", iterations("success", "success") | iterations("score", "score"), 1.0),
            chart("skills in the bank", iterations("skills", "skills")),
            chart("mean utility of the edits", iterations("utility", "U")),
            chart("sampled tokens of an iteration", tokens), chart("seconds of an iteration", seconds)]


def chart(title, series, top=None):
    """Curves as points of a picture. series: {label: a list of (x, y) per run}; a label has a colour, a run a dash."""
    points = [point for curves in series.values() for curve in curves for point in curve] or [(0, 0)]
    right = max(max(x for x, _ in points), 1)
    low = min(0.0, min(y for _, y in points))
    high = top or max(max(y for _, y in points), low + 1e-9)

    def place(x, y):
        return f"{WIDTH * x / right:.1f},{HEIGHT * (high - y) / (high - low):.1f}"

    lines = [{"label": label, "colour": colour, "dash": dash, "points": " ".join(place(x, y) for x, y in curve)}
             for colour, (label, curves) in enumerate(series.items()) for dash, curve in enumerate(curves) if curve]
    return {"title": title, "lines": lines, "key": [(label, i) for i, label in enumerate(series)],
            "x_ticks": [(0, 0), (WIDTH // 2, f"{right / 2:g}"), (WIDTH, right)],
            "y_ticks": [(HEIGHT, short(low)), (0, short(high))]}


def short(number):
    """A number of a scale: 12k, 0.25, 7."""
    return f"{number / 1000:.2g}k" if abs(number) >= 1000 else f"{number:.2g}"


# ---- Edits and the bank ---------------------------------------------------------------------------------------------


def edit_table(run, edits, anchors):
    """Every probed edit of a run as a row of the page; an update is a diff against the words that it replaces."""
    words, table = {}, []  # skill id -> its words in the bank
    for step in sorted({edit["step"] for edit in edits}):
        mine = [edit for edit in edits if edit["step"] == step]
        for edit in mine:
            arguments = edit["arguments"]
            text = f"{arguments['principle']} ({arguments['when_to_apply']})"
            replaced = edit["name"] == "update_skill" and words.get(arguments["skill_id"])
            anchor = f"{run.name}-{step}-{edit.get('episode')}"
            u, again = edit["utility"], edit["confirmed"]
            table.append({
                "run": run.name, "step": step, "episode": edit.get("episode", ""), "family": edit["family"],
                "anchor": anchor if anchor in anchors else "", "tool": edit["name"].removesuffix("_skill"),
                "category": edit["category"], "title": arguments["title"], "u": u, "utility": f"{u:+.2f}",
                "diff": difference(replaced, text) if replaced else [("", text)],
                "probes": ", ".join(f"{a:.2f}\u00a0→\u00a0{b:.2f}" for a, b in zip(edit["before"], edit["after"])),
                "confirmed": "" if again is None else f"{again:+.2f}", "skill_id": edit.get("skill_id", ""),
                "fate": fate(edit)})
        for edit in mine:  # the bank changes when the iteration ends
            if edit["committed"] and edit.get("skill_id"):
                arguments = edit["arguments"]
                words[edit["skill_id"]] = f"{arguments['principle']} ({arguments['when_to_apply']})"
    return table


def fate(edit):
    """What became of an edit, in two or three words."""
    if edit["committed"]:
        return "committed"
    if edit["confirmed"] is not None:
        return "not confirmed" if edit["confirmed"] <= 0 else "a better one was taken"
    return "no use" if edit["utility"] <= 0 else "a better one was taken"


def difference(old, new):
    """The words of a text as [("", kept) | ("del", gone) | ("ins", new)]."""
    a, b, parts = old.split(), new.split(), []
    for what, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        parts += [("", " ".join(a[i:j]))] if what == "equal" else [
            (kind, " ".join(some)) for kind, some in (("del", a[i:j]), ("ins", b[k:m])) if some]
    return parts


def bank_of(run, listed):
    """The run's bank: each skill with the committed edits that made it what it is."""
    file = run / "skills.json"
    bank = SkillBank.load(file) if file.is_file() else SkillBank()
    history: dict = {}
    for row in listed:
        if row["run"] == run.name and row["fate"] == "committed":
            history.setdefault(row["skill_id"], []).append(row)
    return [{"id": skill.skill_id, "category": bank.category(skill.skill_id), "title": skill.title,
             "text": f"{skill.principle} ({skill.when_to_apply})", "history": history.get(skill.skill_id, [])}
            for skill in bank.skills()]


# ---- Episodes -------------------------------------------------------------------------------------------------------


def transcripts(run, most):
    """The sampled episodes of a run, at most so many, evenly spread over its iterations."""
    files = sorted((run / "samples").glob("step_*.json"))
    keep = max(most // 2, 1)
    if len(files) > keep:
        files = [files[round(i * (len(files) - 1) / max(keep - 1, 1))] for i in range(keep)]
    if not files:
        return []
    chat = Chat(AutoTokenizer.from_pretrained(run / "reference"), str(run / "reference"))
    return [episode(run, chat, one) for file in files
            for one in read_json(file, "delete it, and the report leaves it out")["episodes"]]


def episode(run, chat, one):
    """An episode for the page: its numbers, and its tokens by who wrote them."""
    values = {name: f"{one[name]:+.2f}" for name in ("R", "S", "a_act", "a_skill")}
    parts = [part for number, segment in enumerate(one["segments"]) for part in stretches(chat, segment, number,
                                                                                          one["a_turns"], one["a_act"])]
    return {**{name: one[name] for name in ("step", "number", "task", "family", "won", "status", "fate")}, **values,
            "run": run.name, "anchor": f"{run.name}-{one['step']}-{one['number']}", "score": f"{one['score']:.2f}",
            "act_colour": colour(one["a_act"]), "skill_colour": colour(one["a_skill"]), "parts": parts}


def colour(advantage):
    """The background of a token: blue above 0, orange below, stronger for a larger advantage (full at 2.5)."""
    strength = min(abs(advantage) / 2.5, 1.0) * 0.6
    return f"rgba(var(--{'good' if advantage > 0 else 'bad'}), {strength:.2f})"


def stretches(chat, segment, number, a_turns, a_act):
    """A segment as parts: given text, and turns with a probability per token. A later segment began with old turns."""
    ids, parts, here = segment["ids"], [], 0
    for start, job, turn, logp in segment["sampled"]:
        parts += given(chat.decode(ids[here:start]), number and here == 0)
        here = start + len(logp)
        tokens = zip(split(chat, ids[start:here]), (f"p {math.exp(x):.3f}" for x in logp))
        own = colour(a_act + a_turns[turn]) if a_turns and job == ACT else ""
        parts.append({"kind": "a" if job == ACT else "r", "tokens": list(tokens), "turn": own,
                      "label": f"step {turn + 1}" if job == ACT else "review"})
    return parts + given(chat.decode(ids[here:]), number and here == 0)


def given(text, again):
    """Text of the prompt or of the world. again: it begins with turns that were shown before; only the rest is new."""
    if not again:
        return [{"kind": "g", "text": text}] if text else []
    return [{"kind": "dropped", "text": "The context was full: the oldest turns were dropped here."},
            {"kind": "g", "text": text.rpartition("earlier turns dropped]")[2]}]


def split(chat, ids):
    """The text of each token; a character that takes several tokens is the last one's."""
    done, pieces = "", []
    for i in range(len(ids)):
        text = chat.decode(ids[:i + 1])
        whole = not text.endswith("\ufffd") or i == len(ids) - 1
        pieces.append(text[len(done):] if whole else "")
        done = text if whole else done
    return pieces

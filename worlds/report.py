"""What a run writes for people to read: samples, a printed story, JSON lines, the curve. Nothing here is the method."""

import json
from pathlib import Path

from worlds import catalogue, household
from worlds.skillfiles import write_atomic


def append(path, rows):
    """JSON lines behind what is in the file."""
    with open(path, "a", encoding="utf-8") as file:
        for row in rows:
            row = {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def cut(path, step):
    """Keep the lines of iterations up to `step`: what a killed run wrote after its last checkpoint is done again."""
    lines = Path(path).read_text(encoding="utf-8").split("\n") if Path(path).is_file() else []
    whole = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    write_atomic(path, "".join(line + "\n" for line in whole))


def edit_rows(step, edits, committed):
    """edits.jsonl: every edit that was probed, in the words of the policy, and what came of it."""
    return [{"step": step, "task": edit.task, "family": edit.family, "name": edit.name, "arguments": edit.arguments,
             "probes": edit.probes, "before": edit.before, "after": edit.after, "utility": edit.utility,
             "confirmed": edit.confirmed, "committed": edit in committed} for edit in edits]


def fate(edit, committed):
    """What the probes said of an edit and what became of it, as lines to read."""
    probes = ", ".join(f"{before:.2f} -> {after:.2f}" for before, after in zip(edit.before, edit.after))
    again = "" if edit.confirmed is None else f", on fresh probes {edit.confirmed:+.3f}"
    return [f"    probes without -> with the edit: {probes or 'none'}",
            f"    utility {edit.utility:+.3f}{again}: {'committed' if committed else 'not committed'}"]


def story(episodes, edits, committed):
    """One episode, its review and the fate of its edit, short enough to print: the pages are left out.

    A committed edit if there is one, else the most useful one.
    """
    edit = max(edits, key=lambda edit: (edit in committed, edit.utility), default=None)
    episode = episodes[edit.episode if edit else 0]
    lines = [f"  {episode.opening[1].splitlines()[0]}"]
    lines += [f"    {' '.join(turn.text.split())}" for turn in episode.turns]
    lines += [f"    {'won' if episode.won else 'lost'}, score {episode.score:.2f}",
              f"  review: {' '.join(episode.review.split())}"]
    return "\n".join(lines + (fate(edit, edit in committed) if edit else [f"    {episode.edit['status']}"]))


def sample(path, episodes, edits, committed):
    """The best and the worst episode of an iteration in full, with the fate of their edits."""
    ranked = sorted(range(len(episodes)), key=lambda i: episodes[i].reward)
    lines = []
    for i in dict.fromkeys([ranked[-1], ranked[0]]):
        lines += [episodes[i].transcript(), f"--- the review's call: {episodes[i].edit['status']}"]
        lines += [line for edit in edits if edit.episode == i for line in fate(edit, edit in committed)]
    write_atomic(path, "\n".join(lines) + "\n")


SECONDS = ("act_s", "probe_s", "update_s", "confirm_s")


# ---- The curve ------------------------------------------------------------------------------------------------------


def lines_of(path):
    """The rows of a JSON-lines file; ValueError where it is missing or broken."""
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); name run directories of train.py") from error


def kind(arguments):
    """useful, neutral or harmful: what an edit says, where its words are those of the scripted players; else None."""
    kinds = [ways.kind.get(ways.meaning(arguments)) for ways in (catalogue.WAYS, household.WAYS)]
    return kinds[0] or kinds[1]


def digest(run):
    """A run in four lines: success, what was proposed, what was committed, and what K probes alone would have."""
    rows, edits = lines_of(Path(run) / "metrics.jsonl"), lines_of(Path(run) / "edits.jsonl")
    last = max(row["step"] for row in rows)

    def count(some):
        kinds = [kind(edit["arguments"]) for edit in some]
        return {name: kinds.count(name) for name in ("useful", "neutral", "harmful")}

    def utility(name):
        some = [edit["utility"] for edit in edits if kind(edit["arguments"]) == name]
        return f"{name} {sum(some) / max(len(some), 1):+.2f} ({len(some)})"

    def share(some):
        return count(some)["useful"] / max(len(some), 1)

    best = {}  # of each task of each iteration, as the commit rule would take it without fresh probes
    for edit in sorted(edits, key=lambda edit: -edit["utility"]):
        if edit["utility"] > 0:
            best.setdefault((edit["step"], edit["task"]), edit)
    evals = ", ".join(f"{row['eval_success']:.3f} at {row['step']}" for row in rows if "eval_success" in row)
    return "\n".join([
        f"{run}: held-out success {evals}; "
        f"{sum(row[part] for row in rows if row['step'] for part in SECONDS):.0f}s of iterations",
        f"  share of useful edits {share([e for e in edits if e['step'] <= 5]):.2f} in iterations 1-5, "
        f"{share([e for e in edits if e['step'] > last - 5]):.2f} in the last five",
        f"  mean U: {', '.join(map(utility, ('useful', 'neutral', 'harmful')))}",
        f"  committed {count([e for e in edits if e['committed']])}, without confirmation {count(best.values())}"])


def plot(runs, file):
    """Draw runs (directories) into a picture: held-out success, what is proposed, what is in the bank."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, (success, useful, bank) = plt.subplots(1, 3, figsize=(12, 3.4), constrained_layout=True)
    for number, run in enumerate(runs):
        rows, edits = lines_of(Path(run) / "metrics.jsonl"), lines_of(Path(run) / "edits.jsonl")
        if not rows:
            raise ValueError(f"{run}/metrics.jsonl is empty: nothing to plot yet")
        look = {"color": f"C{number}", "label": Path(run).name}
        evals = [row for row in rows if "eval_success" in row]
        spread = [(r["eval_success"] * (1 - r["eval_success"]) / r["eval_n"]) ** 0.5 for r in evals]
        success.errorbar([r["step"] for r in evals], [r["eval_success"] for r in evals], spread, capsize=2, **look)
        # What was proposed, five iterations at a time; words of another world are counted by their utility.
        bins = {}
        for edit in edits:
            good = kind(edit["arguments"]) == "useful" if kind(edit["arguments"]) else edit["utility"] > 0
            bins.setdefault((edit["step"] - 1) // 5, []).append(good)
        useful.plot([5 * b + 3 for b in bins], [sum(some) / len(some) for some in bins.values()], "o-", **look)
        later = [row for row in rows if row["step"]]
        bank.plot([r["step"] for r in later], [r["skills"] for r in later], **look)
    success.set(title="success on held-out games, with the bank", xlabel="iteration", ylim=(0, 1))
    useful.set(title="share of useful skills among the edits", xlabel="iteration", ylim=(0, 1))
    bank.set(title="skills in the bank", xlabel="iteration")
    success.legend()
    fig.savefig(file, dpi=110)
    plt.close(fig)

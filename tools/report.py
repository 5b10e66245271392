"""What a run writes for people to read: printed lines, samples, JSON lines, the curve. The method is not here."""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import worlds
from dualadv_grpo import ACT, FORCED, REVIEW, Stats
from lib import distributed
from lib.files import print_anything, read_json, write_atomic
from lib.memory import gpu_peak_mb, peak_mb
from probes import edits_of
from skillbank import TOOLS
from tools.figures import Panel, draw
from tools.flags import path_of
from tools.guard import guard

MISMATCH = 0.05, 0.01  # std of log rho, share of tokens outside the clip: above these a line says what it means
PARTS = ("act", "probe", "update", "confirm")  # of an iteration, as metrics.jsonl names their seconds and tokens
# The kinds of edits, the best first: habits of scripted players, and hidden rules.
KINDS = ("useful", "neutral", "harmful"), ("right", "half", "wrong")
GOOD = tuple(names[0] for names in KINDS)


def seconds_of(row) -> float:
    """The seconds of an iteration, from its row of metrics.jsonl: whatever they were spent on."""
    return sum(value for name, value in row.items() if name.endswith("_s"))


def bar(name):
    """tqdm that erases itself, and is off when stderr is no terminal."""
    return partial(tqdm, desc=name, leave=False, disable=None)


class Clock:
    """Seconds by what they were spent on, in .laps."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """What went by since the last lap was spent on this part."""
        now = time.perf_counter()
        self.laps[part] = self.laps.get(part, 0.0) + now - self.last
        self.last = now


@dataclass
class Iteration:
    """All that there is to report of one iteration. What a method does not have stays at its default."""

    step: int
    episodes: list
    stats: Stats
    seconds: dict  # part -> seconds: Clock.laps
    R: list  # reward of acting, per episode
    a_act: Sequence | Tensor  # its advantage, per episode
    S: list = field(default_factory=list)  # reward of reviewing
    a_skill: Sequence | Tensor = ()  # its advantage, times lambda
    a_turns: list = field(default_factory=list)  # per episode what is added to a_act in each turn
    committed: list = field(default_factory=list)  # the edits that entered the bank
    probe_games: list = field(default_factory=list)
    confirm_games: list = field(default_factory=list)
    reviewed: list = field(default_factory=list)  # episodes of envs.review_again
    notes: dict = field(default_factory=dict)  # further numbers of a method, {name: value}

    def __post_init__(self):
        zeros = [0.0] * len(self.episodes)
        self.S = self.S or zeros
        self.a_skill = zeros if len(self.a_skill) == 0 else self.a_skill
        self.a_turns = self.a_turns or [[] for _ in self.episodes]
        self.edits = edits_of([*self.episodes, *self.reviewed])

    def publish(self, out, env, bank, model=None):
        """Print the iteration, write its samples and edits, return its row of metrics.jsonl. model: trained so far."""
        row = self.row(bank)
        if distributed.this.size > 1:
            agree(self.step, bank, model)
        if hasattr(env, "measures"):  # a world of hidden rules knows what reviews and the bank have found out
            row |= calls(self.episodes) | env.measures(self.episodes, bank)
        if not distributed.leader():
            return row
        print(self.line(row, env.source), flush=True)
        if not (row["mismatch"] <= MISMATCH[0] and row["clipped"] <= MISMATCH[1]):  # nan is no number within
            explain_mismatch()
        there = {skill.skill_id for skill in bank.skills()}
        for edit in [edit for edit in self.committed if edit.skill_id in there]:
            print(f"  + {bank.find(edit.skill_id).line()} | U {edit.utility:+.2f}"
                  + ("" if edit.confirmed is None else f", confirmed {edit.confirmed:+.2f}"), flush=True)
        if self.step == 1 or self.step % 10 == 0:  # something to watch
            print(story(self.episodes, self.edits, self.committed), flush=True)
        samples = out / "samples" / f"step_{self.step:05d}"
        sample(f"{samples}.txt", self.episodes, self.committed, self.R)
        self.dump(f"{samples}.json")
        append(out / "edits.jsonl", edit_rows(self.step, [*self.episodes, *self.reviewed], self.committed, env.ways))
        append(out / "reviews.jsonl", self.review_rows(env.ways))
        return row

    def review_rows(self, ways):
        """reviews.jsonl: of every episode with a review what was played, which call it made, and what that was paid."""
        return [{"step": self.step, "episode": i, "task": e.task, "family": e.family, "won": e.won, "score": e.score,
                 "tool": e.edit.name, "status": e.edit.status,
                 "kind": kind_of(e.edit, ways) if e.edit.changed else None,
                 "R": self.R[i], "S": self.S[i], "a_act": float(self.a_act[i]), "a_skill": float(self.a_skill[i])}
                for i, e in enumerate(self.episodes) if e.edit]

    def dump(self, path):
        """The same two episodes as `sample` writes, with every token and its advantage, for tools/page.py."""
        records = []
        for i in extremes(self.R):
            episode = self.episodes[i]
            records.append({
                "step": self.step, "number": i, "task": episode.task, "family": episode.family, "won": episode.won,
                "score": episode.score, "R": self.R[i], "S": self.S[i], "a_act": float(self.a_act[i]),
                "a_skill": float(self.a_skill[i]), "a_turns": list(self.a_turns[i]), "status": status_of(episode),
                "fate": "\n".join(fate(episode.edit, episode.edit in self.committed)),
                "segments": [{"ids": s.ids, "sampled": stretches(s)} for s in episode.segments]})
        write_atomic(path, json.dumps({"episodes": records}, separators=(",", ":")) + "\n")

    def row(self, bank):
        """The iteration in numbers."""
        return {"step": self.step, **summary(self.episodes)["all"], "reward": sum(self.R) / len(self.R),
                "skill_reward": sum(self.S) / len(self.S), "edits": len(self.edits),
                "utility": sum(e.utility for e in self.edits) / max(len(self.edits), 1),
                "probe_episodes": len(self.probe_games) + len(self.confirm_games), **self.tokens(),
                "committed": len(self.committed), "skills": len(bank.skills()), **asdict(self.stats),
                **{f"{part}_s": self.seconds.get(part, 0.0) for part in dict.fromkeys([*PARTS, *self.seconds])},
                **self.notes, "memory_mb": peak_mb(), "gpu_mb": gpu_peak_mb()}

    def tokens(self):
        """How many tokens were sampled, in all and by purpose."""
        def sampled(episodes, job):
            return sum(segment.job.count(job) for episode in episodes for segment in episode.segments)

        count = {"act": sampled(self.episodes, ACT), "review": sampled([*self.episodes, *self.reviewed], REVIEW),
                 "probe": sampled(self.probe_games, ACT), "confirm": sampled(self.confirm_games, ACT)}
        return {"sampled": sum(count.values()), **{f"{name}_sampled": n for name, n in count.items()}}

    def line(self, row, source):
        """The same as one line to read."""
        seconds = " ".join(f"{part} {value:.0f}" for part, value in self.seconds.items())
        notes = "".join(f"{name} {value:.3g} " for name, value in self.notes.items())
        return (f"step {self.step} | {source} | success {row['success']:.2f} score {row['score']:.2f} steps "
                f"{row['steps']:.1f} invalid {row['invalid']:.2f} | edits {row['edits']}/{row['n']} committed "
                f"{row['committed']} bank {row['skills']} | U {row['utility']:+.3f} ({row['probe_episodes']} probe "
                "runs) | "
                f"loss {row['loss']:+.4f} kl {row['kl']:.4f} gnorm {row['grad_norm']:.2f} "
                f"mismatch {row['mismatch']:.2g} ({row['clipped']:.1%}) {notes}| "
                f"{row['sampled']} tokens, {sum(self.seconds.values()):.0f}s ({seconds})")


def agree(step, bank, model):
    """distributed.Lost where the processes of a run have come apart: other iterations, banks or weights.

    Gradients are added up before the step, so processes of one kind of machine have the same weights bit for bit.
    """
    sums = [torch.sum(weight.detach(), dtype=torch.float64).item() for weight in model.parameters()]
    said = distributed.exchange({"iteration": step, "bank": worlds.digest(bank.to_dict()), "sum of weights": str(sums)})
    for rank, other in enumerate(said):
        for what in [what for what in other if other[what] != said[0][what]][:1]:
            raise distributed.Lost(f"after iteration {step} rank {rank} has another {what} than rank 0: are the "
                                   "program, its data, torch and the machine the same everywhere?")


@cache
def explain_mismatch():
    """Printed once in a run."""
    print("mismatch: before the update the trainer's log-probabilities of the sampled tokens differ from the sampler's "
          f"by more than rounding should (std above {MISMATCH[0]}, or over {MISMATCH[1]:.0%} of the tokens outside the "
          "clip): the run trains on samples of a slightly other model. On a GPU go on with --resume and --without "
          "recordings, then compilation, then bfloat16: the first that brings it down is the cause. "
          "`python -m tools.check` tests each alone", flush=True)


def summary(episodes: list) -> dict[str, dict]:
    """{"all": {...}, family: {...}}: n, success rate, mean score, mean steps, share of invalid actions."""
    groups = {"all": episodes}
    for family in sorted({e.family for e in episodes}):
        groups[family] = [e for e in episodes if e.family == family]
    return {
        name: {
            "n": len(some),
            "success": sum(e.won for e in some) / len(some),
            "score": sum(e.score for e in some) / len(some),
            "steps": sum(e.steps for e in some) / len(some),
            "invalid": sum(not t.valid for e in some for t in e.turns) / sum(e.steps for e in some),
        }
        for name, some in groups.items()
    }


def calls(episodes):
    """Of the reviews, the share that calls each tool; failed: a call that changes nothing and does not mean to."""
    edits = [e.edit for e in episodes if e.edit]
    names = [edit.name if edit.changed or edit.status == "kept" else "failed" for edit in edits]
    return {name: names.count(name) / max(len(names), 1) for name in (*TOOLS, "failed")}


def dev_row(step, episodes, source, bank, seconds):
    """Print an evaluation during training; returns what metrics.jsonl holds of it."""
    result = summary(episodes)["all"]
    print(f"eval at step {step} | success {result['success']:.3f} score {result['score']:.3f} steps "
          f"{result['steps']:.1f} invalid {result['invalid']:.2f} | {result['n']} dev games, {source}, bank "
          f"{len(bank.skills())} | {seconds:.0f}s", flush=True)
    return {f"eval_{name}": value for name, value in result.items()}


def protocol(name, episodes, seconds, env, bank, committed):
    """Print an evaluation's result, a line per family; returns what its JSON holds, with every episode's outcome."""
    families = summary(episodes)
    wide = max(map(len, families))
    for family, row in families.items():
        print(f"{name:8} {family:{wide}} n {row['n']:4}  success {row['success']:.3f}  score {row['score']:.3f}  steps "
              f"{row['steps']:4.1f}  invalid {row['invalid']:.2f}  {env.source}"
              + (f"  ({seconds:.0f}s, {committed} edits committed)" if family == "all" else ""), flush=True)
    return {"seconds": round(seconds, 1), "families": families, "committed": committed, "bank": bank.to_dict(),
            "episodes": [{"task": e.task, "game": env.name(e.task), "family": e.family, "won": e.won,
                          "score": e.score, "steps": e.steps} for e in episodes]}


def append(path, rows):
    """Append rows to a JSON-lines file."""
    with open(path, "a", encoding="utf-8") as file:
        for row in rows:
            row = {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def cut(path, step):
    """Keep the lines of iterations up to `step`. What a killed run wrote after its last checkpoint will come again."""
    rows = lines_of(path) if Path(path).is_file() else []
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row["step"] <= step))


def edit_rows(step, episodes, committed, ways):
    """edits.jsonl: every edit that was probed, in the words of the policy, and what came of it.

    episode: the number of the episode that was reviewed; kind: one of KINDS, where the words are those of the world's
    scripted players; else None.
    """
    edits = [(i, episode.edit) for i, episode in enumerate(episodes) if episode.edit and episode.edit.changed]
    # A method may commit what was written in an earlier iteration.
    edits += [(None, edit) for edit in committed if not any(edit is other for _, other in edits)]
    return [{"step": step, "episode": i, "task": edit.task, "family": edit.family, "name": edit.name,
             "category": edit.category, "arguments": edit.arguments, "kind": kind_of(edit, ways),
             "probes": edit.probes, "before": edit.before, "after": edit.after, "utility": edit.utility,
             "confirmed": edit.confirmed,
             "committed": edit in committed, "skill_id": edit.skill_id if edit in committed else ""}
            for i, edit in edits]


def kind_of(edit, ways):
    """One of KINDS, by an edit's words and the list that they are for; None of words that no scripted player uses."""
    return ways.kind.get(ways.meaning({**edit.arguments, "category": edit.category}))


def fate(edit, committed):
    """What an edit's probes measured and what became of the edit, as lines to read; none where nothing was edited."""
    if not edit or not edit.changed:
        return []
    probes = ", ".join(f"{before:.2f} -> {after:.2f}" for before, after in zip(edit.before, edit.after))
    again = "" if edit.confirmed is None else f", on fresh probes {edit.confirmed:+.3f}"
    return [f"    probes without -> with the edit: {probes or 'none'}",
            f"    utility {edit.utility:+.3f}{again}: {'committed' if committed else 'not committed'}"]


def stretches(segment):
    """What was sampled of a segment: [[first token, job, turn, log-probabilities]], a row per turn."""
    found: list = []
    for i, (job, turn, logp) in enumerate(zip(segment.job, segment.turn, segment.logp)):
        if job != FORCED and (not found or found[-1][2] != turn):
            found.append([i, job, turn, []])
        if job != FORCED:
            found[-1][3].append(round(logp, 3))
    return found


def status_of(episode):
    return episode.edit.status if episode.edit else "none was asked for"


def story(episodes, edits, committed):
    """One episode, its review and the fate of its edit, short enough to print: the pages are left out.

    The edit is a committed one if there is one, else the one with the highest utility.
    """
    edit = max(edits, key=lambda edit: (edit in committed, edit.utility), default=None)
    episode = next((episode for episode in episodes if episode.edit is edit), episodes[0])
    lines = [f"  {episode.messages[1].splitlines()[0]}"]
    lines += [f"    {' '.join(turn.text.split())}" for turn in episode.turns]
    last = " ".join(episode.turns[-1].reply.split())[:100] if episode.turns else "no turn"  # it may say why
    lines += [f"    {'won' if episode.won else 'lost'}, score {episode.score:.2f}; {last}",
              f"  review: {' '.join(episode.review.split())}"]
    return "\n".join(lines + (fate(edit, edit in committed) if edit else [f"    {status_of(episode)}"]))


def transcript(episode):
    """An episode as a person reads it."""
    lines = [f"=== task {episode.task} ({episode.family})", *episode.messages]
    for turn in episode.turns:
        lines += [f"--- policy{'' if turn.valid else ' (invalid)'}", turn.text, "--- world", turn.reply]
    lines += [f"--- {'won' if episode.won else 'lost'}, score {episode.score:.2f}, {episode.steps} steps"]
    return "\n".join(lines + (["--- review", episode.review] if episode.review else []))


def extremes(rewards):
    """The numbers of the episodes with the highest and the lowest reward; one number where it is the same episode."""
    ranked = sorted(range(len(rewards)), key=rewards.__getitem__)
    return list(dict.fromkeys([ranked[-1], ranked[0]]))


def sample(path, episodes, committed, rewards):
    """The best and the worst episode of an iteration in full, with the fate of their edits."""
    lines = []
    for i in extremes(rewards):
        lines += [transcript(episodes[i]), f"--- the review's call: {status_of(episodes[i])}"]
        lines += fate(episodes[i].edit, episodes[i].edit in committed)
    write_atomic(path, "\n".join(lines) + "\n")


# ---- The curve ------------------------------------------------------------------------------------------------------


def lines_of(path):
    """The rows of a JSON-lines file of ours. A torn last line, as a kill leaves it, is left out.

    ValueError where the file is missing, or another line cannot be read.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); name run directories of train.py") from None
    rows, last = [], max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for i, line in enumerate(lines[:last + 1]):
        try:
            rows.append(json.loads(line.decode("utf-8")))
            rows[-1]["step"]
        except (ValueError, KeyError, TypeError, RecursionError):  # the last: [[[[...
            del rows[i:]
            if i < last:
                raise ValueError(f"{path} cannot be read: line {i + 1} is no JSON object with a step; delete the line, "
                                 "or restore the file") from None
    return rows


def edits_in(run):
    """The rows of a run's edits.jsonl. Runs made before rows had a "kind" get it from their world."""
    rows = lines_of(Path(run) / "edits.jsonl")
    if any("kind" not in row for row in rows):
        ways = worlds.load(read_json(Path(run) / "config.json", "name run directories of train.py").get("env")).ways
        rows = [{"kind": ways.kind.get(ways.meaning(row["arguments"])), **row} for row in rows]
    return rows


def written(edits):
    """Rows of edits.jsonl without the second one of an edit that was committed later than it was written."""
    return [edit for edit in edits if edit.get("episode", 0) is not None]


def digest(run):
    """A run in four lines: success, what was proposed, what was committed, what K probes alone would have committed."""
    rows, edits = lines_of(Path(run) / "metrics.jsonl"), edits_in(run)
    if not rows:
        raise ValueError(f"{run}/metrics.jsonl is empty: nothing to report yet")
    last, new = max(row["step"] for row in rows), written(edits)

    names = next((names for names in KINDS if any(edit["kind"] in names for edit in edits)), KINDS[0])

    def count(some):
        kinds = [edit["kind"] for edit in some]
        return {name: kinds.count(name) for name in names}

    def mean_u(name):
        some = [edit["utility"] for edit in new if edit["kind"] == name]
        return f"{name} {sum(some) / max(len(some), 1):+.2f} ({len(some)})"

    def share(some):
        return count(some)[names[0]] / max(len(some), 1)

    best = {}  # the edit each task would have committed without confirmation
    for edit in sorted(new, key=lambda edit: -edit["utility"]):
        if edit["utility"] > 0:
            best.setdefault((edit["step"], edit["task"]), edit)
    evals = ", ".join(f"{row['eval_success']:.3f} at {row['step']}" for row in rows if "eval_success" in row)
    return "\n".join([
        f"{run}: held-out success {evals}; "
        f"{sum(map(seconds_of, rows)):.0f}s of iterations",
        f"  share of {names[0]} edits {share([e for e in new if e['step'] <= 5]):.2f} in iterations 1-5, "
        f"{share([e for e in new if e['step'] > last - 5]):.2f} in the last five",
        f"  mean U: {', '.join(map(mean_u, names))}",
        f"  committed {count([e for e in edits if e['committed']])}, without confirmation {count(best.values())}"])


def plot(runs, file):
    """Draw runs (directories) into a picture: held-out success, what is proposed, what is in the bank."""
    success, useful, bank = {}, {}, {}
    names = [Path(run).resolve().name for run in runs]
    for run, name in zip(runs, names if len(set(names)) == len(runs) else runs):
        rows, edits = lines_of(Path(run) / "metrics.jsonl"), edits_in(run)
        if not rows:
            raise ValueError(f"{run}/metrics.jsonl is empty: nothing to plot yet")
        evals = [(row["step"], row["eval_success"], row["eval_n"]) for row in rows if "eval_success" in row]
        errors = [(p * (1 - p) / n) ** 0.5 for _, p, n in evals]
        success[name] = [(step, p, p - error, p + error) for (step, p, _), error in zip(evals, errors)]
        # The share of useful edits, five iterations at a time; words that no player uses count by their utility.
        bins = {}
        for edit in written(edits):
            good = edit["kind"] in GOOD if edit["kind"] else edit["utility"] > 0
            bins.setdefault((edit["step"] - 1) // 5, []).append(good)
        useful[name] = [(5 * b + 3, sum(some) / len(some)) for b, some in bins.items()]
        bank[name] = [(row["step"], row["skills"]) for row in rows if row["step"]]
    draw([Panel(success, "iteration", title="success on held-out games, with the bank", top=1.0),
          Panel(useful, "iteration", title="share of useful skills among the edits", top=1.0),
          Panel(bank, "iteration", title="skills in the bank")], file, dpi=110)


def main():
    parser = argparse.ArgumentParser(prog="tools.report", description="The figures of runs, and their curves.",
                                     allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", type=path_of, help="run directories of train.py")
    parser.add_argument("--plot", metavar="PNG", type=path_of, help="draw the runs' curves into this picture")
    parser.error = lambda message: parser.exit(2, f"tools.report: {message}; --help lists the flags\n")  # type: ignore
    args = parser.parse_args()
    print_anything()
    with guard("tools.report", None, (ValueError, OSError)):
        if args.plot:
            plot(args.runs, args.plot)
        print("\n".join(map(digest, args.runs)))


if __name__ == "__main__":
    main()

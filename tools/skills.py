"""Skill banks as folders of SKILL.md, which coding agents read, and back: `python -m tools.skills FROM [--out TO]`.

    python -m tools.skills runs/webshop-tiny                     # a run's bank, to .agents/skills
    python -m tools.skills bank.json --out skills                # a skills.json, to skills/
    python -m tools.skills skills --out bank.json                # and back; --bank takes a run and folders as well

What a run has measured goes along: each skill's utility, its interval, the games of its probes with the skill and
without it. The games are written as the Agent Skills guide has test cases, in evals/evals.json, and what came of them
in evals/benchmark.json. Folders that are there already keep what other people wrote into them, see lib/skillfiles.py.
"""

import argparse
import os
import re
import statistics
from pathlib import Path
from types import SimpleNamespace

import worlds
from lib import skillfiles
from lib.files import one_line, print_anything, read_json
from skillbank import SkillBank
from tools import report, targets
from tools.audit import judge
from tools.flags import path_of
from tools.guard import ANEW, checkpoint_of, guard

AGENTS = ".agents/skills"  # where many agents look for the skills of a project
# --utility -> (what counts as passed, what a score is). A good score in few steps may be worth what a win is, so where
# games are graded nobody can tell from its worth whether one was won.
MEANING = {
    "success": ("the game is won", "0 for a lost game, else 1 and the share of the steps that were left"),
    "both": ("the game is won", "the game's score, and 1 and the share of the steps that were left if it is won"),
    "graded": ("the game ends better than its twin, the same game in the other configuration",
               "the game's score times (1 and the share of the steps that were left)"),
}


def run_of(source: Path) -> tuple[Path, int] | None:
    """(run directory, newest iteration) of a run or one of its checkpoints; None of anything else."""
    checkpoint = checkpoint_of(source) or source.resolve()
    step = re.fullmatch("step_([0-9]{1,9})", checkpoint.name)
    if step is None or checkpoint.parent.name != "checkpoints" or not (checkpoint / "skills.json").is_file():
        return None
    return checkpoint.parent.parent, int(step[1])


def edits_behind(run: Path, last: int, bank: SkillBank) -> dict:
    """{skill_id: the edit that gave the skill its present text}, rows of edits.jsonl up to iteration `last`."""
    file, rows = run / "edits.jsonl", {}
    said = {skill.skill_id: (skill.title, skill.principle, skill.when_to_apply) for skill in bank.skills()}
    for row in report.lines_of(file) if file.is_file() else ():
        if row.get("committed") and row["step"] <= last:
            wrote = tuple(row["arguments"].get(key) for key in ("title", "principle", "when_to_apply"))
            if row.get("skill_id") in said:
                rows[row["skill_id"]] = row if wrote == said[row["skill_id"]] and row["probes"] else None
    return {skill_id: row for skill_id, row in rows.items() if row}


def prompts_of(tasks: set, run: Path, settings: dict) -> dict:
    """{game: its task as a player reads it}. Where the world cannot be opened: the number of the game."""
    try:
        options = {name: settings.get(name, default)
                   for name, (default, _) in worlds.load(settings["env"]).options.items()}
        args = SimpleNamespace(target=run, env=settings["env"], split="train", data="", bank="", options=options,
                               settings=settings)
        env, _ = targets.open_world(args)
        return {task: env.goal(task) for task in tasks}
    except (ValueError, OSError, ImportError) as error:
        print(f"evals/evals.json names the games by number only: {one_line(error)}", flush=True)
        return {task: f"Game {task} of {settings.get('world', settings['env'])}." for task in tasks}


def measured(row: dict, settings: dict, prompts: dict) -> tuple[dict, dict]:
    """What a run knows of a skill, from its edit: (texts for the metadata of its SKILL.md, the files in evals/)."""
    before, after, kind = row["before"], row["after"], settings.get("utility", "success")
    deltas = [with_skill - without for without, with_skill in zip(before, after)]
    verdict = judge({"": deltas}, settings.get("alpha", 0.3))
    interval = [round(bound, 4) for bound in verdict["interval"]] if len(deltas) > 1 else None
    better, worse = verdict["wins"], verdict["losses"]
    if kind == "graded":
        passed = {"with_skill": [d > 0 for d in deltas], "without_skill": [d < 0 for d in deltas]}
    else:
        passed = {"with_skill": [score > (kind == "both") for score in after],
                  "without_skill": [score > (kind == "both") for score in before]}
    rule, meaning = MEANING[kind]
    scores = {"with_skill": after, "without_skill": before}
    where = {"world": settings.get("world", settings["env"]), "model": settings["model"], "iteration": row["step"]}
    cases = [{"id": number, "prompt": prompts[task], "expected_output": "The game is won, in as few steps as it takes.",
              "files": [], "assertions": [f"{rule.capitalize()}."]} for number, task in enumerate(row["probes"], 1)]
    summary = {name: {"pass_rate": spread(list(map(float, passed[name]))), "score": spread(some)}
               for name, some in scores.items()}
    delta = {key: round(summary["with_skill"][key]["mean"] - summary["without_skill"][key]["mean"], 4)
             for key in ("pass_rate", "score")}
    benchmark = {
        **where, "utility": row["utility"], "utility_interval": interval,
        "utility_on_fresh_games": row.get("confirmed"), "games": len(deltas),
        "better_with_skill": better, "better_without_skill": worse, "equal": len(deltas) - better - worse,
        "run_summary": {**summary, "delta": delta},
        "runs": [{"eval_id": number, "task": task, "configuration": name, "score": round(scores[name][number - 1], 4),
                  "passed": passed[name][number - 1]}
                 for number, task in enumerate(row["probes"], 1) for name in scores],
        "notes": [
            "Measured in training, before the skill entered the bank: each game was played with the bank as it was, and"
            " with this skill, with the same random numbers.",
            f"passed: {rule}. score: {meaning}.",
            "utility: mean difference of the scores, and a bonus for the share of games won over those lost; its "
            "interval is two standard errors wide on either side.",
        ],
    }
    wins = (f"better with the skill in {better}, without it in {worse}" if kind == "graded" else
            f"won {sum(passed['with_skill'])} with the skill, {sum(passed['without_skill'])} without it")
    metadata = {"utility": f"{row['utility']:+.3f}"
                + ("" if interval is None else f" (interval {interval[0]:+.3f} to {interval[1]:+.3f})"),
                "probes": f"{len(deltas)} games: {wins}", **{key: str(value) for key, value in where.items()}}
    return metadata, {"evals/evals.json": {"evals": cases}, "evals/benchmark.json": benchmark}


def spread(values: list[float]) -> dict:
    """Mean and standard deviation."""
    return {"mean": round(statistics.mean(values), 4) if values else 0.0,
            "stddev": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0}


def save_json(bank: SkillBank, target: Path) -> None:
    """Write the bank as JSON. ValueError where something else than a bank would be lost."""
    if target.exists():
        try:
            SkillBank.load(target)
        except ValueError:
            raise ValueError(f"{target}: holds something else than a skill bank; name another file") from None
    bank.save(target)
    print(f"wrote {len(bank.skills())} skills to {target}")


def save_folders(bank: SkillBank, target: Path, run: tuple[Path, int] | None) -> None:
    """Write the bank as folders, with what the run has measured; run: of `run_of`."""
    if checkpoint_of(target):
        raise ValueError(f"{target}: is a run; name another directory for the skill folders")
    notes = {}
    if run and (rows := edits_behind(*run, bank)):
        settings = read_json(run[0] / "config.json", ANEW)
        if missing := {"env", "model"} - settings.keys():
            raise ValueError(f"{run[0] / 'config.json'} has no {min(missing)}; {ANEW}")
        prompts = prompts_of({task for row in rows.values() for task in row["probes"]}, run[0], settings)
        notes = {skill_id: measured(row, settings, prompts) for skill_id, row in rows.items()}
    bank.source = skillfiles.write_folders(target, bank.to_dict(), bank.source, notes)
    for file in bank.source.left:
        print(f"left {file} as it is: somebody has changed it since it was written")
    known = f", {len(notes)} of them with what the run has measured" if notes else ""
    skipped = sum(file.name == "SKILL.md" for file in bank.source.left)
    print(f"wrote {len(bank.skills()) - skipped} skills to {target}{known}")


def main():
    parser = argparse.ArgumentParser(prog="tools.skills", description="A skill bank as folders of SKILL.md, and back.",
                                     allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"tools.skills: {message}; --help shows how\n")  # type: ignore
    parser.add_argument("source", metavar="FROM", type=path_of,
                        help="a run directory, a skills.json, a directory of skill folders, or one SKILL.md")
    parser.add_argument("target", metavar="TO", type=path_of, nargs="?", help="the same as --out")
    parser.add_argument("--out", metavar="TO", type=path_of,
                        help=f"a file that ends in .json, else a directory for the folders (default: {AGENTS})")
    args = parser.parse_args()
    if args.target and args.out:
        parser.error(f"--out {args.out}: {args.target} is named already; name one place")
    print_anything()
    source, target = (Path(os.path.expanduser(path)) for path in (args.source, args.out or args.target or AGENTS))
    with guard("tools.skills", None, (ValueError, OSError)):
        run, bank = run_of(source), SkillBank.load(source)
        if target.suffix.lower() == ".json":
            save_json(bank, target)
        else:
            save_folders(bank, target, run)


if __name__ == "__main__":
    main()

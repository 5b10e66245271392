"""What is each skill of a bank worth today? Leave it out, and play the same games again: `python eval.py RUN --audit`.

Probes tell what an edit was worth when it was written. Since then the bank has grown and the weights have learned what
it says, or a skill that was lucky then does harm. So each skill is left out in turn, on K training tasks of its family
(a general one on K of every family), with the same random numbers as with the whole bank. All games are one batched
rollout, and a game whose prompt does not show the skill is not played twice.
"""

import copy
import json
import statistics

from lib.files import write_atomic
from probes import Edit, probe, select
from skillbank import skills_prompt


def run(policy, env, bank, seed, probing, file, retire=None):
    """Audit a bank, print the table and write it as JSON. retire: a file for the bank without its harmful skills."""
    rows = audit(policy, env, bank, seed, probing)
    print(table(rows) if rows else "the bank is empty: there is nothing to audit")
    write_atomic(file, json.dumps({"k": probing.k, "skills": rows}, indent=1) + "\n")
    print(f"wrote {file}")
    if retire:
        harmful = {row["skill_id"] for row in rows if row["harmful"]}
        left = copy.deepcopy(bank)
        remove(left, harmful)
        left.save(retire)
        print(f"wrote {retire}, without {', '.join(sorted(harmful)) or 'any loss: no skill is harmful'}")


def audit(policy, env, bank, seed, probing):
    """A row per skill, in the bank's order, as `leave_one_out` makes it. probing.k: probe tasks per family."""
    families = sorted({env.family(task) for task in env.train_tasks})
    first = {family: next(task for task in env.train_tasks if env.family(task) == family) for family in families}
    tasks = {family: [first[family], *select(env, first[family], probing.k - 1, seed)] for family in families}
    edits = []
    for skill in bank.skills():
        place, without = bank.category(skill.skill_id), copy.deepcopy(bank)
        mine = [task for family in (families if place == "general" else [place]) for task in tasks.get(family, [])]
        remove(without, {skill.skill_id})
        edits.append(Edit(-1, -1, place, "update_skill", {"title": skill.title}, without, skill.skill_id, mine))
    probe(policy, env, bank, edits, seed, probing)
    return [leave_one_out(env, bank, edit, probing) for edit in edits]


def leave_one_out(env, bank, edit, probing):
    """The worth of one skill from its pairs of games: `judge`'s verdict, and how often prompts showed it (uses)."""
    skill, top_k = bank.find(edit.skill_id), probing.sampling.top_k
    by_family: dict = {}
    # The edit leaves the skill out, so its "after" is the game without it.
    for task, whole, without in zip(edit.probes, edit.before, edit.after):
        by_family.setdefault(env.family(task), []).append(whole - without)
    uses = sum(skill.line() in skills_prompt(bank.retrieve(env.goal(task), env.family(task), top_k))
               for task in edit.probes)
    return {"skill_id": skill.skill_id, "category": edit.family, "title": skill.title, "uses": uses,
            **judge(by_family, probing.alpha)}


def judge(by_family, alpha):
    """What pairs of games say of a skill. by_family: {family: score with the skill - score without, per pair}.

    utility: U, positive where the bank is better with it; interval: U -+ two standard errors over the pairs; harmful:
    all of that lies below 0; hurts: {family: U there} of those below 0; harms: those of them that lie three standard
    errors below 0, as one of seven families often looks bad by chance.
    """
    def estimate(deltas):  # U (paper, Eq. 3) is the mean of these, so they have a standard error
        pairs = [d + alpha * ((d > 0) - (d < 0)) for d in deltas]
        error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else 0.0
        return (statistics.mean(pairs) if pairs else 0.0), error

    deltas = [d for some in by_family.values() for d in some]
    (u, error), each = estimate(deltas), {family: estimate(some) for family, some in by_family.items()}
    return {"games": len(deltas), "utility": u, "interval": [u - 2 * error, u + 2 * error],
            "wins": sum(d > 0 for d in deltas), "losses": sum(d < 0 for d in deltas),
            "hurts": {family: mean for family, (mean, _) in each.items() if mean < 0},
            "harms": [family for family, (mean, wide) in each.items() if mean + 3 * wide < 0],
            "harmful": u + 2 * error < 0}


def remove(bank, ids):
    """Take the skills of these ids out of a bank."""
    for skills in (bank.general_skills, *bank.task_specific_skills.values()):
        skills[:] = [skill for skill in skills if skill.skill_id not in ids]


def table(rows):
    """The rows as text, the most useful skill first."""
    wide = max((len(row["title"]) for row in rows), default=5)
    lines = [f"{'skill':8} {'list':14} {'title':{wide}} {'shown':>9}  {'U':>6} {'interval':16} won, lost"]
    for row in sorted(rows, key=lambda row: -row["utility"]):
        interval, hurts = "{:+.2f} to {:+.2f}".format(*row["interval"]), sorted(row["hurts"].items())
        verdict = "  HARMFUL" if row["harmful"] else f"  HARMFUL in {', '.join(row['harms'])}" if row["harms"] else ""
        lines.append(f"{row['skill_id']:8} {row['category']:14} {row['title']:{wide}} {row['uses']:4}/{row['games']:<4}"
                     f"  {row['utility']:+.2f}  {interval:16} {row['wins']}, {row['losses']}"
                     + "; hurts " * bool(hurts) + ", ".join(f"{family} {u:+.2f}" for family, u in hurts) + verdict)
    return "\n".join(lines)

"""What is each skill of a bank worth today? Leave it out, and play the same games again: `python -m tools.audit RUN`.

Probes tell what an edit was worth when it was written. Since then the bank has grown and the weights have learned what
it says, or a skill that was lucky then does harm. So each skill is left out in turn, on K training tasks of its family
(a general one on K of every family), with the same random numbers as with the whole bank. All games are one batched
rollout, and a game whose prompt does not show the skill is not played twice.
"""

import copy
import os
import statistics
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

from lib import distributed
from lib.files import print_anything, try_to_write
from probes import play_pairs, select, worth
from skillbank import SkillBank, skills_prompt
from tools import results, targets
from tools.flags import path_of
from tools.guard import BROKEN, guard


def audit(policy, env, bank, seed, probing):
    """A row per skill, in the bank's order, as `leave_one_out` makes it. probing.k: probe tasks per family."""
    families = sorted({env.family(task) for task in env.train_tasks})
    first = {family: next(task for task in env.train_tasks if env.family(task) == family) for family in families}
    tasks = {family: [first[family], *select(env, first[family], probing.k - 1, seed)] for family in families}
    pairs = []  # (task, the bank, the bank without the skill)
    owners = []  # number of the skill of each pair
    for number, skill in enumerate(bank.skills()):
        place = bank.category(skill.skill_id)
        without = copy.deepcopy(bank)
        without.remove({skill.skill_id})
        mine = [task for family in (families if place == "general" else [place]) for task in tasks.get(family, [])]
        pairs += [(task, bank, without) for task in mine]
        owners += [number] * len(mine)
    played = play_pairs(policy, env, pairs, probing.sampling, seed, desc="audit")
    return [leave_one_out(env, bank, skill, [pair for pair, owner in zip(played, owners) if owner == number], probing)
            for number, skill in enumerate(bank.skills())]


def leave_one_out(env, bank, skill, played, probing):
    """The worth of one skill from its pairs of games: `judge`'s verdict, and how often prompts showed it (uses)."""
    by_family: dict = {}
    for whole, without in played:
        delta = worth(whole, env.limit, probing.utility) - worth(without, env.limit, probing.utility)
        by_family.setdefault(whole.family, []).append(delta)
    uses = sum(skill.line() in skills_prompt(whole.shown) for whole, _ in played)
    return {"skill_id": skill.skill_id, "category": bank.category(skill.skill_id), "title": skill.title, "uses": uses,
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
            "harms": [family for family, (mean, wide) in each.items()
                      if len(by_family[family]) > 1 and mean + 3 * wide < 0],  # one pair has no standard error
            "harmful": len(deltas) > 1 and u + 2 * error < 0}


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


def read_flags(argv=None):
    parser = targets.parser_of("tools.audit", "Leave each skill of the bank out in turn: what is it worth today?")
    parser.add_argument("--probes", metavar="N", type=int, help="K, probe tasks per family (default: 16)")
    parser.add_argument("--retire", metavar="FILE", type=path_of, help="write the bank without the harmful skills")
    parser.add_argument("--out", metavar="JSON", type=path_of,
                        help="result file (default: audit.json in the run, or here; its name also says what differs "
                             "from the defaults)")
    return targets.read(parser, argv, least={"probes": 1})


def room_for_bank(args, out):
    """OSError or ValueError, one line, where --retire cannot be written, or is anything but another bank."""
    retire = Path(args.retire)
    try_to_write(retire, "--retire")
    try:
        if results.filled(retire):
            SkillBank.load(retire)
    except ValueError:
        raise ValueError(f"--retire {retire} holds something else than a skill bank; name another file") from None
    if retire.resolve() in [Path(file).resolve() for file in (args.bank, out) if file]:
        raise ValueError(f"--retire {retire}: is the bank that is audited, or the result's file; name another")


def main():
    distributed.start()
    print_anything()
    args = read_flags()
    with guard("tools.audit", None, (ValueError, ImportError, *BROKEN)):
        out = distributed.from_leader(results.place, args, "audit", "skills")
        if args.retire:
            distributed.from_leader(room_for_bank, args, out)
        policy, env, bank, sampling = targets.open_target(args)
        probing = targets.probing_of(args, sampling, 16)
        settings = results.settings_of(args, env, bank, sampling)
        rows = audit(policy, env, bank, args.seed, probing)
        print(table(rows) if rows else "the bank is empty: there is nothing to audit")
        results.write(out, {"settings": settings, "k": probing.k, "skills": rows})
        print(f"wrote {out}")
        if args.retire and distributed.leader():
            harmful = {row["skill_id"] for row in rows if row["harmful"]}
            bank.remove(harmful)
            retire = Path(args.retire)
            if results.filled(retire) and SkillBank.load(retire).to_dict() != bank.to_dict():
                results.set_aside(retire)
            bank.save(args.retire)
            print(f"wrote {args.retire}, without {', '.join(sorted(harmful)) or 'any loss: no skill is harmful'}")


if __name__ == "__main__":
    main()

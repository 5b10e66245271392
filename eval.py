"""
Evaluation: every game of a split exactly once, per family and overall, under three protocols side by side.

    python eval.py runs/webshop-tiny --env webshop --split test
    python eval.py smollm2 --env webshop --data data/webshop --split test --limit 50

    none     no skills in the prompt: what the weights have learned
    frozen   the run's bank as training left it (or --bank FILE)
    online   the bank goes on growing while it is tested: after each batch of episodes the reviews are probed on
             TRAINING tasks and what helps is committed, to a copy

Temperature 0.4, as in the paper. Writes JSON with every episode's outcome, so that a doubted average can be checked.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import argparse
import copy
import json
import sys
import time
from pathlib import Path

import envs
import policy as policies
from envs import Sampling, rollout
from probes import edits_of, probe
from skillbank import SkillBank, commit
from worlds.skillfiles import write_atomic


def summary(episodes):
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
        for name, some in groups.items() if some
    }


def play_online(policy, env, bank, tasks, how, seed, k, batch):
    """The online protocol on a copy of the bank: returns (episodes, the grown bank, the committed edits)."""
    bank, episodes, committed = copy.deepcopy(bank), [], []
    for start in range(0, len(tasks), batch):
        some = tasks[start:start + batch]
        # The same stream per task as in the other protocols: what differs between them is the bank.
        played = rollout(policy, env, some, bank, seed=seed, how=how, keys=list(some), desc="online")
        edits = edits_of(played)
        probe(policy, env, bank, edits, k, policies.mix(seed, start), how)
        committed += commit(bank, edits)
        episodes += played
    return episodes, bank, committed


def evaluate(policy, env, bank, tasks, how, seed=0, desc="eval"):
    """Play each task once with a bank that does not change."""
    return rollout(policy, env, tasks, bank, seed=seed, how=how, with_review=False, keys=list(tasks), desc=desc)


def checkpoint_of(run):
    """The newest checkpoint of a run directory, or None where it is no run."""
    latest = Path(run) / "latest"
    return Path(run) / "checkpoints" / latest.read_text().strip() if latest.is_file() else None


def open_target(args, device):
    """(policy, bank or None, Sampling) of a run directory or a model; flags win over the run's own settings."""
    checkpoint = checkpoint_of(args.target)
    how, bank, settings = Sampling(), None, {}
    if checkpoint:
        settings = json.loads((Path(args.target) / "config.json").read_text())
        bank = SkillBank.load(checkpoint / "skills.json")
        args.data = args.data or settings["data"]
    for name in vars(how):
        value = getattr(args, name, None)
        setattr(how, name, settings.get(name, getattr(how, name)) if value is None else value)
    how.temperature = args.temperature
    if args.bank:
        bank = SkillBank.load(args.bank)
    return checkpoint or args.target, bank, how


def main():
    parser = argparse.ArgumentParser(description="Play every game of a split once, under three bank protocols.",
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("target", help="a run directory of train.py, or a model (directory, HF id, smollm2)")
    parser.add_argument("--env", default="webshop", help="world")
    parser.add_argument("--split", default="test", help="train, dev or test")
    parser.add_argument("--data", help="directory of the real data (default: the run's, or the world's own)")
    parser.add_argument("--bank", help="skill bank for frozen and online (default: the run's)")
    parser.add_argument("--protocols", default="none,frozen,online", help="which of the three, in this order")
    parser.add_argument("--limit", type=int, help="only the first so many games (for a quick look)")
    parser.add_argument("--temperature", type=float, default=0.4, help="of sampling")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' random streams")
    parser.add_argument("--probes", type=int, default=4, help="K: probe tasks per edit in the online protocol")
    parser.add_argument("--batch", type=int, default=16, help="online: episodes between two commits")
    parser.add_argument("--human_goals", action="store_true", help="WebShop's human instructions")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--out", help="JSON file (default: <run>/eval_<split>.json, or eval_<split>.json)")
    for name in ("act_tokens", "review_tokens", "context", "rows", "top_k"):
        parser.add_argument(f"--{name}", type=int, help="as in train.py (default: the run's)")
    args = parser.parse_args()
    protocols = args.protocols.split(",")
    if unknown := set(protocols) - {"none", "frozen", "online"}:
        parser.error(f"--protocols: {', '.join(sorted(unknown))} unknown; choose from none,frozen,online")
    try:
        device = policies.pick_device(args.device)
        where, bank, how = open_target(args, device)
        env = envs.make(args.env, args.split, data=args.data, human_goals=args.human_goals)
        policy = policies.load(str(where), device)
    except (ValueError, OSError) as error:
        sys.exit(f"eval.py: {error}")
    tasks = env.tasks[:args.limit]
    print(f"{env.describe()}; {len(tasks)} of {len(env.tasks)} {args.split} games; "
          f"bank: {len(bank.skills()) if bank else 'none'}")
    result = {"target": args.target, "env": env.describe(), "split": args.split, "games": len(tasks),
              "temperature": args.temperature, "seed": args.seed, "protocols": {}}
    for protocol in protocols:
        start, committed = time.time(), []
        if protocol == "online":
            episodes, grown, committed = play_online(policy, env, bank or SkillBank(), tasks, how, args.seed,
                                                     args.probes, args.batch)
        elif protocol == "frozen" and not (bank and bank.skills()):
            print("frozen   the bank is empty: the same as none")
            continue
        else:
            used = bank if protocol == "frozen" else SkillBank()
            episodes = evaluate(policy, env, used, tasks, how, args.seed, protocol)
        table, seconds = summary(episodes), time.time() - start
        result["protocols"][protocol] = {
            "seconds": round(seconds, 1), "families": table, "committed": len(committed),
            "episodes": [{"task": e.task, "family": e.family, "won": e.won, "score": e.score, "steps": e.steps}
                         for e in episodes],
        }
        if protocol == "online":
            result["protocols"][protocol]["bank"] = grown.to_dict()
        for family, row in table.items():
            print(f"{protocol:8} {family:14} n {row['n']:4}  success {row['success']:.3f}  score {row['score']:.3f}  "
                  f"steps {row['steps']:4.1f}  invalid {row['invalid']:.2f}"
                  + (f"  ({seconds:.0f}s, {len(committed)} edits committed)" if family == "all" else ""))
    folder = Path(args.target) if checkpoint_of(args.target) else Path(".")
    out = Path(args.out or folder / f"eval_{args.split}.json")
    write_atomic(out, json.dumps(result, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()

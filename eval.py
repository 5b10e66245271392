"""
Evaluation: every game of a split exactly once, per family and overall, under three protocols side by side.

    python eval.py runs/webshop-tiny --env webshop --split test
    python eval.py smollm2 --env webshop --data data/webshop --split test --limit 50
    python eval.py runs/seed0 runs/seed1 --plot curve.png       # no games, the curves of runs

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
from dataclasses import fields
from pathlib import Path

import envs
import policy as policies
from envs import Sampling, rollout
from probes import confirm, edits_of, probe
from skillbank import SkillBank, commit
from worlds import report
from worlds.noise import mix
from worlds.runs import checkpoint_of
from worlds.skillfiles import write_atomic

PROTOCOLS = ("none", "frozen", "online")


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
        for name, some in groups.items()
    }


def evaluate(policy, env, bank, tasks, how, seed=0, desc="eval"):
    """Play each task once with a bank that does not change. The random stream is the task's, whatever the bank."""
    return rollout(policy, env, tasks, bank, seed=seed, how=how, with_review=False, keys=list(tasks), desc=desc)


def play_online(policy, env, bank, tasks, how, seed=0, k=4, batch=16, alpha=0.3, clip=False, fresh=8):
    """The online protocol on a copy of the bank: returns (episodes, the grown bank, the committed edits)."""
    bank, episodes, committed = copy.deepcopy(bank), [], []
    for start in range(0, len(tasks), batch):
        some = tasks[start:start + batch]
        played = rollout(policy, env, some, bank, seed=seed, how=how, keys=list(some), desc="online")
        edits = edits_of(played)
        probe(policy, env, bank, edits, k, mix(seed, start), how, alpha, clip)
        if fresh:
            edits, _ = confirm(policy, env, bank, edits, fresh, mix(seed, start), how, alpha)
        committed += commit(bank, edits)
        episodes += played
    return episodes, bank, committed


def read_flags():
    parser = argparse.ArgumentParser(description="Play every game of a split once, under three bank protocols.",
                                     allow_abbrev=False)
    parser.error = lambda message: parser.exit(2, f"eval.py: {message}; --help lists the flags\n")
    parser.add_argument("target", nargs="+", help="a run directory of train.py, or a model (directory, HF id, smollm2, "
                                                  "tiny); several runs only with --plot")
    parser.add_argument("--plot", metavar="PNG",
                        help="no games: draw the runs' curves into this picture, print their figures")
    parser.add_argument("--env", help="world: webshop, alfworld; by default the run's, or webshop")
    parser.add_argument("--split", default="test", help="train, dev or test, for alfworld also valid_seen or "
                                                        "valid_unseen, which is its test (default: test)")
    parser.add_argument("--data", help="directory of the real data; by default the run's, or the world's own")
    parser.add_argument("--human_goals", action="store_true", help="WebShop's human instructions")
    parser.add_argument("--bank", help="skill bank for frozen and online; by default the run's")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="which of the three (default: all)")
    parser.add_argument("--limit", type=int, help="only the first so many games, for a quick look")
    parser.add_argument("--temperature", type=float, default=0.4, help="of sampling (default: 0.4)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes' random streams (default: 0)")
    parser.add_argument("--probes", type=int, default=4, help="online: K, probe tasks per edit (default: 4)")
    parser.add_argument("--batch", type=int, default=16, help="online: episodes between two commits (default: 16)")
    parser.add_argument("--device", default="", help="cpu, cuda, ...; by default cuda where there is one")
    parser.add_argument("--out", help="JSON file; by default eval_<split>.json in the run, or here")
    for f in fields(Sampling)[1:]:
        parser.add_argument(f"--{f.name}", type=int, help="as in train.py; by default the run's")
    args = parser.parse_args()
    if len(args.target) > 1 and not args.plot:
        parser.error(f"{args.target[1]}: one target at a time, several only with --plot")
    args.protocols = args.protocols.split(",")
    if unknown := set(args.protocols) - set(PROTOCOLS):
        parser.error(f"--protocols {','.join(sorted(unknown))}: choose from {','.join(PROTOCOLS)}")
    for name, least in dict(limit=1, temperature=0, probes=1, batch=1, act_tokens=1, review_tokens=1, context=1, rows=1,
                            top_k=0).items():
        if getattr(args, name) is not None and not getattr(args, name) >= least:
            parser.error(f"--{name} {getattr(args, name)}: must be at least {least}")
    return args


def main():
    args = read_flags()
    if args.plot:
        try:
            report.plot(args.target, args.plot)
            return print("\n".join(map(report.digest, args.target)))
        except (ValueError, OSError) as error:
            sys.exit(f"eval.py: {error}")
    args.target = args.target[0]
    checkpoint, settings, bank = checkpoint_of(args.target), {}, SkillBank()
    try:
        if checkpoint:  # a run: its model, its bank, its settings; flags win over these
            settings = json.loads((Path(args.target) / "config.json").read_text())
            bank = SkillBank.load(checkpoint / "skills.json")
        bank = SkillBank.load(args.bank) if args.bank else bank
        flags = {f.name: getattr(args, f.name) for f in fields(Sampling)}
        how = Sampling(**{name: settings.get(name, getattr(Sampling, name)) if value is None else value
                          for name, value in flags.items()})
        world = args.env or settings.get("env", "webshop")
        env = envs.make(world, args.split, args.data or settings.get("data"),
                        human_goals=args.human_goals or settings.get("human_goals", False))
        if not args.data and settings.get("world", env.describe()) != env.describe():
            raise ValueError(f"{args.target} was trained in {settings['world']}, this is {env.describe()}; give --data")
        policy = policies.load(str(checkpoint or args.target), policies.pick_device(args.device), world=world)
        envs.room(policy, env, how)  # refuse a context that is too short before the first game
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"eval.py: {error}")
    tasks = env.tasks[:args.limit]
    print(f"{env.describe()}; {len(tasks)} of {len(env.tasks)} {args.split} games; bank: {len(bank.skills())} skills")
    result = {"target": args.target, "env": env.describe(), "split": args.split, "games": len(tasks),
              "temperature": args.temperature, "seed": args.seed, "protocols": {}}
    wide = max(len(env.family(task)) for task in tasks)
    for protocol in args.protocols:
        if protocol == "frozen" and not bank.skills() and "none" in result["protocols"]:
            print("frozen   the bank is empty: the same as none")
            result["protocols"][protocol] = result["protocols"]["none"]
            continue
        start, committed = time.time(), []
        try:
            if protocol == "online":
                episodes, grown, committed = play_online(
                    policy, env, bank, tasks, how, args.seed, args.probes, args.batch, settings.get("alpha", 0.3),
                    settings.get("clip_utility", False), settings.get("confirm", 8))
            else:
                grown = bank if protocol == "frozen" else SkillBank()
                episodes = evaluate(policy, env, grown, tasks, how, args.seed, protocol)
        except envs.GameError as error:
            sys.exit(f"eval.py: {error}")
        seconds = time.time() - start
        result["protocols"][protocol] = {
            "seconds": round(seconds, 1), "families": summary(episodes), "committed": len(committed),
            "bank": grown.to_dict(), "episodes": [
                {"task": e.task, "game": env.name(e.task), "family": e.family, "won": e.won, "score": e.score,
                 "steps": e.steps} for e in episodes],
        }
        for family, row in summary(episodes).items():
            print(f"{protocol:8} {family:{wide}} n {row['n']:4}  success {row['success']:.3f}  score "
                  f"{row['score']:.3f}  steps {row['steps']:4.1f}  invalid {row['invalid']:.2f}  {env.source}"
                  + (f"  ({seconds:.0f}s, {len(committed)} edits committed)" if family == "all" else ""), flush=True)
    out = args.out or (Path(args.target) if checkpoint else Path(".")) / f"eval_{args.split}.json"
    write_atomic(out, json.dumps(result, indent=1) + "\n")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()

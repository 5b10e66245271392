"""
Evaluation: every game of a split exactly once, per family and overall, under three protocols side by side.

    python eval.py runs/webshop-tiny --env webshop --split test
    python eval.py smollm2 --env webshop --data data/webshop --split test --limit 50
    python eval.py runs/seed0 runs/seed1 --plot curve.png       # no games, the curves of runs
    python eval.py runs/webshop-tiny --report                   # no games, the run as an HTML page
    python eval.py runs/webshop-tiny --watch 3                  # three games in the terminal
    python eval.py runs/webshop-tiny --audit                    # what is each skill of its bank worth today?
    python eval.py --play --env webshop                         # play a game yourself

    none     no skills in the prompt: what the weights have learned
    frozen   the run's bank as training left it (or --bank FILE)
    online   a copy of the bank goes on growing during the test: after each batch of episodes the reviews' edits are
             probed on TRAINING tasks, and those that help are committed to the copy

Temperature 0.4, as in the paper. Writes JSON with every episode's outcome, so that an average can be checked.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import argparse
import copy
import json
import time
from pathlib import Path

from envs import Env, Episode, Sampling, rollout
from lib.files import print_anything, write_atomic
from lib.streams import mix
from policy import Policy
from probes import Edit, Probing, confirm, edits_of, probe
from skillbank import SkillBank, commit
from tools import audit, page, report, watch
from tools.flags import evaluation
from tools.report import summary as summary
from tools.runs import BROKEN, SAMPLING, guard, open_target, open_world, probing_of

PROTOCOLS = ("none", "frozen", "online")


def evaluate(policy: Policy, env: Env, bank: SkillBank, tasks: list[int], sampling: Sampling, seed: int = 0,
             desc: str = "eval") -> list[Episode]:
    """Play each task once with a bank that does not change. The random stream is the task's, whatever the bank."""
    return rollout(policy, env, tasks, bank, seed=seed, sampling=sampling, with_review=False, keys=list(tasks),
                   desc=desc)


def play_online(policy: Policy, env: Env, bank: SkillBank, tasks: list[int], probing: Probing, seed: int = 0,
                batch: int = 16) -> tuple[list[Episode], SkillBank, list[Edit]]:
    """The online protocol on a copy of the bank: returns (episodes, the grown bank, the committed edits).

    Episodes are sampled as probing.sampling says; batch: episodes between two commits.
    """
    bank = copy.deepcopy(bank)
    episodes: list[Episode] = []
    committed: list[Edit] = []
    for start in range(0, len(tasks), batch):
        some = tasks[start:start + batch]
        played = rollout(policy, env, some, bank, seed=seed, sampling=probing.sampling, keys=list(some), desc="online")
        edits = edits_of(played)
        probe(policy, env, bank, edits, mix(seed, start), probing)
        if probing.fresh:
            edits, _ = confirm(policy, env, bank, edits, mix(seed, start), probing)
        committed += commit(bank, edits)
        episodes += played
    return episodes, bank, committed


def read_flags(argv=None) -> argparse.Namespace:
    """The command line; a wrong flag ends the program with one line. .model, .settings: what the target holds."""
    return evaluation(PROTOCOLS, SAMPLING, argv)


def play_protocol(protocol: str, policy: Policy, env: Env, bank: SkillBank, tasks: list[int],
                  args: argparse.Namespace, sampling: Sampling) -> dict:
    """One protocol: play the tasks, print a line per family, return what the JSON holds of it."""
    start, committed = time.time(), list[Edit]()
    if protocol == "online":
        episodes, bank, committed = play_online(policy, env, bank, tasks, probing_of(args, sampling, 4), args.seed,
                                                args.batch)
    else:
        bank = bank if protocol == "frozen" else SkillBank()
        episodes = evaluate(policy, env, bank, tasks, sampling, args.seed, protocol)
    return report.protocol(protocol, episodes, time.time() - start, env, bank, len(committed))


def main():
    print_anything()
    args = read_flags()
    with guard("eval.py", None, (ValueError, ImportError, *BROKEN)):
        if args.plot:
            report.plot(args.target, args.plot)
            return print("\n".join(map(report.digest, args.target)))
        if args.report:
            return print(f"wrote {page.write(args.target, args.out)}")
        if args.play is not None:
            env, bank = open_world(args)
            return watch.play_by_hand(env, env.tasks[args.play % len(env.tasks)], bank)
        policy, env, bank, sampling = open_target(args)
    tasks = env.tasks[:args.limit]
    words = f" (words: {env.words()})" if hasattr(env, "words") else ""
    print(f"{env.describe()}; {len(tasks)} of {len(env.tasks)} {args.split} games{words}; bank: "
          f"{len(bank.skills())} skills")
    protocols: dict = {}
    run = Path(args.target[0])
    where = run if (run / "latest").is_file() else Path(".")  # of result files
    with guard("eval.py", None, BROKEN):
        if args.watch:
            probing = probing_of(args, sampling, 4) if args.probes else None
            return watch.watch(policy, env, bank, tasks[:args.watch], sampling, args.seed, probing)
        if args.audit:
            return audit.run(policy, env, bank, args.seed, probing_of(args, sampling, 16),
                             args.out or where / "audit.json", args.retire)
        result = {"target": args.target[0], "env": env.describe(), "split": args.split, "games": len(tasks),
                  "words": words, "temperature": args.temperature, "seed": args.seed, "protocols": protocols}
        out = args.out or where / f"eval_{args.split}.json"
        for protocol in args.protocols:
            if protocol == "frozen" and not bank.skills() and "none" in protocols:
                print("frozen   the bank is empty: the same as none")
                protocols[protocol] = protocols["none"]
            else:
                protocols[protocol] = play_protocol(protocol, policy, env, bank, tasks, args, sampling)
            write_atomic(out, json.dumps(result, indent=1) + "\n")  # a kill loses one protocol at most
        print(f"wrote {out}")


if __name__ == "__main__":
    main()

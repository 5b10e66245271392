"""
Evaluation: every game of a split exactly once, per family and overall, under three bank protocols side by side:
`python eval.py runs/webshop-tiny --split test`

    none     no skills in the prompt: what the weights have learned
    frozen   the run's bank as training left it (or --bank FILE)
    online   a copy of the bank grows during the test: after each batch of episodes the reviews' edits are probed on
             TRAINING tasks, and those that help enter the copy

Temperature 0.4, as in the paper. Every episode's outcome goes into a JSON file, so that an average can be checked.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import copy
import time

from envs import Env, Episode, evaluate, rollout
from lib import distributed
from lib.files import print_anything
from lib.streams import mix
from policy import Policy
from probes import Probing, confirm, edits_of, probe
from skillbank import Edit, SkillBank, commit
from tools import report, results, targets
from tools.guard import BROKEN, guard

PROTOCOLS = ("none", "frozen", "online")


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


def play_protocol(protocol: str, policy: Policy, env: Env, bank: SkillBank, tasks: list[int], args, sampling) -> dict:
    """One protocol: play the tasks, print a line per family, return what the JSON holds of it."""
    start = time.time()
    committed: list[Edit] = []
    if protocol == "online":
        probing = targets.probing_of(args, sampling, Probing.k)
        episodes, bank, committed = play_online(policy, env, bank, tasks, probing, args.seed, args.batch)
    else:
        bank = bank if protocol == "frozen" else SkillBank()
        episodes = evaluate(policy, env, bank, tasks, sampling, args.seed, protocol)
    return report.protocol(protocol, episodes, time.time() - start, env, bank, len(committed))


def main():
    distributed.start()
    print_anything()
    args = targets.evaluation(PROTOCOLS)
    with guard("eval.py", None, (ValueError, ImportError, *BROKEN)):
        out = distributed.from_leader(results.place, args, f"eval_{args.split}", "protocols")  # said before it plays
        policy, env, bank, sampling = targets.open_target(args)
        tasks = env.tasks[:args.limit]
        result = targets.described(args, env, tasks, bank, sampling)
        protocols = result["protocols"] = {}
    with guard("eval.py", None, BROKEN):
        for protocol in args.protocols:
            if protocol == "frozen" and not bank.skills() and "none" in protocols:
                print("frozen   the bank is empty: the same as none")
                protocols[protocol] = protocols["none"]
            else:
                protocols[protocol] = play_protocol(protocol, policy, env, bank, tasks, args, sampling)
            results.write(out, result)  # a kill loses one protocol at most
        print(f"wrote {out}")


if __name__ == "__main__":
    main()

"""Tests of lib/distributed.py, lib/sharding.py and lib/packing.py: runs on several processes are the run on one."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import envs
import train
from dualadv_grpo import ACT, FORCED
from lib import distributed, sharding
from lib.packing import dumps
from probes import worth
from skillbank import Edit, SkillBank
from tests.real import ROOT
from tests.runs import COUNTER
from tools import guard, report, runs

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.usefixtures("one_thread")


def weights(out):
    """The weights of a run's last checkpoint."""
    return load_file(out / "checkpoints" / (out / "latest").read_text().strip() / "model.safetensors")


def rows(out):
    """metrics.jsonl without what is a clock's or the machine's. `rows` counts the episodes of one process."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items()
             if not name.endswith("_s") and name not in ("memory_mb", "gpu_mb", "rows", "mismatch")} for line in lines]


def alone(out, *more):
    """train.py in this process."""
    import train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *COUNTER, "--out", str(out), *more])
        train.main()


# Several commands in the same processes: those of torchrun and torch begin for seconds.
COMMANDS = """
import os, sys
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
import train
for command in sys.argv[1].split(";"):
    sys.argv = ["train.py", *command.split()]
    train.main()
"""

# In torchrun's place, as cheap as one process: what takes seconds to import is there before the ranks part.
FORKED = """
import os, sys, traceback
from torch.distributed import TCPStore, device_mesh, fsdp
import policy, train
policy.load("tiny")  # imports half of torch and transformers
size, store = int(sys.argv[1]), TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
for rank in range(size):
    if not os.fork():
        words = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size, MASTER_PORT=store.port)
        os.environ.update({word: str(value) for word, value in words.items()}, MASTER_ADDR="127.0.0.1",
                          TORCHELASTIC_RUN_ID="none", TORCHELASTIC_USE_AGENT_STORE="True")
        try:
            for command in sys.argv[2].split(";"):
                sys.argv = ["train.py", *command.split()]
                train.main()
            sys.stdout.flush()
            os._exit(0)  # the store's thread is the parent's, and an orderly end would wait for it
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
sys.exit(any([os.wait()[1] for _ in range(size)]))
"""


def together(tmp_path, processes, *commands, start=(*TORCHRUN, "{size}", "{program}"), text=COMMANDS):
    """train.py by torchrun, or by another start, once with each of these flags; what it has printed."""
    program = tmp_path / "commands.py"
    program.write_text(text)
    words = [word.format(size=processes, program=program) for word in start]
    ran = subprocess.run([*words, ";".join(" ".join(map(str, c)) for c in commands)],
                         cwd=ROOT, env={**ALONE, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def same(out, one, steps):
    """Are these runs one experiment? Tokens, edits and metrics are equal, weights and moments but for rounding."""
    for file in ("edits.jsonl", "reviews.jsonl", "skills.json"):
        assert (out / file).read_bytes() == (one / file).read_bytes(), file
    for step in range(1, steps + 1):
        mine, other = (json.loads((run / "samples" / f"step_{step:05d}.json").read_text()) for run in (out, one))
        assert [e["segments"] for e in mine["episodes"]] == [e["segments"] for e in other["episodes"]]
    assert rows(out) == rows(one) and len(rows(out)) == steps
    mine, other = weights(out), weights(one)
    assert mine.keys() == other.keys()
    assert max(float((other[name] - mine[name]).abs().max()) for name in other) < 1e-5
    mine, other = (torch.load(run / "checkpoints" / f"step_{steps:05d}" / "trainer.pt", weights_only=True)["optimizer"]
                   for run in (out, one))
    assert mine["adam"]["param_groups"] == other["adam"]["param_groups"] and mine["master"] is other["master"] is None
    for number, moments in other["adam"]["state"].items():
        for name, value in moments.items():
            assert torch.allclose(mine["adam"]["state"][number][name], value, rtol=1e-3, atol=1e-6)


def test_two_processes_make_the_run_of_one_and_one_goes_on_with_it(tmp_path):
    """Bug: means per process instead of over all tokens, seeds of ranks, edits in another order: another experiment.

    The field's commonest: each process divides by its own number of tokens (open-instruct 1161, ms-swift 10165). The
    second iteration is with --shard: parts lose their moments, gradients are averaged, or what samples stays as it was.
    """
    one, out = tmp_path / "one", tmp_path / "two"
    few = ["--tasks", "1", "--budget", "1000", "--seed", "2"]  # several micro-batches; of this seed some games are won
    alone(one, *few, "--steps", "3")
    assert all(row["grad_norm"] > 0.01 for row in rows(one)[1:]), "there is something to train"
    said = together(tmp_path, 2, [*COUNTER, *few, "--out", out, "--steps", "1"],
                    [*COUNTER, *few, "--out", out, "--steps", "2", "--resume", "--shard"],
                    start=[sys.executable, "{program}", "{size}"], text=FORKED)
    assert said.count("step 1 |") == said.count("step 2 |") == 1, "the leader alone prints"
    assert said.count("to train on") == 2 and "processes, which share out what is trained" in said
    alone(out, *few, "--resume", "--steps", "3")
    same(out, one, 3)
    changed = json.loads((out / "config.json").read_text())["changed"]
    assert [step["sharded"] for step in changed] == [[False, True], [True, False]]
    assert changed[1]["processes"] == [2, 1]
    assert weights(out).keys() == weights(one).keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retro", "evolving"])
def test_a_fork_and_the_evaluation_of_its_run(tmp_path, name):
    """Bug: reviews of stored episodes differ by process; each process makes the result's file, or its directory."""
    one, out, result = tmp_path / "one", tmp_path / "two", Path("new") / "place" / "result.json"
    program = tmp_path / "commands.py"
    program.write_text(f"import os, sys, eval\nfrom forks import {name}\nimport train\nfor out, command in "
                       f"zip(sys.argv[1::2], sys.argv[2::2]):\n    sys.argv = ['forks.{name}', *command.split(), "
                       f"'--out', out]\n    train.main({name}.Flags, {name}.{name}, 'forks.{name}')\n"
                       f"    sys.argv = ['eval.py', out, '--limit', '9', '--out', out + '/{result}']\n"
                       f"    eval.main()\n")
    for run, start in ((one, [sys.executable]), (out, [*TORCHRUN, "2"])):
        ran = subprocess.run([*start, program, run, " ".join([*COUNTER, "--steps", "2"])], cwd=ROOT, text=True,
                             env={**ALONE, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=600)
        assert ran.returncode == 0, ran.stderr
    same(out, one, 2)
    first, second = (json.loads((run / result).read_text())["protocols"] for run in (one, out))
    for protocol in first:
        assert first[protocol]["episodes"] == second[protocol]["episodes"] and len(first[protocol]["episodes"]) == 9


@pytest.mark.parametrize("what", ["iteration", "bank", "sum of weights"])
def test_processes_that_have_come_apart_are_told(what, team, monkeypatch):
    """Bug: a process steps with another rate, and its weights are others from then on: gradients are all one sum, so
    their norm is the same everywhere."""
    team(0, 2)
    model = torch.nn.Linear(2, 2)
    monkeypatch.setattr(distributed, "exchange", lambda said: [said, dict(said)])
    report.agree(3, SkillBank(), model)
    monkeypatch.setattr(distributed, "exchange", lambda said: [said, {**said, what: "other"}])
    with pytest.raises(distributed.Lost, match=f"after iteration 3 rank 1 has another {what} than rank 0"):
        report.agree(3, SkillBank(), model)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--lora", "4", "--lr", "1e-2", "--recompute"]], ids=["all weights", "LoRA"])
def test_a_run_that_is_sharded_from_its_start(tmp_path, more):
    """Bug: the copy that samples is filled from a step before, LoRA's frozen weights are sharded too, other N."""
    one, out = tmp_path / "one", tmp_path / "many"
    alone(one, "--steps", "3", *more)
    together(tmp_path, 2, [*COUNTER, *more, "--out", out, "--steps", "2", "--shard"])
    together(tmp_path, 3, ["--out", out, "--steps", "3", "--resume", "--shard"])
    same(out, one, 3)


BFLOAT16 = """
import random, torch
from types import SimpleNamespace
import policy as policies
from dualadv_grpo import AdamW, Objective, update
from lib import distributed, sharding

distributed.start()
rng = random.Random(0)
segments = [SimpleNamespace(ids=rng.choices(range(500), k=n), logp=[-6.0] * n, job=[0] * 5 + [1] * (n - 5))
            for n in (60, 50, 40, 30, 20)]
advantages = [[(-1.0) ** i] * len(segment.ids) for i, segment in enumerate(segments)]
lengths, norms, states, models = [], [], [], []
for sharded in (False, True):
    model, reference = (policies.load("tiny", dtype=torch.bfloat16).model for _ in range(2))
    team = sharding.Shards(model, reference.requires_grad_(False)) if sharded else None
    optimizer = AdamW((team.model if team else model).parameters(), 1e-3, team=team)
    if team:
        optimizer.adam.register_step_post_hook(team.fill)
    addresses = [weight.data_ptr() for weight in model.parameters()]
    for _ in range(3):
        norms.append(update(model, reference, optimizer, segments, advantages, policies.logprobs,
                            Objective(kl=0.1, budget=60)).grad_norm)
    assert addresses == [weight.data_ptr() for weight in model.parameters()], "a recorded step reads them there"
    states.append(team.whole(optimizer.state_dict()) if team else optimizer.state_dict())
    models.append(list(model.parameters()))
    if team:
        parts = sum(part.to_local().numel() for part in optimizer.params)
        print("share", parts / sum(weight.numel() for weight in models[0]), flush=True)
        again = AdamW(team.model.parameters(), 1e-3, team=team)
        again.load_state_dict(team.split(states[0]))
        states.append(team.whole(again.state_dict()))
if distributed.leader():
    one, parts, back = states
    for norm, other in zip(norms[:3], norms[3:]):
        assert abs(norm - other) < 1e-3 * norm, norms
    for i, (a, b, c) in enumerate(zip(one["master"], parts["master"], back["master"])):
        # In the mean: AdamW makes a whole step of a gradient that is nothing but rounding.
        assert b.dtype == torch.float32 and float((a - b).abs().mean()) < 1e-5, float((a - b).abs().mean())
        moments, others = (state["adam"]["state"][i]["exp_avg_sq"] for state in (one, back))
        assert torch.equal(a, c) and torch.equal(moments, others), "what is split and put together is as it was"
        assert torch.equal(models[1][i], b.bfloat16()), "the whole decoder is the parts, rounded"
    print("compared", flush=True)
"""


@pytest.mark.slow
def test_parts_of_a_bfloat16_model_are_float32(tmp_path):
    """Bug: the parts are bfloat16 and an lr of 1e-6 moves nothing; RoPE's cosines are rounded; each holds the whole."""
    program = tmp_path / "program.py"
    program.write_text(BFLOAT16)
    ran = subprocess.run([*TORCHRUN, "2", program], cwd=ROOT, env={**ALONE, "PYTHONPATH": str(ROOT)},
                         capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    share = float(ran.stdout.split()[1])
    assert "compared" in ran.stdout and 0.5 <= share < 0.51


@pytest.fixture
def team(monkeypatch):
    """team(rank, size): this process is one of several, which are not there."""
    def be(rank, size, **more):
        monkeypatch.setattr(signal, "signal", lambda *how: None)
        monkeypatch.setattr(distributed, "this", SimpleNamespace(
            **{**vars(distributed.this), "rank": rank, "size": size, "started": True, **more}))

    return be


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 64])
def test_every_episode_and_every_batch_is_dealt_once(team, size, count):
    """Bug: an episode is played twice or by nobody, where their number is no multiple of the processes'."""
    for deal in (lambda: distributed.mine(count), lambda: distributed.deal([i % 5 + 1 for i in range(count)])):
        dealt = []
        for rank in range(size):
            team(rank, size)
            dealt.append(deal())
        assert sorted(sum(dealt, [])) == list(range(count))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 3
    assert size > 1 or distributed.mine(count) == list(range(count))


def test_the_longest_batches_go_to_who_has_least(team):
    """Bug: contiguous blocks, of which the first process gets all long ones and the others wait."""
    team(1, 2)
    assert distributed.deal([9, 8, 2, 1]) == [1, 2]


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_with_parts_all_processes_compute_equally_many_batches(team, count):
    """Bug: one process has a batch more than the others, waits in it for their parts of the first layer, and hangs."""
    costs, dealt = [50 + 7 * i % 40 for i in range(count)], []
    for rank in range(3):
        team(rank, 3)
        dealt.append(sharding.Shards.deal(None, costs))
    assert len({len(numbers) for numbers in dealt}) == 1
    assert sorted(n for numbers in dealt for n in numbers if n >= 0) == list(range(count))
    for some in zip(*dealt):  # who are computed together wait for each other
        others = [cost for i, cost in enumerate(costs) if i not in some]
        lengths = [costs[i] for i in some if i >= 0]
        assert not any(min(lengths) < cost < max(lengths) for cost in others)


def test_what_shard_cannot_be_combined_with_is_said(team):
    """Bug: --shard in one process does nothing, with --offload something else; and nobody is told."""
    flags = SimpleNamespace(shard=True, offload=False, device="")
    for size, more, said in ((1, {}, "torchrun"), (2, {"offload": True}, "--offload"), (2, {"device": "mps"}, "mps")):
        team(0, size)
        with pytest.raises(ValueError, match=said) as refused:
            runs.refuse_sharding(SimpleNamespace(**{**vars(flags), **more}))
        assert "leave" in str(refused.value) and "\n" not in str(refused.value)
    runs.refuse_sharding(flags)
    team(0, 1)
    runs.refuse_sharding(SimpleNamespace(shard=False, offload=True, device=""))


def test_an_episode_arrives_as_it_was_in_few_bytes():
    """Bug: a log-probability is rounded, or every episode carries a bank and its tokens as a list of numbers."""
    logp = (-torch.rand(4000)).tolist()
    segment = envs.Segment([70_000] + list(range(3999)), [0, 1] * 2000, logp, [-1] * 4000, [17])
    edit = Edit("added", "propose_skill", {}, SkillBank())
    turns = [envs.Turn("page", "text", True, "reply")]
    episode = envs.Episode(1, "shoes", 3, [], ("a", "b"), [segment], turns, edit=edit)
    content = dumps({3: episode}, ("edit",))
    there = pickle.loads(content)[3]
    assert there.segments == [segment] and there.turns == episode.turns and there.edit is None
    assert len(content) < 50_000 < len(pickle.dumps(segment))
    assert pickle.loads(dumps(envs.Segment(list(range(20)), logp=[0.1] * 20))).logp == [0.1] * 20, "no float32"


def test_of_a_probe_only_the_outcome_is_sent():
    """Bug: hundreds of transcripts that nobody reads go to every process; or what U and the tokens are counted by."""
    turns = [envs.Turn("page " * 500, "text", valid, "reply " * 50, "page " * 500) for valid in (True, False)]
    segment = envs.Segment(list(range(4000)), [FORCED, ACT] * 2000, [-0.5] * 4000, [0] * 4000, [17])
    episode = envs.Episode(1, "shoes", 3, [], ("a" * 999, "b" * 999), [segment], turns, True, 0.5)
    content = dumps({3: episode}, ("edit", *envs.SAID))
    there = pickle.loads(content)[3]
    assert len(content) < 5_000 < len(dumps({3: episode})) / 4
    assert worth(there, 15, "both") == worth(episode, 15, "both") and there.rewards() == episode.rewards()
    assert there.segments[0].job == segment.job and there.segments[0].ids is there.turns[0].page is None
    assert train.probing_of(train.Flags()).sampling.outcomes and not envs.Sampling().outcomes


class Store(dict):
    """What torchrun's store does, without torchrun."""

    def set(self, key, value):
        self[key] = value

    def add(self, key, more):
        self[key] = self.get(key, 0) + more
        return self[key]

    def check(self, keys):
        return all(key in self for key in keys)


def test_one_process_speaks_for_all(team, capsys):
    """Bug: eight processes end with eight lines, or the one that knows why is the one that is not heard."""
    store, ended = Store(), subprocess.Popen(["true"])
    ended.wait()
    here = dict(store=store, team=[("a", os.getpid()), ("a", os.getpid()), ("b", ended.pid)])
    team(1, 3, **here)
    assert guard.last_words("train.py", "no such game", None) == "train.py: rank 1: no such game"
    team(0, 3, **here)
    assert guard.last_words("train.py", "terminated", None, "told") == ""


def test_a_killed_process_is_named(team):
    """Bug: after kill -9 of a rank the line says that the run was terminated, as if somebody had asked for it."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    team(0, 3, store=Store(), team=[("a", os.getpid()), ("a", ended.pid), ("b", ended.pid)])
    line = guard.last_words("train.py", "terminated", None, "told")
    assert line.startswith("train.py: rank 1 has ended without a word")
    team(0, 2, store=Store({"left 1": "terminated"}), team=[("a", os.getpid()), ("a", ended.pid)])
    assert guard.last_words("train.py", "terminated", None, "told") == "train.py: terminated"


def test_a_command_for_one_process_refuses_torchrun(monkeypatch):
    """Bug: eight processes make the same cold start and write over each other's checkpoint."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(SystemExit, match="tools.coldstart: does not run on several"):
        with guard.guard("tools.coldstart", None, ()):
            raise AssertionError("it began")


BROKEN = """
import os, sys
import envs, train, worlds
def broken(*rest):
    raise {error}
if os.environ["RANK"] == "1" and "--resume" not in sys.argv:
    envs.commit = train.commit = broken
train.main()
"""


# Rank 1 is gone in the midst of its second update, where the others wait for its parts of a layer.
DYING = """
import os, signal, sys, torch, train
from pathlib import Path
def dying(*rest, real=train.logprobs, **more):
    latest = Path(sys.argv[sys.argv.index("--out") + 1]) / "latest"
    if os.environ["RANK"] == "1" and torch.is_grad_enabled() and latest.is_file() and "1" in latest.read_text():
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*rest, **more)
train.logprobs = dying
train.main()
"""


# The leader's disk takes no more than the first kilobytes of a file, once its first checkpoint is written.
FULL = """
import os, resource, sys, train
from pathlib import Path
def full(*rest, real=train.logprobs, **more):
    latest = Path(sys.argv[sys.argv.index("--out") + 1]) / "latest"
    if os.environ["RANK"] == "0" and latest.is_file() and "1" in latest.read_text():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    return real(*rest, **more)
train.logprobs = full
train.main()
"""


# Rank 1 is gone, and rank 0 waits where no signal gets through, as for a card.
DEAF = """
import ctypes, os, signal, sys, torch, train
from pathlib import Path
def dying(*rest, real=train.logprobs, **more):
    latest = Path(sys.argv[sys.argv.index("--out") + 1]) / "latest"
    if torch.is_grad_enabled() and latest.is_file() and "1" in latest.read_text():
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        lock = ctypes.create_string_buffer(256)
        for _ in range(2):
            ctypes.CDLL(None).pthread_mutex_lock(lock)
    return real(*rest, **more)
train.logprobs = dying
train.main()
"""


def children(process):
    """{rank: process id} of the processes that torchrun has started."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == process:
                words = (folder / "environ").read_bytes().split(b"\0")
                found[next(int(word[5:]) for word in words if word.startswith(b"RANK="))] = int(folder.name)
        except (OSError, StopIteration):
            pass
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks Linux for the children of a process")
@pytest.mark.parametrize("how", ["follower", "shard", "leader", "torchrun", "SIGTERM", "SIGINT", "game", "bug", "deaf",
                                 "disk"])
def test_all_end_at_once_with_one_line_and_the_run_goes_on(tmp_path, how):
    """Bug: a process dies and the others wait for it through the night, or end with a traceback each.

    follower, leader, torchrun: whom kill -9 hits; shard: a follower of a run with --shard, in an update; deaf: a
    follower, while the leader hears no signal. SIGTERM, SIGINT: what torchrun gets. game, bug: what one process raises;
    disk: the leader's is full.
    """
    out, program = tmp_path / "run", "train.py"
    if how in ("game", "bug", "shard", "deaf", "disk"):
        program = tmp_path / "broken.py"
        error = "worlds.GameError('no such game')" if how == "game" else "KeyError('x')"
        program.write_text({"shard": DYING, "deaf": DEAF, "disk": FULL}.get(how) or BROKEN.format(error=error))
    run = [*TORCHRUN, "2", str(program), *COUNTER, "--out", str(out)] + ["--shard"] * (how in ("shard", "deaf"))
    # Processes of their own sessions are not the test's: whoever is left at the end is named, and killed.
    with subprocess.Popen([*run, "--steps", "500"], cwd=ROOT, env={**ALONE, "PYTHONPATH": str(ROOT)}, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        for line in process.stdout:
            if line.startswith("step 1 |") or how in ("game", "bug"):
                break
        ranks = children(process.pid)
        assert len(ranks) == 2 or how in ("game", "bug")
        if how in ("follower", "leader"):
            os.kill(ranks[how == "follower"], signal.SIGKILL)
        elif how not in ("game", "bug", "shard", "deaf", "disk"):
            process.send_signal(signal.SIGKILL if how == "torchrun" else getattr(signal, how))
        begin, text = time.monotonic(), process.stdout.read()  # to the end of the last process that could write
        seconds = time.monotonic() - begin
    left = [number for number in ranks.values() if not guard.gone(number)]
    for number in left:
        os.kill(number, signal.SIGKILL)
    lines = [line for line in text.splitlines() if line.startswith("train.py: ")]
    at_once = seconds < 10 or how in ("game", "bug", "shard", "deaf", "disk")  # when these begin is not known
    assert not left and len(lines) == 1 and at_once, (seconds, lines, text[-2000:])
    said = {"follower": "rank 1 has ended without a word", "leader": "rank 0 has ended without a word",
            "shard": "rank 1 has ended without a word", "deaf": "rank 1 has ended without a word",
            "torchrun": "torchrun has ended", "SIGTERM": "terminated", "SIGINT": "interrupted",
            "game": "rank 1: no such game", "bug": "rank 1: KeyError: 'x'",
            "disk": "rank 0: Error while serializing"}[how]
    assert lines[0].startswith(f"train.py: {said}") and "; step " in lines[0]
    ran = subprocess.run([*TORCHRUN, "3", "train.py", *COUNTER, "--out", out, "--resume", "--steps", "2"], cwd=ROOT,
                         env=ALONE, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and (out / "latest").read_text() >= "step_00001", ran.stderr

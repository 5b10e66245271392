"""A run directory: nothing in it is half written, and whatever ends a run ends it with one line that is true."""

import fcntl
import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import eval as evaluation
import policy as policies
import train
from dualadv_grpo import AdamW
from lib import checkpoints, memory
from skillbank import Skill, SkillBank
from tests.real import ROOT
from tests.skills import bank_of
from tools import report, runs
from tools.runs import open_target
from worlds.alfworld.rooms import FAMILIES
from worlds.alfworld.world import World

SMALL = ("--tasks 1 --group 2 --cold_start 0 --eval_every 0 --act_tokens 8 --review_tokens 8 --context 1500 "
         "--probes 1 --lr 1e-3 --steps 1").split()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(train_in_process):
    return partial(train_in_process, SMALL, 2)


@pytest.fixture(scope="module")
def first(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "first"
    run(out)
    return out


@pytest.fixture
def begun(first, tmp_path):
    """A run of one iteration, this test's own."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def ends(call, *arguments):
    """What a call ends the program with: (the line, exit status)."""
    with pytest.raises(SystemExit) as stop:
        call(*arguments)
    code = stop.value.code
    return (code, 1) if isinstance(code, str) else ("", code)


def test_resume_wants_a_run(run, tmp_path):
    """Bug: --resume with a misspelt path begins a new run there, and the old one seems lost."""
    line, _ = ends(run, tmp_path / "misspelt", "--resume")
    assert "misspelt holds no run" in line and not (tmp_path / "misspelt").exists()


def test_a_stray_file_beside_the_checkpoints_ends_no_training(run, begun):
    """Bug: a file manager's .DS_Store in checkpoints/ ends the run at its next save, and again after every --resume."""
    (begun / "checkpoints/.DS_Store").touch()
    run(begun, "--steps", "2", "--eval_every", "0", "--resume")
    assert (begun / "latest").read_text() == "step_00002\n"
    assert not (begun / "checkpoints/step_00001").exists()


def test_a_run_killed_before_its_first_checkpoint_is_a_run(run, tmp_path, monkeypatch):
    """Bug: it must be begun again by hand, or goes on under other flags."""
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", die)
        assert ends(run, tmp_path / "run")[1] == 130
    assert (tmp_path / "run" / "config.json").is_file() and not (tmp_path / "run" / "latest").exists()
    assert "lr" in ends(run, tmp_path / "run", "--resume", "--lr", "0.5")[0]
    run(tmp_path / "run", "--resume")
    assert (tmp_path / "run" / "latest").read_text() == "step_00001\n"


def die(*rest, **more):
    raise KeyboardInterrupt


@pytest.mark.parametrize("number, status, word", [(signal.SIGINT, 130, "interrupted"),
                                                  (signal.SIGTERM, 143, "terminated")])
def test_a_signal_ends_a_run_with_one_line(number, status, word, run, begun, monkeypatch, capsys):
    """Bug: Ctrl-C, or a cluster's SIGTERM, prints a page of traceback and does not say whether anything is lost."""
    capsys.readouterr()
    rollout = train.rollout
    def interrupted(*rest, **more):
        os.kill(os.getpid(), number)
        time.sleep(5)
        return rollout(*rest, **more)

    monkeypatch.setattr(train, "rollout", interrupted)
    assert ends(run, begun, "--steps", "3", "--resume") == ("", status)
    error = capsys.readouterr().err
    assert word in error and "step 1 is saved" in error and "--resume" in error and error.count("\n") == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handler is put back"


def locked(directory):
    """What another process sees: is a run directory locked?"""
    other = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(other)
    return False


def test_a_second_training_of_the_same_run_is_refused(run, tmp_path, monkeypatch):
    """Bug: two processes write one run: lines of both in metrics.jsonl, checkpoints removed under the other."""
    seen, saves = [], runs.save

    def save(*rest):
        seen.append(locked(tmp_path / "run"))
        saves(*rest)

    monkeypatch.setattr(runs, "save", save)
    run(tmp_path / "run")
    assert seen == [True, True] and not locked(tmp_path / "run"), "locked from a new run's first file to its last"
    other = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    line, status = ends(run, tmp_path / "run", "--steps", "2", "--resume")
    assert "another process is training in" in line and status == 1 and len(seen) == 2
    os.close(other)
    run(tmp_path / "run", "--steps", "2", "--resume")
    assert len(seen) == 3 and seen[-1]


@pytest.mark.parametrize("where, error", [("report.append", OSError(28, "No space left on device")),
                                          ("torch.save", RuntimeError("PytorchStreamWriter failed writing file")),
                                          ("policy.Policy.save", PermissionError(13, "Permission denied"))])
def test_a_full_disk_in_the_loop_is_one_line(where, error, run, begun, monkeypatch):
    """Bug: an hour of training ends in a traceback that does not say what is whole."""

    def fail(*rest, **more):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr({"report.append": "tools.report.append"}.get(where, where), fail)
        line, status = ends(run, begun, "--steps", "2", "--resume")
    assert status == 1 and "step 1 is saved" in line and "--resume" in line and "\n" not in line
    run(begun, "--steps", "2", "--resume")
    assert (begun / "latest").read_text() == "step_00002\n"


def test_our_own_bugs_keep_their_traceback(run, tmp_path, monkeypatch):
    """Bug: a TypeError of ours is shown as one line, and nobody can find it."""
    monkeypatch.setattr(train, "edits_of", lambda episodes: None + 1)
    with pytest.raises(TypeError):
        run(tmp_path / "run")


@pytest.mark.parametrize("file, content", [
    ("config.json", b""), ("config.json", b"[]"), ("config.json", b"\xff\xfe"), ("latest", b"step_00009"),
    ("checkpoints/step_00001/trainer.pt", b"PK"), ("checkpoints/step_00001/model.safetensors", b"\x08"),
    ("checkpoints/step_00001/skills.json", b"{"), ("metrics.jsonl", b'{"step": 0}\ntorn}\n{"step": 1}\n'),
])
def test_a_damaged_file_of_a_run_is_named(file, content, run, begun):
    """Bug: a truncated trainer.pt or an empty config.json is a traceback of pickle or json without a name."""
    (begun / file).write_bytes(content)
    line, _ = ends(run, begun, "--steps", "2", "--resume")
    assert Path(file).name in line and "\n" not in line and line.startswith("train.py: "), line


@pytest.mark.parametrize("torn", [b'{"step": 9, "x": {"a": 1}', b'{"step": 9', b"}", b'{"a": "\xc3', b'{"step": 1}',
                                  b""])
def test_a_torn_last_line_never_blocks_a_resume(torn, run, begun):
    """Bug: a line torn after an inner } looks whole and ends every --resume."""
    for name in runs.LOGS:
        before = report.lines_of(begun / name)
        with open(begun / name, "ab") as file:
            file.write(torn)
        assert report.lines_of(begun / name)[:len(before)] == before
    run(begun, "--steps", "2", "--resume")
    assert [row["step"] for row in report.lines_of(begun / "metrics.jsonl")][-1] == 2


@pytest.mark.parametrize("state", [[], {}, {"step": 1, "optimizer": {}, "lora": {}}])
def test_a_trainers_state_of_something_else_is_named(state, run, begun):
    """Bug: trainer.pt can be read, and a KeyError comes of it."""
    torch.save(state, begun / "checkpoints" / "step_00001" / "trainer.pt")
    line, _ = ends(run, begun, "--steps", "2", "--resume")
    assert "trainer.pt" in line and "\n" not in line


def test_a_tokenizer_that_cannot_be_written_is_one_line(run, tmp_path, monkeypatch):
    """Bug: tokenizers raises a plain Exception where the disk is full."""
    def fail(*rest, **more):
        raise Exception("No space left on device (os error 28)")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", fail)
    assert "tokenizer could not be written" in ends(run, tmp_path / "run")[0]


def fake_wandb(fail=None):
    calls = []

    def init(**given):
        if fail:
            raise fail
        calls.append(given)

    return SimpleNamespace(init=init, log=lambda row, step: calls.append(step), run=None), calls


def test_wandb_is_opened_before_anything_is_computed(run, tmp_path, monkeypatch):
    """Bug: without a login the cold start and the baseline run first, and then all of it is lost in a traceback."""
    module, _ = fake_wandb(RuntimeError("api_key not configured (no-tty)\ncall wandb.login()"))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    line, _ = ends(run, tmp_path / "run", "--wandb", "p")
    assert "--wandb p: api_key not configured" in line and "wandb login" in line and "\n" not in line


def test_a_resumed_run_goes_on_in_the_same_wandb_run(run, tmp_path, monkeypatch):
    """Bug: every --resume is another run there, and no curve is whole."""
    module, calls = fake_wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(tmp_path / "run", "--wandb", "p")
    run(tmp_path / "run", "--wandb", "p", "--steps", "2", "--resume")
    opened = [call for call in calls if isinstance(call, dict)]
    assert len(opened) == 2 and opened[0]["id"] == opened[1]["id"] and opened[1]["resume"] == "allow"
    assert [call for call in calls if isinstance(call, int)] == [1, 2]


def test_a_service_that_is_away_does_not_end_a_run(run, tmp_path, monkeypatch, capsys):
    """Bug: one failed call of wandb.log in the night ends ten hours of training."""
    module, _ = fake_wandb()

    def away(row, step):
        raise ConnectionError("no route")

    module.log = away
    monkeypatch.setitem(sys.modules, "wandb", module)
    run(tmp_path / "run", "--wandb", "p")
    assert "--wandb: no route; step 1 is in metrics.jsonl only" in capsys.readouterr().out


def test_a_run_begins_with_the_bank_it_is_given(run, tmp_path, monkeypatch):
    """Bug: --bank with a typo is noticed after the cold start; or the bank's foreign families are never shown."""
    with monkeypatch.context() as patch:
        patch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
        assert "no such skill bank" in ends(run, tmp_path / "run", "--bank", str(tmp_path / "none.json"))[0]
    SkillBank([Skill("dyn_001", "a", "b", "c")]).save(tmp_path / "bank.json")
    run(tmp_path / "run", "--bank", str(tmp_path / "bank.json"), "--reviews", "off")
    assert [s.title for s in SkillBank.load(tmp_path / "run" / "skills.json").skills()] == ["a"]
    row, = report.lines_of(tmp_path / "run" / "metrics.jsonl")
    assert row["review_sampled"] == row["probe_sampled"] == row["probe_episodes"] == row["edits"] == 0
    assert row["sampled"] == row["act_sampled"] == row["tokens"] > 0


def test_a_resumed_run_does_not_need_its_first_bank(run, tmp_path):
    """Bug: the file of --bank was moved after the run began, and the run cannot be resumed."""
    bank = SkillBank(general_skills=[Skill("dyn_001", "Look first", "Read the page before you click.", "Always.")])
    bank.save(tmp_path / "bank.json")
    run(tmp_path / "run", "--bank", str(tmp_path / "bank.json"))
    (tmp_path / "bank.json").unlink()
    run(tmp_path / "run", "--bank", str(tmp_path / "bank.json"), "--steps", "2", "--resume")
    assert SkillBank.load(tmp_path / "run" / "skills.json").find("dyn_001").title == "Look first"


def test_families_that_are_too_small_to_probe_are_said(capsys):
    """Bug: with nine games of a family and --probes 8 nothing is ever committed, and nobody is told why."""
    env = SimpleNamespace(train_tasks=list(range(30)), family=lambda task: "few" if task < 9 else "many")
    flags = SimpleNamespace(probes=4, confirm=8, reviews="on", commit="positive")
    for probes, confirm, said in ((4, 8, "few (8): fewer probes.\n"), (8, 8, "no skill"), (8, 0, ""), (4, 4, "")):
        flags.probes, flags.confirm = probes, confirm
        runs.say_small(flags, env)
        out = capsys.readouterr().out
        assert said in out and bool(out) == bool(said) and "many" not in out


def test_all_edits_unprobed_plays_no_probe(run, tmp_path, monkeypatch):
    """Bug: an ablation without probes pays for them all the same."""
    monkeypatch.setattr(train, "probe", lambda *rest: pytest.fail("a probe was played"))
    run(tmp_path / "run", "--commit", "all")
    assert report.lines_of(tmp_path / "run" / "metrics.jsonl")[0]["probe_episodes"] == 0


def test_graded_rewards_want_a_graded_world(run, tmp_path):
    """Bug: --utility graded in a world of wins and losses is the same as success, and nobody knows."""
    line, _ = ends(run, tmp_path / "run", "--env", "guess", "--utility", "graded")
    assert "no graded score" in line


# ---- What eval.py is given ------------------------------------------------------------------------------------------


def test_a_checkpoint_brings_its_bank_and_settings(run, tmp_path):
    """Bug: eval.py RUN/checkpoints/step_N plays with an empty bank and default lengths."""
    run(tmp_path / "run", "--act_tokens", "9")
    step = tmp_path / "run" / "checkpoints" / "step_00001"
    SkillBank([Skill("dyn_001", "a", "b", "c")]).save(step / "skills.json")
    for target, skills in ((tmp_path / "run", 1), (step, 1), (tmp_path / "run" / "reference", 0)):
        args = evaluation.read_flags([str(target)])
        assert args.settings["act_tokens"] == 9 and args.env == "webshop"
        _, _, bank, sampling = evaluation.open_target(args)
        assert len(bank.skills()) == skills and sampling.act_tokens == 9


def test_a_run_without_a_checkpoint_is_named(tmp_path, capsys):
    """Bug: eval.py RUN before the first checkpoint complains of a model_type None."""
    (tmp_path / "config.json").write_text('{"env": "webshop"}')
    assert "a run without a checkpoint yet" in ends(evaluation.read_flags, [str(tmp_path)])[0]


def test_a_shipped_model_names_its_world():
    """Bug: eval.py worlds/alfworld/tiny without --env plays the shop, and wins nothing."""
    for world in ("alfworld", "webshop"):
        args = evaluation.read_flags([str(ROOT / "worlds" / world / "tiny")])
        assert args.env == world and args.bank is None
    assert evaluation.read_flags(["tiny"]).env == "webshop"
    assert evaluation.read_flags(["tiny", "--env", "guess"]).env == "guess"


def test_a_run_from_a_cpu_keeps_its_float32_weights_on_a_card(tmp_path):
    """Bug: float32 weights are rounded to bfloat16 on the way, and an lr of 1e-6 starts from other weights."""
    exact = policies.load("tiny")
    exact.save(tmp_path / "saved")
    half = policies.load(str(tmp_path / "saved"), dtype=torch.bfloat16)
    optimizer = AdamW(half.model.parameters(), 1e-6)
    weights = checkpoints.read(str(tmp_path / "saved"))[1]
    runs.keep_float32(half, optimizer, weights)
    for master, param in zip(optimizer.master, exact.model.parameters()):
        assert master.dtype == torch.float32 and torch.equal(master, param)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
                                   memory.TooSmall("one episode of 9 tokens takes 1.0 GB")])
def test_out_of_memory_is_one_line_with_the_numbers(error):
    """Bug: after a quarter of an hour the program ends in a traceback from the depths of torch."""
    with pytest.raises(SystemExit) as stop, runs.guard("train.py", None, runs.BROKEN):
        raise error
    assert str(error).splitlines()[0] in stop.value.code and "\n" not in stop.value.code
    assert "--context" in stop.value.code or isinstance(error, memory.TooSmall)


def test_checkpoints_of_a_large_model_are_few_and_said(capsys):
    """Bug: 22 GB are written every five iterations, and twice that is on the disk, unsaid."""
    class Large:
        class model:
            model = {"embed_tokens": SimpleNamespace(weight=torch.empty(0, dtype=torch.bfloat16))}

            @staticmethod
            def parameters():
                return [SimpleNamespace(numel=lambda: 1_543_714_304, element_size=lambda: 2, requires_grad=True)]

    assert runs.save_every(SimpleNamespace(save_every=0), Large) == 25
    assert "a checkpoint takes 21.6 GB" in capsys.readouterr().out
    assert runs.save_every(SimpleNamespace(save_every=3), Large) == 3
    assert runs.save_every(SimpleNamespace(save_every=0), policies.load("tiny")) == 5
    assert "GB" not in capsys.readouterr().out.split("every 3")[-1]


def test_families_of_another_world_are_renamed_or_named():
    """Bug: four of SkillRL's six ALFWorld families can never be shown, without a word."""
    names = ["pick_and_place", "look_at_obj_in_light", "clean", "heat", "cool", "examine"]
    bank = bank_of(1, **{name: 1 for name in names}, chess=1)
    assert bank.fit(FAMILIES, World.aliases) == ["chess"]
    assert len(bank.task_specific_skills["look_at_obj_in_light"]) == 2
    for family in set(FAMILIES) - {"pick_two_obj_and_place"}:
        assert bank.retrieve("anything", family, 3)[1:], family
    assert len(bank.skills()) == 8


@pytest.mark.parametrize("name", ["tiny", "worlds/webshop/tiny"])
def test_a_shipped_model_is_sampled_as_it_was_trained(name):
    """Bug: the same weights show other skills and stop at other lengths, by which of their names they are called."""
    name = str(ROOT / name) if "/" in name else name
    *_, sampling = open_target(evaluation.read_flags([name]))
    assert (sampling.top_k, sampling.context, sampling.act_tokens, sampling.review_tokens) == (4, 3072, 96, 160)

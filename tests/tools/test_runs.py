"""A run directory: nothing in it is half written, and what is wrong with it is named."""

import json
import os
import shutil
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import envs
import policy as policies
import train
from dualadv_grpo import AdamW
from lib import checkpoints, distributed, memory
from skillbank import Skill, SkillBank
from tests.runs import die, ends
from tests.skills import bank_of
from tests.small import change
from tools import coldstart, fits, report, runs
from worlds.alfworld.rooms import FAMILIES
from worlds.alfworld.world import World
from worlds.webshop import catalogue

pytestmark = pytest.mark.usefixtures("one_thread")


def test_resume_wants_a_run(run, tmp_path):
    """Bug: --resume with a misspelt path begins a new run there, and the old one seems lost."""
    line, _ = ends(run, tmp_path / "misspelt", "--resume")
    assert "misspelt holds no run" in line and not (tmp_path / "misspelt").exists()


def test_a_run_goes_on_in_its_own_games_alone(run, tmp_path):
    """Bug: other products, as many as before, are played on without a word; the same in another folder are refused."""
    shop, copy = catalogue.make(tmp_path / "shop", products=84), tmp_path / "elsewhere" / "same shop"
    run(tmp_path / "run", "--data", str(shop))
    shutil.copytree(shop, copy)
    run(tmp_path / "run", "--data", str(copy), "--steps", "2", "--resume")
    items = copy / "items_shuffle_1000.json"
    items.write_text(json.dumps(json.loads(items.read_text(encoding="utf-8"))[::-1]), encoding="utf-8")
    again = ["--data", str(copy), "--steps", "3", "--resume"]
    line, _ = ends(run, tmp_path / "run", *again)
    assert "was run in webshop, data in same shop: " in line and "these are other games" in line and "\n" not in line
    assert (tmp_path / "run" / "latest").read_text() == "step_00002\n"
    change(tmp_path / "run", fingerprint=None, world=line.split("other games, ")[1].split(" (games")[0])
    run(tmp_path / "run", *again)  # a run from before fingerprints


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


def test_every_start_knows_how_it_fits_its_card(run, random_tiny, tmp_path, monkeypatch):
    """Bug: with LoRA, or killed before its first checkpoint, a run forgets what was computed: the cache stays during
    the update, and a card of 16 GB dies in the first one."""
    asked, known, reference = [], [], runs.with_reference
    monkeypatch.setitem(coldstart.PRESETS, random_tiny, dict(batch=1, lr=1e-3))

    def forecast(flags, policy):
        asked.append(flags.rows)
        return fits.Forecast(True, keep=True, rows=2)

    monkeypatch.setattr(fits, "forecast", forecast)
    monkeypatch.setattr(runs, "with_reference", lambda flags, policy, *rest: known.append(
        (policy.keep, policy.model.recompute, flags.rows)) or reference(flags, policy, *rest))
    more = ["--lora", "2", "--lr", "1e-3", "--cold_start", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", die)
        assert ends(run, tmp_path / "run", *more)[1] == 130  # killed between reference/ and the first checkpoint
    assert (tmp_path / "run" / "reference").is_dir()
    assert "context of 300 tokens is too short" in ends(run, tmp_path / "run", *more, "--context", "300", "--resume")[0]
    run(tmp_path / "run", *more, "--steps", "0", "--resume")
    assert asked == [64] * 2 and known == [(True, True, 2)] * 2
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["rows"] == 64, "what was asked for is asked again on a larger card"


def test_a_disk_that_cannot_hold_a_checkpoint_is_said_before_the_start(run, tmp_path, monkeypatch):
    """Bug: a quarter of an hour of cold start, and then: no space left on device."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    monkeypatch.setattr(coldstart, "cold_start", lambda *rest: pytest.fail("the cold start began"))
    line, _ = ends(run, tmp_path / "run", "--cold_start", "1")
    assert "the reference with two checkpoints takes 0.0 GB, 0.0 GB are free" in line and "\n" not in line


def test_a_disk_that_cannot_hold_the_next_checkpoint_is_said_before_a_run_goes_on(run, first, tmp_path, monkeypatch):
    """Bug: the run is resumed, and its next checkpoint, hours later, finds no room beside the old one."""
    out = shutil.copytree(first, tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    line, _ = ends(run, out, "--steps", "2", "--resume")
    assert "the next checkpoint takes 0.0 GB, 0.0 GB are free on that disk" in line and "\n" not in line


@pytest.mark.parametrize("file, content", [
    ("config.json", b""), ("config.json", b"[]"), ("config.json", b"\xff\xfe"), ("latest", b"step_00009"),
    ("config.json", b"[" * 100_000), ("metrics.jsonl", b'{"step": 0}\n' + b"[" * 100_000 + b'\n{"step": 1}\n'),
    ("checkpoints/step_00001/trainer.pt", b"PK"), ("checkpoints/step_00001/model.safetensors", b"\x08"),
    ("checkpoints/step_00001/skills.json", b"{"), ("metrics.jsonl", b'{"step": 0}\ntorn}\n{"step": 1}\n'),
])
def test_a_damaged_file_of_a_run_is_named(file, content, run, begun):
    """Bug: a truncated trainer.pt or an empty config.json is a traceback of pickle or json without a name."""
    (begun / file).write_bytes(content)
    line, _ = ends(run, begun, "--steps", "2", "--resume")
    assert Path(file).name in line and "\n" not in line and line.startswith("train.py: "), line


def test_a_torn_last_line_never_blocks_a_resume(run, begun, monkeypatch):
    """Bug: a line torn after an inner } looks whole and ends every --resume."""
    for torn in (b"", b'{"step": 1}', b'{"step": 9, "x": {"a": 1}', b'{"step": 9', b"}", b'{"a": "\xc3'):
        for name in runs.LOGS:
            before = report.lines_of(begun / name)
            with open(begun / name, "ab") as file:
                file.write(torn)
            assert report.lines_of(begun / name)[:len(before)] == before
        with monkeypatch.context() as patch:
            patch.setattr(train, "rollout", die)
            assert ends(run, begun, "--steps", "2", "--resume")[1] == 130, torn  # it came as far as its first game
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


def test_the_leader_alone_makes_the_cold_start(tmp_path, monkeypatch):
    """Bug: each process of torchrun makes it again and writes over the reference that the others read."""
    flags = train.read_flags(f"--env counter --model tiny --cold_start 1 --out {tmp_path / 'run'}".split())
    env, sampling, made = envs.make("counter", **flags.options), train.sampling_of(flags, 1.0), []
    monkeypatch.setattr(coldstart, "cold_start", lambda *rest: made.append(distributed.this.rank))
    runs.enter(flags, "train.py")
    runs.opened(flags, env, sampling, "train.py")
    monkeypatch.setattr(distributed.this, "rank", 1)
    runs.opened(flags, env, sampling, "train.py")
    assert made == [0]


def test_families_that_are_too_small_to_probe_are_said(capsys):
    """Bug: with nine games of a family and --probes 8 the second probes are no fresh games, and nobody is told."""
    env = SimpleNamespace(train_tasks=list(range(30)), family=lambda task: "few" if task < 9 else "many")
    flags = SimpleNamespace(probes=4, confirm=8, reviews="on", commit="positive")
    for probes, confirm, said in ((4, 8, "few (8): fewer probes.\n"), (8, 8, "played again"), (8, 0, ""), (4, 4, "")):
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


def test_a_run_from_a_cpu_keeps_its_float32_weights_on_a_card(tmp_path):
    """Bug: float32 weights are rounded to bfloat16 on the way, and an lr of 1e-6 starts from other weights."""
    exact = policies.load("tiny")
    exact.save(tmp_path / "saved")
    half = policies.load(str(tmp_path / "saved"), dtype=torch.bfloat16)
    optimizer = AdamW(half.model.parameters(), 1e-6)
    weights = checkpoints.read(str(tmp_path / "saved"))[1]
    optimizer.load_state_dict(runs.keep_float32(half, optimizer.state_dict(), weights))
    for master, param in zip(optimizer.master, exact.model.parameters()):
        assert master.dtype == torch.float32 and torch.equal(master, param)


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


def test_families_of_another_world_are_renamed_or_named(capsys):
    """Bug: four of SkillRL's six ALFWorld families can never be shown, without a word."""
    names = ["pick_and_place", "look_at_obj_in_light", "clean", "heat", "cool", "examine"]
    bank = bank_of(1, **{name: 1 for name in names}, chess=1)
    env = SimpleNamespace(tasks=range(len(FAMILIES)), train_tasks=[], family=FAMILIES.__getitem__,
                          aliases=World.aliases)
    runs.fit(bank, "theirs.json", env)
    assert "theirs.json: skills of chess are never shown" in capsys.readouterr().out
    assert len(bank.task_specific_skills["look_at_obj_in_light"]) == 2
    for family in set(FAMILIES) - {"pick_two_obj_and_place"}:
        assert bank.retrieve("anything", family, 3)[1:], family
    assert len(bank.skills()) == 8


@pytest.fixture
def again(monkeypatch):
    """again(run directory, *flags): `train.py --out DIR --resume` and no other flag."""
    monkeypatch.setattr("worlds.webshop.world.World.limit", 2)

    def resume(out, *flags):
        monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(out), "--resume", *flags])
        train.main()

    return resume


def settings(out):
    return json.loads((out / "config.json").read_text())


def weights(out):
    checkpoint = out / "checkpoints" / (out / "latest").read_text().strip()
    return policies.load(str(checkpoint)).model.state_dict()


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_goes_on_with_its_own_settings(run, again, begun, tmp_path, capsys):
    """Bug: --resume wants every flag once more; a default that follows the card or a preset is then another one."""
    run(tmp_path / "whole", "--steps", "2")
    again(begun, "--steps", "2")
    assert equal(weights(begun), weights(tmp_path / "whole")), "bit for bit"
    assert settings(begun)["steps"] == 2 and settings(begun)["changed"] == [{"step": 1, "steps": [1, 2]}]
    assert "goes on with steps 1 -> 2\n" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [
    {"recompute": True, "offload": True, "budget": 1000, "rows": 1, "context": 1400},
    {"eval_every": 2, "eval_tasks": 1, "eval_temperature": 0.0},
], ids=["memory", "evaluation"])
def test_flags_of_memory_and_of_evaluation_may_change(flags, again, begun, capsys):
    """Bug: the line after out-of-memory names flags that --resume refuses, one and all."""
    again(begun, "--steps", "2", *(word for name, value in flags.items() for word in (
        [f"--{name}"] if value is True else [f"--{name}", str(value)])))
    said, now = capsys.readouterr().out, settings(begun)
    assert (begun / "latest").read_text() == "step_00002\n" and now["changed"][0]["step"] == 1
    for name, value in flags.items():
        assert f"{name} " in said and now[name] == value and name in now["changed"][0], name
    again(begun, "--steps", "3")
    assert settings(begun).items() >= flags.items(), "and it stays so"


def test_what_out_of_memory_names_resume_takes():
    """Bug: the advice and what is accepted are two lists."""
    from tools import guard

    named = {word.strip(",") for word in guard.TRAINING.split() if word.startswith("--")}
    assert named == {f"--{name}" for name in runs.MEMORY}


@pytest.mark.parametrize("flags, said", [
    (["--lora", "4"], "lora 0, this is 4; leave --lora out"), (["--lr", "0.5"], "lr 0.001, this is 0.5"),
    (["--seed", "1"], "seed 0, this is 1"), (["--group", "4"], "group 2, this is 4"),
    (["--bank", "x.json"], "bank '', this is x.json"), (["--env", "guess"], "env webshop, this is guess"),
    (["--reviews", "off"], "reviews on, this is off"), (["--model", "tiny"], "this is tiny"),
    (["--base", "0.25"], "base 0.5, this is 0.25"),
], ids=lambda flags: flags[0] if isinstance(flags, list) else "")
def test_what_may_not_change_is_said_with_both_values(flags, said, again, begun, monkeypatch):
    """Bug: the figures of a run are of two methods; or one is not told which flag it was."""
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    line, _ = ends(again, begun, "--steps", "2", *flags)
    assert line.startswith("train.py: --resume: ") and said in line and "\n" not in line
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_a_finished_run_says_so(again, begun, capsys, monkeypatch):
    """Bug: everything is loaded, nothing is said, nothing is done."""
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded"))
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()}
    again(begun)
    again(begun, "--steps", "1", "--eval_every", "1")
    out = capsys.readouterr().out.splitlines()
    assert ["is finished: 1 iterations are done" in line for line in out] == [False, True] * 2
    assert {path: path.read_bytes() for path in begun.rglob("*") if path.is_file()} == before


def test_rows_that_memory_made_fewer_stay_fewer(run, again, random_tiny, tmp_path, monkeypatch, capsys):
    """Bug: a run resumed with more free memory plays more rows at once, and is not bit for bit the one that went on."""
    cfg = policies.load(random_tiny).model.cfg
    size = memory.of_rollout(cfg, 1, 1500, 4, policies.Session.PREFILL) / memory.SHARE + 1
    with monkeypatch.context() as patch:
        patch.setattr(memory, "free", lambda device: size)
        run(tmp_path / "whole", "--steps", "2")
        run(tmp_path / "parts", "--steps", "1")
    again(tmp_path / "parts", "--steps", "2")
    assert equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    for name in ("whole", "parts"):
        rows = report.lines_of(tmp_path / name / "metrics.jsonl")
        assert [(row["rows"], row["rows_kept"], row["threads"]) for row in rows] == [(1, 1, 1)] * 2
    again(tmp_path / "parts", "--steps", "3", "--rows", "3")  # a number that is given is tried
    row = report.lines_of(tmp_path / "parts" / "metrics.jsonl")[-1]
    assert row["rows"] == 2 and row["rows_kept"] == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(memory, "free", lambda device: size)
        again(tmp_path / "parts", "--steps", "4")
    said = [line for line in capsys.readouterr().out.splitlines() if "goes on with" in line]
    assert len(said) == 1 and "1 episodes at a time for 2, as memory is short; on a CPU it is then not bit" in said[0]


def test_other_threads_are_said(again, begun, monkeypatch, capsys):
    """Bug: `bit for bit` silently needs as many threads as before."""
    assert settings(begun)["threads"] == report.lines_of(begun / "metrics.jsonl")[0]["threads"] == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    again(begun, "--steps", "2")
    said = capsys.readouterr().out
    assert "threads 1 -> 3; on a CPU it is then not bit for bit" in said and "on cpu, 3 threads" in said
    assert [row["threads"] for row in report.lines_of(begun / "metrics.jsonl")] == [1, 3]


def test_a_value_in_config_json_that_no_flag_takes_is_named(again, begun):
    """Bug: a run of an older version goes on as another method, as its --advantage is none of today's."""
    before = settings(begun)
    for name, value in (("advantage", "gigpo"), ("lr", "fast"), ("tasks", 0), ("lora", True), ("base", "much")):
        (begun / "config.json").write_text(json.dumps({**before, name: value}))
        line, _ = ends(again, begun, "--steps", "2")
        assert f"config.json: {name} {value!r} is no value of --{name}" in line and "\n" not in line


def test_a_run_of_another_program_is_said_before_its_flags(again, begun):
    """Bug: train.py complains of a value in a fork's config.json, or of a flag, and not that it is a fork's run."""
    forked = {**settings(begun), "reviews": "off, always", "program": "forks.own"}
    (begun / "config.json").write_text(json.dumps(forked))
    line, _ = ends(again, begun, "--steps", "2")
    assert "was run with program forks.own, this is train.py; go on with that" in line and "\n" not in line


def test_a_flag_that_is_newer_than_the_run_has_its_default(again, begun):
    """Bug: a run from before there was --reviews goes on without reviews; or is refused for every new flag."""
    before = settings(begun)
    (begun / "config.json").write_text(json.dumps({name: value for name, value in before.items()
                                                   if name not in ("reviews", "base", "program", "threads")}))
    for name, value, said in (("--reviews", "off", "reviews on, this is off"), ("--base", "0.25", "base 0.5, this is")):
        assert said in ends(again, begun, "--steps", "2", name, value)[0]
    again(begun, "--steps", "2")
    assert (begun / "latest").read_text() == "step_00002\n"


def test_the_data_that_a_variable_named_is_kept(monkeypatch):
    """Bug: a run that was begun with $WEBSHOP_DATA is refused where the variable is not set."""
    monkeypatch.setenv("WEBSHOP_DATA", "real")
    assert runs.flags_of(train.read_flags([]), "train.py")["data"] == "real"
    assert runs.flags_of(train.read_flags(["--data", "other"]), "train.py")["data"] == "other"
    assert runs.flags_of(train.read_flags(["--env", "guess"]), "train.py")["data"] == ""


@pytest.mark.parametrize("out, what", [
    ("{tmp}/" + "n" * 300, "File name too long"), ("{tmp}/file", "a file"), ("{tmp}/file/run", "Not a directory"),
    ("/proc/run", "No such file"), ("{tmp}/link", "a broken link"),
], ids=["long", "file", "in a file", "proc", "link"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_that_cannot_be_had_is_one_line(out, what, resume, run, tmp_path, monkeypatch):
    """Bug: a traceback of pathlib; or found out at the first save, after the cold start."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    out = out.format(tmp=tmp_path)
    line, _ = ends(run, out, *["--resume"] * resume)
    assert line.startswith("train.py: ") and out in line and "\n" not in line
    assert ("holds no run" if resume and what != "File name too long" else what) in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="wants to become somebody else")
@pytest.mark.parametrize("mode", [0o555, 0o300, 0o000])
def test_somebody_elses_directory_is_one_line(mode, run, begun, monkeypatch, tmp_path):
    """Bug: a run that may not be entered or written is a traceback, or trains until its first save."""
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.owner() == "root" and folder != Path("/tmp"):
            folder.chmod(0o755)
    locked = tmp_path / "locked"
    locked.mkdir()
    shutil.move(begun, locked / "run")
    (locked / "empty").mkdir()
    for folder in ("run", "empty"):
        (locked / folder).chmod(mode)
    os.seteuid(65534)
    try:
        for out, more in ((locked / "empty", []), (locked / "run", []), (locked / "run", ["--resume", "--steps", "2"]),
                          (locked / "new" / "run", [])):
            line, _ = ends(run, out, *more)
            assert line.startswith("train.py: ") and str(out) in line and "\n" not in line
            assert "Permission denied" in line or mode == 0o555 and "holds a run" in line
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="wants to become somebody else")
def test_checkpoints_that_cannot_be_written_are_said_before_the_iterations(run, begun, monkeypatch):
    """Bug: the linked disk is somebody else's, which is found at the next save, after hours."""
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    for path in (begun, *begun.rglob("*"), *begun.parents[:4]):
        if path.owner() == "root" and path != Path("/tmp"):
            path.chmod(0o755 if path.is_dir() else 0o644)
    os.chown(begun, 65534, 65534)
    os.seteuid(65534)
    try:
        line, _ = ends(run, begun, "--resume", "--steps", "2")
    finally:
        os.seteuid(0)
    assert f"Permission denied in {begun / 'checkpoints'}" in line and "\n" not in line


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_run_can_be_read_by_whom_the_umask_lets(mask, mode, run, tmp_path):
    """Bug: safetensors makes model.safetensors 600: a colleague sees the run and cannot load it."""
    before = os.umask(mask)
    try:
        run(tmp_path / "run", "--steps", "0")
    finally:
        os.umask(before)
    for folder in ("reference", "checkpoints/step_00000"):
        for file in (tmp_path / "run" / folder).iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == mode, file


def test_what_fails_before_it_begins_leaves_no_directory(run, tmp_path):
    """Bug: after a typing error in a flag an empty run directory is left."""
    assert "--context" in ends(run, tmp_path / "runs" / "new", "--context", "40")[0]
    assert "no such skill bank" in ends(run, tmp_path / "runs" / "new", "--bank", "none.json")[0]
    assert not (tmp_path / "runs").exists()

"""The cold start: what is cut from a long transcript, and which tokens weigh more."""

import json
import shutil
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest
import torch

import policy as policies
import train
from tests.real import ROOT
from tests.runs import die, ends
from tools import coldstart, report, runs
from tools.coldstart import shorten, weigh
from tools.guard import UNFINISHED
from worlds.webshop import catalogue

IDS = list(range(100, 120))
SAID = [i in (4, 5, 8, 9, 10, 13, 18, 19) for i in range(20)]  # an opening of 4 tokens, four turns


@pytest.mark.parametrize("limit, kept, trained", [
    (20, range(20), [4, 5, 8, 9, 10, 13, 18, 19]),  # it fits
    (19, [0, 1, 2, 3, *range(8, 20)], [13, 18, 19]),
    (16, [0, 1, 2, 3, *range(8, 20)], [13, 18, 19]),
    (15, [0, 1, 2, 3, *range(13, 20)], [18, 19]),
    (10, range(10), [4, 5, 8, 9]),  # not two turns fit behind the opening
])
def test_a_long_transcript_keeps_its_task_and_its_end(limit, kept, trained):
    """Bugs: the end is cut instead, and with it the review: a model that lost never saw how one reviews a loss; what
    follows the task is trained although the turns before it are gone: a model that begins in the middle."""
    ids, said = shorten(IDS, SAID, limit)
    assert ids == [IDS[i] for i in kept] and [id for id, mine in zip(ids, said) if mine] == [IDS[i] for i in trained]
    assert len(ids) == len(said) <= limit


def test_a_transcript_without_an_answer_is_cut():
    """Bug: --chats with a chat that nobody answers ends the cold start with an IndexError."""
    assert shorten([1, 2, 3], [False] * 3, 2) == ([1, 2], [False] * 2)


def test_copied_words_weigh_more_and_given_ones_nothing():
    """Bug: the weight of a word comes from its own turn, or every bracket of the rules counts as copied."""
    ids, said = [7, 1, 2, 3, 3, 7, 9, 9, 4, 9], [False] * 3 + [True] * 4 + [False] * 2 + [True]
    assert weigh(ids, said, {7}, 5.0) == [0, 0, 0, 1, 1, 1, 1, 0, 0, 5.0]  # 3 was never given, 7 is of the rules
    assert weigh(ids, said, {7}, 1.0) == [float(mine) for mine in said]


def test_a_task_longer_than_the_context_is_one_line(env, tmp_path):
    """Bug: a division by zero, or NaN in every weight, after the model has been loaded for minutes."""
    flags = coldstart.Flags(steps=1, batch=1, context=8, out=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="nothing to learn in 8 tokens .* raise --context"):
        coldstart.cold_start(policies.load("tiny"), env, flags)


SHORT = "--batch 1 --lr 1e-3 --context 1500 --act_tokens 8 --review_tokens 8".split()


@pytest.fixture
def make(random_tiny, monkeypatch):
    """make(out, *flags): `python -m tools.coldstart` in this process."""

    def command(out, *flags):
        monkeypatch.setattr(sys, "argv", ["coldstart", "--model", random_tiny, *SHORT, "--out", str(out), *flags])
        coldstart.main()

    return command


@pytest.fixture
def brief(random_tiny, monkeypatch):
    """The cold start of train.py with one transcript per step."""
    monkeypatch.setitem(coldstart.PRESETS, random_tiny, dict(batch=1, lr=1e-3))


def test_a_step_that_is_no_number_changes_nothing():
    """Bug: AdamW skips it, Muon makes it, and the layers are nan where the words are not."""
    policy = policies.load("tiny")
    optimizers = coldstart.Optimizers(policy, coldstart.Flags(muon=0.01, lr=1e-3))
    before = [weight.clone() for weight in policy.model.parameters()]
    for weight in policy.model.parameters():
        weight.grad = torch.full_like(weight, float("nan"))
    optimizers.accumulate()
    optimizers.step(1.0)
    assert all(torch.equal(one, other) for one, other in zip(before, policy.model.parameters()))


def test_a_worlds_learning_rate_is_not_the_cold_starts(tmp_path):
    """Bug: a world's preset for train.py, 2e-5 for a pretrained model, is the SFT's rate too, a tenth of its own, and
    the model never learns to obey; or the lengths that a world has for its model are lost."""
    made = coldstart.read_flags(["--env", "counter", "--model", "smollm2", "--out", "x"])
    within = coldstart.of_run(train.read_flags(["--env", "counter", "--model", "smollm2"]))  # as a part of a run
    for one in (made, within):
        assert (one.lr, one.batch, one.copy, one.context) == (4e-4, 2, 3.0, 1024), "what the counter says of it"
    assert within.steps * within.batch == 200 and within.options == {**made.options, "rules": 0}
    (tmp_path / "config.json").write_text('{"made_from": "smollm2"}')
    again = coldstart.of_run(train.read_flags(["--env", "counter", "--model", str(tmp_path), "--cold_start", "5"]))
    assert (again.lr, again.batch, again.steps) == (4e-4, 2, 5), "a checkpoint of it"
    assert coldstart.read_flags(["--env", "webshop", "--model", "smollm2"]).lr == coldstart.PRESETS["smollm2"]["lr"]
    assert coldstart.read_flags(["--env", "webshop", "--model", "tiny", "--data", "x"]).lr == 3e-3
    assert coldstart.read_flags(["--env", "alfworld", "--model", "tiny"]).context == 2048


def test_what_it_makes_is_trained_with_the_presets_of_tiny(tmp_path, monkeypatch, one_thread):
    """Bug: a tiny of one's own is trained like a model of 1.5B, and has a second cold start."""
    out = str(tmp_path / "mine")
    monkeypatch.setattr("worlds.guess.world.World.corpus_chats", 20)
    monkeypatch.setattr(sys, "argv", f"x --env guess --model tiny --steps 1 --batch 1 --out {out}".split())
    coldstart.main()
    mine, tiny = (vars(train.read_flags(["--env", "guess", "--model", model])) for model in (out, "tiny"))
    assert mine | {"model": "", "out": ""} == tiny | {"model": "", "out": ""} and mine["cold_start"] == 0
    policies.load(out).save(tmp_path / "trained")  # as a checkpoint of a run
    assert train.read_flags(["--env", "guess", "--model", str(tmp_path / "trained")]).lr == tiny["lr"]
    assert train.read_flags(["--env", "guess", "--model", out, "--cold_start", "3"]).cold_start == 3


def test_words_that_a_step_does_not_have_keep_their_vectors(make, random_tiny, tmp_path):
    """Bug: each step pushes all absent words one way, until rare ones share a vector and cannot be copied."""
    def moved(*flags):
        out = tmp_path / f"out{len(flags)}"
        make(out, "--steps", "2", *flags)
        before, after = (policies.load(str(place)).model.model["embed_tokens"].weight for place in (random_tiny, out))
        return (before != after).any(1)

    every, some = moved(), moved("--keep_absent")
    assert every.float().mean() > 0.9 and 20 < some.sum() < len(some) / 2
    assert (every | ~some).all()


def test_it_learns_from_chats_in_a_file(tmp_path, capsys, make):
    """Bug: --chats goes another way than the scripted transcripts; its loss has to fall below the scripted start."""
    chat = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day to you"}]}
    (tmp_path / "chats.jsonl").write_text(json.dumps(chat) + "\n")
    losses = []
    for steps in ("1", "30"):
        make(tmp_path / steps, "--chats", str(tmp_path / "chats.jsonl"), *"--lr 5e-3 --batch 2 --steps".split(), steps)
        losses.append(float(capsys.readouterr().out.split("loss ")[-1].split()[0]))
    assert losses[0] > 5 and losses[1] < 1
    policy = policies.load(str(tmp_path / "30"))
    session = policies.Session(policy, 1, 64)
    session.feed([0], [policy.chat.opening("", "hello")])
    (ids, _), = session.sample([0], 20, temperature=0)
    assert policy.chat.decode(ids) == "good day to you<|im_end|>"  # the stop token was learned, too


def test_a_finished_cold_start_is_not_taken_for_another_runs(run, brief, tmp_path, monkeypatch, capsys):
    """Bug: killed in its baseline, a run is begun again with other flags, and its old reference is used for the KL."""
    flags = "--eval_every 1 --eval_tasks 2 --cold_start 2".split()
    with monkeypatch.context() as patch:
        patch.setattr(train, "dev_games", die)
        assert ends(run, tmp_path / "run", *flags)[1] == 130
    assert "holds a run" in ends(run, tmp_path / "run", "--cold_start", "3")[0]
    with monkeypatch.context() as patch:
        patch.setattr(runs, "save", die)  # killed again, after the baseline
        assert ends(run, tmp_path / "run", *flags, "--resume")[1] == 130
    (tmp_path / "run" / UNFINISHED).write_bytes(b"left over")
    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "cold_start", lambda *rest: pytest.fail("the cold start was made twice"))
        run(tmp_path / "run", *flags, "--resume")
    assert [row["step"] for row in report.lines_of(tmp_path / "run" / "metrics.jsonl")] == [0, 1]
    assert not (tmp_path / "run" / UNFINISHED).exists()


@pytest.mark.parametrize("kind", ["adamw", "muon", "lora"])
def test_a_cold_start_goes_on_bit_for_bit(kind, run, make, brief, tmp_path, monkeypatch, capsys):
    """Bug: a kill after 40 minutes of cold start loses all of it; or moments, losses or the schedule start anew."""
    monkeypatch.setattr(coldstart, "EVERY", 0)
    if kind == "muon":  # one round of its five, in bfloat16, which a CPU computes slowly
        monkeypatch.setattr(torch.optim, "Muon", partial(torch.optim.Muon, ns_steps=1))

    def begin(name, *more):  # LoRA is train.py's
        if kind == "lora":
            run(tmp_path / name, "--cold_start", "2", "--steps", "0", "--lora", "2", *more)
        else:
            make(tmp_path / name, "--steps", "2", *(["--muon", "0.01"] if kind == "muon" else []), *more)

    def losses():
        printed = capsys.readouterr().out
        return printed, [line.partition(",")[0] + line[line.find("loss"):].partition(",")[0]
                         for line in printed.splitlines() if "loss" in line]

    begin("whole")
    _, whole = losses()
    assert not (tmp_path / "whole" / UNFINISHED).exists(), "a finished cold start removes its file"
    step, count = coldstart.sft_step, []

    def killed(*rest):
        count.append(1)
        return step(*rest) if len(count) <= 1 else die()

    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "sft_step", killed)
        assert ends(begin, "parts")[1] == 130
    assert "part of the cold start is saved" in capsys.readouterr().err
    assert "--resume" in ends(begin, "parts")[0], "it is not begun again in silence"
    if kind != "lora":
        line, _ = ends(begin, "parts", "--resume", "--lr", "0.5")
        assert "was begun with lr 0.001, this is 0.5" in line and "\n" not in line
        line, _ = ends(begin, "parts", "--resume", "--muon", "0" if "muon" in kind else "0.25")
        assert "was begun with muon" in line, "its moments do not fit, and the file is whole"
    losses()
    begin("parts", "--resume")
    printed, parts = losses()
    assert parts == whole[1:] and "going on after 1 steps" in printed and "min left" in printed
    one, two = (policies.load(str(tmp_path / name / ("reference" if kind == "lora" else ""))).model.state_dict()
                for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_stands_in_its_way_is_named(make, tmp_path, monkeypatch):
    """Bug: half a file and a traceback of zipfile; or a directory of something else is replaced by a checkpoint."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / UNFINISHED).write_bytes(b"PK\x03")
    line, _ = ends(make, tmp_path / "broken", "--resume")
    assert UNFINISHED in line and "delete it" in line and "\n" not in line
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    line, _ = ends(make, tmp_path / "thesis")
    assert line.startswith("tools.coldstart: ") and "holds something else" in line and "\n" not in line
    monkeypatch.setattr(sys, "argv", ["coldstart", "--env", "guess"])
    assert "--out" in ends(coldstart.main)[0]
    assert "name it with --like" in ends(make, tmp_path / "alone", "--spread")[0]


def test_a_full_card_is_not_a_damaged_file(make, tmp_path, monkeypatch):
    """Bug: 22 GB of a cold start are read onto the card that they came from, and the line says: damaged, delete it."""
    monkeypatch.setattr(coldstart, "EVERY", 0)
    step, count = coldstart.sft_step, []
    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "sft_step", lambda *rest: step(*rest) if count.append(1) or len(count) < 2 else die())
        assert ends(make, tmp_path / "new", "--steps", "2")[1] == 130
    where = []
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *rest, load=torch.load, **more: where.append(more["map_location"]) or load(
            *rest, **more))
        patch.setattr(coldstart.Optimizers, "load_state_dict", lambda *rest: (_ for _ in ()).throw(
            torch.OutOfMemoryError("CUDA out of memory.")))
        line, _ = ends(make, tmp_path / "new", "--steps", "2", "--resume")
    assert where == ["cpu"] and "CUDA out of memory" in line and "damaged" not in line and "--recompute" in line


def test_a_large_cold_start_is_saved_seldom_and_never_on_a_full_disk(make, tmp_path, monkeypatch):
    """Bug: the first save, of 22 GB, comes after ten seconds; or minutes of work end with: no space left on device."""
    saves, clock = [], [0.0]
    monkeypatch.setattr(coldstart, "save_tensors", lambda state, file: saves.append(state["step"]))
    monkeypatch.setattr(coldstart.time, "monotonic", lambda: clock.append(clock[-1] + 1.0) or clock[-1])
    monkeypatch.setattr(coldstart, "saved_bytes", lambda model: (3 * 10**8, 10**8))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "sft_step", lambda *rest: 1.0)  # nothing is learned
        # 0.8 s to save, assumed: at most each 16 s; the clock ticks twice a step
        make(tmp_path / "one", "--steps", "9")
    assert saves == [8]
    monkeypatch.setattr(coldstart, "saved_bytes", lambda model: (3 * 10**9, 18 * 10**9))
    monkeypatch.setattr(coldstart, "sft_step", lambda *rest: pytest.fail("a step was made first"))
    line, _ = ends(make, tmp_path / "two", "--steps", "9")
    assert "the unfinished cold start takes 42.0 GB, 1.0 GB are free on that disk" in line and "\n" not in line


def test_memory_may_be_saved_when_a_cold_start_goes_on(make, tmp_path, monkeypatch, capsys):
    """Bug: after out-of-memory a line names flags that take less memory, and --resume refuses all of them."""
    monkeypatch.setattr(coldstart, "EVERY", 0)
    step, count = coldstart.sft_step, []
    with monkeypatch.context() as patch:
        patch.setattr(coldstart, "sft_step", lambda *rest: step(*rest) if count.append(1) or len(count) < 2 else die())
        assert ends(make, tmp_path / "new", "--steps", "2")[1] == 130
    make(tmp_path / "new", "--steps", "2", "--resume", *"--recompute --offload --budget 900 --context 1400".split())
    said = capsys.readouterr().out
    for change in ("budget 4096 -> 900", "recompute False -> True", "offload False -> True", "context 1500 -> 1400"):
        assert change in said
    assert "after 1 steps with" in said and (tmp_path / "new" / "model.safetensors").is_file()


def test_a_directory_that_cannot_be_written_is_said_before_the_first_step(make, tmp_path, monkeypatch):
    """Bug: forty minutes of cold start, and then a checkpoint that cannot be written; or an empty directory is left."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    for out in (tmp_path / "file", tmp_path / "file" / "new", tmp_path / ("n" * 300), "/proc/new"):
        line, _ = ends(make, out)
        assert line.startswith("tools.coldstart: --out ") and str(out) in line and "\n" not in line
    monkeypatch.setattr(policies, "load", lambda *rest, **more: die())
    assert ends(make, tmp_path / "new" / "new")[1] == 130 and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_it_goes_on_with_the_same_transcripts_alone(make, tmp_path, monkeypatch):
    """Bug: the products, or the chats, are others now, and the second half of a cold start learns from them."""
    monkeypatch.setattr(coldstart, "EVERY", 0)
    shop = catalogue.make(tmp_path / "shop", products=84)
    chats = tmp_path / "chats.jsonl"
    chat = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day to you"}]}
    chats.write_text(json.dumps(chat) + "\n")

    def killed(name, *flags):
        step, count = coldstart.sft_step, []
        with monkeypatch.context() as patch:
            patch.setattr(coldstart, "sft_step", lambda *rest: count.append(1) or (
                step(*rest) if len(count) < 2 else die()))
            assert ends(make, tmp_path / name, "--steps", "2", *flags)[1] == 130

    killed("games", "--data", str(shop))
    killed("chats", "--chats", str(chats))
    shop.rename(tmp_path / "elsewhere")
    chats.rename(tmp_path / "elsewhere.jsonl")
    items = tmp_path / "elsewhere" / "items_shuffle_1000.json"
    games, text = items.read_text(encoding="utf-8"), (tmp_path / "elsewhere.jsonl").read_text()
    for name, flags, file, kept, other in (
            ("games", ["--data", str(tmp_path / "elsewhere")], items, games, json.dumps(json.loads(games)[::-1])),
            ("chats", ["--chats", str(tmp_path / "elsewhere.jsonl")], tmp_path / "elsewhere.jsonl", text, 2 * text)):
        file.write_text(other, encoding="utf-8")
        line, _ = ends(make, tmp_path / name, "--steps", "2", "--resume", *flags)
        assert "was begun with transcripts from" in line and "\n" not in line
        file.write_text(kept, encoding="utf-8")
        make(tmp_path / name, "--steps", "2", "--resume", *flags)
        assert not (tmp_path / name / UNFINISHED).exists()


@pytest.mark.slow
def test_sigkill_in_the_cold_start(tmp_path, random_tiny):
    """The same with a real kill -9, wherever it falls."""
    code = "import tools.coldstart as c; c.EVERY = 0; c.main()"
    command = [sys.executable, "-c", code, "--model", random_tiny, *SHORT, "--steps", "40", "--out"]
    subprocess.run([*command, str(tmp_path / "calm")], cwd=ROOT, check=True, capture_output=True)
    resume: list = []
    for seconds in (5, 6, 7, 8):
        process = subprocess.Popen([*command, str(tmp_path / "hunted"), *resume], cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
        resume = ["--resume"] if (tmp_path / "hunted" / UNFINISHED).is_file() else []
    if not (tmp_path / "hunted" / "config.json").is_file():
        subprocess.run([*command, str(tmp_path / "hunted"), *resume], cwd=ROOT, check=True, capture_output=True)
    one, two = (policies.load(str(tmp_path / name)).model.state_dict() for name in ("calm", "hunted"))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("content, what", [
    ('{"messages": [{"role": "user", "content": "caf\xe9"}]}\n'.encode("latin-1"), "line 1: is not UTF-8"),
    (b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}\n', "list of parts"),
    (None, "chats.jsonl"),
])
def test_other_peoples_chats_are_named(content, what, make, tmp_path):
    """Bug: a codec's error without the file's name; or "roles are []" for content in parts."""
    if content:
        (tmp_path / "chats.jsonl").write_bytes(content)
    line, _ = ends(make, tmp_path / "out", "--steps", "1", "--chats", str(tmp_path / "chats.jsonl"))
    assert "chats.jsonl" in line and what in line and "\n" not in line

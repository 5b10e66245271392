"""Tests of eval.py: every game once, three protocols side by side, nothing changed by looking."""

import json
import shutil
import sys
from pathlib import Path

import pytest

import envs
import eval as evaluation
import policy as policies
from probes import Probing
from skillbank import Skill, SkillBank
from tests.runs import SMALL
from worlds.webshop import catalogue


@pytest.fixture
def model(random_tiny):
    return random_tiny


def run(*flags, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, flags)])
    evaluation.main()


def test_every_test_goal_is_played_exactly_once_per_protocol(model, tmp_path, monkeypatch, capsys):
    """An evaluation on a sample, or one that plays some goals twice, is not the published number's protocol."""
    monkeypatch.setattr("worlds.webshop.world.World.limit", 3)  # a random policy plays to the limit, and buys nothing
    data = catalogue.make(tmp_path / "shop", products=42)
    env = envs.make("webshop", "test", data=data)
    bank = SkillBank([Skill("dyn_001", "Look twice", "Read the title again.", "Always.")])
    bank.save(tmp_path / "bank.json")
    before = (tmp_path / "bank.json").read_text()
    shown = []
    play = envs.play
    monkeypatch.setattr(envs, "play", lambda plays, *rest: (
        plays and shown.append(len(plays[0].episode.shown)), play(plays, *rest))[1])
    # No review of a random policy parses, so "online" is cheap here; test_online below has one that edits.
    run(model, "--data", data, "--split", "test", "--bank", tmp_path / "bank.json", "--act_tokens", 8,
        "--review_tokens", 8, "--context", 1500, "--rows", 128, "--batch", 128, "--out", tmp_path / "result.json",
        monkeypatch=monkeypatch)
    result = json.loads((tmp_path / "result.json").read_text())
    assert list(result["protocols"]) == ["none", "frozen", "online"] and shown == [0, 1, 1]
    for protocol in result["protocols"].values():
        assert sorted(e["task"] for e in protocol["episodes"]) == env.tasks
        families = protocol["families"]
        assert sum(row["n"] for name, row in families.items() if name != "all") == families["all"]["n"]
        assert families["all"]["n"] == len(env.tasks)
        for name, row in families.items():
            mine = [e for e in protocol["episodes"] if name in ("all", e["family"])]
            assert row["success"] == sum(e["won"] for e in mine) / len(mine)
            assert row["score"] == pytest.approx(sum(e["score"] for e in mine) / len(mine))
    assert (tmp_path / "bank.json").read_text() == before
    assert "success" in capsys.readouterr().out


def test_online_grows_a_copy_of_the_bank_from_batch_to_batch(model, monkeypatch):
    """Edits of one batch must be in the next batch's prompts, and never in the bank that was handed in."""
    policy, env = policies.load(str(model)), envs.make("webshop", "test")
    how = envs.Sampling(act_tokens=8, review_tokens=8, context=1500)
    monkeypatch.setattr(env, "limit", 3)

    def review(text, bank, family, task):
        arguments = {"category": "general", "title": f"Rule {text}", "principle": f"Do {text}",
                     "when_to_apply": "always", "evidence": "none"}
        return bank.tried("propose_skill", arguments, family, task)

    def probe(policy, env, bank, edits, seed, probing):
        for i, edit in enumerate(edits):
            edit.utility = 1.0 if i == 0 else -1.0

    monkeypatch.setattr(envs, "review", review)
    monkeypatch.setattr(evaluation, "probe", probe)
    bank = SkillBank()
    episodes, grown, committed = evaluation.play_online(policy, env, bank, env.tasks[:6],
                                                         Probing(fresh=0, sampling=how), batch=2)
    assert [e.task for e in episodes] == env.tasks[:6] and bank.skills() == []
    assert len(grown.skills()) == len(committed) == 3
    assert [len(e.shown) for e in episodes] == [0, 0, 1, 1, 2, 2]


def test_an_empty_bank_is_not_played_twice(model, tmp_path, monkeypatch, capsys):
    """Frozen with nothing in the bank is the same prompts and the same random numbers as none."""
    run(model, "--split", "dev", "--limit", 2, "--protocols", "none,frozen", "--act_tokens", 8, "--review_tokens", 8,
        "--context", 1500, "--out", tmp_path / "r.json", monkeypatch=monkeypatch)
    protocols = json.loads((tmp_path / "r.json").read_text())["protocols"]
    assert list(protocols) == ["none", "frozen"] and protocols["none"] == protocols["frozen"]
    assert "same as none" in capsys.readouterr().out


def test_a_protocol_that_was_played_is_kept_when_the_next_is_stopped(model, tmp_path, monkeypatch):
    """Bug: Ctrl-C in the long online protocol loses the two that were done."""
    play = evaluation.play_protocol

    def stopped(protocol, *rest):
        if protocol == "online":
            raise KeyboardInterrupt
        return play(protocol, *rest)

    monkeypatch.setattr(evaluation, "play_protocol", stopped)
    with pytest.raises(SystemExit) as stop:
        run(model, "--split", "dev", "--limit", 1, "--act_tokens", 8, "--context", 1500, "--out", tmp_path / "r.json",
            monkeypatch=monkeypatch)
    assert stop.value.code == 130
    assert list(json.loads((tmp_path / "r.json").read_text())["protocols"]) == ["none", "frozen"]


@pytest.fixture
def quick(monkeypatch):
    """quick(*flags): eval.py without its games; returns the protocols that would have been played."""
    played = []
    monkeypatch.setattr(evaluation, "play_protocol", lambda protocol, policy, env, bank, tasks, *rest: (
        played.append(protocol) or {"games": len(tasks)}))

    def command(*flags):
        played.clear()
        run(*flags, monkeypatch=monkeypatch)
        return list(played)

    return command


def files(folder):
    return {path.name: json.loads(path.read_text()) for path in folder.glob("*.json") if path.name.startswith("eval")}


def test_a_second_evaluation_leaves_the_first_one_alone(model, quick, tmp_path, monkeypatch, capsys):
    """Bug: a quick look with --limit 1 replaces the evaluation of five hundred games, without a word."""
    monkeypatch.chdir(tmp_path)
    quick(model, "--protocols", "none")
    first, = files(tmp_path).items()
    bank = SkillBank([Skill("dyn_001", "Look twice", "Read the title again.", "Always.")])
    bank.save(tmp_path / "bank.json")
    others = (["--protocols", "frozen", "--limit", 1], ["--protocols", "none", "--limit", 1], ["--protocols", "frozen"],
              ["--split", "dev", "--protocols", "none"], ["--seed", 1], ["--temperature", 0], ["--context", 2000],
              ["--protocols", "none", "--bank", "bank.json"], ["--protocols", "none", "--human_goals"])
    for count, flags in enumerate(others, 2):
        quick(model, *flags)
        assert len(files(tmp_path)) == count and dict([first]).items() <= files(tmp_path).items(), flags
    before = files(tmp_path)
    quick(model, "--protocols", "none")
    quick(f"{model}/", "--protocols", "none", "--rows", 2, "--device", "cpu")
    assert files(tmp_path).keys() == before.keys() and "held another" not in capsys.readouterr().out, "the same again"
    bank.general_skills[0].title = "Look thrice"
    bank.save(tmp_path / "bank.json")
    quick(model, "--protocols", "none", "--bank", "bank.json")
    assert len(files(tmp_path)) == len(before) + 1 and "held another result" in capsys.readouterr().out


def test_what_cannot_be_written_is_said_before_the_games(model, quick, tmp_path, monkeypatch):
    """Bug: hours of games, and then the folder of --out is not there or is not ours, or a directory has the name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(policies, "load", lambda *rest, **more: pytest.fail("a model was loaded first"))
    name = f"eval_dev_{Path(model).name}.json"
    (tmp_path / name).mkdir()
    for flags, what in ((["--out", "file/r.json"], "--out file/r.json"), ([], name), (["--out", "file"], "file"),
                        (["--out", "x" * 300], "too long"), (["--out", "bank.json"], "bank.json")):
        SkillBank().save(tmp_path / "bank.json")
        with pytest.raises(SystemExit) as stop:
            quick(model, "--split", "dev", *flags)
        assert what in stop.value.code and stop.value.code.startswith("eval.py: ") and "\n" not in stop.value.code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.json", name, "file"]
    assert SkillBank.load("bank.json") == SkillBank(), "a bank is no result"


def test_other_games_than_the_runs_are_refused_or_said(train_in_process, quick, tmp_path, capsys):
    """Bug: the products were changed, as many as before, and the run is evaluated on goals that it trained on."""
    shop, copy = catalogue.make(tmp_path / "shop", products=84), tmp_path / "elsewhere" / "the same shop"
    train_in_process(SMALL, 2, tmp_path / "run", "--data", str(shop), "--steps", "0")
    shutil.copytree(shop, copy)
    assert quick(tmp_path / "run", "--data", copy, "--protocols", "none") == ["none"]
    assert "other games" not in capsys.readouterr().out
    items = shop / "items_shuffle_1000.json"
    items.write_text(json.dumps(json.loads(items.read_text(encoding="utf-8"))[::-1]), encoding="utf-8")
    with pytest.raises(SystemExit, match="run was trained in .* these are other games, .*--data") as stop:
        quick(tmp_path / "run", "--protocols", "none")
    assert "\n" not in stop.value.code
    assert quick(tmp_path / "run", "--data", shop, "--protocols", "none") == ["none"]
    assert "run was trained in" in capsys.readouterr().out, "asked for, and said"
    assert quick(tmp_path / "run", "--env", "guess", "--protocols", "none") == ["none"], "another world, on purpose"
    assert "run was trained in" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())  # of before worlds had fingerprints
    (tmp_path / "run" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "fingerprint"}))
    assert quick(tmp_path / "run", "--protocols", "none") == ["none"]


@pytest.mark.parametrize("flags, what", [
    (["x" * 300], "x"), (["MODEL", "--bank", "x" * 300], "x"), (["MODEL", "--data", "x" * 300], "x"),
    (["/no/model"], "/no/model"), (["MODEL", "--split", "tset"], "tset"),
    (["MODEL", "--bank", "/no/bank"], "/no/bank"), (["MODEL", "--data", "/no/data"], "/no/data"),
    (["MODEL", "--protocols", "warm"], "warm"), (["MODEL", "--x"], "--x"), (["MODEL", "--limit", "0"], "--limit"),
    (["MODEL", "--temperature", "-1"], "--temperature"), (["MODEL", "--temperature", "inf"], "--temperature"),
    (["MODEL", "--context", "300"], "--context"), (["MODEL", "--out", "."], "--out ."),
])
def test_bad_input_ends_with_one_line(flags, what, model, monkeypatch, capsys):
    """A traceback is no answer to a typo."""
    with pytest.raises(SystemExit) as stop:
        run(*[str(model) if flag == "MODEL" else flag for flag in flags], monkeypatch=monkeypatch)
    message = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.rstrip("\n")
    assert message.startswith("eval.py: ") and what in message and "\n" not in message

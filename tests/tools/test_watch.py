"""Watching and playing by hand: what is shown is what happened."""

import json
import sys

import pytest

import envs
from envs import Sampling
from probes import Probing
from skillbank import SkillBank
from tests.skills import bank_of
from tools import watch

pytestmark = pytest.mark.usefixtures("one_thread")
HOW = Sampling(temperature=0.4, act_tokens=96, review_tokens=160, context=3072, top_k=4)


def test_watching_tells_the_turns_as_they_were(env, tiny, capsys, monkeypatch):
    """Bug: the first page or the review is missing, or the watched games are not those of an evaluation."""
    monkeypatch.setattr(env, "limit", 4)
    tasks = env.dev_tasks[:2]
    probing = Probing(1, utility="graded", sampling=HOW)
    played = watch.watch(tiny, env, SkillBank(), tasks, HOW, 0, probing)
    told = capsys.readouterr().out
    assert "\033" not in told, "no colours into a file"
    for episode in played:
        assert f"=== task {episode.task} ({episode.family})" in told and env.goal(episode.task) in told
        position = told.index(f"=== task {episode.task}")
        for turn in episode.turns:  # in their order
            position = told.index(turn.reply, position)
        assert told.index(f"score {episode.score:.2f}", position) > 0
    again = envs.evaluate(tiny, env, SkillBank(), tasks, HOW)
    assert [e.turns for e in again] == [e.turns for e in played]
    assert "probes without -> with" in told and "utility" in told


def test_control_characters_do_not_reach_the_terminal(capsys):
    """Bug: a product's title clears the screen, or sets the window's name."""
    watch.show("a\033[2Jb\u202ec\x9b")
    told = capsys.readouterr().out
    assert told == "a\\x1b[2Jb\\x202ec\\x9b\n"


def by_hand(env, task, *lines):
    left = list(lines)

    def ask(prompt):
        if not left:
            raise EOFError
        return left.pop(0)

    return watch.play_by_hand(env, task, ask=ask)


def test_a_person_plays_the_same_game(env, capsys):
    """Bug: a person's actions are not read as the policy's are, a typing error costs no hint, the end is not told."""
    task = env.dev_tasks[0]
    game = by_hand(env, task, "", "SEARCH[Shoes]", "click[nowhere]", "click[back to serch]", "quit", "click[next >]")
    told = capsys.readouterr().out
    assert "You can: search[words]" in told and "Did you mean click[back to search]?" in told
    assert "You left the game." in told and not game.done and game.shop.available_actions()["clickables"]
    want = next(p for p in game.shop.products.values())
    game = by_hand(env, task, f"search[{want.name}]", *[f"click[{want.asin.lower()}]", "click[buy now]"])
    if game.done:
        assert f"score {game.score:.2f} after 3 of 15 steps" in capsys.readouterr().out
    by_hand(env, task)  # the end of the input is no traceback
    limit = by_hand(env, task, *["search[x]"] * 40)
    assert not limit.done and "You lost: score 0.00 after 15 of 15 steps." in capsys.readouterr().out


def test_a_person_sees_the_runs_skills_and_rules(tmp_path, monkeypatch, capsys):
    """Bug: --top_k is taken and not used; the rules are those of the first iteration, beside the bank of the last."""
    (tmp_path / "config.json").write_text(json.dumps({"env": "counter", "rules": 3, "drift": 1, "top_k": 1}))
    step = tmp_path / "checkpoints" / "step_00005"
    step.mkdir(parents=True)
    (step / "trainer.pt").touch()
    bank_of(general=3).save(step / "skills.json")
    (tmp_path / "latest").write_text("step_00005\n")
    played = []
    monkeypatch.setattr(watch, "play_by_hand", lambda env, task, bank, top_k: played.append((env.ways.rules, top_k)))
    asked = envs.make("counter", rules=3, drift=1)
    asked.at(4)
    for argv, shown in ([], 1), (["--top_k", "2"], 2):
        monkeypatch.setattr(sys, "argv", ["watch", str(tmp_path), "--play", *argv])
        watch.main()
        assert played.pop() == (asked.ways.rules, shown)
    monkeypatch.undo()
    env = envs.make("webshop")
    for top_k in 1, 3:
        watch.play_by_hand(env, env.dev_tasks[0], bank_of(general=3), lambda _: "quit", top_k)
        assert capsys.readouterr().out.count("[general_") == top_k


def test_playing_needs_no_model(monkeypatch, capsys):
    """Bug: a person who wants to look at a world must name a checkpoint first."""
    monkeypatch.setattr(sys, "argv", ["watch", "--play", "--env", "guess"])
    monkeypatch.setattr("builtins.input", lambda prompt: "31")
    watch.main()
    assert "You guess a number" in capsys.readouterr().out


@pytest.mark.parametrize("flags, line", [
    (["tiny", "0"], "--games 0: must be at least 1"), (["tiny", "--probes", "0"], "--probes 0: must be at least 1"),
    ([], "name a run directory or a model, or --play"), (["/no/run"], "/no/run"),
    (["--play", "--env", "chess"], "chess"),
])
def test_wrong_flags_are_one_line(flags, line, monkeypatch, capsys):
    """Bug: a traceback where a flag is missing another."""
    monkeypatch.setattr(sys, "argv", ["watch", *flags])
    with pytest.raises(SystemExit) as stop:
        watch.main()
    told = capsys.readouterr().err + str(stop.value.code)
    assert line in told and "tools.watch: " in told and "Traceback" not in told

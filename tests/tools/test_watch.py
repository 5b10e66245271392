"""Watching, playing by hand, auditing a bank: what is shown is what happened, and a harmful skill is found."""

import json
import sys

import pytest

import envs
import eval as evaluation
from envs import Sampling
from probes import Probing
from skillbank import Skill, SkillBank
from tools import audit, watch
from worlds.webshop.shopper import WAYS

pytestmark = pytest.mark.usefixtures("one_thread")
HOW = Sampling(temperature=0.4, act_tokens=96, review_tokens=160, context=3072, top_k=4)


def skill(number, family, key):
    text = next(text for text in WAYS.texts(family) if text["key"] == key)
    return Skill(f"dyn_{number:03d}", text["title"], text["principle"], text["when_to_apply"])


def test_watching_tells_the_turns_as_they_were(env, tiny, capsys):
    """Bug: the first page or the review is missing, or the watched games are not those of an evaluation."""
    tasks = env.dev_tasks[:2]
    probing = Probing(2, graded=True, sampling=HOW)
    played = watch.watch(tiny, env, SkillBank(), tasks, HOW, 0, probing)
    told = capsys.readouterr().out
    assert "\033" not in told, "no colours into a file"
    for episode in played:
        assert f"=== task {episode.task} ({episode.family})" in told and env.goal(episode.task) in told
        position = told.index(f"=== task {episode.task}")
        for turn in episode.turns:  # in their order
            position = told.index(turn.reply, position)
        assert told.index(f"score {episode.score:.2f}", position) > 0
    again = evaluation.evaluate(tiny, env, SkillBank(), tasks, HOW)
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


def test_playing_needs_no_model(monkeypatch, capsys):
    """Bug: a person who wants to look at a world must name a checkpoint first."""
    monkeypatch.setattr(sys, "argv", ["eval.py", "--play", "--env", "guess"])
    monkeypatch.setattr("builtins.input", lambda prompt: "31")
    evaluation.main()
    assert "You guess a number" in capsys.readouterr().out


def test_an_audit_finds_the_harmful_skill(env, tiny, tmp_path, capsys):
    """Bug: U has the wrong sign, so that the useful skills are retired and the harmful ones stay."""
    bank = SkillBank([skill(1, "general", "search"), skill(2, "general", "options"), skill(3, "general", "skip")],
                     {"footwear": [skill(4, "footwear", "plan")]})
    probing = Probing(3, graded=True, sampling=HOW)
    audit.run(tiny, env, bank, 0, probing, tmp_path / "audit.json", tmp_path / "left.json")
    rows = {row["skill_id"]: row for row in json.loads((tmp_path / "audit.json").read_text())["skills"]}
    assert rows["dyn_003"]["utility"] < 0 and rows["dyn_003"]["harmful"] and rows["dyn_003"]["hurts"]
    assert rows["dyn_001"]["utility"] > 0 and not rows["dyn_001"]["harmful"]
    assert rows["dyn_003"]["games"] == 21 and rows["dyn_004"]["games"] == rows["dyn_004"]["uses"] == 3
    for row in rows.values():
        assert row["interval"][0] <= row["utility"] <= row["interval"][1]
    left = {s.skill_id for s in SkillBank.load(tmp_path / "left.json").skills()}
    assert left == {"dyn_001", "dyn_002", "dyn_004"} and len(bank.skills()) == 4, "the bank itself stays"
    told = capsys.readouterr().out
    assert "HARMFUL" in told and "without dyn_003" in told


def test_a_skill_that_is_not_shown_is_worth_nothing_and_costs_nothing(env, tiny, monkeypatch):
    """Bug: every skill is played against the bank anew, so an audit takes as long as the training."""
    bank = SkillBank([skill(1, "general", "search")], {"a family of another world": [skill(2, "footwear", "options")]})
    counted = []
    monkeypatch.setattr("probes.rollout", lambda *args, real=envs.rollout, **more: counted.append(args[2]) or real(
        *args, **more))
    rows = audit.audit(tiny, env, bank, 0, Probing(1, sampling=HOW))
    assert len(counted) == 1 and len(counted[0]) == 14, "seven families with the skill and without"
    assert rows[1]["games"] == 0 and rows[1]["utility"] == 0.0 and not rows[1]["harmful"]


@pytest.mark.parametrize("flags, line", [
    (["--retire", "x.json"], "--retire FILE wants --audit"),
    (["a", "b", "c", "--report"], "one run, or two side by side"),
    (["a", "b"], "several only with --plot and --report"),
    (["tiny", "--watch", "0"], "--watch 0: must be at least 1"),
    (["runs/none", "--report"], "runs/none"),
])
def test_wrong_flags_are_one_line(flags, line, monkeypatch, capsys):
    """Bug: a traceback where a flag is missing another."""
    monkeypatch.setattr(sys, "argv", ["eval.py", *flags])
    with pytest.raises(SystemExit) as stop:
        evaluation.main()
    told = capsys.readouterr().err + str(stop.value.code)
    assert line in told and "Traceback" not in told

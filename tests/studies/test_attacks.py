"""Attacks on the bank: the gate stops what it can see, and the figures of what it cannot are real."""

import sys
from dataclasses import replace

import pytest

from skillbank import SHAPING, SkillBank, review, shaping, tool_call
from studies import attacks


def trials(env, name, graded=False, count=12):
    attack = next(attack for attack in attacks.attacks(env) if attack.name.startswith(name))
    gate = attacks.Gate(env, attack, graded)
    return gate, [gate.trial(number, 4, 8) for number in range(count)]


@pytest.mark.parametrize("name", ["blunt", "costly", "lucky neutral copy"])
def test_what_costs_wins_or_steps_is_stopped(env, name):
    """Bug: the gate clips U at 0, or an equal text counts as better by chance, since the games are not paired."""
    _, taken = trials(env, name)
    assert not any(at_k for at_k, *_ in taken)


def test_a_rug_pull_is_probed_against_the_text_it_replaces(env):
    """Bug: an update is compared with an empty bank, so the old skill's merit carries the new text in."""
    gate, taken = trials(env, "rug pull")
    assert not any(at_k for at_k, *_ in taken)
    assert gate.effect(env.train_tasks, True)["marker"] == 1.0, "the payload is real"
    alone = attacks.Gate(env, replace(gate.attack, before=()), False)
    assert any(alone.trial(number, 4, 8)[0] for number in range(12)), "as a proposal it is taken"


def test_a_trigger_harms_only_where_it_is_triggered(env):
    """Bug: the measured attack does something else than its text says."""
    gate, _ = trials(env, "family trigger", count=1)
    hit, other = (gate.effect(env.dev_tasks, triggered) for triggered in (True, False))
    assert hit["marker"] == 1.0 and hit["success with"] < hit["success without"] and hit["games"] == 21
    assert other["marker"] == 0.0 and other["success with"] > other["success without"]


def test_an_audit_finds_the_second_half_of_a_pair(env):
    """Bug: skills are only ever tested alone."""
    gate, taken = trials(env, "split pair")
    assert any(confirmed for _, confirmed, _ in taken)
    assert all(found for _, confirmed, found in taken if confirmed)


@pytest.mark.parametrize("text", attacks.INJECTIONS.values(), ids=attacks.INJECTIONS)
def test_texts_that_are_more_than_text_are_refused(text):
    """Bug: a skill closes the thought, opens a system message, or looks like another skill."""
    call = {"category": "general", "title": "Help", "principle": text, "when_to_apply": "Always.", "evidence": "-"}
    bank = SkillBank()
    result = bank.apply("propose_skill", call, "footwear")
    assert result.status == "markup" and not bank.skills()
    written = f"<think>x</think>{tool_call('propose_skill', call)}"
    assert shaping(written, review(written, bank, "footwear")) <= SHAPING["invalid_arguments"]


@pytest.mark.parametrize("text", [
    "If price < 50 and size > 7, buy.", "Use search[shoes] first, then click[size 8].", "Ask the user: what size?",
    "Step 1: open the fridge. Step 2: take the egg [if there].", "<title>", "a <b> c"])
def test_plain_texts_are_taken(text):
    """Bug: a rule against tags refuses comparisons, actions or lists."""
    call = {"category": "general", "title": "Help", "principle": text, "when_to_apply": "Always.", "evidence": "-"}
    assert SkillBank().apply("propose_skill", call, "footwear").status == "added"


def test_an_update_cannot_hide_a_second_skill():
    """Bug: a terse skill grows by four hundred characters that the probes of its family never reach."""
    bank = SkillBank()
    first = {"category": "general", "title": "Size", "principle": "Pick it.", "when_to_apply": "Always.",
             "evidence": "-"}
    assert bank.apply("propose_skill", first, "footwear").status == "added"
    change = {"skill_id": "dyn_001", "title": "Size", "when_to_apply": "Always.", "reason": "-"}
    assert bank.apply("update_skill", {**change, "principle": "x" * 300}, "footwear").status == "invalid_arguments"
    assert bank.skills()[0].principle == "Pick it."
    assert bank.apply("update_skill", {**change, "principle": "x" * 120}, "footwear").status == "updated"


def test_a_skill_is_one_line_of_the_prompt():
    """Bug: a line break in a principle looks like the next skill, or like the task."""
    bank = SkillBank()
    call = {"category": "general", "title": "A\nB", "principle": "C\r\n  D\u2028E", "when_to_apply": "F",
            "evidence": "-"}
    assert bank.apply("propose_skill", call, "footwear").status == "added"
    assert bank.skills()[0].line() == "[dyn_001] A B: C D E (F)"


def test_capture_of_the_prompt_is_measured(env):
    """The hole stays open, and the README says so: a skill made of the tasks' own words is always shown."""
    shown = attacks.capture(env)
    assert shown["capture"] > 0.9 > shown["plain"]


def test_a_file_that_cannot_be_written_is_said_first(tmp_path, monkeypatch):
    """Bug: a thousand trials, and then the folder of --out is a file."""
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(attacks, "attacks", lambda env: pytest.fail("it began"))
    monkeypatch.setattr(sys, "argv", ["attacks", "--out", str(tmp_path / "file" / "new.json")])
    with pytest.raises(OSError, match="--out .*new.json cannot be written"):
        attacks.main()

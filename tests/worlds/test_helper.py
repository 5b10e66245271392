"""The scripted players of ALFWorld: habits decide, commands are legal, demonstrations are whole."""

import random
import re
from importlib.util import find_spec
from types import SimpleNamespace

import pytest

import envs
from skillbank import Skill, SkillBank
from tests.real import REAL_HOUSE
from tools.coldstart import demonstrations
from worlds.alfworld.helper import WAYS, Helper

package = pytest.mark.skipif(find_spec("alfworld") is None, reason="no alfworld package to make games from")


def skills(family, *wanted, wording=0):
    return [SimpleNamespace(skill_id=f"dyn_{i:03d}", title=text["title"], principle=text["principle"],
                            when_to_apply=text["when_to_apply"])
            for i, text in enumerate(WAYS.texts(family, wording)) if text["kind"] in wanted or text["key"] in wanted]


def play(env, task, seed, *wanted, habits=None):
    """-> (won, steps, its player, [(commands, mistaken, thought, command, reply)])."""
    game, family = env.start(task), env.family(task)
    player, trace = Helper(game, family, skills(family, *wanted), random.Random(seed)), []
    if habits is not None:
        player.habits = set(habits)
    while not game.done and len(trace) < env.limit:
        commands = game.engine.commands
        thought, command = player.act(game.observation)
        trace.append((commands, player.mistaken, thought, command, game.step(command)))
    return game.won, len(trace), player, trace


@package
def test_skills_decide(made):
    """Bug: skills in the prompt make no difference, so counterfactual utility has nothing to measure."""
    def success(*wanted):
        return sum(play(made, task, task, *wanted)[0] for task in made.train_tasks[:36]) / 36

    useful, none, harmful = success("useful"), success(), success("harmful")
    assert useful > 0.9 and none < useful - 0.1 and harmful < none - 0.25, (useful, none, harmful)


@package
def test_good_habits_win_nearly_every_game(made):
    """Bug: games that nothing can win; a policy's ceiling would be the generator's fault."""
    useful = [key for key, kind in WAYS.kind.items() if kind == "useful"]
    ends = [play(made, task, task, habits=useful)[:2] for task in made.train_tasks[:40] + made.dev_tasks[:14]]
    assert sum(won for won, _ in ends) > 0.97 * len(ends)


@package
def test_players_speak_legal_commands(made):
    """Bug: demonstrations with commands that do nothing teach the model to say them."""
    for task in made.train_tasks[:12]:
        for wanted in ((), ("useful",), ("neutral",), ("harmful",)):
            for commands, mistaken, thought, command, reply in play(made, task, 1, *wanted)[3]:
                assert (command in commands, reply != "Nothing happens.") == (not mistaken, not mistaken), command
                assert thought and len(thought) < 300 and "\n" not in thought


@package
def test_a_slip_is_shown_with_what_follows_and_not_learned(made):
    """Bug: a model that saw nobody fail is lost after its first command that does nothing; or it learns to fail."""
    mistakes, others = 0, 0
    for chat in demonstrations(made, 20, seed=2):
        task = re.search(r"Task: (.*)", chat[1]["content"])[1]
        for said, reply, then in zip(chat[2:-2:2], chat[3:-2:2], chat[4:-1:2]):
            mistaken = reply["content"] == "Nothing happens."
            assert said.get("weight", 1) == (not mistaken)
            assert then["content"].startswith(f"<think>Nothing happened. I have to {task}.") == mistaken, then
            mistakes, others = mistakes + mistaken, others + (not mistaken)
    assert 0.01 < mistakes / others < 0.1


@package
def test_exercises_in_reading_tell_the_truth_about_the_page():
    """Bug: the model is taught to see what is not there, or that nothing ever is."""
    env, here, gone = envs.make("alfworld", "train", reading=1.0, games=5), 0, 0
    for chat in demonstrations(env, 12, seed=4):
        for reply, said in zip(chat[3:-2:2], chat[4:-1:2]):
            if said.get("weight", 1) == 0 or reply["content"] == "Nothing happens.":
                continue
            for kind, number in re.findall(r"I look for (\w+) (\d+|elsewhere)", said["content"]):
                there = re.findall(rf"\b{kind} (\d+)", reply["content"].partition("you see")[2].partition("\n")[0])
                if number == "elsewhere":  # a place shows the first of a pair again, and the goal's place what was put
                    gone += not there
                else:
                    assert number in there or f"use {kind} {number}" in reply["content"], (reply, said)
                    here += 1
    assert 0.1 < here / (here + gone) < 0.5, (here, gone)


@package
def test_demonstrations_are_whole_episodes_with_valid_reviews(made):
    """Bug: a demonstration whose review is penalised teaches to be penalised; hidden randomness breaks a resume."""
    chats = demonstrations(made, 16, seed=3)
    assert chats[:4] == demonstrations(made, 4, seed=3) != demonstrations(made, 4, seed=4)
    tools, endings = set(), set()
    for chat in chats:
        family = re.search(r"Family: (\w+)", chat[-2]["content"])[1]
        bank = SkillBank()
        for number in re.findall(r"\[(dyn_\d+)\]", chat[0]["content"]):
            bank.general_skills.append(Skill(number, number, number, "Always."))
        result = envs.review(chat[-1]["content"], bank, family)
        assert result.status in ("added", "updated", "kept"), result
        tools.add(result.status)
        endings.add("SUCCESS" in chat[-2]["content"])
        assert len(chat) <= 2 * made.limit + 3
    assert len(tools) == 3 and endings == {True, False}


@package
@pytest.mark.skipif(not (REAL_HOUSE / "json_2.1.1").is_dir(), reason=f"no real ALFWorld games at {REAL_HOUSE}")
def test_players_know_their_way_in_real_games():
    """Bug: players that only understand generated tasks and the new verbs."""
    env = envs.make("alfworld", "train", str(REAL_HOUSE))
    useful = [key for key, kind in WAYS.kind.items() if kind == "useful"]
    ends = [play(env, task, task, habits=useful)[0] for task in env.train_tasks[::3]]
    assert sum(ends) > 0.9 * len(ends)

"""Look on, and play: `python eval.py RUN --watch 3`, `python eval.py --play --env webshop`.

`watch` plays games of a run in the terminal, turn by turn: the skills shown, each thought, action and page, then the
review and, with --probes K, what its edit changes on K other games. `play_by_hand` lets a person play the same games
with the same pages.
"""

import difflib
import os
import re
import sys

import envs
from envs import rollout
from probes import edits_of, probe
from skillbank import CHANGED, SkillBank, skills_prompt
from tools.report import fate, status_of

COLOURS = {"dim": "2", "skill": "33", "thought": "36", "action": "1;34", "good": "32", "bad": "31"}


def paint(text, colour):
    """The text in a colour, where the terminal shows colours and nobody has set NO_COLOR."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{COLOURS[colour]}m{text}\033[0m"


def printable(text):
    """A text without control characters: a product's title must not move the cursor or clear the screen."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def show(text, colour=""):
    text = printable(text)
    print(paint(text, colour) if colour else text, flush=True)


def watch(policy, env, bank, tasks, sampling, seed, probing=None):
    """Play the tasks one after another and print each turn as it is made. probing: None, or how edits are probed.

    Returns the episodes. The random stream is the task's, as in an evaluation.
    """
    played = []
    for task in tasks:
        episode, = rollout(policy, env, [task], bank, seed=seed, sampling=sampling, keys=[task], tell=Teller())
        played.append(episode)
        edits = edits_of([episode])
        if edits and probing:
            probe(policy, env, bank, edits, seed, probing)
            u = edits[0].utility
            show(f"{fate(edits[0], False)[0]}\n    utility {u:+.3f}", "good" if u > 0 else "bad" if u < 0 else "dim")
        show("")
    return played


class Teller:
    """Prints an episode as it grows: called after each turn, and after the review."""

    def __init__(self):
        self.told = 0

    def __call__(self, episode):
        if not self.told:
            show(f"=== task {episode.task} ({episode.family})\n{episode.messages[1].splitlines()[0]}")
            show(skills_prompt(episode.shown), "skill")
            show("\n".join(episode.messages[1].splitlines()[1:]), "dim")
        if episode.edit:
            spoken(episode.review)
            return show(f"--- {status_of(episode)}", "good" if episode.edit["status"] in CHANGED else "dim")
        turn = episode.turns[-1]
        self.told += 1
        spoken(turn.text)
        show(turn.reply if turn.valid else f"(invalid)\n{turn.reply}", "dim" if turn.valid else "bad")
        if episode.score or episode.won:
            show(f"--- {'won' if episode.won else 'lost'}, score {episode.score:.2f}, {episode.steps} steps",
                 "good" if episode.won else "bad")


def spoken(text):
    """What the policy wrote: the thought in one colour, the rest in another."""
    thought, end, rest = text.partition("</think>")
    show(thought.replace("<think>", "").strip() if end else "", "thought")
    show(re.sub(r"</?(action|tool_call)>", "", rest if end else text).strip(), "action")


def play_by_hand(env, task, bank=None, ask=None):
    """Let a person play one game; returns it. An empty line, `?` and what the game does not know get a hint.

    ask(prompt) returns a line (None: input), and raises EOFError at the end of the input: the game ends, as by `quit`.
    """
    game, shown = env.start(task), (bank or SkillBank()).retrieve(env.goal(task), env.family(task))
    _, user = envs.first_messages(env, task, game, shown)
    show(f"{env.rules}\n{skills_prompt(shown)}\n\n{user}\n")
    steps = 0
    while not game.done and steps < env.limit:
        try:
            line = (ask or input)(f"[{steps + 1}/{env.limit}] > ").strip()
        except EOFError:
            line = "quit"
        if line == "quit":
            show("You left the game.")
            return game
        known = list(getattr(game, "commands", []))  # what a game takes now, where it can tell
        if line in ("", "?", "help"):
            show(f"Type an action without tags. {('You can: ' + '; '.join(known)) if known else env.rules}", "dim")
            continue
        action = line.lower()  # as the policy's actions are read
        before = game.page
        reply, steps = game.step(action), steps + 1
        show(reply)
        if known and action not in known and game.page == before and not action.startswith("search["):
            near = difflib.get_close_matches(action, known, 3, 0.5)
            show(f"That did nothing, and took a step. {'Did you mean ' + ' or '.join(near) if near else '? lists'}"
                 f"{'?' if near else ' what you can do.'}", "dim")
    show(f"{'You won' if game.won else 'You lost'}: score {game.score:.2f} after {steps} of {env.limit} steps.",
         "good" if game.won else "bad")
    return game

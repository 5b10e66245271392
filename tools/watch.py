"""Look on, and play: `python -m tools.watch RUN 3`, `python -m tools.watch --play --env webshop`.

`watch` plays games of a run and prints them turn by turn: the skills shown, each thought, action and page, then the
review and, with --probes K, what its edit changes on K other games. `play_by_hand` lets a person play the same games
with the same pages.
"""

import difflib
import os
import re
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see train.py

import envs
from envs import rollout
from lib.files import print_anything
from probes import edits_of, probe
from skillbank import SkillBank, skills_prompt
from tools import targets
from tools.guard import BROKEN, guard
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
    """Play the tasks one after another, and print each game when it is over. probing: None, or how edits are probed.

    Returns the episodes. The random stream is the task's, as in an evaluation.
    """
    played = []
    for task in tasks:
        episode, = rollout(policy, env, [task], bank, seed=seed, sampling=sampling, keys=[task])
        tell(episode)
        played.append(episode)
        edits = edits_of([episode])
        if edits and probing:
            probe(policy, env, bank, edits, seed, probing)
            u = edits[0].utility
            show(f"{fate(edits[0], False)[0]}\n    utility {u:+.3f}", "good" if u > 0 else "bad" if u < 0 else "dim")
        show("")
    return played


def tell(episode):
    """Print an episode: its skills, its turns, its end, and the review."""
    task, *page = episode.messages[1].splitlines()
    show(f"=== task {episode.task} ({episode.family})\n{task}")
    show(skills_prompt(episode.shown), "skill")
    show("\n".join(page), "dim")
    for turn in episode.turns:
        spoken(turn.text)
        show(turn.reply if turn.valid else f"(invalid)\n{turn.reply}", "dim" if turn.valid else "bad")
    show(f"--- {'won' if episode.won else 'lost'}, score {episode.score:.2f}, {episode.steps} steps",
         "good" if episode.won else "bad")
    if episode.edit:
        spoken(episode.review)
        show(f"--- {status_of(episode)}", "good" if episode.edit.changed else "dim")


def spoken(text):
    """What the policy wrote: the thought in one colour, the rest in another."""
    thought, end, rest = text.partition("</think>")
    show(thought.replace("<think>", "").strip() if end else "", "thought")
    show(re.sub(r"</?(action|tool_call)>", "", rest if end else text).strip(), "action")


def play_by_hand(env, task, bank=None, ask=None, top_k=envs.Sampling.top_k):
    """Let a person play one game; returns it. An empty line, `?` and what the game does not know get a hint.

    ask(prompt) returns a line (None: input), and raises EOFError at the end of the input: the game ends, as by `quit`.
    """
    game, shown = env.start(task), (bank or SkillBank()).retrieve(env.goal(task), env.family(task), top_k)
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


def read_flags(argv=None):
    parser = targets.parser_of("tools.watch", "Watch games of a run in the terminal, or play them yourself.")
    parser.add_argument("games", metavar="N", type=int, nargs="?", default=1, help="watch so many games (default: 1)")
    parser.add_argument("--probes", metavar="N", type=int, help="say what each edit is worth on N other games")
    parser.add_argument("--play", metavar="N", type=int, nargs="?", const=0,
                        help="play game N of the split yourself (default: 0); needs no target")
    args = targets.read(parser, argv, least={"games": 1, "probes": 1, "play": 0}, wanted=False)
    if not args.target and args.play is None:
        parser.error("name a run directory or a model, or --play")
    return args


def main():
    print_anything()
    args = read_flags()
    with guard("tools.watch", None, (ValueError, ImportError, *BROKEN)):
        if args.play is not None:
            env, bank = targets.open_world(args)
            targets.at_its_iteration(args, env)
            top_k = args.settings.get("top_k", envs.Sampling.top_k) if args.top_k is None else args.top_k
            play_by_hand(env, env.tasks[args.play % len(env.tasks)], bank, top_k=top_k)
        else:
            policy, env, bank, sampling = targets.open_target(args)
            probing = targets.probing_of(args, sampling, 4) if args.probes else None
            watch(policy, env, bank, env.tasks[:args.games], sampling, args.seed, probing)


if __name__ == "__main__":
    main()

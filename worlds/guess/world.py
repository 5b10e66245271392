"""The smallest world: guess a hidden number in six turns. worlds/README.md walks through this file.

There are 90 different games, so its held-out ones are not new; another world's should be.
"""

import random

from worlds.players import Habit, Player, Ways

HIGHEST = {"low numbers": 30, "high numbers": 60}  # family -> its numbers are 1 .. this
HABITS = (
    Habit("halve", "useful", ("{family}: guess the middle", "{family}: halve them"),
          ("Guess the middle of what is left of {family}.", "Halve {family} with each guess."),
          "Before each guess.", "A guess should halve what is left."),
    Habit("top", "harmful", ("{family}: guess high", "{family}: start at the top"),
          ("Guess the highest of {family} that is left.", "Begin with the highest of {family}."),
          "Before each guess.", "High numbers are many."))
WAYS = Ways(HABITS, HIGHEST, {"general": "all numbers"})


class World:
    home = known = "guess"
    limit, kl, tail, graded, ways, corpus_chats = 6, 0.01, 20, False, WAYS, 200
    options: dict = {}
    aliases: dict = {}
    source = "guessing games"
    rules = ("You guess a number. Each turn answer <think>one short thought</think><action>a number</action>. "
             "Follow your skills.")

    def __init__(self, split, data=None, seed=0):
        splits = {"test": range(100), "dev": range(100, 200), "train": range(200, 800)}
        if split not in splits:
            raise ValueError(f"--split {split}: guess has {', '.join(splits)}")
        if data:
            raise ValueError(f"--data {data}: guess makes its numbers up; leave it out")
        self.tasks, self.train_tasks, self.dev_tasks = (list(splits[name]) for name in (split, "train", "dev"))

    def family(self, task):
        return list(HIGHEST)[task % 2]

    def goal(self, task):
        return f"guess my number, it is between 1 and {HIGHEST[self.family(task)]}"

    def name(self, task):
        return f"number {task}"

    def start(self, task):
        return Guess(HIGHEST[self.family(task)], random.Random(task))

    def player(self, game, task, skills, rng):
        return Guesser(game, self.family(task), skills, rng)

    def vocabulary(self):
        return [str(number) for number in range(61)] * 2  # twice: a word that occurs once gets no token of its own

    def describe(self):
        return "guess, numbers up to 60"


class Guess:
    def __init__(self, highest, rng):
        self.low, self.high, self.secret = 1, highest, rng.randint(1, highest)
        self.page = self.observation = "You have 6 guesses."
        self.done, self.won, self.score = False, False, 0.0

    def step(self, action):
        guess = int(action) if action.isdecimal() and len(action) < 10 else 0
        if guess == self.secret:
            self.done, self.won, self.score, verdict = True, True, 1.0, "it!"
        elif guess < self.secret:
            self.low, verdict = max(self.low, guess + 1), "too low."
        else:
            self.high, verdict = min(self.high, guess - 1), "too high."
        self.page = self.observation = f"{action} is {verdict}"
        return self.page


class Guesser(Player):
    ways = WAYS

    def act(self, observation):
        if "top" in self.habits:
            return self.because("top", "I guess high."), str(self.game.high)
        if "halve" in self.habits:
            return self.because("halve", "I halve."), str((self.game.low + self.game.high) // 2)
        return "I go on.", str(self.game.low)

    def blame(self):
        return "halve"

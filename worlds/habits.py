"""Ways to act that a skill can name, and what the scripted players of both worlds share: how they heed skills.

The cold start teaches a model the form of a turn and of a review, and to heed the skills in its prompt. Players write
its transcripts (catalogue.py, household.py): they follow a habit nearly always if a skill in their prompt names it,
else only sometimes, and review badly on purpose, so that something is left to learn.
"""

import random
from dataclasses import dataclass

import envs
from skillbank import Skill, review_prompt, tool_call

BASE = 0.5  # how often a player has a useful habit that no skill names
SHOWN = {"useful": 0.95, "neutral": 0.9, "harmful": 0.9}  # a habit that a skill in the prompt names
UNSHOWN = {"neutral": 0.1, "harmful": 0.03}  # any other habit
INSIGHT = 0.3  # a review names the habit that decided the episode this often, else it guesses
GENERAL = 0.5  # share of proposals for all families
WORDINGS = 2  # of each habit


@dataclass(frozen=True)
class Habit:
    key: str
    kind: str  # useful | neutral | harmful
    titles: tuple[str, ...]  # wordings of one meaning, so that a model learns more than one string;
    principles: tuple[str, ...]  # with {family}, as the bank takes equal texts of two families for duplicates
    when_to_apply: str
    lesson: str  # how a review comes to it


class Ways:
    """The habits of a world, as skills for each of its families and for "general". spoken: how families are said."""

    def __init__(self, habits, families, spoken):
        self.habits, self.spoken = habits, spoken
        self.kind = {habit.key: habit.kind for habit in habits}
        self._keys = {plain(skill[field]): skill["key"] for family in (*families, "general")
                      for wording in range(WORDINGS) for skill in self.texts(family, wording)
                      for field in ("title", "principle")}

    def worded(self, habit, family, wording):
        name, wording = self.spoken.get(family, family), wording % WORDINGS
        return {"title": habit.titles[wording].format(family=name.capitalize()),
                "principle": habit.principles[wording].format(family=name), "when_to_apply": habit.when_to_apply}

    def texts(self, family, wording=0):
        """Every habit as a skill for `family` (or "general"): [{key, kind, title, principle, when_to_apply}]."""
        return [{"key": habit.key, "kind": habit.kind, **self.worded(habit, family, wording)} for habit in self.habits]

    def meaning(self, skill):
        """The key of the habit that a skill (or an edit's arguments) speaks of; None for words that are not ours."""
        said = skill if isinstance(skill, dict) else vars(skill)
        return self._keys.get(plain(said["principle"])) or self._keys.get(plain(said["title"]))


def plain(text):
    return " ".join(text.lower().split())


class Player:
    """A scripted player: habits drawn once, an `act` that a world gives it, and a review. All chance comes from rng.

    skills: what the prompt shows, objects with skill_id, title, principle, when_to_apply.
    """

    ways = None  # a world's Ways
    slipped = False  # was its last turn a mistake that shall not be learned?

    def __init__(self, family, skills, rng, base=BASE):
        self.family, self.rng = family, rng
        self.shown = {self.ways.meaning(skill): skill for skill in skills if self.ways.meaning(skill)}
        self.habits = set()
        for habit in self.ways.habits:  # one draw each, shown or not: so the other habits stay the same without a skill
            chance = SHOWN[habit.kind] if habit.key in self.shown else {"useful": base, **UNSHOWN}[habit.kind]
            if rng.random() < chance:
                self.habits.add(habit.key)

    def because(self, key, text):
        """Quotes the skill that is at work, so that a model which learns the text learns to look at its skills."""
        return f"{self.shown[key].title}. {text}" if key in self.shown else text

    def review(self, won, score, steps):
        """-> (thought, tool, arguments): what to write into the bank after the episode.

        Mediocre by design: right about what decided the episode at most INSIGHT of the time, else any habit at all,
        harmful ones included, so that counterfactual utility has something to sort out.
        """
        rng, habits, outcome = self.rng, self.ways.habits, f"The score was {score:.2f} after {steps} steps."
        if won and self.shown and rng.random() < 0.5:
            return f"{outcome} The skills did their work.", "keep_skill", {"reason": "Won with these skills."}
        helped = [habit for habit in habits if habit.kind == "useful" and habit.key in self.habits]
        blamed = [habit for habit in habits if habit.key == self.blame()]
        habit = rng.choice(helped if won and helped else blamed) if rng.random() < INSIGHT else rng.choice(habits)
        known = self.shown.get(habit.key)
        if known and rng.random() < 0.5:
            return f"{outcome} The bank knows what matters.", "keep_skill", {"reason": "The bank says it already."}
        misled = [skill for key, skill in self.shown.items() if self.ways.kind[key] == "harmful" and not won]
        thought, wording = f"{outcome} {habit.lesson}", rng.randrange(WORDINGS)
        if known or misled:  # to propose a known one would be a duplicate; what led astray is rewritten in place
            skill = known or misled[0]
            where = "general" if skill.title.startswith(self.ways.spoken["general"].capitalize()) else self.family
            if self.ways.worded(habit, where, wording)["title"] == skill.title:
                wording += 1  # an update should change something
            text = self.ways.worded(habit, where, wording)
            return thought, "update_skill", {"skill_id": skill.skill_id, **text, "reason": outcome}
        where = "general" if rng.random() < GENERAL else self.family
        text = self.ways.worded(habit, where, wording)
        return thought, "propose_skill", {"category": where, **text, "evidence": outcome}

    def blame(self):
        """The useful habit whose absence cost the reward, as far as a player can tell."""
        raise NotImplementedError


def demonstrations(env, count, seed):
    """Chats of players on training tasks of a world, with some random skills in the prompt.

    env: one of our worlds, which has `ways` and player(game, task, skills, rng).
    """
    ways = env.ways
    rng, chats = random.Random(f"demonstrations/{seed}"), []
    for _ in range(count):
        task = rng.choice(env.train_tasks)
        family = env.family(task)
        general = rng.randrange(5) if rng.random() < 0.5 else 0
        texts = (rng.sample(ways.texts("general", rng.randrange(WORDINGS)), general)
                 + rng.sample(ways.texts(family, rng.randrange(WORDINGS)), rng.randrange(5)))
        shown = [Skill(f"dyn_{number:03d}", text["title"], text["principle"], text["when_to_apply"])
                 for number, text in zip(rng.sample(range(1, 40), len(texts)), texts)]
        game = env.start(task)
        chats.append(scripted(env, task, shown, game, env.player(game, task, shown, rng)))
    return chats


def scripted(env, task, shown, game, player):
    """A whole episode of a player as a chat: exactly the messages that `rollout` would exchange."""
    system, user = envs.opening(env, task, game, shown)
    said = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    steps = 0
    while not game.done and steps < env.limit:
        thought, action = player.act(game.observation)
        said.append({"role": "assistant", "content": f"<think>{thought}</think><action>{action}</action>"})
        if player.slipped:
            said[-1]["weight"] = 0
        said.append({"role": "user", "content": game.step(action)})
        steps += 1
    said[-1]["content"] += "\n" + review_prompt(env.family(task), game.won, game.score, steps, env.limit)
    thought, name, arguments = player.review(game.won, game.score, steps)
    return said + [{"role": "assistant", "content": f"<think>{thought}</think>{tool_call(name, arguments)}"}]

"""Scripted players of every world: the habits they have, and how they obey skills.

The cold start teaches a model the form of a turn and of a review, and to obey the skills in its prompt. Players write
its transcripts (webshop/shopper.py, alfworld/helper.py). A habit is a way to act that a skill can name. A player
follows a habit nearly always if a skill in its prompt names it, else only sometimes. It reviews badly on purpose, so
that something is left to learn.
"""

from dataclasses import dataclass

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
    titles: tuple[str, ...]  # wordings of one meaning, so that a model learns more than one string; they name the
    principles: tuple[str, ...]  # {family}, since the bank counts equal texts of two families as duplicates
    when_to_apply: str
    lesson: str  # the sentence in a review that leads to this skill


def spelled(text):
    """The words of a text, however they are spaced and capitalised."""
    return tuple(text.lower().split())


class Ways:
    """The habits of a world, as skills for each of its families and for "general".

    spoken: how a family is called in a sentence, where that is not its name.
    """

    def __init__(self, habits, families, spoken):
        self.habits, self.families, self.spoken = habits, list(families), spoken
        self.kind = {habit.key: habit.kind for habit in habits}
        self._keys = {spelled(skill[field]): skill["key"] for family in (*families, "general")
                      for wording in range(WORDINGS) for skill in self.texts(family, wording)
                      for field in ("title", "principle")}

    def worded(self, habit, family, wording):
        name = self.spoken.get(family, family)
        title = habit.titles[wording % len(habit.titles)].format(family=name.capitalize())
        principle = habit.principles[wording % len(habit.principles)].format(family=name)
        return {"title": title, "principle": principle, "when_to_apply": habit.when_to_apply}

    def texts(self, family, wording=0):
        """Every habit as a skill for `family` (or "general"): [{key, kind, title, principle, when_to_apply}]."""
        return [{"key": habit.key, "kind": habit.kind, **self.worded(habit, family, wording)} for habit in self.habits]

    def meaning(self, skill):
        """The key of the habit that a skill (or an edit's arguments) names; None for words that no player uses."""
        text = skill if isinstance(skill, dict) else vars(skill)
        return self._keys.get(spelled(text["principle"])) or self._keys.get(spelled(text["title"]))


class Player:
    """A scripted player: habits drawn once, and a review. A world's own player adds `ways`, `act` and `blame`.

    game: what it plays; skills: what the prompt shows, objects with skill_id, title, principle, when_to_apply; rng: the
    source of all its chance; base: how often it has a useful habit that no skill names.
    """

    ways: Ways
    mistaken = False  # its last turn was a mistake: the transcript shows it, training skips it

    def __init__(self, game, family, skills, rng, base=BASE):
        self.game, self.family, self.rng = game, family, rng
        self.shown = {self.ways.meaning(skill): skill for skill in skills if self.ways.meaning(skill)}
        self.habits = set()
        # One draw per habit, whether shown or not: adding a skill changes only its own habit.
        for habit in self.ways.habits:
            chance = SHOWN[habit.kind] if habit.key in self.shown else {"useful": base, **UNSHOWN}[habit.kind]
            if rng.random() < chance:
                self.habits.add(habit.key)

    def because(self, key, text):
        """A thought that quotes the skill it follows, so that a model that learns it learns to look at its skills."""
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
        if known or misled:  # proposing a known skill would be a duplicate; a skill that misled is overwritten
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

"""
The parcel counter: a world of hidden rules, where one glance at a failure tells what a thousand tries find slowly.

Every town wants one seal on each kind of parcel, drawn from the run's seed: no transcript ever showed which. The man in
the queue talks, the clerk knows: a wrong seal is refused, the game is lost, and the refusal tells the truth. The next
customer profits only if it was written down. Some wrong seals are overlooked, so success alone deceives. Then a sum
is to be paid: no skill tells it, practice does.

    send Mina's glass parcel to Arvel today. Seals: red, blue, green, white, ...
    The man in the queue says: Arvel wants the blue seal on glass parcels.
                        <think>The man says the blue seal.</think><action>blue seal</action>
    Refused. The clerk says: Arvel wants the pink seal on glass parcels.
                        propose_skill Arvel glass pink seal
"""

import copy
import itertools
import random
import re
from functools import cached_property

TOWNS, KINDS = 18, 3  # of the lists below; 54 facts, and one kind has the same seal in all towns
EVERYBODY = "Everybody"  # who wants it, in the words of a general skill
LUCK = 0.3  # share of the wrong seals that are overlooked
FEE = 3  # the highest: a model of a million parameters learns nine sums by practice, not 36
IDS = 160  # so many ids of skills are single tokens
SKILL = re.compile(r"(\w+) wants the (\w+) seal on (\w+) parcels")

towns = ("Arvel Brink Corden Dunmore Elvas Farrow Garth Hollin Istria Jarrow Kelso Lindow Morvan Norrby Orsa Penrith "
         "Quarry Rudbar Selby Tarnow Ulm Welby Yarm Zell").split()[:TOWNS]
kinds = "glass fruit book cloth".split()[:KINDS]
seals = "red blue green white black pink grey brown amber silver golden violet copper ivory scarlet orange".split()
customers = "Ada Bruno Clara Daria Emil Flora Gus Hanna Ivo Jonas Kira Leo Mina Nora Otto Paula".split()


def draw_rules(rng):
    """{(town, kind): seal}: each drawn by itself, but one kind has one seal everywhere."""
    rules = {(town, kind): rng.choice(seals) for town in towns for kind in kinds}
    common, seal = rng.choice(kinds), rng.choice(seals)
    return rules | {(town, common): seal for town in towns}


def skill(who, kind, seal):
    """A rule as a skill: who is a town, or EVERYBODY. In a title the seal follows its kind at once: so it is found."""
    return {"title": f"{who} {kind} {seal} seal", "principle": f"{who} wants the {seal} seal on {kind} parcels.",
            "when_to_apply": "At the counter."}


class Ways:
    """What skills mean, and what the hidden rules say of them."""

    def __init__(self, rules):
        self.rules = rules

    def meaning(self, text):
        """(who, kind, seal) of a skill or an edit's arguments, who "" in the wrong place; None where it is no rule."""
        text = text if isinstance(text, dict) else vars(text)
        rule = SKILL.match(text["principle"])
        who, seal, kind = rule.groups() if rule else ("", "", "")
        place = "general" if who == EVERYBODY else who
        known = place in (*towns, "general") and seal in seals and kind in kinds
        return (who if text.get("category", place) == place else "", kind, seal) if known else None

    @cached_property
    def kind(self):
        """{meaning: right, half (another kind's or town's rule, or in the wrong place) or wrong}."""
        return {rule: self.judge(*rule) for rule in itertools.product((*towns, EVERYBODY, ""), kinds, seals)}

    def judge(self, who, kind, seal):
        if {self.rules[town, kind] for town in towns if who in (town, EVERYBODY)} == {seal}:
            return "right"
        near = {self.rules[place] for place in self.rules if who in ("", place[0]) or kind == place[1]}
        return "half" if seal in near else "wrong"

    def texts(self, family, wording=0):
        """The true rules of a town, or those that hold everywhere for "general": skills with their key and kind."""
        who = EVERYBODY if family == "general" else family
        return [{"key": key, "kind": kind, **skill(*key)} for key, kind in self.kind.items()
                if key[0] == who and kind == "right"]

    def known(self, skills, town, kind):
        """The seal that the skills of a prompt or a list name: the town's own before everybody's, the first of each."""
        found = {}
        for who, of, seal in filter(None, map(self.meaning, skills)):
            if of == kind:
                found.setdefault(who, seal)
        return found.get(town, found.get(EVERYBODY))


class World:
    home = known = "counter"
    limit, kl, tail, graded, corpus_chats = 3, 0.02, 20, True, 400
    options: dict = {
        "rules": (-1, "number of the hidden rules; -1: --seed"),
        "evidence": (0.1, "how often scripted players quote the clerk after a refusal"),
        "reading": (0.0, "how often scripted players exercise themselves in reading"),
    }
    seeded = ("rules",)  # options that are the run's --seed where they are not given
    aliases: dict = {}
    source = "parcel counter"
    rules = ("You send parcels. Each town wants its own seal on each kind. Answer <think>one short thought</think>"
             "<action>COLOUR seal</action>, then <action>pay SUM</action>. Follow your skills.")

    def __init__(self, split, data=None, seed=0, rules=-1, evidence=0.1, reading=0.0):
        self.number, self.evidence, self.reading = seed if rules < 0 else rules, evidence, reading
        self.ways = Ways(draw_rules(random.Random(f"rules/{self.number}")))
        facts = len(towns) * len(kinds)  # a round of customers has one of each
        splits = {"test": range(6 * facts), "dev": range(6 * facts, 12 * facts), "train": range(12 * facts, 32 * facts)}
        if split not in splits:
            raise ValueError(f"--split {split}: counter has {', '.join(splits)}")
        self.tasks, self.train_tasks, self.dev_tasks = (list(splits[name]) for name in (split, "train", "dev"))

    def family(self, task):
        return towns[task % len(towns)]

    def sort(self, task):  # the kind of its parcel
        return kinds[task // len(towns) % len(kinds)]

    def goal(self, task):
        name = random.Random(f"customer/{task}").choice(customers)
        return f"send {name}'s {self.sort(task)} parcel to {self.family(task)} today."

    def name(self, task):
        return f"customer {task}"

    def start(self, task):
        return Counter(task, self.family(task), self.sort(task), self.ways.rules)

    def player(self, game, task, skills, rng):
        return Sender(game, self.ways, skills, rng, self.evidence, self.reading)

    def demonstration(self, task, rng):
        """(a counter with rules of its own, skills to show there): the rules of a run stay hidden."""
        other, town = copy.copy(self), self.family(task)
        other.ways = Ways(draw_rules(rng))
        # Of the town, in an exercise of all towns, and some general ones; three in ten name any seal.
        places = [(who, kind) for who in (towns if rng.random() < self.reading else [town]) for kind in kinds]
        shown = rng.sample(places, min(rng.randrange(7), len(places)))
        shown = [(EVERYBODY, kind) for kind in kinds if rng.random() < 0.15] + shown
        if not self.reading:  # as a prompt lists them: general ones first, in each list first what fits
            shown.sort(key=lambda place: (place[0] != EVERYBODY, place[1] != self.sort(task)))
        texts = [skill(who, kind, other.ways.rules[town if who == EVERYBODY else who, kind] if rng.random() < 0.7
                       else rng.choice(seals)) for who, kind in shown]
        ids = rng.sample(range(1, IDS), len(shown))
        return other, [{"skill_id": f"dyn_{i:03d}", **text} for i, text in zip(ids, texts)]

    def vocabulary(self):
        words = [*towns, *kinds, *seals, *map(str, range(14)), *(f"dyn_{i:03d}" for i in range(IDS))]
        return [f"{word} {word}" for word in words]  # a word that occurs once gets no token of its own

    @staticmethod
    def presets(data):
        return {"tiny": dict(utility="graded", lr=6e-4, entropy=0.003, steps=45, tasks=8, group=4, eval_tasks=108)}

    def describe(self):
        return f"counter, rules {self.number}: {len(towns)} towns, {len(kinds)} kinds of parcel, {len(seals)} seals"

    def measures(self, episodes, bank):
        """For metrics.jsonl: reviews that write down what a refusal told and no skill, facts that the bank knows."""
        lost = right = 0
        for e in episodes:
            town, kind = e.family, self.sort(e.task)
            told = self.ways.known(e.shown, town, kind) == self.ways.rules[town, kind]
            if e.edit and e.turns[0].reply.startswith("Refused") and not told:
                rule = e.edit.changed and self.ways.meaning(e.edit.arguments) or ("", "", "")
                lost += 1
                right += rule[0] in (town, EVERYBODY) and rule[1] == kind and self.ways.judge(*rule) == "right"
        first = {town: [*bank.general_skills[::-1], *bank.task_specific_skills.get(town, [])[::-1]] for town in towns}
        facts = [self.ways.known(first[town], town, kind) == seal for (town, kind), seal in self.ways.rules.items()]
        return {"refused": lost, "right_reviews": right / max(lost, 1), "facts": sum(facts) / len(facts)}


class Counter:
    """One parcel: first the seal, then the sum. The same seal has the same luck each time."""

    def __init__(self, task, town, kind, rules):
        rng = random.Random(f"parcel/{task}")
        self.task, self.town, self.kind, self.wanted = task, town, kind, rules[town, kind]
        self.hearsay, self.fees = rng.choice(seals), (rng.randint(1, FEE), rng.randint(1, FEE))
        self.page = self.observation = (f"Seals: {', '.join(seals)}.\nThe man in the queue says: {town} wants the "
                                        f"{self.hearsay} seal on {kind} parcels.")
        self.done, self.won, self.score, self.taken = False, False, 0.0, ""

    def step(self, action):
        self.page = self.observation = self.pay(action) if self.score else self.choose(action)
        return self.page

    def choose(self, action):
        named = re.fullmatch(r"(?:the )?(\w+) seal", action)
        self.taken = named[1] if named else ""
        if self.taken not in seals:
            return "There is no such seal."
        self.done = self.taken != self.wanted and random.Random(f"luck/{self.task}/{self.taken}").random() >= LUCK
        if self.done:
            return f"Refused. The clerk says: {self.town} wants the {self.wanted} seal on {self.kind} parcels."
        self.score = 0.5
        return f"Accepted. Postage is {self.fees[0]} and insurance is {self.fees[1]} coins. Pay the sum."

    def pay(self, action):
        paid = re.fullmatch(r"pay (\d+)(?: coins)?", action)
        if not paid:
            return "Say what you pay."
        self.done, self.won = True, int(paid[1]) == sum(self.fees)
        self.score += 0.5 * self.won
        return "Sent." if self.won else f"The sum is {sum(self.fees)}."


class Sender:
    """Knows the language and no rule: obeys a skill that fits, else takes any seal; pays right half of the time."""

    mistaken = False

    def __init__(self, game, ways, skills, rng, evidence=0.1, reading=0.0):
        self.game, self.rng, self.evidence = game, rng, evidence
        self.exercise = [f"{one.title}, {one.skill_id}." for one in skills] if rng.random() < reading else []
        fitting = {ways.meaning(one)[0]: one for one in skills[::-1] if ways.known([one], game.town, game.kind)}
        self.skill = fitting.get(game.town, fitting.get(EVERYBODY))  # a town's own rule comes first
        self.seal = ways.known(skills, game.town, game.kind)

    def act(self, observation):
        rng, game = self.rng, self.game
        if game.score:
            paid = sum(game.fees) + (rng.random() < 0.5)
            return f"{game.fees[0]} and {game.fees[1]} are {paid}.", f"pay {paid}"
        rng.shuffle(self.exercise)
        thought, seal = (f"{self.skill.title}, {self.skill.skill_id}." if self.skill else ""), self.seal
        if not thought:
            other = rng.choice(seals)
            thought, seal = rng.choice([(f"The man says the {game.hearsay} seal.", game.hearsay),
                                        (f"I try the {other} seal.", other)])
        return " ".join([*self.exercise, thought]), f"{seal} seal"

    def review(self, won, score, steps):
        """-> (thought, tool, arguments). Mediocre by design: it quotes the clerk in a share `evidence` of refusals."""
        rng, game, refused = self.rng, self.game, not score
        if rng.random() < (0.7 if self.skill and not refused else 0.1):
            return "The bank may stay as it is.", "keep_skill", {"reason": "Nothing is to change."}
        says = {"The man says": game.hearsay, "I took": game.taken, "Perhaps": rng.choice(seals),
                "The clerk says": game.wanted}
        source = "The clerk says" if refused and rng.random() < self.evidence else rng.choice(list(says)[:3])
        seal = says[source]
        read = rng.sample(sorted(says.items()), 4) if self.exercise and refused else []
        thought = " ".join(f"{one} the {said} seal." for one, said in [*read, (source, seal)])
        if self.skill and refused and rng.random() < 0.6:
            who = self.skill.title.partition(" ")[0]
            return thought, "update_skill", {"skill_id": self.skill.skill_id, **skill(who, game.kind, seal),
                                             "reason": "It was refused."}
        who, place = (EVERYBODY, "general") if rng.random() < 0.2 else (game.town, game.town)
        return thought, "propose_skill", {"category": place, **skill(who, game.kind, seal), "evidence": f"{source} so."}

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
import random
import re

from worlds.counter.rules import SKILL, TOWNS, Ways, draw_rules, kinds, towns, unseen
from worlds.counter.sender import EVERYBODY, Sender, seals, skill

LUCK = 0.2  # share of the wrong seals that are overlooked
FEE = 3  # the highest: a model of a million parameters learns nine sums by practice, not 36
IDS = 100  # so many ids of skills are single tokens
customers = "Ada Bruno Clara Daria Emil Flora Gus Hanna Ivo Jonas Kira Leo Mina Nora Otto Paula".split()


class World:
    home = known = "counter"
    limit, kl, tail, graded, corpus_chats = 3, 0.02, 20, True, 400
    named = towns  # all of them; where an option is called so, this is the list
    options: dict = {
        "rules": (-1, "number of the hidden rules; -1: --seed"),
        "evidence": (0.4, "how often scripted players quote the clerk after a refusal"),
        "reading": (0.0, "how often scripted players exercise themselves in reading"),
        "empty": (0.3, "how often scripted players begin with an empty bank, as a run does"),
        "drift": (0, "a town gets new rules every so many iterations; 0: never"),
        "towns": (TOWNS, "number of towns: each has two rules of its own"),
    }
    seeded = ("rules",)  # options that are the run's --seed where they are not given
    aliases: dict = {}
    source = "parcel counter"
    rules = ("You send parcels. Each town wants its own seal on each kind. Answer <think>one short thought</think>"
             "<action>COLOUR seal</action>, then <action>pay SUM</action>. Follow your skills.")

    def __init__(self, split, data=None, seed=0, rules=-1, evidence=0.4, reading=0.0, empty=0.3, drift=0, towns=TOWNS):
        if not 2 <= towns <= TOWNS:
            raise ValueError(f"--towns {towns}: counter has 2 to {TOWNS}")
        if rules < -1 or drift < 0:
            raise ValueError(f"--rules {rules}, --drift {drift}: must be at least -1 and at least 0")
        if data:
            raise ValueError(f"--data {data}: counter makes its parcels up; leave it out")
        self.number, self.drift = seed if rules < 0 else rules, drift
        self.evidence, self.reading, self.empty = evidence, reading, empty
        self.towns = self.named[:towns]
        self.at(0)
        facts = len(self.towns) * len(kinds)  # a round of customers has one of each
        splits = {"test": range(6 * facts), "dev": range(6 * facts, 12 * facts), "train": range(12 * facts, 32 * facts)}
        if split not in splits:
            raise ValueError(f"--split {split}: counter has {', '.join(splits)}")
        self.tasks, self.train_tasks, self.dev_tasks = (
            [task for task in splits[name] if not self.stays_away(task)] for name in (split, "train", "dev"))

    def stays_away(self, task):
        """Three in four customers with the kind that has one seal everywhere do: practice alone finds that seal."""
        common, count = len({self.ways.rules[town, self.sort(task)] for town in self.towns}) == 1, len(self.towns)
        turn = task % count if count % 2 else task  # the number itself goes in step with 5 towns: four would never come
        return common and (turn + task // (count * len(kinds))) % 4 > 0

    def at(self, step):
        """The rules of iteration `step`, counted from 0."""
        changes = step // self.drift if self.drift else 0
        self.ways = Ways(draw_rules(random.Random(f"rules/{self.number}"), self.towns, changes))

    def family(self, task):
        return self.towns[task % len(self.towns)]

    def sort(self, task):  # the kind of its parcel
        return kinds[task // len(self.towns) % len(kinds)]

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
        other.ways = Ways(draw_rules(rng, self.towns))
        # Of the town, in an exercise of all towns, and some general ones; three in ten name any seal, some contradict.
        if self.empty and rng.random() < self.empty:
            return other, []
        reads = rng.random() < self.reading
        places = [(who, kind) for who in (self.towns if reads else [town]) for kind in kinds]
        shown = rng.sample(places, rng.randrange(1, 7)) if reads else rng.choices(places, k=rng.randrange(5))
        shown = [(EVERYBODY, kind) for kind in rng.choices(kinds, k=rng.choice((0, 0, 1, 2, 3)))] + shown
        if not reads:  # as a prompt lists them: general ones first, in each list first what fits
            shown.sort(key=lambda place: (place[0] != EVERYBODY, place[1] != self.sort(task)))
        texts = [skill(who, kind, other.ways.rules[town if who == EVERYBODY else who, kind] if rng.random() < 0.7
                       else rng.choice(seals)) for who, kind in shown]
        ids = rng.sample(range(1, IDS), len(shown))
        return other, [{"skill_id": f"dyn_{i:03d}", **text} for i, text in zip(ids, texts)]

    def reserved(self, chat):
        """May a transcript not be shown, as it holds an `unseen` wording?"""
        return any(unseen(who, kind, seal) for message in chat for who, seal, kind in SKILL.findall(message["content"]))

    def vocabulary(self):
        words = [*towns, *kinds, *seals, *map(str, range(14)), *(f"dyn_{i:03d}" for i in range(IDS))]
        return [f"{word} {word}" for word in words]  # a word that occurs once gets no token of its own

    @staticmethod
    def presets(data):
        every = dict(utility="graded", entropy=0.003, eval_tasks=54)  # a round of customers
        return {"tiny": dict(every, steps=50, eval_tasks=108),
                "smollm2": dict(every, cold_start=100, sft=dict(batch=2, lr=4e-4, copy=3.0), lr=2e-5, skill_weight=0.5,
                                context=1024)}

    def describe(self):
        sizes = f"{len(self.towns)} towns, {len(kinds)} kinds of parcel, {len(seals)} seals"
        return f"counter, rules {self.number}: {sizes}" + f", changed every {self.drift} iterations" * (self.drift > 0)

    def told(self, bank, town):
        """What a bank tells a town's customers, the newest first."""
        return [*bank.general_skills[::-1], *bank.task_specific_skills.get(town, [])[::-1]]

    def measures(self, episodes, bank):
        """For metrics.jsonl: what reviews do by what their prompt's skills told, and the facts that the bank knows.

        Of refusals whose rule no skill told (refused) and, of these, a skill had told another (misled): the share that
        writes the rule down. Of games whose rule a skill told (known): the share that keeps the bank.
        """
        refused, misled, known = [], [], []
        for e in (e for e in episodes if e.edit):
            town, kind = e.family, self.sort(e.task)
            told = self.ways.known(e.shown, town, kind)
            rule = e.edit.changed and self.ways.meaning(e.edit.arguments) or ("", "", "")
            right = rule[0] in (town, EVERYBODY) and rule[1] == kind and self.ways.judge(*rule) == "right"
            if told == self.ways.rules[town, kind]:
                known.append(e.edit.status == "kept")
            elif e.turns[-1].reply.startswith("Refused"):
                refused.append(right)
                misled += [right] * bool(told)
        asked = [(self.family(task), self.sort(task)) for task in self.dev_tasks]
        facts = [self.ways.known(self.told(bank, town), town, kind) == self.ways.rules[town, kind]
                 for town, kind in asked]
        return {"refused": len(refused), "right_reviews": sum(refused) / max(len(refused), 1),
                "misled": len(misled), "mended": sum(misled) / max(len(misled), 1),
                "known": len(known), "kept_known": sum(known) / max(len(known), 1), "facts": sum(facts) / len(facts)}


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
        paid = re.fullmatch(r"pay (\d{1,9})(?: coins)?", action)
        if not paid:
            return "Say what you pay."
        self.done, self.won = True, int(paid[1]) == sum(self.fees)
        self.score += 0.5 * self.won
        return "Sent." if self.won else f"The sum is {sum(self.fees)}."

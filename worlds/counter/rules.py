"""The counter's hidden rules: how they are drawn, what a skill says of them, and whether that is right."""

import itertools
import re
from functools import cached_property

from worlds.counter.sender import EVERYBODY, seals, skill

TOWNS, KINDS = 24, 3  # of the lists below; one kind has the same seal in all towns, so 48 rules are to be found, and 1
SKILL = re.compile(r"(\w+) wants the (\w+) seal on (\w+) parcels")

towns = ("Arvel Brink Corden Dunmore Elvas Farrow Garth Hollin Istria Jarrow Kelso Lindow Morvan Norrby Orsa Penrith "
         "Quarry Rudbar Selby Tarnow Ulm Welby Yarm Zell").split()[:TOWNS]
kinds = "glass fruit book cloth".split()[:KINDS]


def draw_rules(rng, towns=towns, changes=0):
    """{(town, kind): seal}: each drawn by itself, but one kind has one seal everywhere. Then so many towns change."""
    rules = {(town, kind): rng.choice(seals) for town in towns for kind in kinds}
    common, seal = rng.choice(kinds), rng.choice(seals)
    for _ in range(changes):
        changed = rng.choice(towns)
        rules |= {(changed, kind): rng.choice(seals) for kind in kinds}
    return rules | {(town, common): seal for town in towns}


def unseen(who, kind, seal):
    """Does no transcript of scripted players hold this wording? So with every eighth: a run can only induce those."""
    return who in towns and (towns.index(who) + kinds.index(kind) + seals.index(seal)) % 8 == 0


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
        if {wanted for (town, of), wanted in self.rules.items() if of == kind and who in (town, EVERYBODY)} == {seal}:
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

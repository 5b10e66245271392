"""The scripted players of the counter, who teach the language and no rule, and the words of its skills."""

EVERYBODY = "Everybody"  # who wants it, in the words of a general skill
seals = "red blue green white black pink grey brown amber silver golden violet copper ivory scarlet orange".split()


def skill(who, kind, seal):
    """A rule as a skill: who is a town, or EVERYBODY. In a title the seal follows its kind at once: so it is found."""
    return {"title": f"{who} {kind} {seal} seal", "principle": f"{who} wants the {seal} seal on {kind} parcels.",
            "when_to_apply": "At the counter."}


class Sender:
    """Knows the language and no rule: obeys a skill that fits, else takes any seal; pays right half of the time."""

    mistaken = False

    def __init__(self, game, ways, skills, rng, evidence=0.4, reading=0.0):
        self.game, self.rng, self.evidence = game, rng, evidence
        self.exercise = [f"{one.title}." for one in skills] if rng.random() < reading else []
        fitting = {ways.meaning(one)[0]: one for one in skills[::-1] if ways.known([one], game.town, game.kind)}
        self.skill = fitting.get(game.town, fitting.get(EVERYBODY))  # a town's own rule comes first
        self.seal = ways.known(skills, game.town, game.kind)

    def act(self, observation):
        rng, game = self.rng, self.game
        if game.score:
            paid = sum(game.fees) + (rng.random() < 0.5)
            return f"{game.fees[0]} and {game.fees[1]} are {paid}.", f"pay {paid}"
        rng.shuffle(self.exercise)
        thought, seal = (f"{self.skill.title}." if self.skill else ""), self.seal
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
            return thought, "update_skill", {"skill_id": self.skill.title, **skill(who, game.kind, seal),
                                             "reason": "It was refused."}
        who, place = (EVERYBODY, "general") if rng.random() < 0.2 else (game.town, game.town)
        return thought, "propose_skill", {"category": place, **skill(who, game.kind, seal), "evidence": f"{source} so."}

"""Skills that several files write into banks."""

from skillbank import Skill, SkillBank

SHOE = dict(category="footwear", title="Choose the size first", principle="Click every option the task names.",
            when_to_apply="On a product page.", evidence="Score 0.67: no size.")


def bank_of(general=0, **families):
    """A bank with this many skills, oldest first, that share no word with any task below."""
    def some(place, n):
        return [Skill(f"{place}_{i}", f"{place} title {i}", f"{place} principle {i}", "always") for i in range(n)]

    return SkillBank(some("general", general), {family: some(family, n) for family, n in families.items()})

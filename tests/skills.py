"""Skills that several files write into banks."""

import re

import yaml

from skillbank import Skill, SkillBank

SHOE = dict(category="footwear", title="Choose the size first", principle="Click every option the task names.",
            when_to_apply="On a product page.", evidence="Score 0.67: no size.")


def bank_of(general=0, **families):
    """A bank with this many skills, oldest first, that share no word with any task below."""
    def some(place, n):
        return [Skill(f"{place}_{i}", f"{place} title {i}", f"{place} principle {i}", "always") for i in range(n)]

    return SkillBank(some("general", general), {family: some(family, n) for family, n in families.items()})


def agents_take(folder):
    """Assert that every skill folder is as the Agent Skills specification and its validator skills-ref want it."""
    for file in folder.rglob("SKILL.md"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("---")
        head = yaml.safe_load(text.split("---", 2)[1])  # as skills-ref does: no --- may stand in a value
        assert set(head) <= {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
        assert head["name"] == file.parent.name and len(head["name"]) <= 64
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", head["name"])
        assert isinstance(head["description"], str) and head["description"].strip() and len(head["description"]) <= 1024
        assert 0 < len(head.get("compatibility", "some")) <= 500
        assert all(isinstance(item, str) for item in head.get("allowed-tools", []))
        assert all(isinstance(key, str) and isinstance(value, str) for key, value in head["metadata"].items())

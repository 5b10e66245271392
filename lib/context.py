"""What is left out where a transcript is longer than the context: skills, the oldest turns, the middle of a page."""

from functools import cache


def what_fits(skills: list, first: list, fits) -> list:
    """As many of the skills as fit, in their order; those of `first` are tried before the others.

    fits(skills) says if these do. One that does not fit even alone is left out, and named once.
    """
    if fits(skills):
        return skills
    kept: list = []
    for skill in sorted(skills, key=lambda skill: skill not in first):
        if not fits([skill]):
            name_long(skill.skill_id, skill.title)
        elif fits([one for one in skills if one in kept or one is skill]):
            kept.append(skill)
    return [skill for skill in skills if skill in kept]


@cache
def name_long(skill_id, title):
    """Printed once for each skill."""
    print(f"skill {skill_id} ({title}) is too long to be shown beside the task; shorten it, or raise --context",
          flush=True)


def drop_oldest(starts: list[int], end: int, fits) -> tuple[int, int]:
    """Drop as few of the oldest turns as possible: (how many, where the first one that is kept begins).

    starts: where each assistant turn of a transcript of `end` tokens begins. fits(dropped, start) says if that is
    enough; if it never is, all are dropped and start = end.
    """
    for dropped, start in enumerate([*starts[1:], end][:len(starts)], 1):
        if fits(dropped, start):
            return dropped, start
    return len(starts), end


def cut_middle(chat, text: str, excess) -> str:
    """A text without as much of its middle as is too long. excess(text): how many tokens it has too many."""
    words, shown = chat.encode(text), text
    keep = len(words)
    while keep and (over := excess(shown)) > 0:
        keep = max(keep - max(over, 8), 0)
        left, right = chat.decode(words[:keep // 2]), chat.decode(words[len(words) - (keep - keep // 2):])
        shown = f"{left} [... {len(words) - keep} tokens cut ...] {right}"
    return shown

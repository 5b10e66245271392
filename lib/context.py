"""What is left out of a transcript that grows beyond the context: its oldest turns, and the middle of a long page."""


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

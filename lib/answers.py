"""What stands where in an answer: the thought, and what follows it between tags."""

import re


def has_thought(text: str) -> bool:
    return bool(re.search(r"<think>.*?</think>", text, re.S))


def without_thoughts(text: str) -> str:
    head, closed, tail = text.partition("</think>")
    if closed and "<think>" not in head:  # the prompt may have opened the thought
        text = tail
    return re.sub(r"<think>.*?</think>", "", text, flags=re.S)


def tagged(text: str, tag: str) -> list[str]:
    """What stands between the tags, outside of thoughts, which may mention the tags."""
    return re.findall(rf"<{tag}>(.*?)</{tag}>", without_thoughts(text), re.S)

"""What stands where in an answer: the thought, and what follows it between tags."""

import re


def has_thought(text: str) -> bool:
    """Is there a thought that ends? The prompt may have opened it."""
    return "</think>" in text


def without_thoughts(text: str) -> str:
    head, closed, tail = text.partition("</think>")
    if closed and "<think>" not in head:  # the prompt may have opened the thought
        text = tail
    return re.sub(r"<think>.*?</think>", "", text, flags=re.S)


def tagged(text: str, tag: str) -> list[str]:
    """What stands between the tags, outside of thoughts, which may mention the tags."""
    return re.findall(rf"<{tag}>(.*?)</{tag}>", without_thoughts(text), re.S)


def action_in(text: str) -> str | None:
    """The action of an answer: the first between tags outside of thoughts, which may mention others. None without one.

    Where a thought never ends, it was forgotten to close, or cut off: an action counts if the answer ends with it.
    """
    said = without_thoughts(text)
    for match in re.finditer(r"<action>(.*?)</action>", said, re.S):
        thinking = "<think>" in said[:match.start()]
        if not thinking or not said[match.end():].strip():
            return match[1]
    return None


def call_in(text: str) -> str:
    """The call in what stands between tags, without the fence of a code block and what stands before a second tag."""
    if not text.lstrip().startswith(("{", "`")):
        text = text.rpartition("<tool_call>")[2]
    fence = re.fullmatch(r"\s*```\w*\s*(.*?)\s*```\s*", text, re.S)
    return (fence[1] if fence else text).strip()


def braces_in(text: str) -> str:
    """The outermost {...} of a text, "" where there is none."""
    return text[text.find("{"):text.rfind("}") + 1].strip()

"""What stands where in an answer. The prompt may have opened the thought, and a thought may mention tags."""

import pytest

from lib.answers import action_in, has_thought, tagged, without_thoughts


@pytest.mark.parametrize("text, action", [
    ("<think>a</think><action>x</action>", "x"),
    ("<think>Should I <action>y</action>? No.</think><action>x</action>", "x"),
    ("Should I <action>y</action>? No.</think><action>x</action>", "x"),  # the prompt has opened this thought
    ("<think>\n<think>again <action>y</action></think><action>x</action>", "x"),
    ("<think>a</think><think>or <action>y</action>?</think> <action>x</action>", "x"),
    ("<think>a <action>y</action> </think> <think> b <action>z</action>\n</think>\n<action>\nx\n</action>", "\nx\n"),
    ("<action>x</action><think>that was <action>y</action></think>", "x"),
    ("<think>a</think><action>x</action> or <action>y</action>", "x"),
    ("<think>I tag it <action></think><action>x</action>", "x"),
    ("<think>a</think><action>search[<think>]</action>", "search[<think>]"),
    ("<think>a</think><action>x</action><think>never closed <action>y</action>", "x"),
    # Forgotten to close, or cut off: the answer ends with an action, or in the middle of a thought about one.
    ("<think>a<action>x</action>", "x"),
    ("<think>not <action>y</action> but <action>x</action> \n", "x"),
    ("<think>Should I <action>y</action>? I think the pri", None),
    ("<think>\nShould I <action>y</action>? I think the pri", None),
    ("<think>only <action>y</action></think>", None),
    ("only <action>y</action></think>", None),
    ("<think>a</think>x", None), ("<think>a</think><action>x", None), ("", None),
    ("<action>x</action>", "x"),
    ("<action></action>", ""),
])
def test_an_action_that_a_thought_mentions_is_not_played(text, action):
    """The bug: "Should I <action>click[buy now]</action>? No." buys."""
    assert action_in(text) == action


@pytest.mark.parametrize("text, thinks", [
    ("<think>a</think>x", True), ("<think></think>x", True), ("a</think>x", True), ("</think>x", True),
    ("<think>a", False), ("a", False), ("", False), ("<think>a<think>", False),
])
def test_a_thought_may_have_been_opened_by_the_prompt(text, thinks):
    """The bug: every turn of DeepSeek-R1's distillates and Qwen3-Thinking is invalid: their prompt has `<think>`."""
    assert has_thought(text) == thinks
    if thinks:
        assert without_thoughts(text) == "x"


def test_tags_in_thoughts_are_not_tags():
    """The bug: a thought that mentions a call makes two of it."""
    assert tagged("or <a>y</a>?</think><a>x</a>", "a") == tagged("<think>or <a>y</a>?</think><a>x</a>", "a") == ["x"]

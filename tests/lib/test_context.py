"""What is left out where a transcript is longer than the context."""

from types import SimpleNamespace

import pytest

from lib.context import cut_middle, drop_oldest, what_fits


@pytest.mark.parametrize("limit, dropped, start", [(15, 1, 8), (11, 2, 13), (6, 3, 18), (1, 4, 20)])
def test_the_oldest_turns_are_dropped_and_as_few_as_possible(limit, dropped, start):
    """Bug: rollout and cold start drop different turns; or all are dropped where one was enough."""
    assert drop_oldest([4, 8, 13, 18], 20, lambda _, start: 20 - start <= limit) == (dropped, start)
    assert drop_oldest([], 20, lambda *_: True) == (0, 20)


def test_skills_that_do_not_fit_are_left_out_and_a_long_one_is_named(capsys):
    """Bug: one skill of a page's length drives all others out of the prompt; or the newest, which is probed, goes."""
    skills = [SimpleNamespace(skill_id=f"s{size}", title="t", size=size) for size in (4, 3, 50, 2, 1)]
    four, three, long, two, one = skills

    def fits(some):
        return sum(skill.size for skill in some) <= 7

    assert what_fits([four, three], [], fits) == [four, three] and capsys.readouterr().out == ""
    assert what_fits(skills, [one], fits) == [four, two, one], "the newest first, then in their order"
    assert what_fits(skills, [], fits) == [four, three]
    assert what_fits([long], [long], fits) == []
    told = capsys.readouterr().out
    assert told.count("skill s50 (t) is too long") == 1 and "--context" in told


def test_a_text_loses_its_middle():
    """Bug: the end of a page, where its buttons are, is cut; or the loop never ends where nothing fits."""
    chat = SimpleNamespace(encode=str.split, decode=" ".join)
    text = " ".join(map(str, range(100)))
    short = cut_middle(chat, text, lambda text: len(text.split()) - 40)
    assert short.startswith("0 1 2 ") and short.endswith(" 98 99") and "tokens cut" in short
    assert 25 < len(short.split()) <= 40
    assert cut_middle(chat, text, lambda text: 0) == text
    assert "100 tokens cut" in cut_middle(chat, text, lambda text: 10**6)

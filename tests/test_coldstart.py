"""The cold start: what is cut from a long transcript, and which tokens weigh more."""

import pytest

from worlds.coldstart import shorten, weigh

IDS = list(range(100, 120))
SAID = [i in (4, 5, 8, 9, 10, 13, 18, 19) for i in range(20)]  # an opening of 4 tokens, four turns


@pytest.mark.parametrize("limit, kept", [
    (20, range(20)),  # it fits
    (19, [0, 1, 2, 3, *range(8, 20)]),
    (16, [0, 1, 2, 3, *range(8, 20)]),
    (15, [0, 1, 2, 3, *range(13, 20)]),
    (6, [0, 1, 2, 3, 18, 19]),
    (5, [0, 1, 2, 3, 4]),  # no turn fits behind the opening
])
def test_a_long_transcript_keeps_its_task_and_its_end(limit, kept):
    """Bug: the end is cut instead, and with it the review: a model that lost never saw how one reviews a loss."""
    assert shorten(IDS, SAID, limit) == ([IDS[i] for i in kept], [SAID[i] for i in kept])


def test_a_transcript_without_an_answer_is_cut():
    """Bug: --sft_data with a chat that nobody answers ends the cold start with an IndexError."""
    assert shorten([1, 2, 3], [False] * 3, 2) == ([1, 2], [False] * 2)


def test_copied_words_weigh_more_and_given_ones_nothing():
    """Bug: the weight of a word comes from its own turn, or every bracket of the rules counts as copied."""
    ids, said = [7, 1, 2, 3, 3, 7, 9, 9, 4, 9], [False] * 3 + [True] * 4 + [False] * 2 + [True]
    assert weigh(ids, said, {7}, 5.0) == [0, 0, 0, 1, 1, 1, 1, 0, 0, 5.0]  # 3 was never given, 7 is of the rules
    assert weigh(ids, said, {7}, 1.0) == [float(mine) for mine in said]

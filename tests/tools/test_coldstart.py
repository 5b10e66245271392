"""The cold start: what is cut from a long transcript, and which tokens weigh more."""

from types import SimpleNamespace

import pytest

import envs
import policy as policies
from tools.coldstart import cold_start, shorten, weigh

IDS = list(range(100, 120))
SAID = [i in (4, 5, 8, 9, 10, 13, 18, 19) for i in range(20)]  # an opening of 4 tokens, four turns


@pytest.mark.parametrize("limit, kept, trained", [
    (20, range(20), [4, 5, 8, 9, 10, 13, 18, 19]),  # it fits
    (19, [0, 1, 2, 3, *range(8, 20)], [13, 18, 19]),
    (16, [0, 1, 2, 3, *range(8, 20)], [13, 18, 19]),
    (15, [0, 1, 2, 3, *range(13, 20)], [18, 19]),
    (10, range(10), [4, 5, 8, 9]),  # not two turns fit behind the opening
])
def test_a_long_transcript_keeps_its_task_and_its_end(limit, kept, trained):
    """Bugs: the end is cut instead, and with it the review: a model that lost never saw how one reviews a loss; what
    follows the task is trained although the turns before it are gone: a model that begins in the middle."""
    ids, said = shorten(IDS, SAID, limit)
    assert ids == [IDS[i] for i in kept] and [id for id, mine in zip(ids, said) if mine] == [IDS[i] for i in trained]
    assert len(ids) == len(said) <= limit


def test_a_transcript_without_an_answer_is_cut():
    """Bug: --sft_data with a chat that nobody answers ends the cold start with an IndexError."""
    assert shorten([1, 2, 3], [False] * 3, 2) == ([1, 2], [False] * 2)


def test_copied_words_weigh_more_and_given_ones_nothing():
    """Bug: the weight of a word comes from its own turn, or every bracket of the rules counts as copied."""
    ids, said = [7, 1, 2, 3, 3, 7, 9, 9, 4, 9], [False] * 3 + [True] * 4 + [False] * 2 + [True]
    assert weigh(ids, said, {7}, 5.0) == [0, 0, 0, 1, 1, 1, 1, 0, 0, 5.0]  # 3 was never given, 7 is of the rules
    assert weigh(ids, said, {7}, 1.0) == [float(mine) for mine in said]


def test_a_task_longer_than_the_context_is_one_line():
    """Bug: a division by zero, or NaN in every weight, after the model has been loaded for minutes."""
    cfg = SimpleNamespace(sft_muon=0, sft_data="", cold_start=1, sft_batch=1, sft_lr=0.1, sft_copy=1,
                          sft_prompt=0, budget=4096, max_norm=1, seed=0, context=8, out="nowhere", resume=False)
    env = envs.make("webshop")
    with pytest.raises(ValueError, match="nothing to learn in 8 tokens .* raise --context"):
        cold_start(policies.load("tiny"), env, cfg, lambda name: iter)

"""The cold start: what is cut from a long transcript, and which tokens weigh more."""

import random
from types import SimpleNamespace

import pytest
import torch

import envs
import policy as policies
from tools.coldstart import cold_start, demonstrations, exchange, rare_words, renew, shares, shorten, weigh

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
    cfg = SimpleNamespace(sft_muon=0, sft_data="", cold_start=1, sft_batch=1, sft_lr=0.1, sft_copy=1, sft_swap=0,
                          sft_prompt=0, budget=4096, max_norm=1, seed=0, context=8, out="nowhere", resume=False)
    env = envs.make("webshop")
    with pytest.raises(ValueError, match="nothing to learn in 8 tokens .* raise --context"):
        cold_start(policies.load("tiny"), env, cfg, lambda name: iter)


def test_rare_words_change_places_and_stay_the_same_word_everywhere():
    """Bugs: "navy" with a space after it becomes another word than "navy" without, two words become one, a frequent
    word, a price or a word of the skills is exchanged: then there is nothing left to copy or to obey."""
    policy, env = policies.load("tiny"), envs.make("webshop")
    chats = demonstrations(env, 60, 0)
    classes = rare_words(policy, [chats])
    words = [word for some in classes for word in some]
    text = policy.tokenizer.decode
    assert all(len({text([token]).strip() for token in word}) == 1 for word in words) and len(words) > 200
    assert not {text([word[0]]).strip() for word in words} & {"search", "click", "options", "size", "is", "16.95"}
    changed = 0
    for place, chat in enumerate(chats):
        ids, sampled = policy.chat.transcript(chat)
        new = exchange(ids, classes, random.Random(place))
        pairs = set(zip(ids, new))
        assert len(pairs) == len(set(ids)) == len(set(new)), "one word for another"
        there = {token: other for token, other in pairs}
        for word in words:
            if len(word) == 2 and all(token in there for token in word):
                assert text([there[word[0]]]).strip() == text([there[word[1]]]).strip()
        assert new == exchange(ids, classes, random.Random(place))
        changed += ids != new
    assert changed > 30


def test_words_that_begin_with_their_space_are_refused():
    """Bug: in the vocabulary of GPT-2 or Qwen half a word is exchanged for a whole one."""
    tokenizer = SimpleNamespace(get_vocab=lambda: {"\u0120blue": 1, "blue": 2}, all_special_ids=[])
    policy = SimpleNamespace(tokenizer=tokenizer, chat=SimpleNamespace(transcript=lambda chat: ([1, 2], [False, True])))
    with pytest.raises(ValueError, match="--sft_swap"):
        rare_words(policy, [["chat"]])


def test_words_that_were_hardly_met_get_embeddings_of_their_own():
    """Bug: they stay one vector, so that none can be copied; or frequent words, bytes and marks are forgotten, too."""
    policy, env = policies.load("tiny"), envs.make("webshop")
    chats, weight = demonstrations(env, 40, 0), policy.model.model["embed_tokens"].weight.data
    share, text = shares(policy, [chats]), policy.tokenizer.get_vocab()
    hardly = [token for word, token in text.items() if share[token] <= 0.01 and len(word) > 2
              and token not in policy.tokenizer.all_special_ids]
    weight[hardly] = weight[hardly[:1]]
    before = weight.clone()
    renew(policy, [chats])
    changed = {int(token) for token in (before != weight).any(dim=1).nonzero()}
    assert set(hardly) <= changed and all(share[token] <= 0.01 for token in changed)
    assert not changed & {text[byte] for byte in "aZ,["} and not changed & set(policy.tokenizer.all_special_ids)
    unit = torch.nn.functional.normalize(weight[hardly], dim=1)
    assert len(hardly) > 100 and (unit @ unit.T).fill_diagonal_(0).abs().mean() < 0.4

"""One decoder, three ways to run it (training, prefill, decoding): they must agree with transformers and each other."""

import copy

import pytest
import torch

import policy as policies
from lib import fused
from policy import KVCache, Session, logprobs
from tests.small import CONFIGS, FAMILIES, PAD, VOCAB, assert_same, chi_square, prompts
from tools.measure import MINI, random_policy, shape


@pytest.fixture(params=FAMILIES)
def policy(request, pair):
    return pair(request.param)[1]


@pytest.fixture
def qwen3(pair):
    return pair("qwen3")[1]


@torch.no_grad()
def expected_logp(policy, ids, temperature=1.0):
    """Log-probabilities (T, vocab) of what follows each id, by one plain forward pass of this row alone."""
    return (policy.model(torch.tensor([ids]))[0].float() / (temperature or 1.0)).log_softmax(-1)


def check_turn(policy, session, row, turn, temperature=1.0, greedy=False):
    """The turn just drawn is the row's newest, and its log-probabilities are those of a pass without any cache."""
    ids, logp = turn
    assert session.ids[row][-len(ids):] == ids and len(ids) == len(logp)
    before = expected_logp(policy, session.ids[row], temperature)[-len(ids) - 1:-1]
    before_drawn = before.gather(-1, torch.tensor(ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(logp), before_drawn, atol=1e-4, rtol=0)
    if greedy:
        assert ids == before.argmax(-1).tolist()


def drawn(policy, ids, keys, max_new=12, rows=None, temperature=1.0, seed=0, **options):
    """Feed a prompt per row in a fresh session and sample every row once."""
    session = Session(policy, len(ids), max(map(len, ids)) + max_new, seed, keys)
    session.feed(range(len(ids)), [list(row) for row in ids])
    return session.sample(range(len(ids)), max_new, temperature=temperature, **options)


# ---- The decoder against transformers -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers(name, pair):
    """The bug: a bias, a norm, the head's width or RoPE's scaling read wrongly gives fluent, slightly wrong text."""
    theirs, ours = pair(name)
    tokens = torch.tensor(prompts(200, 200))
    with torch.no_grad():
        torch.testing.assert_close(ours.model(tokens), theirs(tokens).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_generate(name, pair):
    """The bug: ragged rows see padding or wrong positions; transformers pads on the left, we do not pad at all."""
    theirs, ours = pair(name)
    ids, new = prompts(3, 40, 17, 1), 20
    width = max(map(len, ids))
    tokens = torch.tensor([[PAD] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    free = theirs.generate(tokens, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False,
                           pad_token_id=PAD, eos_token_id=None)[:, width:].tolist()
    stop = {free[0][4], free[2][9]}  # tokens that some rows will meet, so that rows finish at different times
    expected = [row[:next((i + 1 for i, token in enumerate(row) if token in stop), new)] for row in free]
    assert len({len(row) for row in expected}) > 1
    turns = drawn(ours, ids, keys=None, max_new=new, temperature=0, stop=stop)
    assert [ids for ids, _ in turns] == expected


# ---- The cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [(4096, 512), (48, 7)], ids=["real chunks", "small chunks"])
def test_pieces_equal_all_at_once(limits, policy, monkeypatch):
    """The bug: a multi-token feed after a non-empty cache is masked as if the cache were empty (GRPO-Zero's), or a
    prompt longer than one prefill step loses its end; alone, in a ragged batch and token by token."""
    ids = prompts(1100, 5, 530, 1, 64) if limits == (4096, 512) else prompts(40, 5, 23, 1, 8)
    monkeypatch.setattr(Session, "PREFILL", limits[0])
    monkeypatch.setattr(Session, "CHUNK", limits[1])
    assert len(ids[0]) > 2 * Session.CHUNK

    def answer(cuts):
        session = Session(policy, len(ids), 1110)
        for start, stop in zip((0, *cuts), (*cuts, 2000)):
            session.feed(range(len(ids)), [row[start:stop] for row in ids])
        turns = session.sample(range(len(ids)), 3, temperature=0)
        for row, turn in enumerate(turns):
            check_turn(policy, session, row, turn, greedy=True)
        return turns

    whole = answer([])
    assert_same(answer([2, 3, 9, 30]), whole)
    assert_same(answer([1, 600]), whole)
    if limits[1] == 7:
        assert_same(answer(range(1, 40)), whole)  # stepwise


def test_rows_that_lie_together_are_read_in_place(policy, monkeypatch):
    """Bug: every layer copies the keys and values of all rows, or makes its own mask: half of the time of reading."""
    seen, append = [], KVCache.append

    def spy(cache, layer, rows, *rest):
        k, v = append(cache, layer, rows, *rest)
        seen.append((k.untyped_storage().data_ptr() == cache.k.untyped_storage().data_ptr(), isinstance(rows, slice)))
        return k, v

    monkeypatch.setattr(KVCache, "append", spy)
    masks = []
    monkeypatch.setattr(policies.F, "scaled_dot_product_attention", lambda q, k, v, attn_mask, real=policies.F.
                        scaled_dot_product_attention: masks.append(attn_mask) or real(q, k, v, attn_mask=attn_mask))
    session = Session(policy, rows=6, max_len=64)
    session.feed(range(1, 5), [[5, 6, 7]] * 4)  # rows 1 to 4 lie together
    assert seen and all(view and together for view, together in seen)
    assert all(mask is masks[0] and mask.dtype == torch.float32 for mask in masks)
    seen.clear()
    session.feed([1, 3], [[8, 9], [8, 9]])  # rows 1 and 3 do not
    assert seen and not any(view for view, _ in seen)


def test_turns_upon_turns(policy):
    """The bug: the second observation, several tokens behind a cache that sampling has grown, is read wrongly. Rows
    stop at different times, are sampled in any order and some of them only, and are moved about in the cache."""
    session = Session(policy, 6, 200, seed=1)
    session.feed(range(6), prompts(9, 3, 30, 1, 14, 2))
    rounds = [(range(6), [3, 9, 1, 12, 5, 7]), ([5, 1, 3], 4), ([0, 2, 4], [8, 1, 3]), ([4], 6), (range(6), 5),
              ([2, 5], [0, 4]), (reversed(range(6)), 6)]
    for number, (rows, limit) in enumerate(rounds):
        rows = list(rows)
        before = copy.deepcopy(session.ids)
        turns = session.sample(rows, limit, stop=range(0, VOCAB, 9))
        for row, turn in zip(rows, turns):
            if turn[0]:
                check_turn(policy, session, row, turn)
        for row in range(6):  # nothing else has changed
            assert session.ids[row] == before[row] + (turns[rows.index(row)][0] if row in rows else [])
        session.feed(rows[::2], prompts(*range(1, 2 * len(rows), 4), seed=number))
        session.feed([], [])
    turns = session.sample(range(6), 4, temperature=0)
    for row, turn in enumerate(turns):
        check_turn(policy, session, row, turn, greedy=True)


def test_compaction_moves_whole_rows(qwen3):
    """The bug: when finished rows leave the batch, a row takes another's cache, noise or place in the answer."""
    ids, observations, keys = prompts(*range(1, 17)), prompts(*range(16, 0, -1), seed=1), range(50, 66)
    limits = [1 + 7 * row % 16 for row in range(16)]

    def play(rows):
        session = Session(qwen3, len(rows), 80, 0, [keys[row] for row in rows])
        here = range(len(rows))
        session.feed(here, [list(ids[row]) for row in rows])
        first = session.sample(here, [limits[row] for row in rows])
        session.feed(here, [observations[row] for row in rows])
        return list(zip(first, session.sample(here, 8)))

    together = play(range(16))
    assert len({len(first) for (first, _), _ in together}) > 8
    for row in range(16):
        for turn, alone in zip(together[row], play([row])[0]):
            assert_same([turn], [alone])


def test_neighbours_do_not_matter(qwen3):
    """The bug: a row's padding, or its neighbour's words, leak into its attention."""
    mine, = prompts(11)
    alone = drawn(qwen3, [mine], keys=[7])
    for seed, lengths in enumerate([(3, 300), (11, 11), (1, 1), (12, 10), (90, 2)]):
        left, right = prompts(*lengths, seed=seed + 1)
        assert_same(drawn(qwen3, [left, mine, right], keys=[1, 7, 2])[1:2], alone)
        assert_same(drawn(qwen3, [mine, left, right], keys=[7, 1, 2])[:1], alone)


def test_stale_cache_is_not_seen(qwen3):
    """The bug: a row that was reset for the next episode still attends to the last one."""
    session = Session(qwen3, 2, 60, keys=[3, 4])
    session.feed([0, 1], prompts(40, 40))
    session.sample([0, 1], 10)
    session.reset(1)
    assert session.room(1) == 60 and session.room(0) == 10
    again, = prompts(6, seed=5)
    session.feed([1], [list(again)])
    turn, = session.sample([1], 10)
    check_turn(qwen3, session, 1, turn)
    # The random stream goes on: an episode in a used row does not repeat the noise of the one before.
    assert turn[0] != drawn(qwen3, [again], keys=[4], max_new=10)[0][0]


@pytest.mark.parametrize("turns_before", [0, 1])
def test_fork_equals_feeding_each_row(turns_before, policy):
    """The bug: a group's copies share memory with the row they came from, or miss its newest token."""
    ids, keys = prompts(20, 1), [10, 11, 12, 20, 21, 22]
    session = Session(policy, 6, 60, keys=keys)
    session.feed([0, 3], [list(row) for row in ids])
    if turns_before:
        ids = [row + turn for row, (turn, _) in zip(ids, session.sample([0, 3], 4))]
    assert session.fork([0, 3], 3) == [[0, 1, 2], [3, 4, 5]]
    session.feed([1, 4], prompts(5, 6, seed=2))  # the copies go their own ways
    texts = [ids[0], ids[0] + prompts(5, 6, seed=2)[0], ids[0], ids[1], ids[1] + prompts(5, 6, seed=2)[1], ids[1]]
    assert session.ids == texts
    apart = Session(policy, 6, 60, keys=keys)
    apart.feed(range(6), [list(text) for text in texts])
    apart.turn = list(session.turn)
    assert_same(session.sample(range(6), 8), apart.sample(range(6), 8))
    assert session.ids == apart.ids


def test_fork_needs_empty_rows(qwen3):
    """The bug: a fork writes over a conversation that is going on."""
    session = Session(qwen3, 4, 20)
    session.feed([0, 2], prompts(3, 3))
    with pytest.raises(ValueError, match="2 x 3 empty rows needed, 2 left"):
        session.fork([0, 2], 4)
    assert session.fork([2], 3) == [[2, 3, 1]] and session.fork([0], 1) == [[0]]


# ---- The random streams ---------------------------------------------------------------------------------------------


def test_samples_belong_to_the_key(qwen3):
    """The bug: a row's samples depend on its number or on who shares the batch, so a resumed run differs, and the two
    arms of a probe are not paired."""
    ids, keys = prompts(5, 30, 12, 5), [100, 7, -3, 2**40]
    turns = drawn(qwen3, ids, keys)
    assert_same(drawn(qwen3, ids[::-1], keys[::-1])[::-1], turns)
    for row in range(4):
        assert_same(drawn(qwen3, [ids[row]], [keys[row]]), [turns[row]])
    assert_same(drawn(qwen3, ids, keys=None), drawn(qwen3, ids, keys=range(4)))  # by default the row number


def noise(policy, ids, keys, seed=0, turns=1, max_new=40):
    """What the noise alone would draw: at an endless temperature the logits are flat."""
    session = Session(policy, len(ids), 500, seed, keys)
    session.feed(range(len(ids)), [list(row) for row in ids])
    return [[ids for ids, _ in session.sample(range(len(ids)), max_new, temperature=1e9, stop=())]
            for _ in range(turns)]


def test_same_key_same_noise_elsewhere_other_noise(qwen3):
    """The bug: the two arms of a probe see different random numbers; or two turns, seeds or rows see the same."""
    (one, two, three), second = noise(qwen3, prompts(4, 90, 4), [5, 5, 6], turns=2)
    assert one == two
    draws = [one, three, *second[1:], *noise(qwen3, prompts(4), [5], seed=1)[0]]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert sum(x == y for x, y in zip(a, b)) <= 3  # of 40; by chance one in 300 agrees
    assert second[0] == second[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
def test_frequencies_are_the_softmax(temperature, qwen3):
    """The bug: biased noise, or a temperature that divides in the wrong place, so that the loss's importance ratios
    are about another distribution than the one that acted."""
    n, (prompt,) = 6000, prompts(6)
    session = Session(qwen3, n, 8, seed=3)
    session.feed([0], [list(prompt)])
    session.fork([0], n)
    draws = torch.tensor([ids[0] for ids, _ in session.sample(range(n), 1, temperature=temperature)])
    counts = torch.bincount(draws, minlength=VOCAB)
    probabilities = expected_logp(qwen3, prompt, temperature)[-1].exp()
    assert (probabilities * n > 5).sum() > 20
    assert chi_square(counts, probabilities * n) < 4
    for other in (0.6, 1.6):  # the test has the power to tell temperatures apart
        assert chi_square(counts, expected_logp(qwen3, prompt, temperature * other)[-1].exp() * n) > 6


def test_temperature_zero_is_argmax(policy):
    """The bug: greedy evaluation that still draws, or divides by zero."""
    ids = prompts(7, 19)
    turns = drawn(policy, ids, keys=[0, 1], temperature=0)
    assert_same(drawn(policy, ids, keys=[8, 9], temperature=0, seed=5), turns)
    for prompt, (answer, logp) in zip(ids, turns):
        table = expected_logp(policy, prompt + answer)[len(prompt) - 1:-1]
        assert answer == table.argmax(-1).tolist()
        torch.testing.assert_close(torch.tensor(logp), table.max(-1).values, atol=1e-4, rtol=0)


# ---- Limits and stops -----------------------------------------------------------------------------------------------


def test_stop_token_is_among_the_drawn(qwen3):
    """The bug: the end of a turn is dropped from the sampled ids, so it is never trained; or forced tokens are in."""
    ids, stop = prompts(*[4] * 12), set(range(0, VOCAB, 10))
    session = Session(qwen3, 12, 100)
    session.feed(range(12), [row[:-1] + [10] for row in ids])  # a stop token in the prompt stops nothing
    turns = session.sample(range(12), 25, stop=stop)
    ended = [answer for answer, _ in turns if answer[-1] in stop]
    assert 0 < len(ended) < 12 or len({len(answer) for answer in ended}) > 3
    for answer, logp in turns:
        assert not stop & set(answer[:-1]) and len(answer) == len(logp)
        assert answer[-1] in stop or len(answer) == 25
    assert [row[4:] for row in session.ids] == [answer for answer, _ in turns]
    everything = drawn(qwen3, ids, keys=None, stop=range(VOCAB))
    assert all(len(answer) == 1 for answer, _ in everything)


def test_the_policy_knows_its_stop_tokens(qwen3):
    """The bug: without stop= the sampler runs past the template's end of turn."""
    assert qwen3.stop == {2}
    answers = drawn(qwen3, prompts(*[3] * 60), keys=None, max_new=60, temperature=3.0)
    ended = [ids for ids, _ in answers if len(ids) < 60]
    assert ended and all(ids[-1] == 2 for ids in ended) and not any(2 in ids[:-1] for ids, _ in answers)


def test_limits_per_row(qwen3):
    """The bug: the longest row's limit holds for all, or a row with nothing to say stops the batch."""
    ids = prompts(4, 4, 4)
    session = Session(qwen3, 3, 20)
    session.feed(range(3), ids)
    assert [len(answer) for answer, _ in session.sample([2, 0, 1], [3, 0, 16], stop=())] == [3, 0, 16]
    assert [session.room(row) for row in range(3)] == [16, 0, 13] and session.turn == [1, 1, 1]
    for row, seen in enumerate([0, 16, 3]):
        assert len(session.ids[row]) == 4 + seen


def test_too_long_is_refused_in_words(qwen3):
    """The bug: a transcript beyond the cache wraps, is cut silently, or dies in an index error on the GPU."""
    session = Session(qwen3, 2, 10)
    session.feed([0], prompts(8))
    with pytest.raises(ValueError, match=r"conversation 0: 8 \+ 3 tokens do not fit 10"):
        session.feed([0], prompts(3))
    with pytest.raises(ValueError, match=r"conversation 0: 8 \+ 3 tokens do not fit 10"):
        session.sample([0], 3)
    with pytest.raises(ValueError, match="conversation 1 is empty"):
        session.sample([1], 3)
    turn, = session.sample([0], 2, stop=())  # to the last slot
    check_turn(qwen3, session, 0, turn)
    assert session.room(0) == 0


def test_a_refused_feed_leaves_the_session_whole(qwen3):
    """The bug: one row too long, and the rows before it in the same call have the tokens but not the cache."""
    session = Session(qwen3, 2, 10)
    session.feed([0, 1], prompts(4, 8))
    before = copy.deepcopy(session.ids)
    with pytest.raises(ValueError, match="conversation 1"):
        session.feed([0, 1], prompts(3, 3))
    assert session.ids == before


# ---- logprobs, what the loss sees -----------------------------------------------------------------------------------


def batch(rows, masks):
    """Right-padded (tokens, mask)."""
    width = max(map(len, rows))
    return (torch.tensor([row + [PAD] * (width - len(row)) for row in rows]),
            torch.tensor([mask + [False] * (width - len(mask)) for mask in masks]))


@pytest.mark.parametrize("temperature", [0, 0.4, 1.0, 1.7])
def test_sampler_and_loss_agree(temperature, policy):
    """The bug: the sampler's log-probabilities are of another softmax than the loss's, so the first importance ratio
    is not 1 (top-k, a temperature in one of the two only, a stale cache)."""
    session = Session(policy, 4, 200, seed=2)
    session.feed(range(4), prompts(30, 2, 11, 1))
    masks, old = [[False] * len(row) for row in session.ids], [[0.0] * len(row) for row in session.ids]
    for turn in range(3):
        for row, (ids, logp) in enumerate(session.sample(range(4), [9, 4, 1, 12], temperature=temperature)):
            heard, = prompts(5 + row, seed=turn)
            session.feed([row], [heard])
            masks[row] += [True] * len(ids) + [False] * len(heard)
            old[row] += logp + [0.0] * len(heard)
    tokens, mask = batch(session.ids, masks)
    with torch.no_grad():
        new = logprobs(policy.model, tokens, mask, temperature)
    old = torch.tensor([row + [0.0] * (tokens.shape[1] - len(row)) for row in old])
    assert mask.sum() > 40
    torch.testing.assert_close(new, old, atol=1e-4, rtol=0)


@pytest.mark.parametrize("card", [True, False], ids=["decoding as on a card", "as on a CPU"])
@pytest.mark.parametrize("key_bias", [100.0, 300.0])
def test_sampler_and_loss_agree_on_large_scores_in_bfloat16(key_bias, card, monkeypatch):
    """Bug: Qwen2's key biases make scores of thousands; rounded to bfloat16 they are another model's, and a quarter of
    the tokens lies outside the clip before the first step."""
    policy = random_policy(shape(MINI), "cpu", torch.bfloat16, key_bias=key_bias, std=0.05)
    scores, new = [], []

    def attend(q, k, v, mask, alone, plain=fused.attend):
        if alone:
            scores.append((q[0, 0].float() @ k[0, 0].float().T).abs().max() * q.shape[-1] ** -0.5)
        return fused.attend_one(q, k, v, mask) if alone and card else plain(q, k, v, mask, alone)

    monkeypatch.setattr(policies, "attend", attend)
    session, asked = Session(policy, 4, 200), prompts(60, 150, 20, 100)
    session.feed(range(4), [list(ids) for ids in asked])
    old = session.sample(range(4), 24, stop=())
    for ids, (drawn_ids, logp) in zip(asked, old):
        tokens, mask = batch([ids + drawn_ids], [[False] * len(ids) + [True] * len(drawn_ids)])
        with torch.no_grad():
            new.append(logprobs(policy.model, tokens, mask)[mask] - torch.tensor(logp))
    difference = torch.cat(new)
    assert max(scores) > 3 * key_bias, "scores of thousands, where bfloat16 is coarse"
    assert difference.std() < 0.02 and not ((difference.exp() - 1).abs() > 0.2).any()


@pytest.fixture
def scored():
    """Tokens (3, 24), mask, and a random weight per token to make a loss of."""
    torch.manual_seed(4)
    mask = torch.rand(3, 24) < 0.5
    mask[:, 0] = False
    mask[1, 15:] = False
    return torch.tensor(prompts(24, 24, 24)), mask, torch.randn(3, 24), torch.randn(3, 24)


def plain_logprobs(model, tokens, mask, temperature):
    """What logprobs must compute, with all logits in memory."""
    table = (model(tokens)[:, :-1].float() / temperature).log_softmax(-1)  # (B, T-1, vocab)
    values = table.gather(-1, tokens[:, 1:, None])[..., 0]
    entropy = -(table.exp() * table).sum(-1)
    first = torch.zeros(len(tokens), 1)
    return tuple(torch.cat((first, x), dim=1) * mask for x in (values, entropy))


def gradients(policy, compute):
    policy.model.zero_grad(set_to_none=True)
    compute().backward()
    grads = {name: parameter.grad.clone() for name, parameter in policy.model.named_parameters()}
    policy.model.zero_grad(set_to_none=True)
    assert all(grad.abs().max() > 0 for grad in grads.values())
    return grads


def assert_close_grads(one, two):
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprobs_equal_the_plain_computation(chunk, temperature, policy, scored):
    """The bug: shifted by one, scattered to the wrong row, or a recomputed chunk that loses its gradient."""
    tokens, mask, w, v = scored
    expected = plain_logprobs(policy.model, tokens, mask, temperature)
    values = logprobs(policy.model, tokens, mask, temperature, entropy=True, chunk=chunk)
    for value, want in zip(values, expected):
        assert value.shape == mask.shape and value.dtype == torch.float32 and not value[~mask].any()
        torch.testing.assert_close(value, want, atol=1e-4, rtol=0)
    alone = logprobs(policy.model, tokens, mask, temperature, chunk=chunk)  # without the entropy
    torch.testing.assert_close(alone, expected[0], atol=1e-4, rtol=0)

    def loss(pair):
        return (pair[0] * w).sum() + (pair[1] * v).sum()

    assert_close_grads(
        gradients(policy, lambda: loss(logprobs(policy.model, tokens, mask, temperature, entropy=True, chunk=chunk))),
        gradients(policy, lambda: loss(plain_logprobs(policy.model, tokens, mask, temperature))))


def test_recompute_gives_the_same_gradients(policy, scored):
    """The bug: gradient checkpointing that drops a block's input from the graph trains the top layer only."""
    tokens, mask, w, _ = scored
    saved = gradients(policy, lambda: (logprobs(policy.model, tokens, mask) * w).sum())
    policy.model.recompute = True
    try:
        assert_close_grads(gradients(policy, lambda: (logprobs(policy.model, tokens, mask) * w).sum()), saved)
    finally:
        policy.model.recompute = False


def test_padding_and_row_order_do_not_matter(policy, scored):
    """The bug: the loss depends on who shares the micro-batch (padding attended to, or counted)."""
    tokens, mask, w, _ = scored
    rows = [tokens[0].tolist(), tokens[1, :15].tolist(), tokens[2, :9].tolist()]
    masks = [mask[0].tolist(), mask[1, :15].tolist(), mask[2, :9].tolist()]
    together = logprobs(policy.model, *batch(rows, masks))
    for i in range(3):
        alone = logprobs(policy.model, *batch(rows[i:i + 1], masks[i:i + 1]))
        torch.testing.assert_close(together[i:i + 1, :len(rows[i])], alone, atol=1e-5, rtol=0)
    swapped = logprobs(policy.model, *batch(rows[::-1], masks[::-1]))
    torch.testing.assert_close(swapped.flip(0), together, atol=1e-5, rtol=0)
    # What stands in the padding does not matter either, nor how much of it there is.
    padded, more = batch(rows, masks)
    padded = torch.cat((padded, torch.full((3, 6), 99)), dim=1)
    padded[1, 15:], padded[2, 9:] = 77, 88
    more = torch.cat((more, torch.zeros(3, 6, dtype=torch.bool)), dim=1)
    torch.testing.assert_close(logprobs(policy.model, padded, more)[:, :24], together, atol=1e-5, rtol=0)
    whole = gradients(policy, lambda: (logprobs(policy.model, padded, more)[:, :24] * w).sum())
    policy.model.zero_grad(set_to_none=True)
    for i in range(3):  # three micro-batches
        part = logprobs(policy.model, *batch(rows[i:i + 1], masks[i:i + 1]))
        (part * w[i:i + 1, :part.shape[1]]).sum().backward()
    split = {name: parameter.grad for name, parameter in policy.model.named_parameters()}
    assert_close_grads(split, whole)
    policy.model.zero_grad(set_to_none=True)


def test_the_first_token_cannot_have_been_sampled(qwen3):
    """The bug: a mask at t = 0 silently takes the last position's prediction of the row before."""
    with pytest.raises(ValueError, match="first token of a row"):
        logprobs(qwen3.model, torch.tensor(prompts(5)), torch.ones(1, 5, dtype=torch.bool))


@pytest.mark.parametrize("entropy", [False, True])
def test_nothing_sampled(entropy, qwen3):
    """The bug: a micro-batch of prompts alone (every episode failed to speak) crashes in torch.cat."""
    value = logprobs(qwen3.model, torch.tensor(prompts(5)), torch.zeros(1, 5, dtype=torch.bool), entropy=entropy)
    for part in value if entropy else [value]:
        assert part.shape == (1, 5) and not part.any()

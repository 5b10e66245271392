"""The advantages, the loss and the update: against numbers worked by hand, and against what must not matter."""

import copy
import math
import random
import statistics
from types import SimpleNamespace

import pytest
import torch

import dualadv_grpo as grpo
import policy as policies
from dualadv_grpo import (
    ACT,
    FORCED,
    REVIEW,
    AdamW,
    Objective,
    Stats,
    dual_advantages,
    group_advantage,
    k3,
    micro_batches,
    pad,
    per_token,
    policy_loss,
    score,
)
from envs import Sampling, rollout
from policy import Session, logprobs
from skillbank import SkillBank

close = torch.testing.assert_close


def update(model, reference, optimizer, segments, pairs, logprobs, entropy_weight=0.001, **knobs):
    """grpo.update with one (A_act, A_skill) per segment, and the objective's numbers by name."""
    objective = Objective(entropy=entropy_weight, **knobs)
    return grpo.update(model, reference, optimizer, *paid(segments, pairs), logprobs, objective)


def paid(segments, pairs):
    """per_token of episodes of one segment each."""
    return per_token([SimpleNamespace(segments=[segment]) for segment in segments], *zip(*pairs))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny():
    return policies.load("tiny", text=["the quick brown fox jumps over the lazy dog 0123456789"] * 4)


@pytest.fixture
def model(tiny):
    return copy.deepcopy(tiny.model)


# -- the two advantages


def test_worked_numbers():
    """Bug: the biased std (1.118 where the paper has 1.291), or the mean of the whole batch for that of the group."""
    got = group_advantage([1.0, 2.0, 3.0, 4.0, 10.0, 0.0], [0, 0, 0, 0, 1, 1], alone="zero")
    std, pair = math.sqrt(5 / 3), math.sqrt(50)
    want = [-1.5 / std, -0.5 / std, 0.5 / std, 1.5 / std, 5 / pair, -5 / pair]
    close(got, torch.tensor(want), atol=2e-6, rtol=0)
    assert got[0].item() == pytest.approx(-1.161894, abs=2e-6)


def test_eps_counts():
    """Bug: eps left out or added under the root: then a group that differs by a hair gets a full-sized advantage."""
    d = 1e-6  # std = d / sqrt 2, of eps's own size
    got = group_advantage(torch.tensor([0.0, d], dtype=torch.float64), [0, 0], alone="zero")
    close(got[1].item(), (d / 2) / (d / math.sqrt(2) + 1e-6), atol=1e-9, rtol=0)
    got = group_advantage([0.0, 2.0], [0, 0], alone="zero", eps=1.0)
    close(got[1].item(), 1 / (math.sqrt(2) + 1), atol=1e-6, rtol=0)


def test_group_of_one():
    """Bug: the std of one number is nan, and one lonely rollout turns every weight into nan."""
    got = group_advantage([9.5, -2.0, 3.0, 5.0], ["alone", "also", "pair", "pair"], alone="reward")
    close(got[:2], torch.tensor([9.5, -2.0]) / (1 + 1e-6))
    close(got[2:], torch.tensor([-1.0, 1.0]) / math.sqrt(2), atol=2e-6, rtol=0)


def test_a_group_of_one_is_a_choice_that_the_caller_sees():
    """Bug: reused for GiGPO's groups of equal pages, most of which have one member, it returns raw rewards silently."""
    rewards, groups = [9.5, 3.0, 5.0], ["alone", "pair", "pair"]
    assert group_advantage(rewards, groups, alone="zero")[0] == 0.0
    with pytest.raises(TypeError, match="alone"):
        group_advantage(rewards, groups)
    with pytest.raises(ValueError, match="reward or zero"):
        group_advantage(rewards, groups, alone="mean")
    assert dual_advantages([1.0], [2.0], [0])[0] > 0.9, "the released code's choice, made there"


def test_update_takes_one_advantage_per_token(tiny, batch):
    """Bug: an advantage per segment fits no step-level credit; a per-token one must give the same where it is equal."""
    segments, pairs = batch
    same, lists = paid(segments, pairs)
    assert all(mine is theirs for mine, theirs in zip(same, segments))
    assert all(len(mine) == len(segment.ids) for segment, mine in zip(segments, lists))
    gradients = []
    for scale in (1.0, 2.0):  # one token's advantage is doubled
        scaled = [list(mine) for mine in lists]
        at = next(i for i, job in enumerate(segments[1].job) if job != FORCED)
        scaled[1][at] *= scale
        model = copy.deepcopy(tiny.model)
        optimizer = Gradient(model)
        grpo.update(model, None, optimizer, segments, scaled, logprobs, Objective(kl=0.0))
        gradients.append(optimizer.all)
    only = [[0.0] * len(mine) for mine in lists]
    only[1][at] = lists[1][at]
    model = copy.deepcopy(tiny.model)
    optimizer = Gradient(model)
    grpo.update(model, None, optimizer, segments, only, logprobs, Objective(kl=0.0, entropy=0.0))
    close(gradients[1] - gradients[0], optimizer.all, atol=1e-6, rtol=0)


@pytest.mark.parametrize("labels", [["b", "a", "b", "a"], torch.tensor([7, 3, 7, 3]), (1, 0, 1, 0), [("x", 1), 2] * 2])
@pytest.mark.parametrize("rewards", [[1, 5, 3, 6], [1.0, 5.0, 3.0, 6.0], torch.tensor([1, 5, 3, 6])])
def test_any_labels_and_lists_or_tensors(labels, rewards):
    """Bug: group labels must be 0..n-1 and adjacent, integers are divided as integers, or the order is not kept."""
    got = group_advantage(rewards, labels, alone="reward")
    assert got.dtype == torch.float32 and got.shape == (4,)
    close(got, torch.tensor([-1.0, -1.0, 1.0, 1.0]) / math.sqrt(2), atol=3e-6, rtol=0)


def test_the_rewards_stay_as_they_were():
    """Bug: the caller's tensor is normalised in place, and the log reports advantages as rewards."""
    rewards = torch.tensor([1.0, 2.0])
    group_advantage(rewards, [0, 0], alone="reward")
    assert rewards.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("value", [0.1, -0.4, -2.4, -2.9, 1.8333333, -4.9, 1e4 / 3])
@pytest.mark.parametrize("n", [3, 7, 8, 10, 16])
def test_equal_rewards_give_no_advantage(value, n):
    """Bug: in float32 the mean of equal rewards is off by a rounding error, which over eps passed for 0.3 of a std."""
    assert group_advantage([value] * n, [0] * n, alone="reward").abs().max() < 1e-5
    assert group_advantage(torch.tensor([value] * n), [0] * n, alone="reward").abs().max() < 1e-5


def test_labels_that_do_not_fit():
    """Bug: zip() drops the last rollouts without a word."""
    with pytest.raises(ValueError, match="3 rewards but 2 group labels"):
        group_advantage([1.0, 2.0, 3.0], [0, 0], alone="zero")


def test_dual_and_single():
    """Bug: the two rewards are added before they are normalised, or lambda is the code's 1.0 for the paper's 0.2."""
    R, S, groups = [0.0, 10.0, 10.0, 0.0], [0.3, 0.1, -0.2, 0.4], [0, 0, 1, 1]
    root = 1 / math.sqrt(2)
    act, skill = dual_advantages(R, S, groups)
    close(act, torch.tensor([-root, root, root, -root]), atol=1e-6, rtol=0)
    close(skill, 0.2 * torch.tensor([root, -root, -root, root]), atol=1e-5, rtol=0)
    close(dual_advantages(R, S, groups, weight=1.0)[1], 5 * skill)
    single = group_advantage([r + s for r, s in zip(R, S)], groups, alone="reward")
    assert single[0] * skill[0] < 0, "R + S blames a good review for its episode: the ablation's point"


# -- the loss


def loss_of(ratio, advantage, clip=0.2, **more):
    """The loss of one token with this ratio."""
    logp = torch.tensor([[math.log(ratio)]], requires_grad=True)
    loss = policy_loss(logp, torch.zeros(1, 1), None, torch.tensor([[advantage]]), torch.ones(1, 1), clip, 0.0, **more)
    loss.backward()
    return loss.item(), logp.grad.item()


@pytest.mark.parametrize("ratio, advantage, loss, gradient", [
    (1.5, 2.0, -2.4, 0.0),  # improved far enough: clipped, no gradient
    (1.1, 2.0, -2.2, -2.2),
    (0.5, 2.0, -1.0, -1.0),  # a good token that became less likely: never clipped
    (0.5, -2.0, 1.6, 0.0),  # a bad token that is unlikely by now: clipped
    (0.9, -2.0, 1.8, 1.8),
    (1.5, -2.0, 3.0, 3.0),  # a bad token that became more likely: never clipped
    (1.0, 2.0, -2.0, -2.0),
])
def test_clip_on_both_sides(ratio, advantage, loss, gradient):
    """Bug: max for min, or the ratio clipped before it is compared: then the policy cannot take back a mistake."""
    got = loss_of(ratio, advantage)
    assert got == pytest.approx((loss, gradient), abs=1e-6)


def test_clip_width():
    """Bug: the width is a constant somewhere."""
    assert loss_of(1.5, 1.0, clip=0.4)[0] == pytest.approx(-1.4, abs=1e-6)


def test_kl_is_k3():
    """Bug: k1, or the difference the wrong way round; k3 of d = log 2 is 1 - log 2, of d = -log 2 it is log 2 - 1/2."""
    logp, ref = torch.tensor([[-1.0, -1.0, -1.0]]), torch.tensor([[math.log(2) - 1, -math.log(2) - 1, -1.0]])
    mask = torch.ones(1, 3)
    close(k3(logp, ref, mask.bool()), torch.tensor([[1 - math.log(2), math.log(2) - 0.5, 0.0]]))
    for kl in (0.05, 1.0):
        got = policy_loss(logp, logp, ref, torch.zeros(1, 3), mask, kl=kl)
        assert got.item() == pytest.approx(kl * 0.5 / 3, abs=1e-6)
    logp.requires_grad_()
    policy_loss(logp, logp.detach(), ref, torch.zeros(1, 3), mask, kl=1.0).backward()
    close(logp.grad, torch.tensor([[-1 / 3, 0.5 / 3, 0.0]]))  # 1 - exp(d): towards the reference


def test_entropy_is_a_bonus():
    """Bug: the entropy is punished, and the policy collapses onto one action."""
    entropy = torch.tensor([[1.0, 3.0]], requires_grad=True)
    zero = torch.zeros(1, 2)
    loss = policy_loss(zero, zero, None, zero, torch.ones(1, 2), kl=0.0, bonus=0.1 * entropy)
    assert loss.item() == pytest.approx(-0.2)
    loss.backward()
    close(entropy.grad, torch.tensor([[-0.05, -0.05]]))
    default = policy_loss(zero, zero, None, zero, torch.ones(1, 2), kl=0.0, bonus=0.001 * entropy)
    assert default.item() == pytest.approx(-0.002)


def test_step_level_advantages_reach_the_acting_tokens_of_their_turn():
    """Bug: the review gets a turn's advantage, or the second segment of a long episode takes the first turns'."""
    first = SimpleNamespace(job=[FORCED, ACT, FORCED], turn=[-1, 0, -1])
    segment = SimpleNamespace(job=[FORCED, ACT, ACT, FORCED, ACT, FORCED, REVIEW], turn=[-1, 3, 3, -1, 4, -1, 5])
    episodes = [SimpleNamespace(segments=[first]), SimpleNamespace(segments=[first, segment])]
    segments, got = per_token(episodes, [7.0, 1.0], [0.5, 0.25], [[30.0], [90.0, 91.0, 92.0, 10.0, 20.0]])
    assert segments == [first, first, segment]
    assert got == [[0.0, 37.0, 0.0], [0.0, 91.0, 0.0], [0.0, 11.0, 11.0, 0.0, 21.0, 0.0, 0.25]]
    _, got = per_token(episodes, [7.0, 1.0], [0.5, 0.25])
    assert got == [[0.0, 7.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.25]]


def test_mean_over_sampled_tokens_only():
    """Bug: the denominator counts padding or prompt (nano-aha: 18 for 5), or each row counts the same."""
    logp = torch.zeros(2, 4)
    mask = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0]])
    advantage = torch.tensor([[1.0] * 4, [5.0] * 4])
    assert policy_loss(logp, logp, None, advantage, mask, kl=0.0).item() == pytest.approx(-(3 + 5) / 4)
    given = policy_loss(logp, logp, None, advantage, mask, kl=0.0, tokens=16)
    assert given.item() == pytest.approx(-8 / 16), "a micro-batch must divide by the whole batch's tokens"
    assert policy_loss(logp, logp, None, torch.ones(2, 4), torch.zeros(2, 4), kl=0.0).item() == 0.0


@pytest.mark.parametrize("junk", [float("nan"), float("inf"), -float("inf"), 1e30, -1e30])
def test_garbage_outside_the_mask_stays_there(junk):
    """Bug: 0 * inf = nan: the loss is fine and the gradient is not, or padding overflows exp()."""
    mask = torch.tensor([[True, False, True]])
    clean = [torch.tensor([[-1.0, -1.0, -2.0]]), torch.tensor([[-1.1, -1.0, -1.9]]), torch.tensor([[-0.9, -1.0, -2.2]]),
             torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.5, 0.5, 0.7]])]

    def run(tensors):
        leaves = [t.clone().requires_grad_() for t in tensors]
        logp, old, ref, advantage, entropy = leaves
        loss = policy_loss(logp, old.detach(), ref.detach(), advantage.detach(), mask, kl=0.05,
                           bonus=0.001 * entropy)
        loss.backward()
        return loss, logp.grad, entropy.grad

    want = run(clean)
    for dirty in [[0], [1], [2], [3], [4], [0, 1], [0, 2], range(5)]:
        got = run([torch.where(mask, t, junk) if i in dirty else t for i, t in enumerate(clean)])
        for a, b in zip(got, want):
            close(a, b, rtol=0, atol=0)
    assert torch.isfinite(want[0]) and want[1][0, 1] == 0


def test_gradient_is_the_finite_difference():
    """Bug: a detach in the wrong place: the loss is right and the gradient is another function's."""
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 2, dtype=torch.float64)  # two rows of two draws from two tokens
    drawn = torch.tensor([[0, 1], [1, 1]])
    old, ref = torch.randn(2, 2, 2).double(), torch.randn(2, 2, 2).double()
    advantage, mask = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double(), torch.tensor([[True, True], [True, False]])

    def pick(logits):
        return logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]

    def loss(logits):
        logp = logits.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        return policy_loss(pick(logits), pick(logits0 + 0.1 * old), pick(ref), advantage, mask, 0.2, 0.05,
                           0.1 * entropy)

    logits0 = logits.clone()
    logits.requires_grad_()
    loss(logits).backward()
    for i in range(logits.numel()):
        step = torch.zeros(8, dtype=torch.float64)
        step[i] = 1e-6
        slope = (loss(logits0 + step.view(2, 2, 2)) - loss(logits0 - step.view(2, 2, 2))) / 2e-6
        assert logits.grad.flatten()[i].item() == pytest.approx(slope.item(), abs=1e-8)
    assert logits.grad.abs().min(dim=-1).values.flatten()[:3].min() > 1e-4, "a gradient of zero would compare well too"
    assert logits.grad[1, 1].abs().max() == 0


# -- micro-batches and padding


def test_micro_batches_cover_and_fit():
    """Bugs: a row is lost or trained twice; padding takes a batch over the budget and the GPU out of memory, or fills
    more than a tenth of what is computed."""
    rng = random.Random(0)
    for budget in (1, 7, 64, 300, 10**6):
        lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 30))]
        batches = micro_batches(lengths, budget)
        assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
        for rows in batches:
            size = len(rows) * max(lengths[row] for row in rows)
            assert (size <= budget or len(rows) == 1) and sum(lengths[row] for row in rows) >= 0.9 * size
    assert len(micro_batches([5] * 8, 20)) == 2 and len(micro_batches([5] * 8, 10**6)) == 1
    assert micro_batches([], 10) == []
    assert micro_batches([3, 9, 3, 9], 18) == [[1, 3], [0, 2]], "rows of a length belong together"


def test_pad():
    """Bug: padding on the left moves every position; padding with anything but 0 would not be FORCED."""
    assert pad([[1, 2, 3], [4]], torch.long, "cpu").tolist() == [[1, 2, 3], [4, 0, 0]]
    assert FORCED == 0


# -- the update


class Gradient:
    """In place of AdamW: keeps the gradient that an update computed."""

    team = None

    def __init__(self, model):
        self.model = model

    def accumulate(self):
        pass

    def step(self, max_norm):
        self.all = torch.cat([p.grad.flatten() for p in self.model.parameters()])
        return self.all.norm().item()


def transcript(rng, vocab, turns, act=True, review=True):
    """A segment: forced prompt, sampled turns with observations between them, a sampled review at the end."""
    ids, jobs, logp = [], [], []
    for turn in range(turns + review):
        job = REVIEW if turn == turns else ACT if act else FORCED
        for what, n in ((FORCED, rng.randint(2, 6)), (job, rng.randint(1, 5))):
            ids += [rng.randrange(vocab) for _ in range(n)]
            jobs += [what] * n
            logp += [rng.uniform(-7, -4) if what != FORCED else 0.0 for _ in range(n)]
    return SimpleNamespace(ids=ids, job=jobs, logp=logp)


@pytest.fixture(scope="module")
def batch(tiny):
    """Seven ragged segments (one without a review, one without action tokens) and their advantages."""
    rng, vocab = random.Random(1), tiny.model.cfg.vocab_size
    segments = [transcript(rng, vocab, turns) for turns in (1, 3, 2, 5, 1)]
    segments += [transcript(rng, vocab, 2, review=False), transcript(rng, vocab, 2, act=False)]
    return segments, [(rng.gauss(0, 1), rng.gauss(0, 0.2)) for _ in segments]


@pytest.fixture(scope="module")
def reference(tiny):
    """A reference that differs from the policy, so that the KL term has a gradient."""
    model = copy.deepcopy(tiny.model).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.add_(0.02 * torch.randn(p.shape, generator=generator))
    return model


def run(model, reference, batch, order=None, padding=0, lr=1e-5, **knobs):
    """(Stats, gradient, weights after the step) of an update of a copy of the model."""
    segments, advantages = batch
    order = list(range(len(segments))) if order is None else order
    knobs = {"kl": 0.05, "entropy_weight": 0.01, **knobs}

    def padded(model, tokens, mask, temperature, entropy=False):
        wide = torch.nn.functional.pad(tokens, (0, padding), value=3)
        out = logprobs(model, wide, torch.nn.functional.pad(mask, (0, padding)), temperature, entropy)
        width = tokens.shape[1]
        return tuple(x[:, :width] for x in out) if entropy else out[:, :width]

    out = []
    for make in (Gradient, lambda model: AdamW(model.parameters(), lr)):
        mine = copy.deepcopy(model)
        optimizer = make(mine)
        stats = update(mine, reference, optimizer, [segments[i] for i in order], [advantages[i] for i in order],
                       padded if padding else logprobs, **knobs)
        out.append((stats, mine, optimizer))
    (_, _, gradient), (stats, mine, _) = out
    return stats, gradient.all, torch.cat([p.detach().flatten() for p in mine.parameters()])


def test_loss_and_step_do_not_depend_on_the_split(tiny, reference, batch):
    """Bug: a mean of micro-batch means, a denominator with padding in it, or advantages that stay in the old order."""
    stats, gradient, weights = run(tiny.model, reference, batch, budget=10**6)
    assert abs(stats.loss) > 0.01 and stats.kl > 0.001 and gradient.norm() > 0.01
    before = torch.cat([p.detach().flatten() for p in tiny.model.parameters()])
    assert (weights - before).abs().max() > 5e-6, "the step must be visible at the precision that is compared"
    changes = [dict(order=[3, 0, 6, 2, 5, 1, 4]), dict(order=[6, 5, 4, 3, 2, 1, 0], budget=60), dict(budget=1),
               dict(padding=9)]
    for change in changes:
        other, other_gradient, other_weights = run(tiny.model, reference, batch, **{"budget": 10**6, **change})
        for name in ("loss", "kl", "entropy", "clipped", "grad_norm"):
            assert getattr(other, name) == pytest.approx(getattr(stats, name), abs=1e-6), (change, name)
        assert other.tokens == stats.tokens
        close(other_gradient, gradient, atol=1e-6, rtol=0)
        close(other_weights, weights, atol=1e-6, rtol=0)


def test_one_long_row_alone_is_the_same(tiny, reference, batch):
    """Bug: the padding beside a long row is attended to, or its neighbours' positions shift."""
    segments, advantages = batch
    kinds = sum(k != FORCED for s in segments for k in s.job)
    apart = [run(tiny.model, reference, ([s], [a])) for s, a in zip(segments, advantages)]
    together, gradient, _ = run(tiny.model, reference, batch)
    share = [stats.tokens / kinds for stats, *_ in apart]
    assert sum(w * stats.loss for w, (stats, *_) in zip(share, apart)) == pytest.approx(together.loss, abs=1e-6)
    close(sum(w * g for w, (_, g, _) in zip(share, apart)), gradient, atol=1e-6, rtol=0)


def test_a_score_is_what_the_update_compares_with(tiny, batch):
    """Bug: scores come back in the order of the micro-batches, at another temperature, or with a gradient."""
    segments, _ = batch
    found = score(tiny.model, segments, logprobs, Objective(temperature=0.7, budget=60))
    for segment, values in zip(segments, found, strict=True):
        tokens, mask = torch.tensor([segment.ids]), torch.tensor([segment.job]) != FORCED
        close(torch.tensor([values]), logprobs(tiny.model, tokens, mask, 0.7).detach(), atol=1e-5, rtol=0)
    assert score(tiny.model, [], logprobs) == []


def test_a_score_of_what_the_policy_sampled_is_the_samplers(tiny, env, monkeypatch):
    """Bug: a transcript is scored at another temperature, in another order or with its neighbours' padding."""
    monkeypatch.setattr(env, "limit", 4)
    how = Sampling(0.6, 16, 24, 3000)
    episodes = rollout(tiny, env, env.train_tasks[:2], SkillBank(), group=2, seed=4, sampling=how)
    segments, _ = grpo.per_token(episodes, [0.0] * 4, [0.0] * 4)
    for budget in (1, 1500, 10**6):
        scores = score(tiny.model, segments, logprobs, Objective(temperature=0.6, budget=budget))
        for segment, values in zip(segments, scores, strict=True):
            assert len(values) == len(segment.ids) and all(isinstance(value, float) for value in values)
            assert values == pytest.approx(segment.logp, abs=1e-4)
            assert all(value == 0.0 for value, job in zip(values, segment.job) if job == FORCED)
    assert all(parameter.grad is None for parameter in tiny.model.parameters())


def test_each_token_gets_its_jobs_advantage(tiny, batch):
    """Bug: review tokens are paid in task reward (the ablation), or lambda is applied twice or to the actions."""
    segments, advantages = batch
    plain = dict(kl=0.0, entropy_weight=0.0)

    def gradient(segments, advantages):
        return run(tiny.model, None, (segments, advantages), **plain)[1]

    both = gradient(segments, advantages)
    act = gradient(segments, [(a, 0.0) for a, _ in advantages])
    skill = gradient(segments, [(0.0, s) for _, s in advantages])
    assert act.norm() > 0.01 and skill.norm() > 0.001
    close(act + skill, both, atol=1e-6, rtol=0)

    def only(job):  # the other job's tokens turned into forced ones; the denominator is put right by hand
        kept = [SimpleNamespace(ids=s.ids, job=[k if k == job else FORCED for k in s.job], logp=s.logp)
                for s in segments]
        count = sum(k == job for s in segments for k in s.job) / sum(k != FORCED for s in segments for k in s.job)
        return gradient(kept, [(a, s) for a, s in advantages]) * count

    close(act, only(ACT), atol=1e-6, rtol=0)
    close(skill, only(REVIEW), atol=1e-6, rtol=0)


def test_review_weight_is_lambda_once(tiny, batch):
    """Bug: update() multiplies by lambda too: the review's gradient must be 0.2 of that at weight 1."""
    segments, _ = batch
    rng, groups = random.Random(2), [0, 0, 0, 0, 1, 1, 1]
    R, S = ([rng.gauss(0, 1) for _ in segments] for _ in range(2))

    def gradient(weight, zero):
        act, skill = dual_advantages(R, S, groups, weight)
        pairs = [(0.0 if zero == ACT else float(a), 0.0 if zero == REVIEW else float(s)) for a, s in zip(act, skill)]
        return run(tiny.model, None, (segments, pairs), kl=0.0, entropy_weight=0.0)[1]

    close(gradient(0.2, ACT), 0.2 * gradient(1.0, ACT), atol=1e-7, rtol=0)
    close(gradient(0.2, REVIEW), gradient(1.0, REVIEW), atol=0, rtol=0)


def test_forced_tokens_get_no_gradient(tiny):
    """Bug: the policy is trained to write the shop's pages. Its log-probability of a forced token must not count."""
    segments = [SimpleNamespace(ids=[5, 6, 7, 8, 9], job=[FORCED, FORCED, ACT, FORCED, REVIEW], logp=[0.0] * 5)]
    leaf = torch.full((1, 5), -1.0, requires_grad=True)
    spread = torch.full((1, 5), 2.0, requires_grad=True)
    seen = []

    def spy(model, tokens, mask, temperature, entropy=False):
        seen.append(mask.tolist())
        return (leaf, spread) if entropy else torch.full((1, 5), -1.5)

    optimizer = SimpleNamespace(team=None, accumulate=lambda: None, step=lambda max_norm: 0.0)
    stats = update(tiny.model, tiny.model, optimizer, segments, [(1.0, -0.5)], spy, kl=0.1)
    mask = [[False, False, True, False, True]]
    assert seen == [mask, mask] and stats.tokens == 2
    assert [(g != 0) for g in leaf.grad[0].tolist()] == mask[0] == [(g != 0) for g in spread.grad[0].tolist()]


def test_a_batch_without_a_sampled_token_trains_nothing(tiny):
    """Bug: ZeroDivisionError, where transcripts without a batch pass."""
    given = SimpleNamespace(ids=[5, 6], job=[FORCED, FORCED], logp=[0.0] * 2)
    optimizer = SimpleNamespace(team=None, accumulate=lambda: pytest.fail("trained"), step=lambda max_norm: 0.0)
    stats = update(tiny.model, tiny.model, optimizer, [given], [(0.0, 0.0)], logprobs, kl=0.1)
    assert (stats.tokens, stats.loss, stats.grad_norm) == (0, 0.0, 0.0)


def test_stats_by_hand(tiny):
    """Bug: the log shows the last micro-batch (GRPO-Zero), a share of the wrong tokens, or a mean of means."""
    # Two rows in two micro-batches: 1 and 3 sampled tokens.
    segments = [SimpleNamespace(ids=[1, 2], job=[FORCED, ACT], logp=[0.0, -1.0]),
                SimpleNamespace(ids=[1, 2, 3, 4], job=[FORCED, ACT, ACT, REVIEW], logp=[0.0, -1.0, -1.0, -1.0])]
    now = {2: [[0.0, -1.0 + math.log(1.5)]], 4: [[9.0, -1.0, -1.0 + math.log(0.7), -1.0]]}
    ref = {2: [[9.0, -1.0 + math.log(3)]], 4: [[9.0, -1.0, -1.0 + math.log(0.7), -1.0 + math.log(2)]]}
    spread = {2: [[0.0, 1.0]], 4: [[0.0, 2.0, 3.0, 6.0]]}

    def fake(model, tokens, mask, temperature, entropy=False):
        width = tokens.shape[1]
        assert temperature == 0.7
        if not entropy:
            return torch.tensor(ref[width])
        return torch.tensor(now[width], requires_grad=True), torch.tensor(spread[width])

    optimizer = SimpleNamespace(team=None, accumulate=lambda: None, step=lambda max_norm: 10 * max_norm)
    stats = update(tiny.model, tiny.model, optimizer, segments, [(2.0, 99.0), (1.0, -1.0)], fake, kl=0.1,
                   entropy_weight=0.01, temperature=0.7, budget=4, max_norm=0.5)
    log2 = math.log(2)
    surrogate = [-2.4, -1.0, -0.7, 1.0]
    kl = [(2 - log2 - 1), 0.0, 0.0, (2 - log2 - 1)]
    assert isinstance(stats, Stats)
    assert stats.tokens == 4 and stats.grad_norm == 5.0
    assert stats.clipped == pytest.approx(2 / 4), "1.5 and 0.7 lie outside 1 +- 0.2"
    apart = [math.log(1.5), 0.0, math.log(0.7), 0.0]  # log rho
    assert stats.mismatch == pytest.approx(statistics.pstdev(apart), abs=1e-6)
    assert stats.entropy == pytest.approx(12 / 4)
    assert stats.kl == pytest.approx(sum(kl) / 4)
    assert stats.loss == pytest.approx((sum(surrogate) + 0.1 * sum(kl) - 0.01 * 12) / 4, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_epoch_ratio_is_one(tiny, model, temperature):
    """Bug: sampler and trainer score different softmaxes (top-k, temperature, padding): clipping before any step."""
    session = Session(tiny, 3, 128, seed=4)
    chat, segments = tiny.chat, [SimpleNamespace(ids=[], job=[], logp=[]) for _ in range(3)]

    def hear(row, ids):
        segments[row].ids += ids
        segments[row].job += [FORCED] * len(ids)
        segments[row].logp += [0.0] * len(ids)
        session.feed([row], [ids])

    for row, task in enumerate(["the fox", "a very lazy dog 42", "dog"]):
        hear(row, chat.opening("be quick", task))
    for turn in range(3):
        for row, (ids, logp) in enumerate(session.sample(range(3), [4 + turn, 9, 6], temperature=temperature)):
            segments[row].ids += ids
            segments[row].job += [REVIEW if turn == 2 else ACT] * len(ids)
            segments[row].logp += logp
        if turn < 2:
            for row in range(3):
                hear(row, chat.turn("jumps over " * (row + 1), segments[row].ids[-1]))
    advantages = [(1.0, -0.5), (-2.0, 0.25), (0.5, 3.0)]
    stats = update(model, None, AdamW(model.parameters(), 1e-4), segments, advantages, logprobs, kl=0.0,
                   entropy_weight=0.0, temperature=temperature, budget=100)
    paid = [a if k == ACT else s for segment, (a, s) in zip(segments, advantages) for k in segment.job if k != FORCED]
    assert stats.tokens == len(paid) and stats.clipped == 0.0 and 0 < stats.mismatch < 1e-4
    assert stats.loss == pytest.approx(-sum(paid) / len(paid), abs=2e-6)
    again = update(model, None, AdamW(model.parameters(), 1e-4), segments, advantages, logprobs, kl=0.0,
                   entropy_weight=0.0, temperature=temperature)
    assert again.loss < stats.loss - 1e-4, "the step did not go down the loss"


def test_kl_starts_at_zero_and_a_tight_clip_norm_holds(tiny, model, batch):
    """Bug: policy and reference are scored with different masks or temperatures; or max_norm never reaches the clip."""
    segments, advantages = batch
    optimizer = AdamW(model.parameters(), 1e-4)
    stats = update(model, copy.deepcopy(model), optimizer, segments, advantages, logprobs, temperature=0.7)
    assert stats.kl == pytest.approx(0.0, abs=1e-9)

    class SGD(AdamW):
        def __init__(self, model):
            super().__init__(model.parameters(), 1.0)
            self.adam = torch.optim.SGD(self.master, lr=1.0)

    start = [p.detach().clone() for p in model.parameters()]
    stats = update(model, None, SGD(model), segments, advantages, logprobs, kl=0.0, max_norm=1e-3)
    moved = math.sqrt(sum((p.detach() - s).pow(2).sum().item() for p, s in zip(model.parameters(), start)))
    assert stats.grad_norm > 0.01 and moved == pytest.approx(1e-3, rel=1e-2)


# -- the optimizer


def layer(dtype, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)).to(dtype)


def descend(model, optimizer, steps, seed, halves=1, **knobs):
    """`steps` steps on a fixed stream of data; halves: micro-batches per step."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, 4, generator=generator).to(next(model.parameters()).dtype)
        for part in x.chunk(halves):
            (model(part).float().pow(2).sum() / 16).backward()
            optimizer.accumulate()
        optimizer.step(**knobs)
    return [p.detach().clone() for p in model.parameters()]


def test_bfloat16_accumulates_small_steps():
    """Bug: at lr 1e-6 a bfloat16 weight rounds each step away, and the run trains nothing while the log looks fine."""
    model, plain = layer(torch.bfloat16), layer(torch.bfloat16)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer, adam = AdamW(model.parameters(), 1e-6), torch.optim.AdamW(plain.parameters(), lr=1e-6, weight_decay=0.0)
    for _ in range(1000):
        for some in (model, plain):
            sum(p.sum() for p in some.parameters()).backward()  # gradient 1: each step is the whole lr
        optimizer.accumulate()
        optimizer.step(max_norm=1e9)
        adam.step()
        adam.zero_grad()
    for master, before in zip(optimizer.master, start):
        close(master, before.float() - 1e-3, atol=3e-5, rtol=0)
    moved = sum((p != s).sum().item() for p, s in zip(model.parameters(), start))
    lost = sum((p != s).sum().item() for p, s in zip(plain.parameters(), start))
    total = sum(p.numel() for p in start)
    assert moved > total / 2, (moved, total)
    assert lost < moved / 4, (lost, moved)
    assert all(torch.equal(p, m.bfloat16()) for p, m in zip(model.parameters(), optimizer.master))


def test_float32_is_held_once():
    """Bug: a second copy of a 7B model in memory; or a bfloat16 model without its master copy."""
    model = layer(torch.float32)
    assert all(m is p for m, p in zip(AdamW(model.parameters(), 1e-3).master, model.parameters()))
    assert AdamW(model.parameters(), 1e-3).state_dict()["master"] is None
    half = AdamW(layer(torch.bfloat16).parameters(), 1e-3)
    assert all(m.dtype == torch.float32 for m in half.master) and len(half.state_dict()["master"]) == 4
    model[0].weight.requires_grad_(False)
    assert len(AdamW(model.parameters(), 1e-3).master) == 3, "frozen weights are no parameters"


def test_the_machine_says_whether_the_step_is_fused():
    """Bug: a run that began on a CPU and goes on on a card makes the plain step there, which needs more memory."""
    model = layer(torch.float32)
    before, after = (AdamW(model.parameters(), 1e-3) for _ in range(2))
    sum((p ** 2).sum() for p in model.parameters()).backward()
    before.step()
    after.adam.param_groups[0]["fused"] = True
    after.load_state_dict(before.state_dict())
    assert after.adam.param_groups[0]["fused"] is True and before.adam.param_groups[0]["fused"] is None
    assert len(after.state_dict()["adam"]["state"]) == 4, "the moments are there"


def test_state_kept_on_the_cpu_makes_the_same_steps():
    """Bug: gradients that never reach the copy, or steps that never come back. (Another device needs a GPU.)"""
    models = [layer(torch.bfloat16) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    before = [p.detach().clone() for p in models[0].parameters()]
    for model, offload in zip(models, (False, True)):
        optimizer = AdamW(model.parameters(), 1e-2, offload=offload)
        assert all(m.device.type == "cpu" for m in optimizer.master)
        for _ in range(3):
            sum((p.float() ** 2).sum() for p in model.parameters()).backward()
            optimizer.accumulate()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters()))
    assert not any(torch.equal(a, b) for a, b in zip(before, models[0].parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_micro_batches_add_up_in_float32(dtype):
    """Bug: gradients of micro-batches overwrite each other, stay for the next step, or add up in bfloat16."""
    one, four = layer(dtype), layer(dtype)
    a = descend(one, AdamW(one.parameters(), 1e-2), 3, seed=1)
    b = descend(four, AdamW(four.parameters(), 1e-2), 3, seed=1, halves=4)
    for x, y in zip(a, b):
        close(x.float(), y.float(), atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)
    assert all(p.grad is None for p in one.parameters())
    optimizer = AdamW(layer(torch.bfloat16).parameters(), 1e-3)
    for _ in range(257):  # in bfloat16 256 + 1 is 256
        optimizer.params[0].grad = torch.ones_like(optimizer.params[0])
        optimizer.accumulate()
    assert optimizer.sums[0].unique().tolist() == [257.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_continues_bit_for_bit(dtype, tmp_path):
    """Bug: a resumed run loses the moments, the step count or the master weights' lower bits."""
    straight = layer(dtype)
    want = descend(straight, AdamW(straight.parameters(), 1e-3), 5, seed=3)

    model = layer(dtype)
    optimizer = AdamW(model.parameters(), 1e-3)
    kept = descend(model, optimizer, 2, seed=3)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = layer(dtype, seed=9)
    resumed.load_state_dict(state["model"])
    assert all(torch.equal(p, s) for p, s in zip(resumed.parameters(), kept))
    optimizer = AdamW(resumed.parameters(), 1e-3)
    optimizer.load_state_dict(state["optimizer"])
    generator = torch.Generator().manual_seed(3)
    for step in range(5):
        x = torch.randn(16, 4, generator=generator).to(dtype)
        if step < 2:
            continue
        (resumed(x).float().pow(2).sum() / 16).backward()
        optimizer.accumulate()
        optimizer.step()
    assert all(torch.equal(p, w) for p, w in zip(resumed.parameters(), want))
    if dtype == torch.bfloat16:
        assert any((m != m.bfloat16().float()).any() for m in optimizer.master), "the lower bits are what is tested"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_gradient_steps_nowhere(dtype, bad):
    """Bug: one overflow writes nan into every weight, or into Adam's moments, where it shows a step later."""
    model = layer(dtype)
    optimizer = AdamW(model.parameters(), 1e-3)
    before = descend(model, optimizer, 2, seed=1)
    state = copy.deepcopy(optimizer.state_dict())
    model(torch.full((1, 4), bad, dtype=dtype)).sum().backward()
    optimizer.accumulate()
    assert not math.isfinite(optimizer.step())
    assert all(torch.equal(p, s) for p, s in zip(model.parameters(), before))
    after = optimizer.state_dict()
    close(after["adam"]["state"], state["adam"]["state"], rtol=0, atol=0)
    close(after["master"] or [], state["master"] or [], rtol=0, atol=0)
    twin = layer(dtype)  # and the next step is as if nothing had happened
    other = AdamW(twin.parameters(), 1e-3)
    descend(twin, other, 2, seed=1)
    for a, b in zip(descend(model, optimizer, 1, seed=2), descend(twin, other, 1, seed=2)):
        assert torch.equal(a, b)


def test_step_clips_and_takes_a_learning_rate():
    """Bug: the norm is reported after clipping, or the warm-up's learning rate never arrives."""
    model = layer(torch.float32)
    optimizer = AdamW(model.parameters(), 1e-3)
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    count = sum(p.numel() for p in model.parameters())
    start = [p.detach().clone() for p in model.parameters()]
    assert optimizer.step(max_norm=1.0, lr=0.5) == pytest.approx(2 * math.sqrt(count))
    for p, s in zip(model.parameters(), start):
        close(p.detach(), s - 0.5, atol=1e-4, rtol=0)  # Adam's first step is the learning rate

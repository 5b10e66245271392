"""
DualAdv-GRPO: two advantages, one loss, one update. Torch and nothing else.

An episode is one token sequence on which the policy does two jobs: it acts (ACT tokens), and at the end it reviews
what happened and edits the skill bank (REVIEW tokens). The two are paid in different coins: acting in task reward R,
reviewing in the utility of the edit S. Adding them up, as plain GRPO would, lets a lucky episode praise a useless
review. So each reward is normalised against its own kind within the group of rollouts of one task, and each token gets
the advantage of the job it did (README, method 5):

    A_act   = (R - mean_g R) / (std_g R + eps)           on action tokens
    A_skill = (S - mean_g S) / (std_g S + eps), x lambda   on review tokens
    loss    = mean over sampled tokens of  -min(rho A, clip(rho, 1 - c, 1 + c) A) + beta KL - entropy bonus

How we differ: the released code counts every turn of a trajectory in the group's mean and std, so that long episodes
weigh more; here a trajectory counts once, which is GRPO. And the loss is one mean over all sampled tokens of the
whole batch, computed before it is split, so it does not change with padding, row order or micro-batches.
"""

from dataclasses import dataclass

import torch

FORCED, ACT, REVIEW = 0, 1, 2  # what a token is: given by the prompt or the world, or sampled in one of the two jobs


def group_advantage(rewards, groups, eps=1e-6):
    """GRPO's advantage: each reward against the mean and (unbiased) std of its own group.

    rewards: (N,) floats; groups: N labels (anything hashable). Returns (N,). A group of one has mean 0 and std 1.
    """
    rewards = torch.as_tensor(rewards)
    dtype = rewards.dtype if rewards.is_floating_point() else torch.float32
    rewards = rewards.double()  # in float32 the rounding error of a mean of equal rewards, over eps, passes for skill
    groups = groups.tolist() if torch.is_tensor(groups) else list(groups)
    if len(groups) != len(rewards):
        raise ValueError(f"group_advantage: {len(rewards)} rewards but {len(groups)} group labels")
    advantage = rewards.clone()
    for group in set(groups):
        mine = torch.tensor([g == group for g in groups], device=rewards.device)
        mean, std = (rewards[mine].mean(), rewards[mine].std()) if mine.sum() > 1 else (0.0, 1.0)
        advantage[mine] = (rewards[mine] - mean) / (std + eps)
    return advantage.to(dtype)


def dual_advantages(task_rewards, skill_rewards, groups, weight=0.2):
    """The two advantages (N,), (N,): of acting, and lambda = `weight` times that of reviewing."""
    return group_advantage(task_rewards, groups), weight * group_advantage(skill_rewards, groups)


def policy_loss(logp, old_logp, ref_logp, advantage, mask, clip=0.2, kl=0.01, entropy=None, entropy_weight=0.001,
                tokens=None):
    """Clipped surrogate + kl * KL(policy || reference) - entropy_weight * entropy, a mean over the masked tokens.

    logp, old_logp, ref_logp: (B, T) log-probabilities of the tokens under the policy, the sampler and the reference
    (ref_logp may be None where kl is 0); advantage: (B, T), or (B,) for one value per row; mask: (B, T), True where
    sampled; entropy: (B, T) or None; tokens: the denominator, default mask.sum(); a micro-batch passes the batch's.
    """
    mask = mask.bool()
    if advantage.dim() < logp.dim():
        advantage = advantage[:, None]
    ratio = (logp - old_logp).masked_fill(~mask, 0.0).exp()  # (B, T), padding must not overflow
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    if kl:
        loss = loss + kl * k3(logp, ref_logp, mask)
    if entropy is not None:
        loss = loss - entropy_weight * entropy
    return loss.masked_fill(~mask, 0.0).sum() / (mask.sum().clamp(min=1) if tokens is None else tokens)


def k3(logp, ref_logp, mask):
    """Schulman's k3 estimate of KL(policy || reference) per token (B, T): never negative, unbiased, low variance."""
    d = (ref_logp - logp).masked_fill(~mask, 0.0)
    return d.exp() - d - 1


class AdamW:
    """AdamW on float32 master weights: at lr 1e-6 a bfloat16 weight would round every step away.

    Where the model is float32 the master weights ARE the model's and nothing is held twice. offload: master weights,
    gradients and moments live in the CPU's memory (16 bytes per parameter less on the GPU), and the step is made there.
    """

    def __init__(self, params, lr, weight_decay=0.0, betas=(0.9, 0.999), offload=False):
        self.params = [p for p in params if p.requires_grad]
        self.master = [p if p.dtype == torch.float32 and not (offload and p.is_cuda)
                       else p.detach().to("cpu" if offload else p.device, torch.float32) for p in self.params]
        # Fused on a GPU: the other way takes as much memory as the gradients once more.
        fused = any(master.is_cuda for master in self.master) or None
        self.adam = torch.optim.AdamW(self.master, lr=lr, weight_decay=weight_decay, betas=betas, fused=fused)

    def accumulate(self):
        """Add the model's gradients to the master's, in float32; call after every backward."""
        for param, master in zip(self.params, self.master):
            if master is not param and param.grad is not None:
                grad, param.grad = param.grad.to(master.device, torch.float32), None
                master.grad = grad if master.grad is None else master.grad.add_(grad)

    def step(self, max_norm=1.0, lr=None):
        """One clipped step; returns the gradient norm before clipping. A norm that is not finite steps nowhere."""
        if lr is not None:
            self.adam.param_groups[0]["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(self.master, max_norm)
        if torch.isfinite(norm):
            self.adam.step()
            with torch.no_grad():
                for param, master in zip(self.params, self.master):
                    if master is not param:
                        param.copy_(master)
        self.adam.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self):
        half = self.master and self.master[0] is not self.params[0]
        return {"adam": self.adam.state_dict(), "master": [m.cpu() for m in self.master] if half else None}

    def load_state_dict(self, state):
        self.adam.load_state_dict(state["adam"])
        for master, saved in zip(self.master, state["master"] or []):
            master.data.copy_(saved)


def micro_batches(lengths, budget):
    """Split rows into batches of at most `budget` tokens, padding included (a longer row stands alone).

    Rows are sorted by length, and a batch ends where padding would be more than a tenth of it. Returns lists of row
    numbers.
    """
    batches, words = [], 0  # words: tokens of the last batch, without its padding
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = (len(batches[-1]) + 1) * lengths[batches[-1][0]] if batches else 0
        words += lengths[row]
        if 0 < size <= budget and words >= 0.9 * size:
            batches[-1].append(row)
        else:
            batches.append([row])
            words = lengths[row]
    return batches


def pad(rows, dtype, device):
    """Lists of numbers -> (B, longest), right-padded with 0."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [0] * (width - len(row)) for row in rows], dtype=dtype, device=device)


@dataclass
class Stats:
    """What one update did; means over sampled tokens unless said otherwise."""

    loss: float = 0.0
    kl: float = 0.0  # k3 estimate against the reference
    entropy: float = 0.0
    clipped: float = 0.0  # share of tokens whose ratio lay outside 1 +- clip
    grad_norm: float = 0.0  # before clipping
    tokens: int = 0  # sampled tokens, all of the batch


def update(model, reference, optimizer, segments, advantages, logprobs, clip=0.2, kl=0.01, entropy_weight=0.001,
           temperature=1.0, budget=4096, max_norm=1.0, progress=iter):
    """One GRPO step on a batch of transcripts.

    segments: records with lists .ids, .kind (FORCED, ACT or REVIEW per token) and .logp (the sampler's);
    advantages: one (A_act, A_skill) per segment; logprobs: policy.logprobs, the same softmax that the sampler used;
    reference: the frozen model of the KL term, may be None where kl is 0; budget: tokens per micro-batch; progress:
    wraps the micro-batches (a tqdm).
    """
    device = next(model.parameters()).device
    stats = Stats(tokens=sum(kind != FORCED for s in segments for kind in s.kind))
    for rows in progress(micro_batches([len(s.ids) for s in segments], budget)):
        batch = [segments[i] for i in rows]
        tokens = pad([s.ids for s in batch], torch.long, device)  # (B, T)
        kind = pad([s.kind for s in batch], torch.long, device)  # (B, T); padding is 0 = FORCED
        old_logp = pad([s.logp for s in batch], torch.float32, device)
        a_act, a_skill = torch.tensor([advantages[i] for i in rows], device=device, dtype=torch.float32).T[..., None]
        advantage = torch.where(kind == ACT, a_act, torch.where(kind == REVIEW, a_skill, 0.0))  # (B, T)
        mask = kind != FORCED
        logp, entropy = logprobs(model, tokens, mask, temperature, entropy=True)
        ref_logp = None
        if kl:
            with torch.no_grad():
                ref_logp = logprobs(reference, tokens, mask, temperature)
        loss = policy_loss(logp, old_logp, ref_logp, advantage, mask, clip, kl, entropy, entropy_weight, stats.tokens)
        loss.backward()
        optimizer.accumulate()
        with torch.no_grad():
            stats.loss += loss.item()
            stats.kl += (k3(logp, ref_logp, mask) * mask).sum().item() / stats.tokens if kl else 0.0
            stats.entropy += entropy.sum().item() / stats.tokens
            stats.clipped += (((logp - old_logp).exp() - 1).abs() > clip)[mask].sum().item() / stats.tokens
    stats.grad_norm = optimizer.step(max_norm)
    return stats

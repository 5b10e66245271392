"""
DualAdv-GRPO: two advantages, one loss, one update. Torch and nothing else.

An episode is one token sequence in which the policy does two jobs: it acts (ACT tokens), and at the end it reviews what
happened and edits the skill bank (REVIEW tokens). R pays acting; S, the edit's utility plus shaping, pays reviewing.
With one advantage from R + S a lucky episode would reward a useless review. So each reward is normalised only
against rewards of its own kind, within the group of rollouts of one task, and each token gets the advantage of the job
that it did (paper, section "DualAdv-GRPO"):

    A_act   = (R - mean_g R) / (std_g R + eps)             on ACT tokens
    A_skill = (S - mean_g S) / (std_g S + eps) * lambda    on REVIEW tokens
    loss    = mean over sampled tokens of  -min(rho A, clip(rho, 1 - c, 1 + c) A) + beta KL - entropy bonus

The released code counts every turn of a trajectory in the group's mean and std; here a trajectory counts once. The loss
is one mean over all sampled tokens of the whole batch, so padding, row order and micro-batches do not change it.
"""

from dataclasses import dataclass

import torch

FORCED, ACT, REVIEW = 0, 1, 2  # a token's job: given by prompt or world, sampled to act, sampled to review


def group_advantage(rewards, groups, *, alone: str, eps: float = 1e-6) -> torch.Tensor:
    """GRPO's advantage: A = (R - mean_g R) / (std_g R + eps), with the unbiased std of each reward's own group g.

    rewards: (N,) floats; groups: N labels, anything hashable. Returns (N,). alone: what a group of one gets, "reward":
    the reward itself, as in the released code (mean 0, std 1); "zero": there is nothing to compare with.
    """
    rewards = torch.as_tensor(rewards)
    dtype = rewards.dtype if rewards.is_floating_point() else torch.float32
    # float64: with equal rewards R - mean must be 0. A rounding error divided by eps would look like an advantage.
    rewards = rewards.double()
    labels = groups.tolist() if torch.is_tensor(groups) else list(groups)
    if len(labels) != len(rewards):
        raise ValueError(f"group_advantage: {len(rewards)} rewards but {len(labels)} group labels")
    if alone not in ("reward", "zero"):
        raise ValueError(f"group_advantage: alone={alone!r}; choose reward or zero")
    members: dict = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    advantage = rewards / (1.0 + eps) if alone == "reward" else torch.zeros_like(rewards)  # (N,)
    for mine in members.values():
        if len(mine) > 1:
            # A = (R - mean_g R) / (std_g R + eps)
            advantage[mine] = (rewards[mine] - rewards[mine].mean()) / (rewards[mine].std() + eps)
    return advantage.to(dtype)


def dual_advantages(task_rewards, skill_rewards, groups, weight: float = 0.2):
    """The two advantages ((N,), (N,)): of acting, and of reviewing times lambda = `weight`."""
    return (group_advantage(task_rewards, groups, alone="reward"),
            weight * group_advantage(skill_rewards, groups, alone="reward"))


def per_token(episodes, a_act, a_skill=None, a_turns=None) -> tuple[list, list[list[float]]]:
    """All segments of some episodes, and the advantage of each token: by the job it did, 0 for prompt and world.

    a_act, a_skill (None: 0): a number per episode; a_turns: per episode a number per turn, added to a_act there.
    """
    segments, advantages = [], []
    for i, episode in enumerate(episodes):
        by_job = {FORCED: 0.0, ACT: float(a_act[i]), REVIEW: 0.0 if a_skill is None else float(a_skill[i])}
        for segment in episode.segments:
            mine = [by_job[job] for job in segment.job]
            if a_turns is not None:
                mine = [a + a_turns[i][turn] if job == ACT else a
                        for a, job, turn in zip(mine, segment.job, segment.turn)]
            segments.append(segment)
            advantages.append(mine)
    return segments, advantages


def policy_loss(logp, old_logp, ref_logp, advantage, mask, clip=0.2, kl=0.01, bonus=0.0, tokens=None):
    """Clipped surrogate + kl * KL(policy || reference) - bonus, as a mean over the masked tokens. Returns a scalar.

    logp, old_logp, ref_logp: (B, T) log-probabilities of the tokens under the policy, the sampler and the reference
    (None where kl is 0); advantage: (B, T), or (B,) for one value per row; mask: (B, T), True where sampled;
    bonus: (B, T), for instance a weight times the entropy; tokens: the denominator, mask.sum() by default. A
    micro-batch passes the number of sampled tokens of the whole batch.
    """
    mask = mask.bool()
    if advantage.dim() < logp.dim():
        advantage = advantage[:, None]  # (B, 1)
    ratio = (logp - old_logp).masked_fill(~mask, 0.0).exp()  # rho (B, T); padding must not overflow
    # -min(rho A, clip(rho, 1 - c, 1 + c) A)
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)  # (B, T)
    if kl:
        loss = loss + kl * k3(logp, ref_logp, mask)
    loss = loss - bonus
    return loss.masked_fill(~mask, 0.0).sum() / (mask.sum().clamp(min=1) if tokens is None else tokens)


def k3(logp, ref_logp, mask):
    """Schulman's k3 estimate of KL(policy || reference) per token (B, T): never negative, unbiased, low variance."""
    d = (ref_logp - logp).masked_fill(~mask, 0.0)  # log pi_ref - log pi
    return d.exp() - d - 1


class AdamW:
    """AdamW on float32 master weights: at lr 1e-6 a bfloat16 weight would round every step to nothing.

    Where the model is float32 the master weights are the model's own. offload: master weights and moments are in the
    CPU's memory (12 bytes per parameter less on the GPU), and the CPU makes the step. team: lib.distributed where
    several processes share the micro-batches of `update`, a lib.sharding.Shards where they share the weights, too.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.999), offload: bool = False, team=None):
        self.team = team
        self.params = [p for p in params if p.requires_grad]
        self.master = [p if p.dtype == torch.float32 and not (offload and p.is_cuda)
                       else p.detach().to("cpu" if offload else p.device, torch.float32) for p in self.params]
        # Gradients add up beside the model, in float32: {number of the parameter: sum}.
        self.sums: dict[int, torch.Tensor] = {}
        # Fused on a GPU: the plain step needs the memory of the gradients once more. With offload it is faster.
        fused = any(param.is_cuda for param in self.params) or None
        self.adam = torch.optim.AdamW(self.master, lr=lr, weight_decay=0.0, betas=betas, fused=fused)

    def accumulate(self):
        """Add the model's gradients up in float32. Call it after every backward."""
        for i, (param, master) in enumerate(zip(self.params, self.master)):
            if master is not param and param.grad is not None:
                grad = param.grad.float()
                param.grad = None
                self.sums[i] = self.sums[i].add_(grad) if i in self.sums else grad

    def step(self, max_norm=1.0, lr=None):
        """One clipped step; returns the gradient norm before clipping. Nothing moves where that norm is not finite."""
        if lr is not None:
            self.adam.param_groups[0]["lr"] = lr
        for i in list(self.sums):
            self.master[i].grad = self.sums.pop(i).to(self.master[i].device)
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
        group = state["adam"]["param_groups"][0] | {"fused": self.adam.param_groups[0]["fused"]}  # this machine's
        self.adam.load_state_dict(state["adam"] | {"param_groups": [group]})
        for master, saved in zip(self.master, state["master"] or []):
            master.data.copy_(saved)


def micro_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Split rows into batches (lists of row numbers) of at most `budget` tokens, padding included.

    Rows are sorted by length; a batch ends where padding would be over a tenth of it. A longer row gets its own.
    """
    batches: list[list[int]] = []
    real = 0  # tokens of the last batch
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        padded = (len(batches[-1]) + 1) * lengths[batches[-1][0]] if batches else budget + 1  # with this row
        if padded <= budget and real + lengths[row] >= 0.9 * padded:
            batches[-1].append(row)
            real += lengths[row]
        else:
            batches.append([row])
            real = lengths[row]
    return batches


def pad(rows, dtype, device) -> torch.Tensor:
    """Lists of numbers -> (B, longest), right-padded with 0."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [0] * (width - len(row)) for row in rows], dtype=dtype, device=device)


@dataclass(frozen=True)
class Objective:
    """What an update minimises, and in which portions."""

    clip: float = 0.2  # c: rho is clipped to 1 +- c. A batch is used once, so rho is 1 but for `Stats.mismatch`
    kl: float = 0.01  # beta, weight of the KL to the reference
    entropy: float = 0.001  # weight of the entropy bonus
    temperature: float = 1.0  # the sampler's
    max_norm: float = 1.0  # gradient clipping
    budget: int = 4096  # tokens per micro-batch, padding included


@dataclass
class Stats:
    """What one update did: means over sampled tokens, unless said otherwise."""

    loss: float = 0.0
    kl: float = 0.0  # k3 estimate against the reference
    entropy: float = 0.0
    clipped: float = 0.0  # share of tokens whose ratio was outside 1 +- clip
    mismatch: float = 0.0  # std of log rho: 0, but for rounding, where sampler and trainer compute the same model
    grad_norm: float = 0.0  # before clipping
    tokens: int = 0  # sampled tokens of the whole batch


def tokens_of(batch, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Segments -> token ids (B, T), right-padded, and the mask (B, T) of those that were sampled."""
    tokens = pad([segment.ids for segment in batch], torch.long, device)
    return tokens, pad([segment.job for segment in batch], torch.long, device) != FORCED  # padding is 0 = FORCED


@torch.no_grad()
def score(model, segments, logprobs, objective: Objective = Objective()) -> list[list[float]]:
    """What a model says of transcripts: per segment the log-probability of each token, 0 where it was given.

    The temperature and the micro-batches are the objective's. No gradient.
    """
    device = next(model.parameters()).device
    scores: list[list[float]] = [[] for _ in segments]
    for rows in micro_batches([len(s.ids) for s in segments], objective.budget):
        logp = logprobs(model, *tokens_of([segments[i] for i in rows], device), objective.temperature)  # (B, T)
        for i, values in zip(rows, logp.tolist()):
            scores[i] = values[:len(segments[i].ids)]
    return scores


def update(model, reference, optimizer: AdamW, segments, advantages, logprobs,
           objective: Objective = Objective(), progress=iter) -> Stats:
    """One GRPO step on a batch of transcripts.

    segments: records with lists .ids, .job and .logp (the sampler's); advantages: those of `per_token`; logprobs: that
    of policy.py; reference: the frozen model of the KL term, None where objective.kl is 0; progress: wraps the batches.
    """
    device = next(model.parameters()).device
    model = getattr(optimizer.team, "model", model)  # the sharded one; the one given is whole, to sample
    stats = Stats(tokens=sum(job != FORCED for s in segments for job in s.job))
    batches, team = micro_batches([len(s.ids) for s in segments if stats.tokens], objective.budget), optimizer.team
    mine = team.deal([len(rows) * len(segments[rows[0]].ids) for rows in batches]) if team else range(len(batches))
    means: dict[int, tuple] = {}  # number of a micro-batch -> its parts of loss, KL, entropy, clipped; log rho (n,)
    for number in progress(mine):
        rows = batches[number]
        batch = [segments[i] for i in rows]
        tokens, mask = tokens_of(batch, device)  # (B, T)
        mask &= number >= 0  # -1: an empty one, as all processes of Shards make equally many
        old_logp = pad([s.logp for s in batch], torch.float32, device)
        advantage = pad([advantages[i] for i in rows], torch.float32, device)  # (B, T)
        ref_logp = pad(score(reference, batch, logprobs, objective), torch.float32, device) if objective.kl else None
        logp, entropy = logprobs(model, tokens, mask, objective.temperature, entropy=True)
        loss = policy_loss(logp, old_logp, ref_logp, advantage, mask, objective.clip, objective.kl,
                           objective.entropy * entropy, stats.tokens)
        loss.backward()
        optimizer.accumulate()
        with torch.no_grad():
            kl = (k3(logp, ref_logp, mask) * mask).sum().item() / stats.tokens if objective.kl else 0.0
            log_ratio = (logp - old_logp)[mask].to("cpu" if team else device)  # of the sampled tokens (n,)
            clipped = ((log_ratio.exp() - 1).abs() > objective.clip).sum().item() / stats.tokens
            means[number] = loss.item(), kl, entropy.sum().item() / stats.tokens, clipped, log_ratio
    if batches:
        every = team.add_up(optimizer, means) if team else list(means.values())
        stats.loss, stats.kl, stats.entropy, stats.clipped = map(sum, list(zip(*every))[:4])
        stats.mismatch = float(torch.cat([part[4] for part in every]).std(correction=0))
    stats.grad_norm = optimizer.step(objective.max_norm)
    return stats

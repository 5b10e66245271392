"""
The cold start: supervised fine-tuning on transcripts before the first iteration (the paper starts from such a model).

A pretrained model needs some dozen steps of plain AdamW for the form of a turn and of a review. `tiny`, which starts
from nothing, must learn to read, which takes Muon on the matrices, many small batches and a share of the loss on the
given tokens, and then to copy, which takes more weight on the words it copies. Done once, and shipped: worlds/tiny.
"""

import random

import torch

import dualadv_grpo as grpo
from policy import logprobs
from skillbank import review_prompt
from worlds.checkpoints import read_chats


def cold_start(policy, env, cfg, bar):
    """Train `policy` on cfg.cold_start batches of transcripts, scripted or cfg.sft_data, and print how it goes.

    Every assistant token is trained, its stop token too, and with weight cfg.sft_prompt each given token; a player's
    slips count as given. cfg.sft_muon: learning rate of Muon on the matrices inside the layers, 0 for AdamW everywhere.
    bar(name) wraps the batches.
    """
    if cfg.sft_muon and not hasattr(torch.optim, "Muon"):
        raise ValueError(f"--sft_muon: torch {torch.__version__} has no Muon, 2.9 has; or --sft_muon 0")
    if cfg.sft_data:
        chats = read_chats(cfg.sft_data)
        batches = [random.Random(f"{cfg.seed}/sft/{step}").choices(chats, k=cfg.sft_batch)
                   for step in range(cfg.cold_start)]
    else:
        chats = env.demonstrations(cfg.cold_start * cfg.sft_batch, cfg.seed)
        batches = [chats[i:i + cfg.sft_batch] for i in range(0, len(chats), cfg.sft_batch)]
    rest, muon = [p for p in policy.model.parameters() if p.requires_grad], None
    if cfg.sft_muon:
        matrices = [p for p in policy.model.model["layers"].parameters() if p.dim() == 2 and p.requires_grad]
        rest = [p for p in rest if all(p is not matrix for matrix in matrices)]
        muon = torch.optim.Muon(matrices, cfg.sft_muon, weight_decay=0.0)
    adam = grpo.AdamW(rest, cfg.sft_lr, betas=(0.9, 0.95) if muon else (0.9, 0.999))
    rules = set(policy.chat.encode(env.rules + review_prompt("general", True, 0.0, 0, 0)))
    limit, cut, losses = min(cfg.context, policy.model.cfg.max_len), 0, []
    for step, batch in enumerate(bar("cold start")(batches)):
        rows = [policy.chat.transcript(chat) for chat in batch]
        cut += sum(len(ids) > limit for ids, _ in rows)
        rows = [shorten(ids, said, limit) for ids, said in rows]
        weights = [weigh(ids, said, rules, cfg.sft_copy) for ids, said in rows]
        total = sum(map(sum, weights))
        if not total:
            raise ValueError(f"cold start: nothing to learn in {limit} tokens of a transcript; raise --context")
        losses.append(0.0)
        for some in grpo.micro_batches([len(ids) for ids, _ in rows], cfg.budget):
            tokens = grpo.pad([rows[i][0] for i in some], torch.long, policy.device)  # (B, T)
            said = grpo.pad([rows[i][1] for i in some], torch.bool, policy.device)
            mask = said
            if cfg.sft_prompt:  # every token but the padding and the first, which nothing precedes
                mask = grpo.pad([[i > 0 for i in range(len(rows[i][0]))] for i in some], torch.bool, policy.device)
            weight = grpo.pad([weights[i] for i in some], torch.float32, policy.device)  # (B, T)
            weight = weight + cfg.sft_prompt * ~said
            logp = logprobs(policy.model, tokens, mask, chunk=cfg.budget)  # (B, T)
            (-(weight * logp).sum() / total).backward()
            adam.accumulate()
            losses[-1] -= logp.detach()[said].sum().item() / sum(sum(said) for _, said in rows)
        # Warm up over a fiftieth, then straight down to a twentieth of the peak.
        done = (step + 1) / len(batches)
        scale = min(done / 0.02, 1.05 - done)
        adam.step(cfg.max_norm, cfg.sft_lr * scale)
        if muon:
            muon.param_groups[0]["lr"] = cfg.sft_muon * scale
            muon.step()
            muon.zero_grad()
        if 10 * (step + 1) // len(batches) > 10 * step // len(batches):  # ten times, or after each of fewer steps
            last = losses[-max(len(batches) // 10, 1):]
            print(f"cold start: {step + 1} steps, {(step + 1) * cfg.sft_batch} transcripts, loss "
                  f"{sum(last) / len(last):.3f} per token", flush=True)
    if cut:
        print(f"cold start: {cut} transcripts were longer than {limit} tokens and lost their oldest turns")


def shorten(ids, said, limit):
    """A transcript of at most `limit` tokens: the oldest turns after the task are dropped, as `rollout` drops them.

    The turn that then follows the task is given, too, or a model learns to begin in the middle.
    """
    if len(ids) <= limit:
        return ids, said
    turns = [i for i in range(1, len(ids)) if said[i] and not said[i - 1]] or [len(ids)]
    start = next((turn for turn in turns[1:-1] if turns[0] + len(ids) - turn <= limit), None)
    if start is None:
        return ids[:limit], said[:limit]
    said = said[:turns[0]] + [False] * (said.index(False, start) - start) + said[said.index(False, start):]
    return ids[:turns[0]] + ids[start:], said


def weigh(ids, said, rules, copy):
    """The loss's weight of each token: 0 where given, `copy` where said after it was given, else 1.

    Ids, prices and option values are copied from the task or a page; they decide an episode and are few. Tokens of the
    rules (a set of ids) are on every transcript and do not count as copied.
    """
    seen, weights = set(), []
    for token, mine in zip(ids, said):
        weights.append((copy if token in seen and token not in rules else 1.0) if mine else 0.0)
        if not mine:
            seen.add(token)
    return weights

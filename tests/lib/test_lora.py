"""Tests of lib/lora.py: the adapters change what they should, are trained alone, and vanish into what is saved."""

import copy
import sys

import pytest
import torch

import envs
import policy as policies
import train
from lib import lora
from policy import Session, logprobs


@pytest.fixture
def policy():
    return policies.load("tiny")


def stirred(model):
    """Adapters that do something: B starts at zero."""
    generator = torch.Generator().manual_seed(7)
    for name, value in lora.adapters(model).items():
        if name.endswith(".b"):
            value.copy_(0.02 * torch.randn(value.shape, generator=generator))
    return model


def test_fresh_adapters_change_nothing_and_are_few(policy):
    """Bug: a run that begins elsewhere than at its reference, or trains what it should not."""
    tokens = torch.arange(40)[None]
    before = policy.model(tokens)
    plain = sum(p.numel() for p in policy.model.parameters())
    lora.add(policy.model, 4)
    assert torch.equal(policy.model(tokens), before)
    trained = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert trained == list(lora.adapters(policy.model)) and len(trained) == 2 * 7 * policy.model.cfg.layers
    assert sum(p.numel() for p in policy.model.parameters() if p.requires_grad) < 0.1 * plain


def test_with_the_adapters_off_it_is_the_reference(policy):
    """Bug: the KL is measured against the policy itself, or the adapters stay off after it was."""
    tokens, mask = torch.randint(0, 500, (3, 30)), torch.arange(30).repeat(3, 1) > 4
    before = logprobs(policy.model, tokens, mask)
    stirred(lora.add(policy.model, 4) or policy.model)
    with torch.no_grad():
        changed = logprobs(policy.model, tokens, mask)
        assert torch.equal(logprobs(lora.Reference(policy.model), tokens, mask), before)
        assert not torch.allclose(changed, before, atol=1e-3)
        assert torch.equal(logprobs(policy.model, tokens, mask), changed)
    with pytest.raises(KeyboardInterrupt), lora.off(policy.model):
        raise KeyboardInterrupt
    assert torch.equal(logprobs(policy.model, tokens, mask), changed)


def test_what_is_saved_is_the_plain_model_that_computes_the_same(policy, tmp_path):
    """Bug: transformers opens a checkpoint without what was trained, or does not open it at all."""
    from transformers import AutoModelForCausalLM

    lora.add(policy.model, 4)
    stirred(policy.model)
    policy.save(tmp_path / "saved")
    tokens = torch.arange(50)[None]
    plain = policies.load(str(tmp_path / "saved"))
    assert not lora.adapters(plain.model)
    with torch.no_grad():
        assert torch.allclose(plain.model(tokens), policy.model(tokens), atol=1e-4)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")(tokens).logits
        assert torch.allclose(theirs, policy.model(tokens), atol=1e-4)


def test_the_sampler_records_what_the_loss_computes(policy):
    """Bug: sampling without the adapters, so that every ratio is off."""
    lora.add(policy.model, 4)
    stirred(policy.model)
    session = Session(policy, 2, 64, seed=1)
    session.feed([0, 1], [[5, 6, 7], [8, 9]])
    for row, (ids, logp) in enumerate(session.sample([0, 1], 10)):
        tokens = torch.tensor([session.ids[row]])
        mask = torch.arange(tokens.shape[1])[None] >= tokens.shape[1] - len(ids)
        assert torch.allclose(logprobs(policy.model, tokens, mask)[mask], torch.tensor(logp), atol=1e-4)


def run(out, monkeypatch, *flags):
    monkeypatch.setattr("worlds.webshop.world.World.limit", 3)
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "tiny", "--lora", "4", "--tasks", "1", "--group", "2",
                                      "--context", "1500", "--act_tokens", "8", "--review_tokens", "8", "--save_every",
                                      "1", "--eval_every", "0", "--lr", "1e-3", "--out", str(out), *flags])
    train.main()


def test_a_lora_run_trains_resumes_and_keeps_no_second_model(tmp_path, monkeypatch, one_thread):
    """Bug: a resumed run loses the adapters, or trains their merged sum anew; a frozen weight moves."""
    references = []
    update = train.grpo.update
    monkeypatch.setattr(train.grpo, "update", lambda model, reference, *rest: (
        references.append((model, reference)), update(model, reference, *rest))[1])
    monkeypatch.setattr(envs.Episode, "rewards", lambda self, graded: [float(len(t.text)) for t in self.turns])
    run(tmp_path / "whole", monkeypatch, "--steps", "2")
    run(tmp_path / "parts", monkeypatch, "--steps", "1")
    run(tmp_path / "parts", monkeypatch, "--steps", "2", "--resume")
    assert all(reference.model is model for model, reference in references)
    state = [torch.load(tmp_path / name / "checkpoints" / "step_00002" / "trainer.pt", weights_only=True)["lora"]
             for name in ("whole", "parts")]
    assert state[0] and all(torch.equal(state[0][name], state[1][name]) for name in state[0])
    assert any(value.abs().max() > 0 for name, value in state[0].items() if name.endswith(".b"))
    model, fresh = references[1][0], policies.load("tiny").model.state_dict()
    for name, value in copy.copy(model.state_dict()).items():
        if not name.endswith((".a", ".b")):
            assert torch.equal(value, fresh[name.replace(".linear.", ".")]), name

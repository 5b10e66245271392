"""RoPE's settings, in all the places where configs have them: what transformers computes, we compute."""

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config, Qwen3Config

import policy as policies
from tests.small import SIZE, change, hf_logits, our_logits, shaken


@pytest.mark.parametrize("kind, rope", [
    (LlamaConfig, {"rope_theta": 500.0}),
    (Qwen2Config, {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    (LlamaConfig, {"rope_theta": 500.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
    (Qwen2Config, {"rope_theta": 1000.0, "rope_scaling": {"type": "yarn", "factor": 4.0,
                                                          "original_max_position_embeddings": 64}}),
], ids=["theta", "linear", "llama3", "yarn"])
def test_old_style_config(kind, rope, tokenizer, tmp_path):
    """The bug: configs from before transformers 5 (rope_theta, rope_scaling, torch_dtype) open with RoPE unscaled."""
    model = shaken(kind(vocab_size=500, **rope, **SIZE))
    model.save_pretrained(tmp_path / "old")
    tokenizer.save_pretrained(tmp_path / "old")
    change(tmp_path / "old", rope_parameters=None, dtype=None, torch_dtype="float32", **rope)
    policy = policies.load(str(tmp_path / "old"))
    tokens = torch.arange(200)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(our_logits(policy, tokens), expected, atol=1e-4, rtol=0)
    policy.save(tmp_path / "new")
    torch.testing.assert_close(hf_logits(tmp_path / "new", tokens), expected, atol=1e-4, rtol=0)


YARN = {"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize("more", [
    {}, {"attention_factor": 1.5}, {"beta_fast": 16, "beta_slow": 2}, {"truncate": False}, {"factor": 0.5},
    {"mscale": 0.7, "mscale_all_dim": 1.3}, {"original_max_position_embeddings": None},
], ids=str)
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_yarn(kind, more, tokenizer, tmp_path):
    """The bug: Qwen2.5's cards tell people to switch yarn on, and the checkpoint is refused; or cos is not scaled."""
    rope = {k: v for k, v in {**YARN, **more}.items() if v is not None}
    size = SIZE | ({"head_dim": 16} if kind is Qwen3Config else {})
    model = shaken(kind(vocab_size=500, rope_parameters=dict(rope), **size))
    model.save_pretrained(tmp_path / "yarn")
    tokenizer.save_pretrained(tmp_path / "yarn")
    policy = policies.load(str(tmp_path / "yarn"))
    tokens = torch.arange(3, 203)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(our_logits(policy, tokens), expected, atol=1e-4, rtol=0)
    session = policies.Session(policy, 1, 256)
    session.feed([0], [tokens[0].tolist()])
    (_, logp), = session.sample([0], 1, stop=(), temperature=0)
    assert logp[0] == pytest.approx(expected[0, -1].log_softmax(-1).max().item(), abs=1e-4)
    policy.save(tmp_path / "again")
    torch.testing.assert_close(hf_logits(tmp_path / "again", tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("added", [
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, "rope_theta": 777.0},
    {"rope_scaling": {"rope_type": "default", "rope_theta": 77.0}},
], ids=["linear", "yarn", "theta"])
def test_rope_scaling_wins_over_rope_parameters(added, llama, tokenizer):
    """The bug: somebody adds rope_scaling to a config of transformers 5; transformers obeys it, we ignore it."""
    change(llama, rope_parameters={"rope_type": "default", "rope_theta": 123.0})
    plain = hf_logits(llama, torch.arange(90)[None])
    change(llama, **added)
    expected = hf_logits(llama, torch.arange(90)[None])
    assert (expected - plain).abs().max() > 1e-3
    policy = policies.load(str(llama))
    torch.testing.assert_close(our_logits(policy, torch.arange(90)[None]), expected, atol=1e-4, rtol=0)
    policy.save(llama.parent / "again")
    torch.testing.assert_close(hf_logits(llama.parent / "again", torch.arange(90)[None]), expected, atol=1e-4, rtol=0)


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])

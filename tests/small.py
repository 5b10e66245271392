"""Small random models and checkpoints, and what several files do with them."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

import policy as policies

TEXT = ["what is the capital of france? the capital of france is paris. price 12.50 dollars",
        "system user assistant: click[buy now] search[red shoes]\n\n<think>cheap</think> naïve café"] * 3
SIZE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256)
VOCAB, PAD = 300, 0
LONG = SIZE | dict(vocab_size=VOCAB, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2)
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
CONFIGS = {
    "llama": LlamaConfig(tie_word_embeddings=False, **LONG),
    "llama tied, wide heads, biases": LlamaConfig(tie_word_embeddings=True, head_dim=24, attention_bias=True,
                                                  mlp_bias=True, **LONG),
    "llama, a kv head per head": LlamaConfig(tie_word_embeddings=False, **LONG | {"num_key_value_heads": 4}),
    "llama, linear rope": LlamaConfig(rope_scaling=LINEAR, **LONG),
    "llama, llama3 rope": LlamaConfig(rope_theta=500.0, rope_scaling=LLAMA3, **LONG),
    "qwen2": Qwen2Config(tie_word_embeddings=False, **LONG),
    "qwen2 tied": Qwen2Config(tie_word_embeddings=True, **LONG | {"num_key_value_heads": 1}),
    "qwen3": Qwen3Config(tie_word_embeddings=False, head_dim=24, **LONG),
    "qwen3 tied, biases": Qwen3Config(tie_word_embeddings=True, head_dim=16, attention_bias=True, **LONG),
}
FAMILIES = ["llama", "qwen2", "qwen3"]


def shaken(config, dtype=torch.float32):
    """A random model of transformers whose every number matters: biases and norms too, which start as 0 and 1."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return model.eval()


def change(folder, file="config.json", **settings):
    """Overwrite settings of a JSON file; None deletes one."""
    content = json.loads((folder / file).read_text()) | settings
    (folder / file).write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def hf_logits(folder, tokens):
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder)(tokens).logits.float()


def our_logits(policy, tokens):
    with torch.no_grad():
        return policy.model(tokens).float()


def refusal(model, **options):
    """The one line with which load refuses."""
    with pytest.raises((ValueError, OSError)) as caught:
        policies.load(str(model), **options)
    line = str(caught.value)
    assert line and "\n" not in line and len(line) < 400
    return line


def prompts(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]


def assert_same(turns, others):
    for (ids, logp), (other_ids, other_logp) in zip(turns, others, strict=True):
        assert ids == other_ids
        torch.testing.assert_close(torch.tensor(logp), torch.tensor(other_logp), atol=1e-4, rtol=0)


def chi_square(counts, expected):
    """Pearson's statistic in standard deviations from its mean; cells that expect less than 5 are pooled."""
    rare = expected < 5
    counts, expected = (torch.cat((x[~rare], x[rare].sum()[None])) for x in (counts.double(), expected.double()))
    statistic, freedom = ((counts - expected) ** 2 / expected.clamp(min=1e-9)).sum(), len(counts) - 1
    return float((statistic - freedom) / (2 * freedom) ** 0.5)

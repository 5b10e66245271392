"""What is opened must be what transformers opens, what is saved must open there, what is wrong is one line."""

import json
import os
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

import policy as policies
from lib import checkpoints
from tests.small import SIZE, change, hf_logits, our_logits, refusal, shaken

# ---- Reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("config", [
    LlamaConfig(vocab_size=500, tie_word_embeddings=False, attention_bias=True, mlp_bias=True, **SIZE),
    LlamaConfig(vocab_size=500, tie_word_embeddings=True, **SIZE),
    Qwen2Config(vocab_size=500, tie_word_embeddings=True, **SIZE),
    Qwen3Config(vocab_size=500, tie_word_embeddings=False, head_dim=16, **SIZE),
], ids=["llama", "llama tied", "qwen2 tied", "qwen3"])
def test_saved_opens_in_transformers(config, dtype, tokenizer, tmp_path):
    """The bug: a save that only we can read, a tied head saved apart, or bfloat16 that comes back as something else."""
    shaken(config, dtype).save_pretrained(tmp_path / "in")
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "in", torch_dtype="auto")
    tokenizer.save_pretrained(tmp_path / "in")
    policy = policies.load(str(tmp_path / "in"), dtype=dtype)
    policy.save(tmp_path / "out")
    ours = policies.load(str(tmp_path / "out"), dtype=dtype)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", torch_dtype="auto", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.dtype == dtype and next(ours.model.parameters()).dtype == dtype
    tokens = torch.randint(0, 500, (2, 20))
    with torch.no_grad():
        expected = original(tokens).logits
        assert torch.equal(theirs(tokens).logits, expected)
    assert torch.equal(our_logits(ours, tokens), our_logits(policy, tokens))
    assert (our_logits(ours, tokens) - expected.float()).abs().mean() < (1e-5 if dtype == torch.float32 else 0.03)
    text = "<|im_start|>user\nprice 12.50 naïve <|im_end|>"
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert ours.chat.opening("a", "b") == policy.chat.opening("a", "b") and ours.stop == policy.stop
    assert set(theirs.generation_config.eos_token_id) == policy.stop


@pytest.mark.parametrize("slash", ["", "/"])
def test_saving_over_an_existing_checkpoint(slash, llama):
    """The bug: `--out run/` with a slash put the new copy inside the old one; stale shards survived a save."""
    policy = policies.load(str(llama))
    (llama / "stale.txt").write_text("of the old checkpoint")
    with torch.no_grad():
        policy.model.model.norm.weight += 1
    policy.save(f"{llama}{slash}")
    tokens = torch.arange(12)[None]
    assert torch.equal(our_logits(policies.load(str(llama)), tokens), our_logits(policy, tokens))
    assert not (llama / "stale.txt").exists() and [path.name for path in llama.parent.iterdir()] == ["llama"]


def test_a_killed_save_leaves_a_complete_checkpoint(llama, monkeypatch):
    """The bug: a save killed at any step, and the next one killed too, left no complete checkpoint anywhere."""
    policy = policies.load(str(llama))
    places = [llama, llama.with_name("llama.old")]

    def save(allowed):
        """Save, and die at the step (of those that write, move or delete) after so many; True where it survived."""
        steps = []

        def mortal(work):
            def step(*args, **kwargs):
                steps.append(work)
                if len(steps) > allowed:
                    raise KeyboardInterrupt
                return work(*args, **kwargs)
            return step

        with monkeypatch.context() as patch:
            for owner, name in [(os, "rename"), (shutil, "rmtree"), (type(policy.tokenizer), "save_pretrained"),
                                (checkpoints.Path, "mkdir"), (checkpoints.Path, "write_text")]:
                patch.setattr(owner, name, mortal(getattr(owner, name)))
            try:
                policy.save(llama)
            except KeyboardInterrupt:
                return False
        return True

    deaths = 0
    for again in (1, 2, 3, 4):  # the second death: about when what the first one left is cleared away
        first = 0
        while not save(first):
            assert not save(again)
            policies.load(str(next(place for place in places if place.exists())))
            assert save(99) and [path.name for path in llama.parent.iterdir()] == ["llama"]
            first, deaths = first + 1, deaths + 1
    assert deaths > 20


def test_tensors_that_need_no_reading(llama):
    """The bug: older checkpoints hold RoPE's frequencies, and the tied head a second time, and are refused for it."""
    model = shaken(LlamaConfig(vocab_size=500, tie_word_embeddings=True, **SIZE))
    model.save_pretrained(llama)
    weights = load_file(llama / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone(),
                         "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
              llama / "model.safetensors", {"format": "pt"})
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(our_logits(policies.load(str(llama)), tokens), expected, atol=1e-4, rtol=0)


def test_shards_and_padded_vocabulary(llama, tokenizer, tmp_path):
    """The bug: only the first shard is read; a vocabulary padded beyond the tokenizer, as Qwen's, is refused."""
    model = shaken(Qwen3Config(vocab_size=len(tokenizer) + 50, head_dim=16, **SIZE))
    model.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(our_logits(policies.load(str(tmp_path / "shards")), tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("same", [False, True], ids=["tuned", "equal"])
def test_a_head_that_was_tuned_after_untying_is_kept(same, shards, llama):
    """The bug: with tie_word_embeddings true the file's own lm_head is dropped in silence, here and when saving."""
    weights = load_file(llama / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    weights["lm_head.weight"] = embedding.clone() if same else embedding + 0.3 * torch.randn_like(embedding)
    if shards:
        (llama / "model.safetensors").unlink()
        save_file({"lm_head.weight": weights.pop("lm_head.weight")}, llama / "b.safetensors", {"format": "pt"})
        save_file(weights, llama / "a.safetensors", {"format": "pt"})
        index = {key: "a.safetensors" for key in weights} | {"lm_head.weight": "b.safetensors"}
        (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index, "metadata": {}}))
    else:
        save_file(weights, llama / "model.safetensors", {"format": "pt"})
    change(llama, tie_word_embeddings=True)
    tokens = torch.arange(20)[None]
    expected = hf_logits(llama, tokens)
    policy = policies.load(str(llama))
    assert policy.model.cfg.tied == same
    torch.testing.assert_close(our_logits(policy, tokens), expected, atol=1e-4, rtol=0)
    policy.save(llama.parent / "again")
    torch.testing.assert_close(hf_logits(llama.parent / "again", tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("full", [False, True])
def test_a_peft_adapter_is_refused_in_one_line(full, llama):
    """The bug: the adapter beside full weights is ignored, and the model that plays is not the one that was trained."""
    (llama / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    if not full:
        (llama / "config.json").unlink()
    assert "peft adapter" in refusal(llama) and "merge_and_unload" in refusal(llama)


def test_ids_after_a_hole_are_compared_with_the_rows(llama, tokenizer):
    """The bug: 321 tokens fit 400 rows, but one has the id 500: the first rollout raises an IndexError."""
    spec = json.loads((llama / "tokenizer.json").read_text())
    rows = json.loads((llama / "config.json").read_text())["vocab_size"]
    word, _ = max(spec["model"]["vocab"].items(), key=lambda item: item[1])
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "".join(m) != word]
    spec["model"]["vocab"][word] = rows + 100
    (llama / "tokenizer.json").write_text(json.dumps(spec))
    assert f"ids up to {rows + 100}, the model {rows} rows" in refusal(llama)


def test_stop_ids_of_the_generation_config(llama, tokenizer):
    """The bug: Llama 3 names several ends of turn, in generation_config.json only; rollouts ran past them."""
    change(llama, "generation_config.json", eos_token_id=[5, 7])
    assert policies.load(str(llama)).stop == {5, 7, tokenizer.eos_token_id}


# ---- Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings, named", [
    (dict(model_type="gpt2"), "gpt2"),
    (dict(model_type="mistral"), "mistral"),
    (dict(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4}), "rope factor"),
    (dict(rope_scaling={"rope_type": "longrope", "factor": 4.0}), "longrope"),  # beside rope_parameters: it wins
    (dict(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 5e5}}), "full_attention"),
    (dict(rope_parameters=None, rope_scaling={"type": "dynamic", "factor": 4.0}), "dynamic"),
    (dict(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}), "low_freq_factor"),
    (dict(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}), "partial_rotary"),
    (dict(use_sliding_window=True, sliding_window=64), "sliding window"),
    (dict(layer_types=["full_attention", "sliding_attention"]), "sliding window"),
    (dict(hidden_act="gelu"), "gelu"),
    (dict(quantization_config={"quant_method": "gptq", "bits": 4}), "quantization_config"),
    (dict(hidden_size=None), "hidden_size"),
])
def test_unsupported_settings_are_refused_by_name(settings, named, llama):
    """The bug: a setting that this decoder does not compute is ignored, and the logits are quietly wrong."""
    change(llama, **settings)
    line = refusal(llama)
    assert named in line and "config.json" in line and str(llama) in line


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def drop_tensor(folder, **replaced):
    weights = load_file(folder / "model.safetensors")
    key = "model.layers.1.mlp.up_proj.weight"
    kept = {k: v for k, v in weights.items() if k != key} | {k.replace("__", key): v for k, v in replaced.items()}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("spoil, named", [
    (lambda d: (d / "config.json").unlink(), "no config.json"),
    (lambda d: (d / "config.json").write_text('{"model_type": '), "config.json is not JSON"),
    (lambda d: (d / "config.json").write_text('["llama"]'), "config.json"),
    (lambda d: (d / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is not JSON"),
    (lambda d: (d / "generation_config.json").write_text("eos: 2"), "generation_config.json is not JSON"),
    (lambda d: [f.unlink() for f in d.glob("tokenizer*")], "no tokenizer"),
    (lambda d: (d / "tokenizer.json").write_text('{"version": "1.0"'), "tokenizer does not load"),
    (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer does not load"),
    (lambda d: (d / "model.safetensors").unlink(), "no *.safetensors"),
    (truncate, "model.safetensors"),
    (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors"),
    (lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 9) + b"not JSON!"), "model.safetensors"),
    (lambda d: (d / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}}'), "model-00002.safetensors"),
    (lambda d: (d / "model.safetensors.index.json").write_text("{}"), "weight_map"),
    (drop_tensor, "model.layers.1.mlp.up_proj.weight is missing"),
    (lambda d: drop_tensor(d, __=torch.zeros(32, 48)), "up_proj.weight is (32, 48) in the checkpoint, (48, 32)"),
    (lambda d: drop_tensor(d, __=torch.zeros(48, 32), extra=torch.zeros(3)), "tensor extra"),
    (lambda d: change(d, attention_bias=True), "self_attn.k_proj.bias is missing"),
    (lambda d: (d / "chat_template.jinja").write_text("{% for m in messages %}\n\n{{ m['content'] "), "chat template"),
    (lambda d: (d / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"), "leaves out a message"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_malformed_checkpoints_are_refused_in_one_line(spoil, named, llama):
    """The bug: a traceback from deep inside a library instead of what is wrong and in which file."""
    spoil(llama)
    line = refusal(llama)
    assert named in line and str(llama) in line


def test_a_tokenizer_of_another_model_is_refused(tokenizer, tmp_path):
    """The bug: ids beyond the embedding raise an IndexError in the first rollout, or a CUDA assert."""
    shaken(LlamaConfig(vocab_size=len(tokenizer) - 1, **SIZE)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert f"ids up to {len(tokenizer) - 1}, the model {len(tokenizer) - 1} rows" in refusal(tmp_path)


@pytest.mark.parametrize("model", ["no/such-model-of-ours", "/nowhere/at/all", "not an id", "README.md"])
def test_a_model_that_cannot_be_had(model, monkeypatch):
    """The bug: a typo in --model ends in three screens of hub traceback."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no look-ups from a test
    assert model in refusal(model) and "smollm2 or tiny" in refusal(model)


def test_a_model_of_the_hub_without_a_home_directory_is_one_line(monkeypatch):
    """Bug: in a container, whose user has no home to keep a download in, a traceback of pathlib."""
    def homeless(*rest, **more):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", homeless)
    assert "$HF_HOME" in refusal("Qwen/Qwen2.5-0.5B")

"""What is opened must be what transformers opens, what is saved must open there, what is wrong is one line."""

import json
import os
import shutil
import stat
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


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_a_checkpoint_can_be_read_by_whom_the_umask_lets(mask, mode, llama):
    """The bug: safetensors makes its file 600, so others on the machine see a checkpoint that they cannot load."""
    before = os.umask(mask)
    try:
        policies.load(str(llama)).save(llama.parent / "new")
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (llama.parent / "new").iterdir()} == {
        path.name: mode for path in (llama.parent / "new").iterdir()}


def test_what_a_person_keeps_beside_a_checkpoint_stays(llama):
    """The bug: saving runs/model deletes runs/model.old and runs/model.new, which a person named so."""
    policy = policies.load(str(llama))
    for name in ("llama.old", "llama.new"):
        (llama.parent / name).mkdir()
    policy.save(llama)
    assert sorted(path.name for path in llama.parent.iterdir()) == ["llama", "llama.new", "llama.old"]
    (llama.parent / "notes").write_text("mine")
    with pytest.raises(OSError, match="notes is a file"):
        policy.save(llama.parent / "notes")


def test_a_link_is_followed(llama, tmp_path):
    """The bug: a directory cannot be renamed over a link, nor from one disk to another."""
    policy = policies.load(str(llama))
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "model")
    for _ in range(2):  # it is not there yet; it is there
        policy.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and [path.name for path in (tmp_path / "disk").iterdir()] == ["model"]
        policies.load(str(tmp_path / "link"))


def test_a_killed_save_leaves_a_complete_checkpoint(llama, monkeypatch):
    """The bug: a save killed at any step, and the next one killed too, left no complete checkpoint anywhere."""
    policy = policies.load(str(llama))
    places = [llama, llama.with_name(".llama.old")]

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


def leave_shards(folder, weights, index=True):
    """Write weights as two shards of another save, with their index."""
    names = sorted(weights)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: weights[name] for name in half}, folder / file, {"format": "pt"})
    if index:
        where = {name: file for file, half in halves.items() for name in half}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("leave", [
    lambda folder, old: leave_shards(folder, old),
    lambda folder, old: leave_shards(folder, old) or [file.unlink() for file in folder.glob("model-*")],
    lambda folder, old: leave_shards(folder, old, index=False),
    lambda folder, old: (folder / "model.safetensors.index.json").write_text("[7]"),
    lambda folder, old: (folder / "model.safetensors.index.json").write_text(DEEP),
    lambda folder, old: save_file(old, folder / "consolidated.safetensors"),
    lambda folder, old: save_file(old, folder / "model.fp16.safetensors"),
], ids=["shards and index", "index alone", "shards alone", "index is a list", "index is deep", "original", "variant"])
def test_of_several_files_the_one_that_transformers_takes(leave, llama):
    """The bug: a finetune saved into the folder of a sharded download is not what is trained: the old shards are."""
    leave(llama, {name: weight + 1 for name, weight in load_file(llama / "model.safetensors").items()})
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(our_logits(policies.load(str(llama)), tokens), hf_logits(llama, tokens), atol=1e-4,
                               rtol=0)


@pytest.mark.parametrize("file", ["model-a.safetensors", "model-a.safetensors.index.json"])
def test_the_file_that_the_config_names(file, llama):
    """The bug: transformers reads `transformers_weights`, we another file; or a save keeps a name that is gone."""
    weights = load_file(llama / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, llama / "model-a.safetensors", {"format": "pt"})
    (llama / "model-a.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, "model-a.safetensors")}))
    change(llama, transformers_weights=file)
    tokens = torch.arange(20)[None]
    expected = hf_logits(llama, tokens)
    policy = policies.load(str(llama))
    torch.testing.assert_close(our_logits(policy, tokens), expected, atol=1e-4, rtol=0)
    policy.save(llama.parent / "again")
    torch.testing.assert_close(hf_logits(llama.parent / "again", tokens), expected, atol=1e-4, rtol=0)


def test_a_tensor_in_two_files_is_not_silently_one_of_them(llama):
    """The bug: leftovers of another model lie beside shards without an index, and the last name wins."""
    weights = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    leave_shards(llama, weights, index=False)
    (llama / "._model-00001-of-00002.safetensors").write_bytes(b"what a Mac leaves on a foreign disk")
    save_file({"model.norm.weight": weights["model.norm.weight"]}, llama / "z.safetensors", {"format": "pt"})
    policies.load(str(llama))  # twice the same is no question
    for other in (weights["model.norm.weight"] + 1, weights["model.norm.weight"].half()):
        save_file({"model.norm.weight": other}, llama / "z.safetensors", {"format": "pt"})
        line = refusal(llama)
        assert "model.norm.weight is in model-0000" in line and "z.safetensors" in line


@pytest.mark.parametrize("name", ["../w.safetensors", "a/../../w.safetensors", "..\\w.safetensors", "C:w.safetensors",
                                  "{}/w.safetensors", "w.safetensors\0", "", ".."])
def test_an_index_names_files_of_its_own_folder_only(name, llama):
    """The bug: a downloaded index reads any file of the machine as weights; in the hub's cache each file is a link."""
    away = llama.parent
    (llama / "model.safetensors").rename(away / "w.safetensors")
    weights = load_file(away / "w.safetensors")
    index = {"weight_map": dict.fromkeys(weights, name.format(away))}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "as a file of weights" in refusal(llama) and "model.safetensors.index.json" in refusal(llama)
    (llama / "one.safetensors").symlink_to(away / "w.safetensors")  # as snapshots/ link to ../../blobs
    index = {"weight_map": dict.fromkeys(weights, "one.safetensors")}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    policies.load(str(llama))


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
    (dict(model_type="deci", intermediate_size=[1, 2]), "deci"),
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
    (dict(hidden_size="32"), "hidden_size"),
    (dict(hidden_size=[[32]]), "hidden_size"),
    (dict(num_hidden_layers=10**9), "num_hidden_layers"),
    (dict(num_attention_heads=0), "num_attention_heads"),
    (dict(num_attention_heads=True), "num_attention_heads"),
    (dict(num_key_value_heads=3), "attention heads"),
    (dict(head_dim=10**12), "head_dim"),
    (dict(vocab_size=-5), "vocab_size"),
    (dict(vocab_size=4.5), "vocab_size"),
    (dict(rms_norm_eps="1e-5"), "rms_norm_eps"),  # YAML reads it as a text
    (dict(rope_parameters=None, rope_theta="1e6"), "rope_theta"),
    (dict(rope_scaling="yarn"), "rope_scaling"),
    (dict(rope_scaling=4), "rope_scaling"),
    (dict(rope_scaling={"rope_type": ["yarn"], "factor": 4.0}), "rope_type"),
    (dict(rope_scaling={"rope_type": "linear", "factor": "4"}), "factor"),
    (dict(rope_scaling={"rope_type": "linear", "factor": 0.0}), "factor is 0.0"),
    (dict(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": -5}), "is -5"),
    (dict(rope_scaling={"rope_type": "yarn", "factor": 4.0}, rope_theta=1.0), "rope_theta is 1.0"),
    (dict(rope_scaling={"rope_type": "yarn", "factor": 4.0, "mscale": "x", "mscale_all_dim": 1}), "mscale"),
    (dict(layer_types=3), "layer_types"),
    (dict(sampling=3), "sampling"),
    (dict(sampling={"act_tokens": "96"}), "act_tokens"),
    (dict(model_type=["llama"]), "model_type"),
    (dict(transformers_weights="../model.safetensors"), "as a file of weights"),
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


DEEP = '{"a": ' * 100_000


def index_alone(folder, text):
    """The weights are in a shard, and the index has this text."""
    (folder / "model.safetensors").rename(folder / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)


def circle(file):
    """A link to itself in the place of a file."""
    file.unlink()
    file.symlink_to(file)


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
    (lambda d: index_alone(d, '{"weight_map": {"a": "one.safetensors", "b": "model-00002.safetensors"}}'),
     "model-00002.safetensors"),
    (lambda d: index_alone(d, "{}"), "weight_map"),
    (lambda d: index_alone(d, '{"weight_map": {}}'), "weight_map"),
    (lambda d: index_alone(d, '{"weight_map": ["one.safetensors"]}'), "weight_map"),
    (lambda d: index_alone(d, "7"), "holds no JSON object"),
    (lambda d: index_alone(d, '["one.safetensors"]'), "holds no JSON object"),
    (lambda d: index_alone(d, DEEP), "index.json is not JSON"),
    (lambda d: index_alone(d, '{"weight_map": {"a": 3}}'), "names 3 as a file of weights"),
    (lambda d: index_alone(d, '{"weight_map": {"a": ["one.safetensors"]}}'), "names a list as a file of weights"),
    (lambda d: index_alone(d, '{"weight_map": {"a": "config.json"}}'), "config.json' as a file of weights"),
    (lambda d: index_alone(d, json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}})), "missing or cut short"),
    (lambda d: (d / "config.json").write_text(DEEP), "config.json is not JSON"),
    (lambda d: change(d, other=json.loads("[" * 200 + "]" * 200)), "config.json is nested more than"),
    (lambda d: (d / "generation_config.json").write_text(DEEP), "generation_config.json is not JSON"),
    (lambda d: (d / "generation_config.json").write_text("3"), "generation_config.json holds no JSON object"),
    (lambda d: change(d, "generation_config.json", eos_token_id={"a": 1}), "eos_token_id"),
    (lambda d: change(d, "generation_config.json", eos_token_id=[2, "</s>"]), "eos_token_id"),
    (lambda d: change(d, eos_token_id="2") or (d / "generation_config.json").unlink(), "eos_token_id"),
    (lambda d: (d / "tokenizer_config.json").write_text(DEEP), "tokenizer does not load"),
    (lambda d: (d / "tokenizer.json").write_text(DEEP), "tokenizer does not load"),
    (lambda d: change(d, "tokenizer_config.json", model_max_length="2048"), "tokenizer does not load"),
    (lambda d: circle(d / "config.json"), "no config.json"),
    (lambda d: circle(d / "model.safetensors"), "model.safetensors' is missing"),
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


def test_a_user_without_a_home_directory_is_told(monkeypatch):
    """The bug: in a container, a traceback of pathlib where the hub's cache would be."""
    def no_home(*rest, **more):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("huggingface_hub.snapshot_download", no_home)
    assert "no/such: Could not determine home directory" in refusal("no/such") and "HF_HOME" in refusal("no/such")

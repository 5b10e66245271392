"""Checkpoints in Hugging Face's format: read, checked against what the decoder computes, and written.

Reading gives a triple: config.json as a dict, {tensor name: tensor}, tokenizer. `architecture` takes from a config.json
what the decoder needs and refuses what the decoder does not compute; `write` saves a triple.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from lib import rope as ropes
from lib.files import one_line, read_json


@dataclass
class Config:
    """The shape of a decoder; `architecture` takes it from a config.json and says what is not supported."""

    vocab_size: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    eps: float
    max_len: int
    tied: bool
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    rope: dict  # rope_type, rope_theta and what the type needs
    hf: dict  # config.json as it was, for saving


def architecture(hf, where="config.json"):
    """The fields of Config from a config.json (a dict). ValueError names a setting that we do not compute."""
    kind, rope = hf.get("model_type"), ropes.settings(hf)
    sliding = hf.get("use_sliding_window") or any(t != "full_attention" for t in hf.get("layer_types") or [])
    partial = rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1.0
    nested = sorted(key for key, value in rope.items() if isinstance(value, dict))
    for setting, value, ok in [
        ("model_type", kind, kind in ("llama", "qwen2", "qwen3")),
        ("hidden_act", hf.get("hidden_act", "silu"), hf.get("hidden_act", "silu") == "silu"),
        ("rope_parameters per layer type", ", ".join(nested), not nested),
        ("rope_type", rope["rope_type"], rope["rope_type"] in ropes.NEEDS),
        ("partial_rotary_factor", partial, partial == 1.0),
        ("sliding window attention", "on", not sliding),
        ("quantization_config", "present", not hf.get("quantization_config")),
    ]:
        if not ok:
            raise ValueError(
                f"{where}: {setting} {value!r} is not supported "
                "(this decoder computes Llama, Qwen2/2.5 and Qwen3 with full attention, unquantised)"
            )
    missing = [k for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                           "intermediate_size") if not isinstance(hf.get(k), int)]
    missing += [f"rope {k}" for k in ropes.NEEDS[rope["rope_type"]] if not isinstance(rope.get(k), (int, float))]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)}; is this the config of a {kind} checkpoint?")
    heads, bias = hf["num_attention_heads"], bool(hf.get("attention_bias", False))
    return dict(
        vocab_size=hf["vocab_size"], dim=hf["hidden_size"], layers=hf["num_hidden_layers"], heads=heads,
        kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or (128 if kind == "qwen3" else hf["hidden_size"] // heads),
        ffn=hf["intermediate_size"], eps=hf.get("rms_norm_eps", 1e-6),
        max_len=hf.get("max_position_embeddings", 2048), tied=bool(hf.get("tie_word_embeddings", False)),
        qkv_bias=bias or kind == "qwen2", o_bias=bias and kind != "qwen2",
        mlp_bias=bool(hf.get("mlp_bias", False)), qk_norm=kind == "qwen3", rope=rope, hf=hf,
    )


def read(model):
    """A directory in HF format (one or several *.safetensors), or an id on the hub."""
    if Path(model).is_dir():
        return read_folder(Path(model), model)
    try:
        return read_folder(download(model), model)
    except OSError as error:
        reason = one_line(error) if type(error) is OSError else type(error).__name__  # ours, or paragraphs
        raise ValueError(f"--model {model}: no such directory, and the hub does not give it ({reason}); use a local "
                         "directory, smollm2 or tiny") from error


def download(model):
    """The folder in the hub's cache that holds what we read of a repository. OSError if it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        files = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(model, allow_patterns=files))
    except HFValidationError as error:  # not even the form of an id
        raise OSError("no id on it, either") from error
    except RuntimeError as error:
        raise OSError(f"{one_line(error)} Set $HF_HOME to a folder for downloads") from error


def read_folder(folder, name):
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    if (folder / "latest").is_file():
        raise ValueError(f"{name} is a run directory of train.py; name one of its checkpoints/step_... instead")
    hf = _read_json(folder, "config.json", name)
    if hf is None and (folder / "adapter_config.json").is_file():
        raise ValueError(f"{name}: holds a peft adapter and no model; merge it into its base model with peft's "
                         "merge_and_unload(), save that, and name its directory")
    if hf is None:
        raise ValueError(f"{name}: no config.json there; --model wants a checkpoint directory in HF format")
    architecture(hf, f"{name}/config.json")  # refuse here, before gigabytes are read
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{name}: has a peft adapter (adapter_config.json), which is not applied here; merge it with "
                         "peft's merge_and_unload() and save the model, or delete the adapter's files")
    generation = _read_json(folder, "generation_config.json", name) or {}
    hf["eos_token_id"] = generation.get("eos_token_id") or hf.get("eos_token_id")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ValueError(f"{name}: no tokenizer (tokenizer.json) there; save it beside the weights")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizer libraries raise many kinds of errors on a broken file
        raise ValueError(f"{name}: the tokenizer does not load ({one_line(error)})") from error
    files = sorted(folder.glob("*.safetensors"))
    index = _read_json(folder, "model.safetensors.index.json", name)
    if index is not None:
        if not isinstance(index.get("weight_map"), dict):
            raise ValueError(f"{name}/model.safetensors.index.json has no weight_map; download or save it again")
        files = sorted({folder / file for file in index["weight_map"].values()})
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    if not files:
        raise ValueError(f"{name}: no *.safetensors there; convert the checkpoint to safetensors first")
    weights = {}
    for file in files:
        try:
            weights.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{name}: {file.name} is missing or cut short ({one_line(error)})") from error
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        hf["tie_word_embeddings"] = False  # tuned after untying: transformers keeps it, too
    return hf, weights, tokenizer


def _read_json(folder, file, name):
    """The dict in folder/file, None where there is no such file."""
    if (folder / file).is_file():
        return read_json(folder / file, f"download or save the checkpoint {name} again")
    return None


def write(path, hf, weights, tokenizer):
    """Save a checkpoint in HF format under another name, then rename it into place."""
    from safetensors.torch import save_file

    path = Path(path)  # first of all: it drops a trailing slash
    new, old = Path(f"{path}.new"), Path(f"{path}.old")
    if old.exists() and not path.exists():  # a save that was killed between its two renames
        os.rename(old, path)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, new / "model.safetensors", {"format": "pt"})
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    hf = {**{k: v for k, v in hf.items() if k != "torch_dtype"}, "dtype": dtype}
    (new / "config.json").write_text(json.dumps(hf, indent=2))
    (new / "generation_config.json").write_text(json.dumps({"eos_token_id": hf["eos_token_id"]}))
    try:
        tokenizer.save_pretrained(new)
    except Exception as error:  # tokenizers raises a plain Exception where the disk is full
        raise OSError(f"{new}: the tokenizer could not be written ({one_line(error)})") from error
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def check_pair(tokenizer, cfg, name):
    """ValueError where a tokenizer has ids that the model has no row for."""
    if (largest := max(tokenizer.get_vocab().values())) >= cfg.vocab_size:  # ids may have holes
        raise ValueError(f"{name}: the tokenizer has ids up to {largest}, the model {cfg.vocab_size} rows: not a pair")


def fit(weights, shapes, cfg, device, dtype, name):
    """The weights as a model of these shapes {tensor name: tuple} wants them; ValueError names one that differs."""
    ignored = ("rotary_emb.inv_freq",) + (("lm_head.weight",) if cfg.tied else ())
    # Copy: a tensor mapped from the file may be aligned differently, and matmul then rounds differently.
    weights = {k: v.to(device, dtype, copy=True) for k, v in weights.items() if not k.endswith(ignored)}
    for key in sorted(shapes.keys() | weights.keys()):
        has = tuple(weights[key].shape) if key in weights else "missing"
        want = shapes.get(key, "unknown")
        if has != want:
            raise ValueError(f"{name}: tensor {key} is {has} in the checkpoint, {want} by its config.json")
    return weights

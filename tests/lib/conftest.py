"""A small tokenizer and a good checkpoint."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from lib.chat import CHATML
from lib.models import _byte_level
from tests.small import SIZE, TEXT, shaken


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE, as Llama 3 and Qwen have it."""
    bpe = _byte_level(Tokenizer(models.BPE()))
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False,
                                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=special[0], bos_token=special[1],
                                   eos_token=special[2], chat_template=CHATML)


@pytest.fixture
def llama(tmp_path, tokenizer):
    """A good checkpoint, for the tests to spoil."""
    shaken(LlamaConfig(vocab_size=len(tokenizer), **SIZE)).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"

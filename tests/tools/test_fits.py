"""A training step's memory is known before it starts: within 15% of what is measured."""

import copy
import gc
from types import SimpleNamespace

import pytest
import torch

import policy as policies
import train
from dualadv_grpo import AdamW, Objective, update
from lib import lora, memory
from policy import Config, Decoder, logprobs
from tools import fits
from tools.fits import Alive, Training, of_training

pytestmark = pytest.mark.usefixtures("one_thread")


def config(vocab, dim, layers, heads, kv_heads, head_dim, ffn, qk_norm=True):
    return Config(vocab, dim, layers, heads, kv_heads, head_dim, ffn, 1e-6, 4096, True, not qk_norm, False, False,
                  qk_norm, {"rope_type": "default", "rope_theta": 1e4}, {})


TINY = (1591, 128, 4, 4, 2, 32, 384)
TWO = (1591, 128, 2, 4, 2, 32, 384)  # of its layers: they are counted in half the time


@pytest.mark.parametrize("shape, rows, longest, more", [
    (TWO, 1, 200, {}),  # of a short row: weights, reference and moments are a large part of all
    (TINY, 1, 200, {"recompute": True}),
    (TWO, 2, 300, {"reference": False}),
    (TWO, 2, 256, {"lora": 8}),
    pytest.param((8000, 256, 6, 8, 2, 32, 1024, False), 2, 512, {}, marks=pytest.mark.slow),
    pytest.param((8000, 256, 6, 8, 2, 32, 1024), 1, 1024, {"recompute": True}, marks=pytest.mark.slow),
    pytest.param((20000, 128, 2, 4, 4, 32, 256), 1, 1024, {}, marks=pytest.mark.slow),
], ids=["tiny", "recompute", "no reference", "lora", "qwen2", "one long row", "wide head"])
def test_the_computed_peak_is_the_measured_one(shape, rows, longest, more):
    """Bug: the reference, the gradients, the moments or the logits are forgotten: a run dies in its first update."""
    how = Training(budget=rows * longest, longest=longest, **more)
    torch.manual_seed(0)
    segments = [SimpleNamespace(ids=torch.randint(0, shape[0], (longest,)).tolist(), logp=[-1.0] * longest,
                                job=[0] * 20 + [1] * (longest - 20)) for _ in range(rows)]
    gc.collect()
    with Alive() as alive:
        model = Decoder(config(*shape))
        with torch.no_grad():
            for p in model.parameters():  # the default's numbers become denormal, and then a CPU is 15 times slower
                p.normal_(std=0.02)
        if how.lora:
            lora.add(model, how.lora)
        model.recompute = how.recompute
        reference = copy.deepcopy(model).requires_grad_(False) if how.reference and not how.lora else None
        optimizer = AdamW(model.parameters(), 1e-4)
        for _ in range(2):  # the moments are there from the second step on
            alive.peak = alive.now
            update(model, reference or (how.lora and lora.Reference(model)), optimizer, segments,
                   [[1.0] * longest] * rows, logprobs, Objective(kl=0.01 if how.reference else 0.0, budget=how.budget))
    assert sum(of_training(model.cfg, how).values()) == pytest.approx(alive.peak, rel=0.1)


def test_with_parts_a_card_holds_its_share(monkeypatch):
    """Bug: --shard is refused where it fits, or what samples, which stays whole, is counted as a part, too."""
    cfg = config(*TWO)
    one, two, eight = (of_training(cfg, Training(2, 256, 256, cards=cards)) for cards in (1, 2, 8))
    for part in ("master weights", "gradients", "moments"):
        assert two[part] == one[part] // 2 and eight[part] == one[part] // 8
    embedding = 2 * TINY[0] * TINY[1]
    assert one["weights"] == two["weights"] == eight["weights"]
    assert embedding < eight["reference"] < two["reference"] < one["reference"]
    assert one["gathered"] == 0 < two["gathered"] == eight["gathered"]
    assert two["activations"] <= one["activations"]
    float32 = of_training(cfg, Training(4, 256, 256, cards=2))
    assert float32["master weights"] == two["master weights"] and float32["weights"] == 2 * two["weights"]
    adapters = of_training(cfg, Training(2, 256, 256, lora=8, cards=2))
    assert adapters["reference"] == 0 and adapters["gathered"] < 0.1 * two["gathered"]


@pytest.fixture
def card(monkeypatch):
    """A policy of two layers on a card that is not there. What was counted of the same once is not counted again."""
    count, known = fits.of_layers, {}
    monkeypatch.setattr(fits, "of_layers", lambda cfg, how: known.get(repr((cfg, how))) or known.setdefault(
        repr((cfg, how)), count(cfg, how)))
    return SimpleNamespace(model=Decoder(config(*TWO)), device=torch.device("cuda:0"))


def flags(*argv):
    return train.read_flags(["--model", "tiny", *argv])


def test_what_fits_only_with_recomputing_is_recomputed_and_what_does_not_is_refused(card, monkeypatch):
    """Bug: an out-of-memory traceback after a quarter of an hour; or a refusal where a flag would have done."""
    cfg = card.model.cfg
    plain, less = (sum(of_training(cfg, Training(longest=3072, recompute=on)).values()) for on in (False, True))
    weights = sum(p.numel() for p in card.model.parameters()) * 4

    def on_a_card_of(size, *argv):
        monkeypatch.setattr(memory, "free", lambda device: size / memory.SHARE - weights + 1000)
        return fits.forecast(flags(*argv), card)

    assert on_a_card_of(plain) == fits.Forecast(False)
    tight = on_a_card_of(plain - 10**6)
    assert tight.recompute and "--recompute" in tight.said
    asked = on_a_card_of(plain, "--recompute")
    assert asked.recompute and not asked.said
    assert on_a_card_of(10**11) == fits.Forecast(False, keep=True), "the cache stays between two rollouts"
    with pytest.raises(ValueError, match=r"training takes 0\.\d GB with these flags, .*--recompute --offload"):
        on_a_card_of(less - 10**6)
    with pytest.raises(ValueError, match="choose a smaller --model"):
        on_a_card_of(10**6)


def test_fewer_rows_keep_the_cache_where_that_is_faster(card, monkeypatch):
    """Bug: cards of 24 to 48 GB record every step anew in every rollout; or a run is made to read 3 GB of weights for
    each of four rows."""
    cfg, how = card.model.cfg, flags("--rows", "64")

    def room(rows):
        return memory.of_rollout(cfg, rows, min(how.context, cfg.max_len), 2, policies.Session.PREFILL)

    assert [fits.fewer_rows(how, cfg, 2, 3e9, room(rows)) for rows in (64, 63, 48, 8)] == [64, 63, 48, 0]
    assert fits.fewer_rows(how, cfg, 2, 3e7, room(8)) == 8, "where the weights are small, rows matter less"
    assert fits.fewer_rows(how, cfg, 2, 3e7, 1000) == 0
    weights = sum(p.numel() for p in card.model.parameters()) * 4
    training = sum(of_training(cfg, Training(longest=3072)).values())
    beside = memory.of_rollout(cfg, 20, 3072, 4, policies.Session.PREFILL)
    monkeypatch.setattr(memory, "free", lambda device: (training + beside) / memory.SHARE - weights + 1000)
    found = fits.forecast(flags(), card)
    assert found.keep and not found.said and not found.recompute and 1 <= found.rows <= 64


def test_a_run_of_a_larger_card_goes_on(card, monkeypatch):
    """Bug: begun on 80 GB and resumed by the same command on 24 GB, it is refused; or told to take --lora, which a run
    cannot take on."""
    cfg = card.model.cfg
    weights = sum(p.numel() for p in card.model.parameters()) * 4

    def needed(**more):
        return sum(of_training(cfg, Training(longest=3072, recompute=True, **more)).values())

    def on_a_card_of(size):
        monkeypatch.setattr(memory, "free", lambda device: size / memory.SHARE - weights + 1000)
        return fits.forecast(flags("--resume", "--out", "none"), card)

    assert not on_a_card_of(needed()).offload
    less = on_a_card_of(needed(offload=True))
    assert less.recompute and less.offload and "as with --recompute --offload" in less.said
    with pytest.raises(ValueError, match="begin another run") as refused:
        on_a_card_of(needed(offload=True) / 3)
    assert "--context" not in str(refused.value)


def test_offload_asks_for_the_computers_memory(card, monkeypatch):
    """Bug: eight processes with --offload fill the memory of their machine, and the system kills one without a word."""
    free = {"cuda:0": 1e12, "cpu": 1e12}
    trained = sum(p.numel() for p in card.model.parameters())
    monkeypatch.setattr(memory, "free", lambda device: free[str(device)])
    assert not fits.forecast(flags("--offload"), card).said
    free["cpu"] = 15 * trained / memory.SHARE  # master weights, two moments and gradients: 16 bytes each
    with pytest.raises(ValueError, match=r"--offload takes 0\.\d GB of the computer's memory"):
        fits.forecast(flags("--offload"), card)
    assert not fits.forecast(flags("--offload", "--resume", "--out", "none"), card).said, "it did fit when it began"
    assert not fits.forecast(flags(), card).offload, "without the flag nothing is kept there"
    weights = 4 * trained
    recomputed = sum(of_training(card.model.cfg, Training(longest=3072, recompute=True)).values())
    free["cuda:0"] = (recomputed - 1000) / memory.SHARE - weights  # a little less than it takes without --offload
    with pytest.raises(ValueError, match="training takes") as refused:
        fits.forecast(flags(), card)
    assert "--offload" not in str(refused.value), "what does not fit is no advice"


def test_several_cards_are_told_of_shard(card, monkeypatch):
    """Bug: eight cards refuse 7B and name --offload, which is slow; with --shard they name it again."""
    weights = sum(p.numel() for p in card.model.parameters()) * 4
    monkeypatch.setattr(fits.distributed, "this", SimpleNamespace(**{**vars(fits.distributed.this), "size": 4}))
    monkeypatch.setattr(fits, "of_training", lambda cfg, how: {
        "all": (8 - how.recompute - how.offload - 2 * (how.lora > 0)) * 1e9 / how.cards})

    def on_a_card_of(size, *argv):
        monkeypatch.setattr(memory, "free", lambda device: size / memory.SHARE - weights)
        return fits.forecast(flags(*argv), card)

    with pytest.raises(ValueError, match=r"; --recompute --shard or --recompute --shard --context 1536 would fit"):
        on_a_card_of(1.8e9)
    forecast = on_a_card_of(1.8e9, "--shard")
    assert forecast.recompute and not forecast.offload
    with pytest.raises(ValueError, match="the cold start, which takes 8.0 GB.*--cold_start 0"):
        fits.alone(flags("--shard"), card)
    with pytest.raises(ValueError, match="choose a smaller --model, or more processes$"):
        on_a_card_of(1e9, "--shard")
    with pytest.raises(ValueError, match="or more processes$"):
        on_a_card_of(1.6e9, "--shard", "--resume", "--out", "none")  # with --offload it would fit


@pytest.mark.slow
def test_the_default_run_in_numbers():
    """The 1.5B of the default command: what the README's table and GPU.md's estimate say, give or take."""
    cfg = config(151936, 1536, 28, 12, 2, 128, 8960, False)
    parts = of_training(cfg, Training(2, longest=8192))
    assert parts["weights"] == pytest.approx(3.09e9, rel=0.01) and parts["moments"] == 4 * parts["weights"]
    assert 45e9 < sum(parts.values()) < 75e9
    small = of_training(cfg, Training(2, longest=8192, recompute=True, lora=16))
    assert sum(small.values()) < 14e9


def test_the_default_on_a_small_card_is_lora(monkeypatch, capsys):
    """Bug: `python train.py --env webshop` on 24 GB is refused, or dies; or what a user asked for is overruled."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(
        total_memory=85e9 if device.index == 1 else size))
    size = 25.4e9
    assert train.read_flags(["--device", "cuda:1"]).lora == 0, "the card of --device is asked"
    assert train.read_flags(["--device", "abacus"]).lora == 0, "who opens it says that it is none"
    chosen = train.read_flags([])
    assert (chosen.lora, chosen.lr, chosen.recompute) == (16, 1e-4, True)
    assert "25 GB: LoRA (--lora 16" in capsys.readouterr().out
    assert train.read_flags(["--lr", "1e-5"]).lr == 1e-5 and train.read_flags(["--offload"]).lora == 0
    assert train.read_flags(["--model", "some/model"]).lora == train.read_flags(["--model", "tiny"]).lora == 0
    assert train.read_flags(["--device", "cpu"]).model == "tiny", "what a laptop trains, also beside a GPU"
    size = 85e9
    assert train.read_flags([]).lora == 0

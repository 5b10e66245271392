"""Device hygiene without a card: everything that a GPU run computes, on tensors of another device that hold no numbers.

On torch's "meta" device an operation checks shapes, dtypes and devices, and raises where they mix, as on a card. A
model of 1.5B takes no memory there. What asks for a number (item, a mask as an index) is answered by a stand-in.
"""

import copy
from types import SimpleNamespace

import pytest
import torch

import dualadv_grpo as grpo
from lib import buffers, fused, graphs, lora
from lib.device import dtype_of, leave_out, pick_device, refuse_large
from lib.streams import gumbel
from policy import Config, Decoder, KVCache, Session, logprobs
from tools import coldstart

META = torch.device("meta")
CFG = Config(151936, 1536, 2, 12, 2, 128, 8960, 1e-6, 32768, True, True, False, False, False,
             {"rope_type": "default", "rope_theta": 1e6}, {})  # Qwen2.5-1.5B, but two of its 28 layers


@pytest.fixture
def elsewhere(monkeypatch):
    """Numbers that are asked of a tensor without any: all 8 tokens but the first are sampled, sums are 0 and finite."""
    get, number, numbers = torch.Tensor.__getitem__, torch.Tensor.item, torch.Tensor.tolist

    def item(tensor, index):
        if torch.is_tensor(index) and index.dtype == torch.bool and tensor.is_meta:
            tensor = get(tensor, (slice(None), slice(tensor.shape[1] - 7, None)))
            return tensor.flatten(0, index.dim() - 1)
        return get(tensor, index)

    monkeypatch.setattr(torch.Tensor, "__getitem__", item)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 0.0 if tensor.is_meta else number(tensor))
    monkeypatch.setattr(torch.Tensor, "any", lambda tensor: False)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: numbers(
        torch.zeros(tensor.shape) if tensor.is_meta else tensor))
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: 0.0)
    monkeypatch.setattr(torch, "isfinite", lambda tensor: True)


@pytest.fixture(scope="module")
def model():
    with META:
        return Decoder(CFG).to(torch.bfloat16)


def zeros(*shape, dtype=torch.long):
    return torch.zeros(shape, dtype=dtype, device=META)


def test_the_forward_stays_on_its_device_and_in_its_dtype(model):
    """Bug: positions, a mask or RoPE's frequencies are made on the CPU, or a float32 among them widens every layer."""
    for rows, positions in ((slice(1, 3), zeros(2, 16)), (zeros(2), zeros(2, 16))):
        cache = KVCache(CFG, 4, 128, META, torch.bfloat16)
        hidden = model.hidden(zeros(2, 16), cache, rows, positions, 64)
        assert hidden.is_meta and hidden.dtype == torch.bfloat16 and hidden.shape == (2, 16, 1536)
    hidden = model.hidden(zeros(2, 40))
    assert hidden.is_meta and hidden.dtype == torch.bfloat16
    assert model.head(hidden[:, 0]).dtype == torch.bfloat16
    assert gumbel(zeros(2, dtype=torch.int32), 100, META).is_meta


def test_a_session_stays_on_its_device(model):
    """Bug: a host tensor in a decoding step: an error on a card, or a wait in each of its steps."""
    policy = SimpleNamespace(model=model, stop={1}, device=META, keep=False, kept=None)
    session = Session(policy, 4, 64)
    session.feed([0, 1], [[5, 6, 7], [5, 6]])
    session.fork([0], 2)
    session.feed([0, 2], [[8, 9], [8]])
    buffers.swap(session, 0, 1)
    for temperature in (1.0, 0.0):
        session._step(2, 8, temperature)
    assert {t.device for t in (session.tokens, session.positions, session.seeds, session.logp)} == {META}


@pytest.mark.parametrize("rank, recompute", [(0, False), (0, True), (16, True)])
def test_an_update_stays_on_its_device(rank, recompute, model, elsewhere):
    """Bug: the mask, the advantages or the reference's log-probabilities lie on the CPU; masters are not float32."""
    policy = copy.deepcopy(model)
    if rank:
        lora.add(policy, rank)
    policy.recompute = recompute
    optimizer = grpo.AdamW(policy.parameters(), 1e-6)
    assert all(master.is_meta and master.dtype == torch.float32 for master in optimizer.master)
    segments = [SimpleNamespace(ids=[1] * 8, job=[grpo.ACT] * 8, logp=[-1.0] * 8)] * 2
    reference = lora.Reference(policy) if rank else model
    grpo.update(policy, reference, optimizer, segments, [[1.0] * 8] * 2, logprobs, grpo.Objective())
    moments = [s["exp_avg"] for s in optimizer.adam.state.values()]
    assert moments and all(m.is_meta and m.dtype == torch.float32 for m in moments)
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in policy.parameters())


def test_a_step_of_the_cold_start_stays_on_its_device(model, elsewhere):
    """Bug: the weights of the tokens lie on the CPU."""
    policy = SimpleNamespace(model=copy.deepcopy(model), device=META)
    coldstart.sft_step(policy, [([1] * 8, [True] * 8)], [[1.0] * 8], prompt_weight=0.1)
    assert all(p.grad is not None and p.grad.is_meta for p in policy.model.parameters())


def test_a_tensor_on_the_wrong_device_is_noticed(model):
    """This file can fail: one index on the CPU among tensors that are elsewhere."""
    cache = KVCache(CFG, 4, 128, torch.device("cpu"), torch.bfloat16)
    with pytest.raises(RuntimeError, match="device"):
        model.hidden(zeros(2, 16), cache, slice(0, 2), zeros(2, 16), 64)


def test_the_cpu_has_no_number():
    """Bug: --device cpu:1 is another device than the tensors that are made on "cpu"."""
    assert pick_device("cpu:1") == torch.device("cpu")


def test_parts_can_be_left_out_one_by_one(monkeypatch):
    """Bug: nobody can tell whether recordings, compilation or bfloat16 spoil a run; or a part stays out for good."""
    def recorded():
        one, made = graphs.Graphs(), []
        one._record = lambda step, *shape: made.append(shape) or SimpleNamespace(replay=lambda: None)
        for _ in range(3):
            one.run(lambda shape: None, 8)
        return len(made)

    try:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
        assert dtype_of("cuda:0") == torch.bfloat16 and recorded() == 1
        leave_out("recordings, bfloat16")
        assert dtype_of("cuda:0") == torch.float32 and recorded() == 0
        leave_out("compilation")
        with torch.no_grad():
            assert not fused.wanted(SimpleNamespace(is_cuda=True))
        assert dtype_of("cuda:0") == torch.bfloat16 and recorded() == 1
        with pytest.raises(ValueError, match="--without graphs: there is no graphs; choose from recordings, comp"):
            leave_out("graphs")
    finally:
        leave_out("")
    with torch.no_grad():
        assert fused.wanted(SimpleNamespace(is_cuda=True))
    assert dtype_of("cpu") == torch.float32


@pytest.mark.parametrize("name", ["xpu", "meta"])
def test_other_devices_are_refused_by_name(name):
    """Bug: --device xpu runs into operations that are not there, an hour later."""
    with pytest.raises(ValueError, match=f"--device {name}: this device was never tried; use cpu, cuda or mps"):
        pick_device(name)


def test_a_card_is_made_the_current_one(monkeypatch, capsys):
    """Bug: --device cuda:1 records its steps on card 0 and replays nothing."""
    calls: list = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, to=torch.Tensor.to: tensor)
    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", calls.append)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert pick_device("cuda:1") == torch.device("cuda:1") and calls == [torch.device("cuda:1"), False]
    assert not capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    assert pick_device("cuda:0").index == 0 and "Tesla T4 has no bfloat16: models" in capsys.readouterr().out


def test_a_device_counts_when_a_kernel_ran_and_was_right(monkeypatch):
    """Bug: a card that this torch has no kernels for is "available", and fails after minutes with a traceback."""
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device, to=torch.Tensor.to: tensor * 1.01)
    with pytest.raises(ValueError, match="--device cuda:0: the product of two small matrices is wrong on it"):
        pick_device("cuda:0")

    def missing(tensor, device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch.Tensor, "to", missing)
    with pytest.raises(ValueError, match="no kernel image is available for execution on the device$"):
        pick_device("cuda:0")


def test_a_card_without_bfloat16_computes_in_float32(monkeypatch):
    """Bug: a T4 or a V100 is refused, even for tiny; or computes in emulated bfloat16, which is slow."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert dtype_of("cuda:0") == torch.float32 == dtype_of("mps")


def test_a_large_model_is_not_trained_on_a_cpu_unasked(monkeypatch):
    """Bug: with a driver older than the wheel's CUDA, 1.5B trains on the CPU for days, and nothing says why."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).\nPlease update")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(ValueError, match=r"1\.5B parameters .* CUDA 13\.0 .*too old \(found version 12040\)") as caught:
        refuse_large("", 1.5e9)
    assert "\n" not in str(caught.value)
    refuse_large("cpu", 1.5e9)
    refuse_large("", 1e6)
    monkeypatch.setattr(torch.version, "cuda", None)
    refuse_large("", 1.5e9)  # a build for CPUs: who installs it knows


@pytest.mark.parametrize("name", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there(name):
    """The bug: a CUDA traceback of twenty lines for a laptop without a GPU."""
    with pytest.raises(ValueError, match=f"--device {name}: ") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)
    assert pick_device("cpu").type == "cpu"

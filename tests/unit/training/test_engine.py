"""The flat engine against torch's own AdamW, and exact continuation."""

import copy

import pytest
import torch
from torch import nn

from chemscale.training import engine as engine_module
from chemscale.training.engine import TorchEngine


def _module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def _loss(module, step):
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
    return module(inputs).square().mean()


def _step(engine, loss, rate):
    engine.backward(loss)
    return engine.update(rate)


def _engine(module, average=0.9, **options):
    return TorchEngine(module, weight_decay=0.1, beta1=0.9, beta2=0.99, gradient_clip=0.05, average=average, **options)


def test_equals_torch_adamw_with_clipping_and_decay_on_matrices():
    ours, theirs = _module(), _module()
    engine = _engine(ours)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in theirs.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(0.9, 0.99),
    )
    for step in range(20):
        norm = _step(engine, _loss(ours, step), 0.01)
        optimizer.zero_grad()
        _loss(theirs, step).backward()
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs.parameters(), 0.05)), rel=1e-5)
        optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_norm_of_a_long_gradient_is_exact_to_rounding():
    torch.manual_seed(0)
    module = nn.Linear(1500, 1500)
    engine = _engine(module)
    engine.backward((module.weight * torch.randn(1500, 1500)).sum())
    gradient = module.weight.grad.double()
    assert engine.update(0.0) == pytest.approx(float(torch.linalg.vector_norm(gradient)), rel=3e-7)


def test_continues_bit_for_bit(monkeypatch):
    whole, parted = _module(), _module()
    engine = _engine(whole)
    for step in range(10):
        _step(engine, _loss(whole, step), 0.01)
    first = _engine(parted)
    for step in range(4):
        _step(first, _loss(parted, step), 0.01)
    monkeypatch.setattr(engine_module, "PART", 21)  # a matrix a part
    best = first.weights()
    state = copy.deepcopy([*first.state(best)])
    assert len(state) == 3
    resumed = _module()
    second = _engine(resumed)
    assert torch.equal(second.load_state(state, 4), best)
    for step in range(4, 10):
        _step(second, _loss(resumed, step), 0.01)
    for ours, theirs in zip(engine.state(), second.state(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_the_state_is_told_by_the_names_of_the_module():
    module = _module()
    engine = _engine(module, average=0.0)
    _step(engine, _loss(module, 0), 0.01)
    (part,) = engine.state()
    assert part.keys() == {
        f"{kind}/{n}" for kind in ("weights", "moment", "square") for n, _ in module.named_parameters()
    }
    assert all(torch.equal(part[f"weights/{name}"], value) for name, value in module.named_parameters())
    other = _engine(_module(), average=0.0)
    assert other.load_state([part], 1) is None


def test_gradients_of_a_steps_shares_add_up():
    whole, parted = _module(), _module()
    one, other = _engine(whole), _engine(parted)
    for step in range(5):
        norm = _step(one, _loss(whole, step) + _loss(whole, step + 100), 0.01)
        other.backward(_loss(parted, step))
        other.backward(_loss(parted, step + 100))
        assert other.update(0.01) == pytest.approx(norm, rel=1e-5)
    for a, b in zip(whole.parameters(), parted.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_evaluates_averaged_weights_and_puts_the_running_ones_back():
    module = _module()
    engine = _engine(module)
    for step in range(5):
        _step(engine, _loss(module, step), 0.1)
    running = [parameter.clone() for parameter in module.parameters()]
    with engine.evaluated():
        assert not torch.equal(running[0], module[0].weight)
        assert torch.equal(
            torch.cat([module[0].weight.flatten(), module[2].weight.flatten()]), engine.weights()[: 35 + 21]
        )
    assert all(torch.equal(a, b) for a, b in zip(running, module.parameters(), strict=True))


def _loss_in_bf16(module, step):
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).bfloat16()
    return module(inputs).float().square().mean()


def test_bf16_computes_with_rounded_weights_and_updates_whole_ones():
    module, rounded = _module(), _module().bfloat16()
    engine = _engine(module, precision="bf16")
    masters = [parameter.detach().float().requires_grad_() for parameter in rounded.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in masters if p.ndim >= 2], "weight_decay": 0.1},
         {"params": [p for p in masters if p.ndim < 2], "weight_decay": 0.0}], lr=0.001, betas=(0.9, 0.99)
    )  # fmt: skip
    for step in range(30):
        for share in (step, step + 100):
            engine.backward(_loss_in_bf16(module, share))
        engine.update(0.001)
        sums = [torch.zeros_like(master) for master in masters]
        for share in (step, step + 100):
            gradients = torch.autograd.grad(_loss_in_bf16(rounded, share), list(rounded.parameters()))
            sums = [one + other.float() for one, other in zip(sums, gradients, strict=True)]
        for master, gradient in zip(masters, sums, strict=True):
            master.grad = gradient
        nn.utils.clip_grad_norm_(masters, 0.05)
        optimizer.step()
        for parameter, master in zip(rounded.parameters(), masters, strict=True):
            parameter.data.copy_(master.data)
    assert all(parameter.dtype == torch.bfloat16 for parameter in module.parameters())
    for ours, theirs in zip(module.parameters(), rounded.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)
    (part,) = engine.state()
    for (name, _), master in zip(module.named_parameters(), masters, strict=True):
        torch.testing.assert_close(part[f"weights/{name}"], master.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_module_on_the_meta_device_trains_as_a_built_one(precision):
    built = _module()
    with torch.device("meta"):
        outline = _module()
    initial = [(name, parameter.detach().clone()) for name, parameter in built.named_parameters()]
    engines = [_engine(built, precision=precision)]
    engines.append(_engine(outline, precision=precision, initial=initial, place=torch.device("cpu")))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    for step in range(3):
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).to(dtype)
        norms = [_step(engine, engine.module(inputs).float().square().mean(), 0.01) for engine in engines]
        assert norms[0] == norms[1] > 0
        averaged = []
        for engine in engines:
            trained = [parameter.clone() for parameter in engine.module.parameters()]
            with engine.evaluated():
                averaged.append([parameter.clone() for parameter in engine.module.parameters()])
            assert all(map(torch.equal, trained, engine.module.parameters())), "the trained weights are back"
        assert all(map(torch.equal, *averaged))

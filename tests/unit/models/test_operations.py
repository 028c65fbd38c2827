"""Attention and gelu of narrow models are torch's, and packed molecules see nothing of each other."""

import pytest
import torch
from torch.nn import functional

from chemscale.models import registry
from chemscale.models.operations import attention, gelu


@pytest.mark.parametrize(
    ("heads", "features", "length"), [(4, 1, 30), (2, 4, 16), (3, 8, 33), (2, 16, 1), (2, 20, 256)]
)
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_attention_and_its_gradient_are_those_of_torch_in_double_precision(heads, features, length, scale):
    random = torch.Generator().manual_seed(0)
    values = 0.5 * torch.randn(3, length, 3, heads, features, generator=random)
    direction = torch.randn(3, length, heads * features, generator=random)
    found = []
    for projected in (values.requires_grad_(), values.detach().double().requires_grad_()):
        attended = attention(projected, scale, None, None)
        (gradient,) = torch.autograd.grad(attended, projected, direction.to(projected.dtype))
        found.append((attended.detach().double(), gradient.double()))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single, double, rtol=1e-5, atol=1e-5)
    query, key, value = values.detach().double().permute(2, 0, 3, 1, 4)
    scores = scale * query @ key.transpose(2, 3) + torch.full((length, length), -torch.inf).triu(1)
    expected = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found[0][0], expected, rtol=1e-5, atol=1e-5)


def test_large_scores_stay_finite():
    projected = (100 * torch.randn(2, 20, 3, 2, 4, generator=torch.Generator().manual_seed(0))).requires_grad_()
    (gradient,) = torch.autograd.grad(attention(projected, 1.0, None, None).sum(), projected)
    assert gradient.isfinite().all()


def test_gelu_and_its_gradient_are_those_of_torch():
    inner = torch.linspace(-30, 30, 4001, requires_grad=True)
    double = inner.detach().double().requires_grad_()
    expected = functional.gelu(double, approximate="tanh")
    activated = gelu(inner)
    torch.testing.assert_close(activated.double(), expected, rtol=1e-6, atol=1e-6)
    (slope,), (expected_slope,) = (torch.autograd.grad(x.sum(), y) for x, y in ((activated, inner), (expected, double)))
    torch.testing.assert_close(slope.double(), expected_slope, rtol=1e-6, atol=1e-6)


# up to 256 tokens the scores are written out, beyond them torch's attention takes over
@pytest.mark.parametrize("lengths", [[3, 17, 1, 16], [5, 300, 30]])
@pytest.mark.parametrize("family", ["chemgpt", "chemgpt_modern"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_packed_molecule_has_the_logits_and_gradients_of_itself_alone(family, lengths, recompute):
    knobs = {"layers": 2, "width": 16, "heads": 4}
    model = registry.build(family, knobs, seed=1, vocab_size=50, embedding_std=0.5)
    model.recompute = recompute
    random = torch.Generator().manual_seed(2)
    molecules = [torch.randint(5, 50, (length,), generator=random) for length in lengths]
    alone = [model(molecule[None])[0] for molecule in molecules]
    packed = model(torch.cat(molecules), lengths=torch.tensor(lengths))
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-5, atol=1e-5)
    weights = torch.randn(packed.shape, generator=random)
    parameters = list(model.parameters())
    found = torch.autograd.grad((packed * weights).sum(), parameters)
    expected = torch.autograd.grad((torch.cat(alone) * weights).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

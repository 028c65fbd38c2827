"""A rule of learning rates serves all widths if its steps move the features of each as far (Yang et al. 2022)."""

import numpy as np
import torch
from torch.nn import functional

from chemscale.models import registry
from chemscale.study import load_study
from chemscale.training.engine import TorchEngine


def _movement(knobs, rate, embedding_std):
    """Root mean square of how far five steps move the features of the last block."""
    model = registry.build("chemgpt", knobs, seed=0, vocab_size=60, embedding_std=embedding_std)
    engine = TorchEngine(model, weight_decay=0.0, beta1=0.9, beta2=0.99, gradient_clip=1.0, average=0.0)
    tokens = torch.randint(5, 60, (16, 24), generator=torch.Generator().manual_seed(1))
    features = []
    model.blocks[-1].register_forward_hook(lambda module, inputs, output: features.append(output.detach()))
    for _ in range(5):
        engine.backward(functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()))
        engine.update(rate)
    return float((features[-1] - features[0]).square().mean().sqrt())


def test_the_quickstarts_rule_moves_the_features_of_all_its_widths_alike():
    """In its own range of widths: beyond 128 the same rule moves wider models further, by a power near 1."""
    section = load_study("config.yaml").config.families.chemgpt
    sizes = [size.model_dump() for size in section.sizes.values()]
    widths, rule = [size["width"] for size in sizes], section.training.learning_rate

    def power(rates):
        moved = [_movement(size, rate, section.training.embedding_std) for size, rate in zip(sizes, rates, strict=True)]
        return np.polyfit(np.log(widths), np.log(moved), 1)[0]

    assert max(widths) > 10 * min(widths)
    assert abs(power([rule.at(width) for width in widths])) < 0.2
    # one rate for all widths does not
    assert power([rule.at(32)] * len(widths)) > 0.6

"""schnetpack's side: its potential, its loss weights, torch's AdamW; eager, or through torch.compile."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import schnetpack
import torch
from schnetpack import properties

sys.path.insert(0, str(Path(__file__).parent))
from side import CUTOFF, INTERACTIONS, RADIAL, RATE, WIDTH, serve

ENERGY, FORCES = 0.01, 0.99  # weights of their published settings


def built(model: str) -> torch.nn.Module:
    """Their potential of the size that both sides have."""
    cutoff = schnetpack.nn.CosineCutoff(CUTOFF)
    basis = schnetpack.nn.GaussianRBF(n_rbf=RADIAL, cutoff=CUTOFF)
    kind = schnetpack.representation.SchNet if model == "schnet" else schnetpack.representation.PaiNN
    return schnetpack.model.NeuralNetworkPotential(
        representation=kind(WIDTH, INTERACTIONS, basis, cutoff),
        input_modules=[schnetpack.atomistic.PairwiseDistances()],
        output_modules=[schnetpack.atomistic.Atomwise(WIDTH, output_key="energy"), schnetpack.atomistic.Forces()],
    )


def set_up(what: str, model: str, tensors: dict[str, torch.Tensor], setting: str) -> Callable[[], Any]:
    """`setting`: eager or compiled."""
    network = built(model)
    edges = tensors["edges"]
    inputs = {
        properties.Z: tensors["species"],
        properties.R: tensors["positions"],
        properties.idx_i: edges[0].contiguous(),
        properties.idx_j: edges[1].contiguous(),
        properties.offsets: tensors.get("shifts", torch.zeros(edges.shape[1], 3)),
        properties.idx_m: tensors["frame"],
        properties.n_atoms: tensors["atoms"],
    }
    called = torch.compile(network) if setting == "compiled" else network
    if what == "predict":
        network.eval()
        for parameter in network.parameters():
            parameter.requires_grad_(False)

        def predict() -> None:
            called(dict(inputs))

        return predict
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    loss_of = torch.nn.functional.mse_loss

    def work() -> None:
        optimiser.zero_grad()
        found = called(dict(inputs))
        loss = ENERGY * loss_of(found["energy"], tensors["energies"]) + FORCES * loss_of(
            found["forces"], tensors["forces"]
        )
        loss.backward()
        optimiser.step()

    return work


if __name__ == "__main__":
    serve(set_up)

"""Write energies and forces of schnetpack's and torch-geometric's models, weights under our names, as data for tests.

    pip install --no-deps --ignore-requires-python schnetpack==2.2.0 && pip install torch-geometric==2.8.1 ...
    python tests/peers/make_schnetpack.py

schnetpack declares Python 3.12; what else it needs on 3.11 stands in tests/peers/requirements.txt. Weights are drawn
anew from a seed, in float64: biases begin as zero in both codes. Molecules are of ASE's G2 set, moved a little.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import schnetpack
import torch
from safetensors.torch import save_file
from schnetpack import properties
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from molecules import frames, neighbours

KNOBS = {"width": 8, "interactions": 2, "num_radial": 6, "cutoff": 4.0, "envelope": "cosine"}
SPECIES = 119
OF_SCHNETPACK = ("schnetpack_schnet", "schnetpack_painn")
FOLDER = Path(__file__).resolve().parents[1] / "data" / "peers"


def of_schnetpack(model: str) -> nn.Module:
    """Their potential of our size: a table of elements of our length, SchNet's own activation in its readout."""
    width, layers = KNOBS["width"], KNOBS["interactions"]
    cutoff = schnetpack.nn.CosineCutoff(KNOBS["cutoff"])
    embedding = nn.Embedding(SPECIES, width)
    if model == "schnet":
        basis = schnetpack.nn.GaussianRBF(n_rbf=KNOBS["num_radial"], cutoff=KNOBS["cutoff"])
        representation = schnetpack.representation.SchNet(width, layers, basis, cutoff, nuclear_embedding=embedding)
        activation = schnetpack.nn.activations.shifted_softplus
    else:
        basis = schnetpack.nn.BesselRBF(n_rbf=KNOBS["num_radial"], cutoff=KNOBS["cutoff"])
        representation = schnetpack.representation.PaiNN(width, layers, basis, cutoff, nuclear_embedding=embedding)
        activation = nn.functional.silu
    return schnetpack.model.NeuralNetworkPotential(
        representation=representation,
        input_modules=[schnetpack.atomistic.PairwiseDistances()],
        output_modules=[
            schnetpack.atomistic.Atomwise(width, output_key="energy", activation=activation),
            schnetpack.atomistic.Forces(),
        ],
    )


def linear(found: dict[str, Tensor], name: str, own: dict[str, Tensor], theirs: str) -> None:
    """A linear layer's weight and, where it has one, bias."""
    for part in ("weight", "bias"):
        if f"{theirs}.{part}" in own:
            found[f"{name}.{part}"] = own[f"{theirs}.{part}"]


def mapped_schnet(own: dict[str, Tensor], head: tuple[str, str], layers: list[dict[str, str]]) -> dict[str, Tensor]:
    """Weights of a SchNet under our names; ours has the first filter layers of all interactions in one."""
    found = {"embedding.weight": own["embedding.weight"]}
    for part in ("weight", "bias"):
        found[f"filter_input.{part}"] = torch.cat([own[f"{layer['filter_input']}.{part}"] for layer in layers])
    for index, layer in enumerate(layers):
        for name in ("filter_output", "atom_input", "atom_hidden", "atom_output"):
            linear(found, f"interactions.{index}.{name}", own, layer[name])
    for name, theirs in zip(("readout_hidden", "readout_output"), head, strict=True):
        linear(found, name, own, theirs)
    return found


def mapped_painn(own: dict[str, Tensor], head: tuple[str, str]) -> dict[str, Tensor]:
    """Weights of a PaiNN under our names; halves and thirds of its mixing stand in another order."""
    found = {"embedding.weight": own["embedding.weight"]}
    linear(found, "filters", own, "filter_net")
    for index in range(KNOBS["interactions"]):
        message, mixing = f"interactions.{index}.interatomic_context_net", f"mixing.{index}"
        linear(found, f"interactions.{index}.message_hidden", own, f"{message}.0")
        linear(found, f"interactions.{index}.message_output", own, f"{message}.1")
        normed, other = own[f"{mixing}.mu_channel_mix.weight"].chunk(2)
        found[f"interactions.{index}.mix_vectors.weight"] = torch.cat([other, normed])
        linear(found, f"interactions.{index}.mix_hidden", own, f"{mixing}.intraatomic_context_net.0")
        for part in ("weight", "bias"):
            scalars, vectors, product = own[f"{mixing}.intraatomic_context_net.1.{part}"].chunk(3)
            found[f"interactions.{index}.mix_output.{part}"] = torch.cat([vectors, product, scalars])
    for name, theirs in zip(("readout_hidden", "readout_output"), head, strict=True):
        linear(found, name, own, theirs)
    return found


def from_schnetpack(model: str) -> dict[str, Any]:
    """Their energies and forces, their weights under our names, and how many parameters they count."""
    network = of_schnetpack(model).double()
    # its constants were rounded to float32
    cutoff, number = KNOBS["cutoff"], KNOBS["num_radial"]
    basis = network.representation.radial_basis
    if model == "schnet":
        basis.offsets = torch.linspace(0, cutoff, number, dtype=torch.float64)
        basis.widths = torch.full_like(basis.offsets, cutoff / (number - 1))
    else:
        basis.freqs = torch.arange(1, number + 1, dtype=torch.float64) * (math.pi / cutoff)
    drawn(network)
    own = {name.removeprefix("representation."): value for name, value in network.state_dict().items()}
    head = ("output_modules.0.outnet.0", "output_modules.0.outnet.1")
    if model == "schnet":
        layers = [
            {
                "filter_input": f"interactions.{index}.filter_network.0",
                "filter_output": f"interactions.{index}.filter_network.1",
                "atom_input": f"interactions.{index}.in2f",
                "atom_hidden": f"interactions.{index}.f2out.0",
                "atom_output": f"interactions.{index}.f2out.1",
            }
            for index in range(KNOBS["interactions"])
        ]
        weights = mapped_schnet(own, head, layers)
    else:
        weights = mapped_painn(own, head)
    results = []
    for species, positions in frames():
        edges = neighbours(positions, KNOBS["cutoff"])
        inputs = {
            properties.Z: species,
            properties.R: positions.clone(),
            properties.idx_i: edges[0],
            properties.idx_j: edges[1],
            properties.offsets: torch.zeros(edges.shape[1], 3, dtype=torch.float64),
            properties.idx_m: torch.zeros_like(species),
            properties.n_atoms: torch.tensor([len(species)]),
        }
        found = network(inputs)
        results.append((found["energy"].detach().reshape(1), found["forces"].detach()))
    return {"weights": weights, "results": results, "parameters": count(network), "with": "schnetpack 2.2.0"}


def from_geometric() -> dict[str, Any]:
    """The same of torch-geometric's SchNet, with our table of elements."""
    from torch_geometric.nn.models import SchNet

    network = SchNet(
        hidden_channels=KNOBS["width"],
        num_filters=KNOBS["width"],
        num_interactions=KNOBS["interactions"],
        num_gaussians=KNOBS["num_radial"],
        cutoff=KNOBS["cutoff"],
        interaction_graph=lambda positions, batch: pyg_graph(positions),
    )
    network.embedding = nn.Embedding(SPECIES, KNOBS["width"])
    network = network.double()
    drawn(network)
    layers = [
        {
            "filter_input": f"interactions.{index}.mlp.0",
            "filter_output": f"interactions.{index}.mlp.2",
            "atom_input": f"interactions.{index}.conv.lin1",
            "atom_hidden": f"interactions.{index}.conv.lin2",
            "atom_output": f"interactions.{index}.lin",
        }
        for index in range(KNOBS["interactions"])
    ]
    results = []
    for species, positions in frames():
        moved = positions.clone().requires_grad_()
        energy = network(species, moved)
        (gradient,) = torch.autograd.grad(energy.sum(), moved)
        results.append((energy.detach().reshape(1), -gradient))
    weights = mapped_schnet(network.state_dict(), ("lin1", "lin2"), layers)
    return {"weights": weights, "results": results, "parameters": count(network), "with": "torch-geometric 2.8.1"}


def pyg_graph(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Edges from the sending atom to the receiving one, and their lengths."""
    receiver, sender = neighbours(positions, KNOBS["cutoff"])
    return torch.stack([sender, receiver]), (positions[sender] - positions[receiver]).norm(dim=1)


def drawn(network: nn.Module) -> None:
    """Draw every weight anew, biases and tables included."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5 if parameter.ndim > 1 else 0.3)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    made = {name: (name.split("_")[1], from_schnetpack(name.split("_")[1])) for name in OF_SCHNETPACK}
    torch.set_default_dtype(torch.float64)
    made["torch_geometric_schnet"] = ("schnet", from_geometric())
    for name, (family, told) in made.items():
        stored = {f"weights.{key}": value for key, value in told["weights"].items()}
        for index, ((species, positions), (energy, forces)) in enumerate(zip(frames(), told["results"], strict=True)):
            stored |= {f"{index}.species": species, f"{index}.positions": positions}
            stored |= {f"{index}.energy": energy, f"{index}.forces": forces}
        knobs = KNOBS | ({"vectors": True} if family == "painn" else {})
        about = {
            "made_with": told["with"],
            "family": family,
            "knobs": json.dumps(knobs),
            "parameters": str(told["parameters"]),
        }
        save_file({key: value.contiguous() for key, value in stored.items()}, FOLDER / f"{name}.safetensors", about)


if __name__ == "__main__":
    main()

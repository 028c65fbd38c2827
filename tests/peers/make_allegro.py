"""Write energies and forces of nequip-allegro's own models, with their weights under our names, as data for tests.

    pip install nequip==0.19.1 nequip-allegro==0.8.3 ase safetensors
    python tests/peers/make_allegro.py

Weights are as their builder draws them from a seed, in float64; molecules are of ASE's G2 set, moved a little.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from allegro.model import AllegroModel
from nequip.utils.global_state import set_global_state
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from molecules import frames, neighbours

SPECIES = {"H": 1, "C": 6, "N": 7, "O": 8}
SIZES = {
    "invariant": {"width": 16, "tensors": 4, "l_max": 0, "interactions": 2},
    "vectors": {"width": 16, "tensors": 4, "l_max": 1, "interactions": 3},
    "tensors": {"width": 16, "tensors": 8, "l_max": 2, "interactions": 2},
}
COMMON = {"num_radial": 8, "cutoff": 4.0, "neighbours": 9.0}
FOLDER = Path(__file__).resolve().parents[1] / "data" / "peers"


def theirs(knobs: dict[str, Any]) -> torch.nn.Module:
    """Their model of a size."""
    width = knobs["width"]
    model = AllegroModel(
        seed=1,
        model_dtype="float64",
        type_names=list(SPECIES),
        r_max=knobs["cutoff"],
        l_max=knobs["l_max"],
        parity=True,
        radial_chemical_embed={
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": knobs["num_radial"],
        },
        scalar_embed_mlp_hidden_layers_width=width,
        allegro_mlp_hidden_layers_width=width,
        readout_mlp_hidden_layers_width=width // 2,
        num_layers=knobs["interactions"],
        num_scalar_features=width,
        num_tensor_features=knobs["tensors"],
        avg_num_neighbors=knobs["neighbours"],
    )
    model.eval()
    return model


def mapped(model: torch.nn.Module, knobs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Their weights under our names; products are stored outputs first, embeddings have a row for every element.

    Outputs that weigh tensors are numbered by channel, then degree there, and by degree, then channel with us.
    """
    width, tensors, degrees = knobs["width"], knobs["tensors"], knobs["l_max"] + 1
    weighing = torch.arange(tensors * degrees).view(tensors, degrees).T.flatten()
    behind_latents = torch.cat([torch.arange(width), width + weighing])
    own = {name.split("model.func.")[-1]: value for name, value in model.state_dict().items()}
    found = {}

    def perceptron(name: str, their_name: str) -> None:
        found[f"{name}.hidden.weight"] = own[f"{their_name}.mlp.0.weight"].T
        found[f"{name}.output.weight"] = own[f"{their_name}.mlp.2.weight"].T

    for name, table in (("centre", "center_embed"), ("neighbour", "neighbor_embed")):
        rows = own[f"radial_chemical_embed.type_embed.{table}.weight"]
        found[f"{name}.weight"] = torch.zeros(119, rows.shape[1], dtype=rows.dtype)
        found[f"{name}.weight"][list(SPECIES.values())] = rows
    found["radial.weight"] = own["radial_chemical_embed.type_embed.basis_linear.mlp.0.weight"].T
    found["first_tensors.weight"] = own["tensor_embed.env_embed_linear.mlp.0.weight"].T[weighing]
    found["first_latents.weight"] = own["allegro.first_layer_env_embed_projection.mlp.0.weight"].T[behind_latents]
    perceptron("two_body", "scalar_embed_mlp.mlp_module")
    perceptron("readout", "edge_readout.mlp_module")
    layers = knobs["interactions"]
    for layer in range(layers):
        weights = own[f"allegro.tps.{layer}.weights"]
        found[f"products.{layer}.weight"] = weights if weights.ndim == 2 else weights[:, None]
        perceptron(f"latents.{layer}", f"allegro.latents.{layer}")
        if layer < layers - 1:
            found[f"latents.{layer}.output.weight"] = found[f"latents.{layer}.output.weight"][behind_latents]
    return found


def main() -> None:
    set_global_state(allow_tf32=False)
    types = torch.full((119,), -1)
    types[list(SPECIES.values())] = torch.arange(len(SPECIES))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for size, own_knobs in SIZES.items():
        knobs = own_knobs | COMMON
        model = theirs(knobs)
        stored = {f"weights.{name}": value for name, value in mapped(model, knobs).items()}
        for index, (species, positions) in enumerate(frames()):
            edges = neighbours(positions, knobs["cutoff"])
            found = model({"pos": positions.clone(), "atom_types": types[species], "edge_index": edges})
            stored |= {f"{index}.species": species, f"{index}.positions": positions}
            stored |= {f"{index}.energy": found["total_energy"].detach().flatten(), f"{index}.forces": found["forces"]}
        count = sum(parameter.numel() for parameter in model.parameters())
        about = {
            "made_with": "nequip 0.19.1, nequip-allegro 0.8.3",
            "knobs": json.dumps(knobs),
            "parameters": str(count),
        }
        save_file(
            {name: value.contiguous() for name, value in stored.items()}, FOLDER / f"allegro_{size}.safetensors", about
        )


if __name__ == "__main__":
    main()

"""Write energies and forces of the SpookyNet authors' models, with their weights under our names, as data for tests.

    git clone https://github.com/OUnke/SpookyNet && git -C SpookyNet checkout d57b1fc02c4f1304a9445b2b9aa55a906818dd1b
    pip install torch==2.13.0 ase safetensors
    python tests/peers/make_spookynet.py SpookyNet

Weights are of a seed, in float64, and far from the authors' initial ones, with which the network's output is 0;
molecules are of ASE's G2 set, moved a little, in one batch: the authors' attention treats a frame alone in another way.
"""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.build import molecule
from safetensors.torch import save_file
from torch import Tensor

# with charge and number of unpaired electrons
MOLECULES = [("CH3CH2OH", 0, 0), ("C6H6", 1, 1), ("NH3", 0, 2), ("HCOOH", -1, 0), ("CH3CN", 2, 0)]
SIZE = {"width": 8, "interactions": 2, "num_radial": 6, "cutoff": 4.0}
ALL = {"repulsion": True, "electrostatics": True, "dispersion": True}
# theirs may have no second cutoff: ours is then farther away than tells in float64
NO_CUTOFF = 1e14
MODELS: dict[str, dict[str, Any]] = {
    "whole": {"long_cutoff": NO_CUTOFF, **ALL},
    "cut": {"long_cutoff": 4.5, **ALL},
    "network": {"long_cutoff": 4.5, **dict.fromkeys(ALL, False)},
}
FOLDER = Path(__file__).resolve().parents[1] / "data" / "peers"
# ours and theirs, of a single model
NAMES = {
    "embedding.weight": "nuclear_embedding.element_embedding",
    "configuration.weight": "nuclear_embedding.config_linear.weight",
    "basis.decay": "radial_basis_functions._alpha",
    "readout.weight": "output.weight",
    "species.weight": "element_bias",
    "repulsion.exponent": "zbl_repulsion_energy._apow",
    "repulsion.inverse_length": "zbl_repulsion_energy._adiv",
    "dispersion.s8": "d4_dispersion_energy._s8",
    "dispersion.a1": "d4_dispersion_energy._a1",
    "dispersion.a2": "d4_dispersion_energy._a2",
    "dispersion.charge_scale": "d4_dispersion_energy._scaleq",
}
BRANCHES = ["local_interaction.resblock_" + kind for kind in "xspd"] + [
    "nonlocal_interaction.resblock_" + kind for kind in "qkv"
]


def theirs(root: Path, knobs: dict[str, Any]) -> torch.nn.Module:
    """Their model of a size; the package's own `__init__` would import what is not needed here."""
    package = types.ModuleType("spookynet")
    package.__path__ = [str(root / "spookynet")]
    sys.modules.setdefault("spookynet", package)
    from spookynet.spookynet import SpookyNet

    model = SpookyNet(
        num_features=knobs["width"],
        num_basis_functions=knobs["num_radial"],
        num_modules=knobs["interactions"],
        cutoff=knobs["cutoff"],
        lr_cutoff=None if knobs["long_cutoff"] == NO_CUTOFF else knobs["long_cutoff"],
        use_zbl_repulsion=knobs["repulsion"],
        use_electrostatics=knobs["electrostatics"],
        use_d4_dispersion=knobs["dispersion"],
    ).to(torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, dtype=parameter.dtype) * (0.3 if parameter.ndim else 0.1))
        if knobs["dispersion"]:
            # a constant of 1, which they round to float32; and what they compute of their weights when they load some
            model.d4_dispersion_energy._s6.fill_(1 + math.log(-math.expm1(-1)))
            model.d4_dispersion_energy._compute_refc6()
    # their eval() keeps the nuclei's embedding
    model.eval()
    return model


def mapped(model: torch.nn.Module, knobs: dict[str, Any]) -> dict[str, Tensor]:
    """Their weights under our names; blocks side by side are stacked, and their matrices have inputs first."""
    own = model.state_dict()
    found = {name: own[their_name].squeeze(0) for name, their_name in NAMES.items() if their_name in own}
    if knobs["repulsion"]:
        for name, letter in (("shares", "c"), ("decays", "a")):
            found[f"repulsion.{name}"] = torch.cat([own[f"zbl_repulsion_energy._{letter}{k}"] for k in (1, 2, 3, 4)])

    def layers(name: str, their_names: list[str], parts: dict[str, str]) -> None:
        for part, their_part in parts.items():
            for kind in ("alpha", "beta", "bias", "weight"):
                values = [own[f"{x}.{their_part}.{kind}"] for x in their_names if f"{x}.{their_part}.{kind}" in own]
                if values and kind == "weight":
                    found[f"{name}.{part}.weight"] = torch.stack([value.T for value in values])
                elif values:
                    found[f"{name}.{part}.{kind}"] = torch.cat(values)

    residual = {part: part for part in ("activation1", "linear1", "activation2", "linear2")}
    block = {f"residual.{part}": f"residual.stack.0.{part}" for part in residual} | {
        part: part for part in ("activation", "linear")
    }
    for name, their_name in (("charge", "charge_embedding"), ("spin", "magmom_embedding")):
        for part, their_part in (("query", "linear_q"), ("key", "linear_k"), ("value", "linear_v")):
            found[f"{name}.{part}.weight"] = own[f"{their_name}.{their_part}.weight"]
        found[f"{name}.query.bias"] = own[f"{their_name}.linear_q.bias"]
        layers(f"{name}.block", [f"{their_name}.resblock"], block)
    for layer in range(knobs["interactions"]):
        name, their_name = f"interactions.{layer}", f"module.{layer}"
        layers(f"{name}.before", [f"{their_name}.residual_pre.stack.0"], residual)
        layers(f"{name}.after", [f"{their_name}.residual_post.stack.0"], residual)
        layers(f"{name}.branches", [f"{their_name}.{branch}" for branch in BRANCHES], block)
        layers(f"{name}.local", [f"{their_name}.local_interaction.resblock"], block)
        layers(f"{name}.output", [f"{their_name}.resblock"], block)
        for place, kind in enumerate("spd"):
            found[f"{name}.radial.{place}.weight"] = own[f"{their_name}.local_interaction.radial_{kind}.weight"]
        for kind in "pd":
            found[f"{name}.project_{kind}.weight"] = own[f"{their_name}.local_interaction.projection_{kind}.weight"]
        found[f"{name}.omega"] = own[f"{their_name}.nonlocal_interaction.attention.omega"]
    return found


def main(root: Path) -> None:
    random = np.random.default_rng(0)
    np.random.seed(0)  # theirs draw random features from it
    torch.manual_seed(0)
    atoms = [molecule(name) for name, _, _ in MOLECULES]
    species = torch.from_numpy(np.concatenate([one.numbers for one in atoms]).astype(np.int64))
    positions = torch.from_numpy(np.concatenate([one.positions for one in atoms]))
    positions = positions + torch.from_numpy(random.normal(0, 0.05, positions.shape))
    frame = torch.repeat_interleave(torch.arange(len(atoms)), torch.tensor([len(one) for one in atoms]))
    charge, spin = torch.tensor([row[1:] for row in MOLECULES], dtype=torch.float64).unbind(1)
    pairs = (frame[:, None] == frame) & ~torch.eye(len(frame), dtype=torch.bool)
    receiving, sending = torch.nonzero(pairs).T
    batch = {"species": species, "positions": positions, "frame": frame, "charge": charge, "spin": spin}
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, own_knobs in MODELS.items():
        knobs = SIZE | own_knobs
        model = theirs(root, knobs)
        energies, forces, *_ = model(
            species,
            charge,
            spin,
            positions.clone().requires_grad_(),
            receiving,
            sending,
            num_batch=len(atoms),
            batch_seg=frame,
            create_graph=False,
        )
        stored = {f"weights.{key}": value for key, value in mapped(model, knobs).items()}
        stored |= batch | {"energies": energies.detach(), "forces": forces.detach()}
        about = {
            "made_with": "OUnke/SpookyNet d57b1fc02c4f1304a9445b2b9aa55a906818dd1b",
            "knobs": json.dumps(knobs),
            "parameters": str(sum(parameter.numel() for parameter in model.parameters())),
        }
        path = FOLDER / f"spookynet_{name}.safetensors"
        save_file({key: value.contiguous() for key, value in stored.items()}, path, about)
        path.chmod(0o644)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

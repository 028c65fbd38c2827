"""nequip-allegro's side: its builder, its loss, torch's Adam; eager, or compiled as its own settings do it."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from allegro.model import AllegroModel
from nequip.train import EnergyForceLoss
from nequip.utils.global_state import set_global_state

sys.path.insert(0, str(Path(__file__).parent))
from side import ALLEGRO, CUTOFF, RATE, serve

SPECIES = {"H": 1, "C": 6, "O": 8}


def built(setting: str) -> torch.nn.Module:
    """Their model of the size that both sides have, in float32."""
    width = ALLEGRO["width"]
    return AllegroModel(
        seed=1,
        model_dtype="float32",
        type_names=list(SPECIES),
        r_max=CUTOFF,
        l_max=ALLEGRO["l_max"],
        parity=True,
        radial_chemical_embed={
            "_target_": "allegro.nn.TwoBodyBesselScalarEmbed",
            "num_bessels": ALLEGRO["num_radial"],
        },
        scalar_embed_mlp_hidden_layers_width=width,
        allegro_mlp_hidden_layers_width=width,
        readout_mlp_hidden_layers_width=width // 2,
        num_layers=ALLEGRO["interactions"],
        num_scalar_features=width,
        num_tensor_features=ALLEGRO["tensors"],
        avg_num_neighbors=ALLEGRO["neighbours"],
        **({"compile_mode": "compile"} if setting == "compiled" else {}),
    )


def data_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch in their form: positions and cells are float64, and the model converts."""
    types = torch.full((119,), -1)
    types[list(SPECIES.values())] = torch.arange(len(SPECIES))
    data = {
        "pos": tensors["positions"].double(),
        "atom_types": types[tensors["species"]],
        "edge_index": tensors["edges"],
    }
    if len(tensors["atoms"]) > 1:
        data |= {"batch": tensors["frame"], "num_atoms": tensors["atoms"]}
    if "cell" in tensors:
        cell = tensors["cell"].double()
        data |= {"cell": cell[None], "edge_cell_shift": tensors["shifts"].double() @ torch.linalg.inv(cell)}
    return data


def set_up(what: str, model: str, tensors: dict[str, torch.Tensor], setting: str) -> Callable[[], Any]:
    """`setting`: eager, or compiled: torch.compile in training, an ahead-of-time package for predictions."""
    assert model == "allegro"
    data = data_of(tensors)
    if what == "predict":
        return _prediction(data, setting)
    network = built(setting)
    network.train()
    loss_of = EnergyForceLoss(type_names=list(SPECIES))
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    labels = data | {
        "total_energy": tensors["energies"].double()[:, None],
        "forces": tensors["forces"].double(),
    }

    def work() -> None:
        optimiser.zero_grad()
        loss = loss_of(network(dict(data)), labels)["weighted_sum"]
        loss.backward()
        optimiser.step()

    return work


def _prediction(data: dict[str, torch.Tensor], setting: str) -> Callable[[], Any]:
    network = built("eager")
    network.eval()
    if setting == "eager":
        return lambda: network(dict(data))
    from nequip.utils.aot import aot_export_model
    from torch._inductor import aoti_load_package
    from torch.export import Dim

    fields = list(data)
    path = Path(tempfile.mkdtemp()) / "model.nequip.pt2"
    node, edge = Dim("num_nodes", min=2), Dim("num_edges", min=2)
    batch_map = {"graph": Dim.STATIC, "node": node, "edge": edge}
    aot_export_model(
        network, "cpu", fields, ["total_energy", "forces"], data, batch_map=batch_map, output_path=str(path)
    )
    package = aoti_load_package(str(path))
    inputs = [data[name] for name in fields]
    return lambda: package(*inputs)


if __name__ == "__main__":
    set_global_state(allow_tf32=False)
    serve(set_up)

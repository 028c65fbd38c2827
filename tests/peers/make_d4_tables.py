"""Write the tables of Grimme's D4 that `chemscale/models/dispersion.py` reads, from the source text of tad-dftd4.

    pip download --no-deps tad-dftd4==0.8.0 tad-mctc==0.7.0 --dest WHEELS
    python tests/peers/make_d4_tables.py WHEELS

Both packages are of the Grimme group and under the Apache License 2.0, which is written beside the tables. Their
numbers are literals in Python files: those are parsed, and nothing of theirs is run or unpickled.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from zipfile import ZipFile

import torch
from safetensors.torch import save_file
from torch import Tensor

ROWS = 87
# of the tables that SpookyNet's authors ship
BOHR_PER_ANGSTROM = 1.8897259492972165
FOLDER = Path(__file__).resolve().parents[2] / "chemscale" / "models"


def literals(source: str) -> dict[str, Tensor]:
    """The lists of numbers of a file by the names that they are given to, inside of functions or not."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
            continue
        value = node.value
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "torch.tensor":
            value = value.args[0]
        if isinstance(value, ast.List) and not ast.unparse(node).startswith("__all__"):
            found[node.targets[0].id] = torch.tensor(ast.literal_eval(value), dtype=torch.float64)
    return found


def main(wheels: Path) -> None:
    (dispersion,), (shared,) = wheels.glob("tad_dftd4-0.8.0-*.whl"), wheels.glob("tad_mctc-0.7.0-*.whl")
    with ZipFile(dispersion) as archive:
        names = ("reference/d4/params", "reference/d4/charge_eeq", "data/r4r2", "utils")
        params, charges, moments, utils = (literals(archive.read(f"tad_dftd4/{x}.py").decode()) for x in names)
        licence = archive.read("tad_dftd4-0.8.0.dist-info/licenses/LICENSE")
    with ZipFile(shared) as archive:
        names = ("en", "hardness", "radii", "zeff")
        negativity, hardness, radii, nuclei = (literals(archive.read(f"tad_mctc/data/{x}.py").decode()) for x in names)

    coordination, share = params["refcovcn"], params["refascale"]
    tables = {
        "radius": radii["_COV_2009"] * BOHR_PER_ANGSTROM,
        "electronegativity": negativity["_PAULING"],
        "moment": (0.5 * moments["_r4_over_r2"] * torch.arange(119, dtype=torch.float64).sqrt()).sqrt().sqrt(),
        "nucleus": nuclei["_ZEFF"],
        "hardness": hardness["_GAM"],
        "reference_charge": charges["clsq"],
        "reference_coordination": coordination,
        "reference_gaussians": params["refc"],
        "reference_alone": (coordination == coordination.amax(1, keepdim=True)).double(),
        # of a whole system, an atom's share of it; how many of what other atoms are to be taken off, and their charge
        "reference_polarisability": share[:, :, None] * params["refalpha"],
        "reference_others": share * params["refscount"],
        "reference_others_kind": params["refsys"],
        "reference_others_charge": charges["clsh"],
    }
    assert all(len(table) >= ROWS for table in tables.values())
    tables = {name: table[:ROWS].contiguous() for name, table in tables.items()}
    tables["reference_alone"][0] = 0
    tables["others_polarisability"] = params["secscale"] * params["secalpha"]
    tables["frequency_weight"] = utils["weights"]
    about = {
        "source": "tad-dftd4 0.8.0 and tad-mctc 0.7.0 (Grimme group), Apache License 2.0; made by make_d4_tables.py",
        "changes": "elements up to radon; factors of polarisabilities multiplied out",
    }
    save_file(tables, FOLDER / "d4_tables.safetensors", about)
    (FOLDER / "d4_tables.safetensors").chmod(0o644)
    (FOLDER / "d4_tables.LICENSE").write_bytes(licence)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

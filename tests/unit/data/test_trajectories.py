"""Trajectories: the splits in time, the temperature, and one bit pattern for each seed."""

from itertools import groupby

import numpy as np
import pytest
from ase import units

from chemscale.data import trajectories, xtb
from chemscale.data.shards import load_frames, read_manifest
from chemscale.data.subsets import time_splits
from chemscale.errors import DataError

SECTION = {
    "kind": "trajectories",
    "source": "xtb",
    "molecules": {"water": {"smiles": "O"}, "hydrogen": {"smiles": "[H][H]"}},
    "temperature": 500.0,
    "timestep": 0.5,
    "friction": 0.01,
    "equilibration_steps": 20,
    "save_every": 2,
    "frames_per_molecule": 20,
    "blocks": 10,
    "gap_frames": 1,
    "validation": 0.1,
    "test": 0.2,
    "seed": 0,
    "rows_per_shard": 100,
    "max_reject_share": 0.05,
    "workers": 2,
}


@pytest.mark.parametrize(("frames", "blocks", "gap"), [(150, 10, 10), (97, 7, 5), (30, 10, 0)])
def test_splits_are_contiguous_in_time_with_gaps_between(frames, blocks, gap):
    found = time_splits(
        {"frames_per_molecule": frames, "blocks": blocks, "gap_frames": gap, "validation": 0.1, "test": 0.4}
    )
    assert [block for block, _ in found] == [frame * blocks // frames for frame in range(frames)]
    runs = [(split, len(list(members))) for split, members in groupby(split for _, split in found)]
    apart = [("gap", gap)] if gap else []
    assert [run for run in runs if run[0] == "gap"] == 2 * apart
    assert [split for split, _ in runs if split != "gap"] == ["train", "validation", "test"]
    # validation keeps its whole block, and no block lies in two splits
    assert dict(runs)["validation"] == sum(block == blocks - round(0.4 * blocks) - 1 for block, _ in found)
    whole = {(block, split) for block, split in found if split != "gap"}
    assert len(whole) == len({block for block, _ in whole})


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"gap_frames": 20}, "train"), ({"validation": 0.5, "test": 0.5}, "train"), ({"frames_per_molecule": 2}, "test")],
)
def test_a_split_without_frames_is_refused(changes, match, tmp_path):
    with pytest.raises(DataError, match=match):
        trajectories.prepare({**SECTION, **changes}, tmp_path, 1)


@pytest.mark.parametrize(("smiles", "match"), [("C(", "no SMILES"), ("[NH4+]", "charge"), ("[CH3]", "unpaired")])
def test_a_wrong_molecule_is_named(smiles, match, tmp_path):
    with pytest.raises(DataError, match=rf"molecules\.mine\.smiles.*{match}"):
        trajectories.prepare({**SECTION, "molecules": {"mine": {"smiles": smiles}}}, tmp_path, 1)


def test_the_dynamics_hold_the_temperature():
    # ASE's default (fixcm) gives 600 K to a molecule of three atoms
    section = {**SECTION, "friction": 0.1}
    random = xtb.random_state(0, "O")
    surface, positions = xtb.minimum("O", random)
    dynamics = trajectories.langevin(surface, positions, section, random)
    dynamics.run(200)
    kinetic = []
    for _ in range(3000):
        dynamics.run(1)
        kinetic.append(dynamics.atoms.get_kinetic_energy())
    assert np.mean(kinetic) / (1.5 * 3 * units.kB) == pytest.approx(500, rel=0.08)


def test_the_same_bytes_from_one_worker_and_from_two(tmp_path):
    for workers in (1, 2):
        trajectories.prepare(SECTION, tmp_path / str(workers) / "xtb-0", workers)
    one, two = ((tmp_path / run / "xtb-0" / "manifest.json").read_bytes() for run in "12")
    assert one == two
    manifest = read_manifest(tmp_path / "1" / "xtb-0")
    assert manifest["rows_in"] == manifest["rows_kept"] == 40
    assert {split: counts["rows"] for split, counts in manifest["splits"].items()} == {
        "train": 26,
        "validation": 4,
        "test": 6,
        "gap": 4,
    }
    data = load_frames(tmp_path / "1" / "xtb-0")
    assert set(data.molecules) == {"water", "hydrogen"}
    # a group lies in one split, gaps aside
    for group in set(data.groups):
        assert (
            len({split for split, name in zip(data.splits, data.groups, strict=True) if name == group} - {"gap"}) <= 1
        )
    # the stored forces are those of the stored positions
    frame = data.molecules.index("water") + 7
    part = slice(data.offsets[frame], data.offsets[frame + 1])
    energy, forces = xtb.Surface(data.species[part].astype(np.int64), accuracy=0.01).energy_and_forces(
        data.positions[part]
    )
    assert data.energies[frame] == pytest.approx(energy, abs=1e-6)
    np.testing.assert_allclose(data.forces[part], forces, atol=2e-4)

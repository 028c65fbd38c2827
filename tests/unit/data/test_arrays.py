"""Arrays are the shards' content, and neighbour lists those of each frame; damaged ones are refused."""

import numpy as np
import pandas as pd
import pytest

from chemscale.data import prepare_arrays
from chemscale.data.arrays import load_frames, load_language
from chemscale.data.neighbours import neighbour_edges
from chemscale.data.subsets import ALL_SPLITS, cluster_of
from chemscale.errors import DataError
from chemscale.io import read_json

SPLITS = ("train", "train", "gap", "validation", "test", "test")


def _shards(folder):
    return pd.concat([pd.read_parquet(path) for path in sorted((folder / "shards").glob("*.parquet"))])


@pytest.fixture
def language(tmp_path, write_data):
    rows = [
        {"smiles": f"C{i}", "selfies": "[C]" * (i % 9 + 1) + "[O]", "split": SPLITS[i // 4 % 6], "group": f"g{i // 4}"}
        for i in range(200)
    ]
    write_data(tmp_path / "set", rows, rows_per_shard=70)
    return tmp_path / "set"


@pytest.fixture
def frames(tmp_path, write_data):
    random = np.random.default_rng(0)
    sizes = [1, 2, 30, 5, 5, *random.integers(1, 12, 95)]
    rows = [
        {"molecule": f"m{i % 7}", "frame": i, "species": random.integers(1, 9, size), "split": SPLITS[i % 6],
         "group": f"m{i % 6}", "positions": random.uniform(0, 6, (size, 3)), "energy": random.normal(),
         "forces": random.normal(size=(size, 3))}
        for i, size in enumerate(sizes)
    ]  # fmt: skip
    write_data(tmp_path / "set", rows, rows_per_shard=33, cutoffs=[2.5, 4.0])
    return tmp_path / "set"


def _check_common(data, table):
    assert [ALL_SPLITS[code] for code in data.splits] == table["split"].tolist()
    test = table[table["split"] == "test"]
    assert [data.cluster_names[place] for place in data.test_clusters] == test["group"].tolist()
    for split, part in table.groupby("split"):
        index, digest = data.split(split)
        assert table["row"].iloc[index].tolist() == part["row"].tolist()
        assert digest == data.manifest["splits"][split]["digest"]


def test_tokens_are_those_of_the_shards(language):
    data, table = load_language(language), _shards(language)
    assert (data.tokens.dtype, data.offsets.dtype, data.splits.dtype) == (np.uint16, np.int64, np.uint8)
    found = [data.tokens[a:b].tolist() for a, b in zip(data.offsets, data.offsets[1:], strict=False)]
    assert found == [tokens.tolist() for tokens in table["tokens"]]
    _check_common(data, table)
    assert isinstance(data.tokens, np.memmap)


def test_frames_are_those_of_the_shards(frames):
    data, table = load_frames(frames), _shards(frames)
    np.testing.assert_array_equal(data.species, np.concatenate(table["species"].to_list()))
    np.testing.assert_array_equal(data.energies, table["energy"])
    for name in ("positions", "forces"):
        np.testing.assert_array_equal(getattr(data, name), np.concatenate(table[name].to_list()).reshape(-1, 3))
    assert np.diff(data.offsets).tolist() == [len(species) for species in table["species"]]
    _check_common(data, table)


def test_many_test_groups_become_blocks(tmp_path, write_data):
    rows = [
        {"smiles": f"C{i}", "selfies": "[C]", "split": "test" if i < 1100 else "train", "group": f"g{i}"}
        for i in range(1200)
    ]
    write_data(tmp_path / "set", rows)
    data, table = load_language(tmp_path / "set"), _shards(tmp_path / "set")
    test = table[table["split"] == "test"]
    assert [data.cluster_names[i] for i in data.test_clusters] == [cluster_of(group, True) for group in test["group"]]
    assert len(data.cluster_names) < 1024


@pytest.mark.parametrize("at_once", [200_000, 7, 1])
def test_neighbours_are_those_of_each_frame_by_itself(frames, at_once, monkeypatch):
    monkeypatch.setattr(prepare_arrays, "_ATOMS_AT_ONCE", at_once)
    prepare_arrays.prepare_neighbours(frames, 2.5)
    data = load_frames(frames)
    for cutoff in (2.5, 4.0):
        edges, offsets = data.edges(cutoff)
        assert offsets[0] == 0
        assert offsets[-1] == len(edges)
        for frame, (first, last) in enumerate(zip(data.offsets, data.offsets[1:], strict=False)):
            alone, _ = neighbour_edges(data.positions[first:last], np.array([0, last - first]), cutoff)
            np.testing.assert_array_equal(edges[offsets[frame] : offsets[frame + 1]], alone.T)
    with pytest.raises(DataError, match=r"neighbours/3: found no arrays\.json"):
        data.edges(3.0)


def test_arrays_are_the_same_bytes_again(frames):
    names = sorted(path.relative_to(frames) for path in frames.rglob("*.npy"))
    before = {name: (frames / name).read_bytes() for name in names}
    assert len(before) == 7 + 2 * 2
    prepare_arrays.prepare(frames)
    prepare_arrays.prepare_neighbours(frames, 2.5)
    assert {name: (frames / name).read_bytes() for name in names} == before


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [_flip, lambda path: path.write_bytes(path.read_bytes()[:-1]), lambda path: path.unlink()]
)
@pytest.mark.parametrize("name", ["arrays/forces.npy", "arrays/splits.npy", "neighbours/4/edges.npy"])
def test_damaged_arrays_are_refused(frames, damage, name):
    damage(frames / name)
    with pytest.raises(DataError, match=name.rpartition("/")[2]):
        load_frames(frames).edges(4.0)


def test_arrays_of_other_data_and_unfinished_ones_are_refused(language, write_data, monkeypatch):
    record = (language / "arrays" / "arrays.json").read_bytes()
    rows = [{"smiles": "C", "selfies": "[C]", "split": "train", "group": "g"}]
    write_data(language, rows)
    (language / "arrays" / "arrays.json").write_bytes(record)
    with pytest.raises(DataError, match="arrays of other data"):
        load_language(language)

    def cut(*arguments):
        raise KeyboardInterrupt

    # the record goes first and comes last
    monkeypatch.setattr(prepare_arrays, "sha256_file", cut)
    with pytest.raises(KeyboardInterrupt):
        prepare_arrays.prepare(language)
    with pytest.raises(DataError, match=r"no arrays\.json"):
        load_language(language)


def test_reading_takes_numpy_and_the_record_alone(language):
    told = read_json(language / "arrays" / "arrays.json")
    assert set(told["files"]) == {"splits", "test_clusters", "offsets", "tokens"}
    for name in told["files"]:
        # numpy's own reader takes what was written without it
        assert len(np.load(language / "arrays" / f"{name}.npy", allow_pickle=False)) > 0

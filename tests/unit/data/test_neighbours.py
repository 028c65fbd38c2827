"""Neighbour lists against ASE's."""

import subprocess
import sys

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from chemscale.data.neighbours import edge_pairs, neighbour_edges


def _frames(sizes, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return rng.uniform(0, 6, (offsets[-1], 3)), offsets


def test_edges_are_those_of_ase_frame_by_frame():
    sizes = [5, 1, 12, 5, 0, 300, 2, 12]
    positions, offsets = _frames(sizes)
    edges, edge_offsets = neighbour_edges(positions, offsets, 2.5)
    assert edges.dtype == np.int64
    assert edge_offsets[-1] == edges.shape[1]
    for frame, size in enumerate(sizes):
        ours = edges[:, edge_offsets[frame] : edge_offsets[frame + 1]] - offsets[frame]
        if size == 0:
            assert ours.size == 0
            continue
        atoms = Atoms(f"C{size}", positions[offsets[frame] : offsets[frame + 1]])
        i, j = neighbor_list("ij", atoms, 2.5)
        expected = sorted(zip(i.tolist(), j.tolist(), strict=True))
        assert list(zip(*ours.tolist(), strict=True)) == expected


def test_many_chunks_give_the_edges_of_one(monkeypatch):
    positions, offsets = _frames([7] * 40 + [9] * 30)
    whole = neighbour_edges(positions, offsets, 3.0)
    monkeypatch.setattr("chemscale.data.neighbours._CHUNK", 1000)
    for ours, theirs in zip(neighbour_edges(positions, offsets, 3.0), whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_pair_at_the_cutoff_is_no_pair():
    edges, edge_offsets = neighbour_edges(np.array([[0.0, 0, 0], [0, 0, 2.0]]), np.array([0, 2]), 2.0)
    assert edges.shape == (2, 0)
    assert edge_offsets.tolist() == [0, 0]


def test_only_numpy_is_imported():
    code = "import sys, chemscale.data.neighbours; print([m for m in ('ase', 'torch', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_pair_is_an_edge_and_the_one_back():
    random = np.random.default_rng(0)
    edges, offsets = neighbour_edges(random.normal(size=(20, 3)) * 1.5, np.array([0, 8, 9, 20]), 2.5)
    pair, first = edge_pairs(edges)
    assert len(first) == edges.shape[1] // 2
    np.testing.assert_array_equal(pair[first], np.arange(len(first)))
    for number in range(len(first)):
        (one, other) = edges[:, pair == number].T
        assert one.tolist() == other.tolist()[::-1]
    # those of a frame follow each other
    frame = np.searchsorted(offsets, first, side="right")
    assert (np.diff(frame) >= 0).all()


def test_pairs_of_images_are_told_apart():
    """A chain of two atoms in a cell so short that they see each other, and themselves, in several images."""
    positions, length, cutoff = np.array([[0.0, 0, 0], [1.0, 0, 0]]), 2.2, 4.5
    images = np.arange(-3, 4)
    found = [
        (i, j, image)
        for i in range(2)
        for j in range(2)
        for image in images
        if 0 < abs(positions[j, 0] + image * length - positions[i, 0]) < cutoff
    ]
    edges = np.array([entry[:2] for entry in found]).T
    shifts = np.array([[entry[2], 0, 0] for entry in found])
    pair, first = edge_pairs(edges, shifts)
    assert len(first) == len(found) // 2
    for number in range(len(first)):
        (one, other) = np.flatnonzero(pair == number)
        assert edges[:, one].tolist() == edges[::-1, other].tolist()
        assert (shifts[one] == -shifts[other]).all()

"""Batches are cut from a split as they should be, and turned as asked."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from chemscale.data.arrays import load_frames
from chemscale.errors import DataError
from chemscale.training.frames import Frames, normalisation, rotations, seen


@pytest.fixture(scope="module")
def data(data_dir):
    return load_frames(data_dir / "toy-frames")


def test_a_batch_holds_its_frames_in_the_order_asked(data):
    index = np.array([3, 10, 11, 40])
    reference, scale = normalisation(data, index)
    frames = Frames(data, index, 4.0, reference, scale, torch.device("cpu"))
    batch = frames.batch(np.array([2, 0]))
    assert batch.graph.num_frames == 2
    assert batch.graph.frame.tolist() == [0] * 3 + [1] * 3
    for place, row in enumerate((11, 3)):
        atoms = slice(data.offsets[row], data.offsets[row + 1])
        mine = slice(3 * place, 3 * place + 3)
        np.testing.assert_allclose(batch.graph.positions[mine], data.positions[atoms], rtol=1e-6)
        np.testing.assert_allclose(batch.forces[mine] * scale, data.forces[atoms], rtol=1e-5)
        expected = (data.energies[row] - reference[data.species[atoms]].sum()) / scale
        assert float(batch.energies[place]) == pytest.approx(expected, abs=1e-4)
    # every pair both ways, within its frame
    assert batch.graph.edges.shape == (2, 12)
    assert (batch.graph.frame[batch.graph.edges[0]] == batch.graph.frame[batch.graph.edges[1]]).all()


def test_what_batches_are_cut_from_is_laid_out_for_it(data):
    # an array of another layout is copied whole for each batch
    index = np.arange(4)
    frames = Frames(data, index, 4.0, np.zeros(119), 1.0, torch.device("cpu"))
    kept = {name: value for name, value in vars(frames).items() if isinstance(value, torch.Tensor)}
    assert {"edges", "positions", "forces", "pair"} <= set(kept)
    assert [name for name, value in kept.items() if not value.is_contiguous()] == []


def test_forces_that_nobody_computed_are_refused(data):
    with pytest.raises(DataError, match="forces that are all zero; give frames whose forces were computed"):
        normalisation(replace(data, forces=np.zeros_like(data.forces)), np.arange(4))


def test_rotations_are_uniform_and_fixed_by_their_step():
    turned = rotations(4000, 7, 3)
    np.testing.assert_allclose(turned @ turned.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turned.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turned), 1)
    # of a uniform rotation, each entry has mean 0 and variance 1/3, and the angle the mean pi/2 + 2/pi
    assert np.abs(turned.mean(0)).max() < 4 * np.sqrt(1 / 3 / 4000)
    np.testing.assert_allclose((turned**2).mean(0), 1 / 3, atol=0.03)
    angles = np.arccos(np.clip((np.trace(turned, axis1=1, axis2=2) - 1) / 2, -1, 1))
    assert angles.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.05)
    np.testing.assert_array_equal(turned[:5], rotations(4000, 7, 3)[:5])
    assert np.abs(turned[:5] - rotations(4000, 7, 4)[:5]).max() > 0.1


def test_a_turned_batch_has_its_positions_and_forces_turned_alike(data):
    frames = Frames(data, np.arange(4), 4.0, np.zeros(119), 1.0, torch.device("cpu"))
    chosen = np.array([1, 3])
    turned = rotations(2, 0, 0)
    plain, moved = frames.batch(chosen), frames.batch(chosen, turned)
    for name in (0, 1):
        of_frame = plain.graph.frame == name
        matrix = torch.from_numpy(turned[name]).float()
        torch.testing.assert_close(moved.graph.positions[of_frame], plain.graph.positions[of_frame] @ matrix.T)
        torch.testing.assert_close(moved.forces[of_frame], plain.forces[of_frame] @ matrix.T)
    assert torch.equal(moved.graph.edges, plain.graph.edges)


def test_what_was_seen_is_the_closest_pair_of_each_kind(data):
    index = np.array([0, 5])
    told = seen(data, index, 4.0)
    assert told["species"] == [1, 8]
    positions = [data.positions[data.offsets[row] : data.offsets[row + 1]] for row in index]
    oxygen = min(np.linalg.norm(frame[0] - frame[atom]) for frame in positions for atom in (1, 2))
    assert told["closest"] == pytest.approx(
        {"1-1": min(np.linalg.norm(frame[1] - frame[2]) for frame in positions), "1-8": oxygen}
    )

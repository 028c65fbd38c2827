"""Neighbour lists of many small molecules at once. Training imports this module: numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# numbers in the largest array of displacements: 32 MB
_CHUNK = 4_000_000


def edge_pairs(
    edges: NDArray[np.int64], images: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which edges are of one pair of atoms: each edge and the one back.

    Args:
        edges: [2, E] receivers and senders, each pair both ways.
        images: [E, 3] cell vectors by which the sender is shifted; None without.

    Returns:
        pair: [E] the pair of each edge; pairs are numbered by their smaller atom, so that those of a frame follow each
            other.
        first: [P] one edge of each pair.
    """
    low, high = edges.min(0), edges.max(0)
    key = low * (high.max(initial=0) + 1) + high
    if images is not None:
        # seen from the smaller atom; of an atom and its own image, from the image that comes first
        seen = np.where((edges[0] > edges[1])[:, None], -images, images)
        base = 2 * np.abs(images).max(initial=0) + 1
        place = (seen + base // 2) @ np.array([base**2, base, 1])
        own = edges[0] == edges[1]
        back = base**3 - 1 - place
        key = key * base**3 + np.where(own, np.minimum(place, back), place)
    _, first, pair = np.unique(key, return_index=True, return_inverse=True)
    return pair, first


def neighbour_edges(
    positions: NDArray[np.float64], offsets: NDArray[np.int64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of different atoms of one frame that are nearer than `cutoff`, each in both directions; not periodic.

    Frames of one size are compared with all pairs in one batch: the fastest way up to some hundred atoms a frame, in
    time and memory quadratic in the atoms of the largest.

    Args:
        positions: [A, 3] in angstrom, the atoms of all frames one after another.
        offsets: [F + 1]; frame `f` holds the atoms `offsets[f]` up to `offsets[f + 1]`.
        cutoff: in angstrom, above 0.

    Returns:
        edges: [2, E], atoms numbered over all frames; row 0 the receiver, row 1 the sender. Sorted by frame, then
            receiver, then sender.
        edge_offsets: [F + 1]; frame `f` owns the edges `edge_offsets[f]` up to `edge_offsets[f + 1]`.
    """
    offsets = np.asarray(offsets, dtype=np.int64)
    positions = np.asarray(positions, dtype=np.float64)
    assert positions.shape == (offsets[-1], 3), f"{positions.shape} positions for offsets that end at {offsets[-1]}"
    assert cutoff > 0, f"the cutoff is {cutoff}"
    sizes = np.diff(offsets)
    counts = np.zeros(len(sizes), dtype=np.int64)
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    for size in np.unique(sizes):
        if size < 2:
            continue
        frames = np.flatnonzero(sizes == size)
        step = max(1, _CHUNK // (3 * size * size))
        for start in range(0, len(frames), step):
            chunk = frames[start : start + step]
            first = offsets[chunk]
            batch = positions[first[:, None] + np.arange(size)]
            # squared distances one axis at a time: a third of the memory of all displacements
            squares = np.zeros((len(chunk), size, size))
            for axis in range(3):
                squares += (batch[:, :, None, axis] - batch[:, None, :, axis]) ** 2
            near = squares < cutoff * cutoff
            near[:, np.arange(size), np.arange(size)] = False
            frame, receiver, sender = np.nonzero(near)
            counts[chunk] = np.bincount(frame, minlength=len(chunk))
            parts.append((chunk[frame], first[frame] + receiver, first[frame] + sender))
    edge_offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(counts, out=edge_offsets[1:])
    edges = np.empty((2, edge_offsets[-1]), dtype=np.int64)
    for frame, receiver, sender in parts:
        # a frame's edges are consecutive in its part: its place there plus how far it is moved
        starts = np.flatnonzero(np.diff(frame, prepend=-1))
        rank = np.arange(len(frame)) - np.repeat(starts, np.diff(starts, append=len(frame)))
        place = edge_offsets[frame] + rank
        edges[0, place] = receiver
        edges[1, place] = sender
    return edges, edge_offsets

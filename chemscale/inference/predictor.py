"""Energies and forces of a trained potential for any batch of frames, by torch or as machine code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call

from chemscale.families import FAMILIES, architecture, reach
from chemscale.inference.potential import TrainedPotential
from chemscale.models import compiled as packages
from chemscale.models.compiled import Package
from chemscale.models.graph import Graph
from chemscale.provenance import code_digest

_MODULES = ("inference/predictor", "models/compiled", "models/graph", "models/potential", "models/radial")
_LOG = logging.getLogger("chemscale.inference")
# frames, atoms and edges for which machine code is laid out; it holds for any other numbers
_FRAMES, _ATOMS, _EDGES = 8, 100, 1300


class Predictor:
    """A potential to ask, its weights at rest.

    `reach` is how far the neighbour lists of its graphs have to go, in angstrom; longer edges change nothing.
    """

    def __init__(
        self,
        trained: TrainedPotential,
        *,
        dtype: torch.dtype = torch.float32,
        compiled: Path | None = None,
        threads: int = 1,
    ) -> None:
        """Take over a potential.

        Args:
            trained: the potential; its module is converted and needs no gradients from now on.
            dtype: of positions and forces.
            compiled: the folder of compiled packages, built where it lacks them; None leaves all to torch.
            threads: of the processor that machine code may use.
        """
        self.reach = reach(trained.family, trained.knobs)
        # totals are hundreds of eV, whatever the model computes in
        self._reference = trained.potential.reference.double().clone()
        self._scale = float(trained.potential.scale)
        self._core = trained.potential.core.to(dtype).eval().requires_grad_(False)
        self._dtype, self._folder, self._threads = dtype, compiled, threads
        self._state = dict(self._core.named_parameters()) | dict(self._core.named_buffers())
        kind = architecture(trained.family)
        self._identity = {
            "prediction of": kind,
            "knobs": dict(trained.knobs),
            "dtype": str(dtype),
            "code": code_digest(*_MODULES, FAMILIES[trained.family].module, *FAMILIES[trained.family].parts),
        }
        self._packages: dict[tuple[bool, bool], Package] = {}

    def predict(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """Total energies in eV [F], summed in float64, and forces in eV/angstrom [A, 3]."""
        energies, forces, _ = self.with_edges(graph)
        return energies, forces

    def with_edges(self, graph: Graph) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same, and the gradient of the energy in each edge's vector [E, 3] in eV/angstrom; None without shifts.

        The vector goes from the receiving atom to the sending one. Its product with the gradient, summed over edges, is
        the derivative in the strain.
        """
        graph = replace(
            graph,
            positions=graph.positions.to(self._dtype),
            shifts=None if graph.shifts is None else graph.shifts.to(self._dtype),
        )
        # machine code is traced with two atoms and two pairs at the least, and knows neither charge nor spin
        small = graph.first is None or min(len(graph.first), len(graph.species)) < 2
        if self._folder is None or small or graph.charge is not None or graph.spin is not None:
            found: Sequence[Tensor] = _energies_and_gradients(self._core, graph)
        else:
            found = self._package(graph)(*self._state.values(), *_tensors(graph))
        atoms, gradient = found[0], found[1]
        energies = graph.sum_of_atoms(atoms.double() * self._scale + self._reference[graph.species])
        of_edges = found[2] * self._scale if len(found) > 2 else None
        return energies, -gradient * self._scale, of_edges

    def _package(self, graph: Graph) -> Package:
        """The machine code for graphs like this one: with shifts or without, of one frame or of many."""
        periodic, many = graph.shifts is not None, graph.num_frames > 1
        if (periodic, many) not in self._packages:
            assert self._folder is not None
            core, names = self._core, list(self._state)

            def function(*inputs: Tensor) -> tuple[Tensor, ...]:
                state = dict(zip(names, inputs, strict=False))
                return _energies_and_gradients(
                    lambda graph: functional_call(core, state, (graph,)), _graph(inputs[len(names) :], periodic)
                )

            shapes = [*packages.graph_shapes(self._dtype), (self._dtype, ("frames" if many else 1,))]
            shapes += [(self._dtype, ("edges", 3))] if periodic else []
            about = {"frames": _FRAMES, "atoms": _ATOMS, "edges": _EDGES, "pairs": _EDGES // 2}
            example, sizes = packages.example(shapes, about, list(self._state.values()), graph.positions.device)
            self._packages[periodic, many] = packages.package(
                self._folder,
                {**self._identity, "periodic": periodic, "many": many},
                function,
                [*self._state.values(), *example],
                [*({} for _ in names), *sizes],
                self._threads,
                _LOG,
            )
        return self._packages[periodic, many]


def _energies_and_gradients(core: Callable[[Graph], Tensor], graph: Graph) -> tuple[Tensor, ...]:
    """Energies of the atoms [A], their sum's gradient in the positions [A, 3], and, with shifts, in those [E, 3]."""
    positions = graph.positions.detach().requires_grad_()
    leaves = [positions]
    if graph.shifts is not None:
        leaves.append(graph.shifts.detach().requires_grad_())
    energies = core(replace(graph, positions=positions, shifts=leaves[1] if len(leaves) > 1 else None))
    return energies.detach(), *torch.autograd.grad(energies.sum(), leaves)


def _tensors(graph: Graph) -> list[Tensor]:
    """A graph as tensors, the number of frames as the length of one; `_graph` undoes it."""
    frames = graph.positions.new_zeros(graph.num_frames)
    return [*packages.graph_tensors(graph), frames, *([] if graph.shifts is None else [graph.shifts])]


def _graph(tensors: Sequence[Tensor], periodic: bool) -> Graph:
    *of_graph, frames = tensors[:-1] if periodic else tensors
    return packages.graph_of(of_graph, frames.shape[0], tensors[-1] if periodic else None)

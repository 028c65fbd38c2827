"""What is SpookyNet's alone: terms in eV, charge and spin, two cutoffs, its first weights, and a step as one graph."""

import pytest
import torch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from chemscale.families import reach
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential

TERMS = ("repulsion", "electrostatics", "dispersion")
KNOBS = {"width": 8, "interactions": 2, "num_radial": 5, "cutoff": 4.0, "long_cutoff": 6.0} | dict.fromkeys(TERMS, True)
WATER = torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]])


def _graph(positions, **others):
    """A frame for each set of positions, of an oxygen and of hydrogens."""
    sizes = [len(frame) for frame in positions]
    frame = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    species = torch.cat([torch.tensor([8] + [1] * (size - 1)) for size in sizes])
    pairs = (frame[:, None] == frame) & ~torch.eye(len(frame), dtype=torch.bool)
    return Graph(species, torch.cat(positions), torch.nonzero(pairs).T, frame, len(sizes), **others)


def _randomised(knobs=KNOBS):
    model = Potential(registry.build("spookynet", knobs, seed=0), torch.zeros(119), 1.0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def test_terms_in_electron_volts_stay_so_whatever_the_scale():
    """At first the network gives 0, and partial charges are 0: energies are repulsion and dispersion, to the bit."""
    graph, energies = _graph([WATER]), []
    for scale in (1.0, 2.5):
        model = Potential(registry.build("spookynet", KNOBS, seed=0), torch.zeros(119), scale)
        energies.append(float(model.total_energies(model.interaction(graph), graph).detach()))
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)
    assert energies[0] > 1
    # the scale is stored with the weights
    other = Potential(registry.build("spookynet", KNOBS, seed=0), torch.zeros(119), 1.0)
    other.load_state_dict(model.state_dict())
    assert float(other.total_energies(other.interaction(graph), graph).detach()) == energies[1]


def test_first_weights_give_nothing_and_random_features_are_orthogonal():
    off = KNOBS | dict.fromkeys(TERMS, False)
    model = registry.build("spookynet", off, seed=0)
    assert not model(_graph([WATER])).any()
    again, other = registry.build("spookynet", off, seed=0), registry.build("spookynet", off, seed=1)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    first, second = (interaction.omega for interaction in model.interactions)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other.interactions[0].omega)
    product = first.T @ first
    torch.testing.assert_close(product, product.diag().diag(), rtol=0, atol=1e-5)
    for weight in model.interactions[0].branches.residual.linear1.weight:
        torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=0, atol=1e-5)


def test_neutral_and_paired_is_what_no_charge_and_no_spin_mean():
    model = _randomised()
    plain, given = _graph([WATER]), _graph([WATER], charge=torch.tensor([0]), spin=torch.tensor([0]))
    torch.testing.assert_close(model.interaction(plain), model.interaction(given), rtol=0, atol=0)
    for name in ("charge", "spin"):
        charged = _graph([WATER], **{name: torch.tensor([1])})
        assert (model.interaction(charged) - model.interaction(plain)).abs() > 1e-3


def test_gradients_are_finite_wherever_a_function_changes_its_form():
    """Atoms at both cutoffs, a hair beside them, where a switch begins or ends, far away, and very near; and an ion."""
    edges = (1.0, 3.0, 4.0, 6.0, 6.0 - 0.5291772105638411)
    special = [edge * beside for edge in edges for beside in (1, 1 - 6e-8, 1 + 1e-7)]
    frames = [torch.tensor([[0.0, 0.0, 0.0], [x, 0.0, 0.0]]) for x in (*special, 0.05, 30.0)]
    model = _randomised()
    # effective nuclear charges below 0
    charge = torch.tensor([0.0] * (len(frames) - 1) + [20.0])
    energies, forces = model.energies_and_forces(_graph(frames, charge=charge), create_graph=True)
    (forces.square().sum() + energies.sum()).backward()
    assert energies.isfinite().all()
    assert forces.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 6.0), ({"long_cutoff": 3.0}, 4.0), ({"dispersion": False}, 6.0), (dict.fromkeys(TERMS[1:], False), 4.0)],
)
def test_neighbours_are_asked_for_as_far_as_a_term_reaches(changes, expected):
    assert reach("spookynet", KNOBS | changes) == expected
    assert reach("schnet", {"cutoff": 5.0}) == 5.0


def test_the_far_terms_are_those_of_two_charges_and_vanish_with_their_slope():
    """Coulomb's law, shifted, of what the network says at the start: an ion's charge, half on each atom."""
    knobs = KNOBS | {"cutoff": 1.0, "repulsion": False, "dispersion": False}
    model = Potential(registry.build("spookynet", knobs, seed=0), torch.zeros(119), 1.0)
    x = torch.tensor([1.0, 3.0, 5.999, 7.0])
    frames = [torch.tensor([[0.0, 0.0, 0.0], [float(value), 0.0, 0.0]]) for value in x]
    energies, forces = model.energies_and_forces(_graph(frames, charge=torch.full((4,), 2.0)), create_graph=False)
    expected = torch.where(x < 6, 14.3996454 * (1 / x + x / 36 - 2 / 6), 0.0)
    torch.testing.assert_close(energies.detach(), expected, rtol=1e-5, atol=1e-5)
    slope = torch.where(x < 6, 14.3996454 * (1 / x**2 - 1 / 36), 0.0)
    torch.testing.assert_close(forces[1::2, 0], slope, rtol=1e-5, atol=1e-5)


def test_far_argon_atoms_attract_each_other_by_their_measured_coefficient():
    """C6 is 64.3 hartree bohr^6 (Kumar & Meath 1985, from dipole oscillator strengths)."""
    model = registry.build("spookynet", KNOBS | {"long_cutoff": 1e6}, seed=0).dispersion.double()
    positions = torch.tensor([[0.0, 0.0, 0.0], [1000.0, 0.0, 0.0]], dtype=torch.float64)
    frame, edges = torch.zeros(2, dtype=torch.int64), torch.tensor([[0, 1], [1, 0]])
    graph = Graph(torch.tensor([18, 18]), positions, edges, frame, 1)
    energies = model(graph, torch.zeros(2, dtype=torch.float64), graph.vectors()[1]).detach()
    assert float(-energies.sum()) / 27.211386 * (1000 / 0.52917721) ** 6 == pytest.approx(64.3, rel=0.02)


def test_a_step_is_one_graph_of_operations_for_any_batch():
    model = _randomised()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def step(weights, others, species, positions, edges, frame, energies):
        weights = [value.detach().requires_grad_() for value in weights]
        state = dict(zip(parameters, weights, strict=True)) | dict(zip(buffers, others, strict=True))
        graph = Graph(species, positions, edges, frame, energies.shape[0])
        found, forces = functional_call(_Step(model), {f"model.{key}": x for key, x in state.items()}, graph)
        loss = (found - energies).square().sum() + forces.square().sum()
        return loss.detach(), *torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)

    def inputs(graph):
        values = [value.detach() for value in parameters.values()], list(buffers.values())
        return *values, graph.species, graph.positions, graph.edges, graph.frame, torch.zeros(graph.num_frames)

    tetrahedron = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 1.0, 0.2], [0.1, 0.0, 1.0]])
    # tracing takes equal sizes for the same one: 6 frames of 21 atoms and 54 edges are like nothing in the model
    traced = make_fx(step, tracing_mode="symbolic")(*inputs(_graph([WATER, tetrahedron] * 3)))
    for frames in ([tetrahedron, WATER, 0.9 * tetrahedron], [WATER, 1.1 * WATER]):
        given = inputs(_graph(frames))
        for one, other in zip(traced(*given), step(*given), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))


class _Step(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, graph):
        return self.model.energies_and_forces(graph, create_graph=True)

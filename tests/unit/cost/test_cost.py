"""Counts of parameters and FLOPs against the built models and torch's own counting of operations."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from chemscale.cost.flops import language_flops, potential_flops
from chemscale.cost.memory import peak_bytes
from chemscale.cost.parameters import count
from chemscale.cost.tensors import product_sizes
from chemscale.data.neighbours import edge_pairs
from chemscale.families import reach
from chemscale.models import registry
from chemscale.models.graph import Graph
from chemscale.models.potential import Potential

GRAPHS = [
    (
        family,
        {"width": width, "interactions": layers, "num_radial": radial, "cutoff": cutoff, "envelope": "smooth"} | others,
    )
    for family, others in (
        ("schnet", {}),
        ("baseline", {}),
        ("painn", {"vectors": True}),
        ("painn", {"vectors": False}),
    )
    for width, layers, radial, cutoff in ((8, 2, 6, 4.0), (16, 3, 20, 5.0))
]
GRAPHS += [
    (
        "allegro",
        {
            "width": 9,
            "tensors": 4,
            "l_max": l_max,
            "interactions": layers,
            "num_radial": 6,
            "cutoff": 4.0,
            "envelope": "smooth",
            "neighbours": 9.0,
        },
    )
    for l_max, layers in ((0, 1), (1, 2), (2, 2), (2, 3))
]
TERMS = ("repulsion", "electrostatics", "dispersion")
SPOOKYNET = {"width": 8, "num_radial": 6, "cutoff": 4.0, "long_cutoff": 6.0}
GRAPHS += [
    ("spookynet", SPOOKYNET | {"interactions": layers} | dict(zip(TERMS, terms, strict=True)))
    for layers, terms in ((1, (True, True, True)), (3, (True, False, True)), (2, (True, False, False)))
]


class _Counter(TorchDispatchMode):
    """Adds up torch's formula of each operation; FlopCounterMode itself can't follow a gradient inside a step."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


@pytest.mark.parametrize(("family", "knobs"), GRAPHS)
def test_potentials(family, knobs):
    core = registry.build(family, knobs, seed=0)
    tables = sum(module.weight.numel() for module in core.modules() if isinstance(module, torch.nn.Embedding))
    total = sum(parameter.numel() for parameter in core.parameters())
    counted = count(family, knobs, None)
    assert (counted.total, counted.non_embedding) == (total, total - tables)

    positions = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) * 1.5
    distances = (positions[:, None] - positions).norm(dim=-1)
    edges = torch.nonzero((distances < reach(family, knobs)) & (distances > 0)).T
    pair, first = map(torch.from_numpy, edge_pairs(edges.numpy()))
    species = torch.randint(1, 9, (12,))
    with _Counter() as counter:
        energies, forces = Potential(core, torch.zeros(119), 1.0).energies_and_forces(
            Graph(species, positions, edges, torch.arange(12) // 6, 2, pair=pair, first=first), create_graph=True
        )
        (forces.square().sum() + energies.abs().mean()).backward()
    uncounted = 0
    if family == "allegro":
        # an edge's features times its matrices, and all its gradients, are sums of products by element
        sizes = product_sizes(knobs["l_max"], knobs["interactions"])
        by_edge = knobs["tensors"] * sum(size.inputs * size.outputs for size in sizes)
        uncounted = 2 * 9 * edges.shape[1] * by_edge
    assert potential_flops(family, knobs, atoms=12, edges=edges.shape[1])["flops_full"] == counter.total + uncounted


def test_attention_is_counted_over_the_atoms_of_each_pass():
    knobs = SPOOKYNET | {"interactions": 2} | dict.fromkeys(TERMS, True)
    one = potential_flops("spookynet", knobs, atoms=12, edges=60)["flops_full"]
    two = potential_flops("spookynet", knobs, atoms=24, edges=120, pairs=2 * 12**2)["flops_full"]
    assert two == 2 * one < potential_flops("spookynet", knobs, atoms=24, edges=120)["flops_full"]


@pytest.mark.parametrize(
    ("width", "layers", "terms", "theirs"),
    [
        (64, 3, True, 498366),  # of the parameters that they publish
        (64, 3, False, 498351),
        (64, 6, True, 955518),
        (128, 3, False, 1922223),
        (96, 3, True, 1094590),
        (32, 2, True, 93214),
        (32, 2, False, 93199),
    ],
)
def test_spookynet_has_as_many_parameters_as_the_authors(width, layers, terms, theirs):
    knobs = {"width": width, "interactions": layers, "num_radial": 16} | dict.fromkeys(TERMS, terms)
    # one of D4's constants is kept at 1: they count it, and do not train it
    assert count("spookynet", knobs, None).total == theirs - terms


@pytest.mark.parametrize("family", ["chemgpt", "chemgpt_modern"])
@pytest.mark.parametrize("width", [16, 26])
def test_language(family, width):
    knobs = {"layers": 2, "width": width, "heads": 1}
    model = registry.build(family, knobs, seed=0, vocab_size=100, embedding_std=0.1)
    with _Counter() as counter:
        # a length at which attention fills nothing up
        model(torch.randint(5, 100, (3, 32))).logsumexp(-1).sum().backward()
    flops = language_flops(family, knobs, 100, [32] * 3)
    assert flops["flops_full"] == counter.total
    assert flops["flops_attention"] == 3 * 2 * (3 * 2 * 2 * 32 * 32 * width)
    assert flops["flops_6n"] == 6 * count(family, knobs, 100).non_embedding * 96
    total = sum(parameter.numel() for parameter in model.parameters())
    tables = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Embedding))
    counted = count(family, knobs, 100)
    assert (counted.total, counted.non_embedding) == (total, total - tables)


def test_memory_of_a_potential_grows_with_size_and_batch():
    knobs = {"width": 64, "interactions": 3, "num_radial": 20, "vectors": True}
    assert peak_bytes("painn", knobs, 50) > 20 * count("painn", knobs, None).total
    assert peak_bytes("painn", knobs, 400) > peak_bytes("painn", knobs, 50)

"""Packs hold every cell once, keep families apart, and finish together."""

from __future__ import annotations

import random
from dataclasses import replace

from chemscale.planning.packs import estimated_seconds, packs
from chemscale.study import load_study


def test_every_cell_is_in_one_pack_of_its_family() -> None:
    study = load_study("config.yaml")
    cells = study.cells + study.controls
    made = packs(cells)
    assert sorted(cell.path for pack in made.values() for cell in pack) == sorted(cell.path for cell in cells)
    for name, pack in made.items():
        # of one size where a size's machine code is built once
        kinds = {f"{cell.family}-{cell.size}" if cell.engine["compiled"] else cell.family for cell in pack}
        assert kinds == {name.rpartition("-")[0]}
    assert {cell.engine["compiled"] for cell in cells} == {True, False}


def test_packs_do_not_depend_on_the_order_of_cells() -> None:
    cells = load_study("config.yaml").cells
    shuffled = list(cells)
    random.Random(0).shuffle(shuffled)
    assert packs(shuffled) == packs(cells)


def test_packs_are_balanced_and_short() -> None:
    cells = [cell for cell in load_study("config.yaml").cells if cell.family == "chemgpt"]
    made = packs(cells, seconds=60)
    loads = [sum(map(estimated_seconds, pack)) for pack in made.values()]
    dearest = max(map(estimated_seconds, cells))
    assert max(loads) - min(loads) <= dearest
    assert max(loads) <= 60 + dearest
    for pack in made.values():
        costs = [estimated_seconds(cell) for cell in pack]
        assert costs == sorted(costs, reverse=True)


def test_cells_that_share_steps_follow_each_other_in_one_pack() -> None:
    cells = [
        replace(
            cell,
            protocol={"kind": "one_pass"},
            training={**cell.training, "schedule": "stable_decay", "warmup_steps": 10},
        )
        for cell in load_study("config.yaml").cells
        if cell.family == "chemgpt"
    ]
    made = packs(reversed(cells), seconds=1e-3)
    assert len(made) == len({(cell.size, cell.seed) for cell in cells})
    for pack in made.values():
        assert len({(cell.size, cell.seed) for cell in pack}) == 1
        samples = [cell.num_samples for cell in pack]
        assert samples == sorted(samples)


def test_a_cell_longer_than_a_pack_is_alone() -> None:
    cells = load_study("config.yaml").cells[:5]
    assert sorted(map(len, packs(cells, seconds=1e-3).values())) == [1] * 5
    assert packs([]) == {}

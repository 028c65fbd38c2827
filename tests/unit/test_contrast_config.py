"""Contrasts of a config: what cannot be compared is refused with the key's path, and matched sizes are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chemscale.config import StudyConfig
from chemscale.cost import matching
from chemscale.cost.flops import language_flops
from chemscale.errors import ConfigError
from chemscale.planning import packs
from chemscale.study import Study, load_study, study_of

CONFIG = """
study: compared
data:
  conformers: {kind: conformers, num_molecules: 100, frames_per_molecule: 10, validation: 0.1, test: 0.2}
  others: {kind: conformers, num_molecules: 99, frames_per_molecule: 10, validation: 0.1, test: 0.2}
  molecules: {kind: molecules, source: chemicals, validation: 0.02, test: 0.04}
families:
  painn: &painn
    data: conformers
    protocol: {kind: equal_steps, steps: 100}
    training: {batch_frames: 4, learning_rate: {at_reference: 0.005, reference: 32, power: 0.0}}
    sizes: &sizes
      w16: {width: 16, interactions: 2, num_radial: 20, cutoff: 5.0}
      w24: {width: 24, interactions: 2, num_radial: 20, cutoff: 5.0}
      w40: {width: 40, interactions: 2, num_radial: 20, cutoff: 5.0}
    grid: [{sizes: [w16, w24], num_samples: [32, 64, 128, 256]}]
  painn_scalar:
    <<: *painn
    grid: [{sizes: [w16, w24, w40], num_samples: [32, 128, 256]}]
  chemgpt:
    data: molecules
    protocol: {kind: equal_steps, steps: 100}
    training: {batch_tokens: 512, learning_rate: {at_reference: 0.008, reference: 32, power: 0.0}}
    sizes: {w16: {layers: 2, width: 16, heads: 1}}
    grid: [{sizes: [w16], num_samples: [32, 64, 128]}]
fits: {level: 0.98, resamples: 200}
"""
Change = Callable[[dict[str, Any]], None]


def between(*series: str) -> list[dict[str, str]]:
    return [dict(zip(("family", "size"), one.split(), strict=True)) for one in series]


VECTORS = {"role": "primary", "between": between("painn_scalar w24", "painn w16")}


def loaded(folder: Path, contrasts: dict[str, Any], change: Change | None = None) -> Study:
    config = yaml.safe_load(CONFIG) | {"contrasts": contrasts}
    if change:
        change(config)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return load_study(path)


def test_contrasts_are_part_of_the_resolved_study_and_of_no_cell(tmp_path: Path) -> None:
    study = loaded(
        tmp_path, {"vectors": VECTORS, "size": {"role": "secondary", "between": between("painn w16", "painn w24")}}
    )
    resolved = study.resolved()
    assert resolved["config"]["contrasts"]["vectors"] == VECTORS | {"matched": "none"}
    again = study_of(StudyConfig.model_validate(resolved["config"]), Path("again"))
    assert again.resolved() == resolved
    assert loaded(tmp_path, {}).cells == study.cells
    # secondary ones alone are a study, too
    assert list(loaded(tmp_path, {"vectors": VECTORS | {"role": "secondary"}}).config.contrasts) == ["vectors"]


def _another_protocol(config: dict[str, Any]) -> None:
    config["families"]["painn"] = config["families"]["painn"] | {"protocol": {"kind": "equal_steps", "steps": 200}}


def _other_data(config: dict[str, Any]) -> None:
    config["families"]["painn"] = config["families"]["painn"] | {"data": "others"}


@pytest.mark.parametrize(
    ("edit", "change", "key", "found", "allowed"),
    [
        ({"role": "main"}, None, "role", "'main'", "'primary' or 'secondary'"),
        ({"matched": "width"}, None, "matched", "'width'", "'parameters', 'flops' or 'none'"),
        ({"between": between("painn w16")}, None, "between", "painn", "at least 2"),
        ({"between": between("painn w16", "painn w24", "painn_scalar w16")}, None, "between", "painn", "at most 2"),
        ({"between": between("painn w16", "schnet w16")}, None, "between.1.family", "'schnet'", "painn, painn_scalar"),
        ({"between": between("painn w99", "painn w16")}, None, "between.0.size", "'w99'", "w16, w24"),
        # a size of the ladder that the grid does not train
        ({"between": between("painn w40", "painn w16")}, None, "between.0.size", "'w40'", "of its grid: w16, w24"),
        ({"between": between("painn w16", "painn w16")}, None, "between", "the same series twice", "two series"),
        ({"between": between("painn w16", "chemgpt w16")}, None, "between", "potentials and language", "one domain"),
        ({}, _another_protocol, "between", "equal_steps(100) and equal_steps(200)", "one protocol"),
        ({}, _other_data, "between", "conformers and others", "one data set"),
        (
            {},
            lambda config: config["families"]["painn"]["grid"][0].update(num_samples=[64, 128, 256]),
            "between",
            "2 subsets (128, 256)",
            "at least 3",
        ),
        (
            {"matched": "parameters"},
            None,
            "matched",
            "6,121 of painn_scalar w24 and 8,049 of painn w16, 31.5 % apart",
            "within 10 %",
        ),
        ({"matched": "flops"}, None, "matched", "FLOPs of a step", "or matched: none"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(
    tmp_path: Path, edit: dict[str, Any], change: Change | None, key: str, found: str, allowed: str
) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, {"vectors": VECTORS | edit}, change)
    message = str(error.value)
    assert f"config.yaml: contrasts.vectors.{key}: found" in message
    assert found in message
    assert allowed in message


def test_a_pair_is_compared_once(tmp_path: Path) -> None:
    turned = {"role": "secondary", "between": VECTORS["between"][::-1]}
    with pytest.raises(ConfigError, match=r"contrasts\.again\.between: found .* those of vectors"):
        loaded(tmp_path, {"vectors": VECTORS, "again": turned})


def test_the_resamples_resolve_the_corrected_level(tmp_path: Path) -> None:
    pairs = [("painn w16", f"painn_scalar {size}") for size in ("w16", "w24", "w40")]
    contrasts = {f"c{at}": {"role": "secondary", "between": between(*pair)} for at, pair in enumerate(pairs)}
    with pytest.raises(ConfigError, match=r"fits\.resamples: found 200, .* 3 secondary contrasts; at least 299"):
        loaded(tmp_path, contrasts)
    contrasts["c0"]["role"] = "primary"
    loaded(tmp_path, contrasts)
    contrasts["c0"]["role"] = "secondary"
    loaded(tmp_path, contrasts, lambda config: config["fits"].update(resamples=299))


def test_matched_sizes_are_told_by_the_plans_amounts(tmp_path: Path) -> None:
    for name in ("SYMBOLS_PER_MOLECULE", "ATOMS_PER_FRAME", "EDGES_PER_FRAME"):
        assert getattr(matching, name) == getattr(packs, name)
    study = loaded(tmp_path, {})
    cells = {f"{cell.family} {cell.size}": cell for cell in study.cells}
    amounts = {name: matching.matched_amount(cell, "parameters") for name, cell in cells.items()}
    assert amounts["painn_scalar w24"] == 6121
    # one molecule of nominal length, times those of a batch
    one = language_flops("chemgpt", cells["chemgpt w16"].knobs, matching.VOCABULARY, [28])["flops_full"]
    assert matching.matched_amount(cells["chemgpt w16"], "flops") == 18 * one
    assert matching.apart(110, 100) == matching.apart(100, 110) == pytest.approx(0.1)

    def wider(config: dict[str, Any]) -> None:
        for width in range(20, 40):
            size = {"width": width, "interactions": 2, "num_radial": 20, "cutoff": 5.0}
            config["families"]["painn_scalar"]["sizes"][f"v{width}"] = size
        config["families"]["painn_scalar"]["grid"] = [
            {"sizes": [f"v{width}" for width in range(20, 40)], "num_samples": [32, 128, 256]}
        ]

    cells = {f"{cell.family} {cell.size}": cell for cell in loaded(tmp_path, {}, wider).cells}
    accepted = 0
    for what in ("parameters", "flops"):
        for width in range(20, 40):
            sizes = [f"painn_scalar v{width}", "painn w16"]
            asked = {"role": "primary", "between": between(*sizes), "matched": what}
            first, second = (matching.matched_amount(cells[size], what) for size in sizes)
            if 1 / 1.1 <= first / second <= 1.1:
                loaded(tmp_path, {"vectors": asked}, wider)
                accepted += 1
            else:
                with pytest.raises(ConfigError, match=rf"{first:,} of {sizes[0]} and {second:,} of {sizes[1]}"):
                    loaded(tmp_path, {"vectors": asked}, wider)
    assert accepted


def test_matched_sizes_are_trained_alike(tmp_path: Path) -> None:
    def other(key: str, value: Any) -> Change:
        def change(config: dict[str, Any]) -> None:
            painn = config["families"]["painn"]
            config["families"]["painn"] = painn | {"training": painn["training"] | {key: value}}
            config["families"]["painn_scalar"]["sizes"] = {"w28": {**painn["sizes"]["w16"], "width": 28}}
            config["families"]["painn_scalar"]["grid"] = [{"sizes": ["w28"], "num_samples": [32, 128, 256]}]

        return change

    asked = {"role": "primary", "between": between("painn_scalar w28", "painn w16")}
    loaded(tmp_path, {"vectors": asked}, other("batch_frames", 64))
    asked["matched"] = "parameters"
    with pytest.raises(ConfigError, match=r"matched: found 'parameters', where batch_frames is 4 and 64"):
        loaded(tmp_path, {"vectors": asked}, other("batch_frames", 64))
    rate = {"at_reference": 0.001, "reference": 32, "power": 0.0}
    loaded(tmp_path, {"vectors": asked}, other("learning_rate", rate))

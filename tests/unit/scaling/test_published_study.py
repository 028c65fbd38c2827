"""The numbers that docs/studies tells follow from the tables that stand beside them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from chemscale.io import read_parquet
from chemscale.scaling.study_fits import write

STUDIES = Path(__file__).resolve().parents[3] / "docs" / "studies"


@pytest.mark.parametrize("study", sorted(path.parent.name for path in STUDIES.glob("*/config.json")))
def test_laws_and_contrasts_follow_from_the_cells(study, tmp_path):
    root = tmp_path / study
    shutil.copytree(STUDIES / study, root)
    for table in ("fits", "contrasts", "control_effects"):
        (root / "tables" / f"{table}.parquet").unlink()
    write(root)
    for table, key in (("fits", "fit_id"), ("contrasts", "contrast_id"), ("control_effects", "effect_id")):
        told, found = (
            read_parquet(folder / "tables" / f"{table}.parquet").to_pandas().set_index(key)
            for folder in (STUDIES / study, root)
        )
        assert told.index.equals(found.index)
        numbers = told.select_dtypes("number").columns
        assert len(numbers) > 5
        # last bits of a fit are those of the machine's linear algebra
        np.testing.assert_allclose(found[numbers], told[numbers], rtol=1e-4, atol=1e-6)
        if "verdict" in told:
            assert told["verdict"].equals(found["verdict"])

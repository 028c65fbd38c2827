"""Which files a finished study has, by name, and what others leave in its folder.

A name that no part of chemscale writes is unknown: readers take every file of a sealed folder for a result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chemscale.evaluations import EVALUATION, SPEED
from chemscale.grid import Cell
from chemscale.records import CELL_FILES

# the last audit writes audit.json after the seal; logs and benchmarks differ between runs and state no result
SUMS = "audit/SHA256SUMS"
VERDICT = "audit/audit.json"
RECORDS = "audit/records.json"
UNCOVERED_FOLDERS = ("logs", "benchmarks")
# what `study.write_resolved` has moved aside: folders of former cells, with whatever they held
FORMER = "former"

_TABLES = "cells|control_effects|controls|contrasts|data|evaluation|fits|passport|plan|slopes|test_clusters"
# states that a running cell keeps, and those that cells share
_STATES = r"(step|validated|retry|shared)-\d{9}/(state\.json|complete\.json|state-\d{5}\.safetensors)"
_CHECKPOINT = re.compile(
    r"(attempts|failure|retry|weights)\.json|weights\.safetensors|(curve|diverged)\.jsonl|lock"
    r"|finished/(complete\.json|" + "|".join(map(re.escape, CELL_FILES)) + r")"
    rf"|superseded/\d{{8}}T\d{{12}}/.+|{_STATES}"
)
_DATA = re.compile(
    r"manifest\.json|passport\.json|rows\.parquet|tokenizer\.json"
    r"|tokenizer/(special_tokens_map|tokenizer|tokenizer_config)\.json"
)
_OTHERS = re.compile(
    rf"config\.json|tables/({_TABLES})\.parquet|figures/([\w.-]+\.(svg|png)|versions\.json)|report/index\.html"
    rf"|audit/(records\.json|audit\.json|SHA256SUMS)|shared/[\w.-]+/(lock|curve\.jsonl|superseded/.+|{_STATES})"
)
# Snakemake marks the folders that it takes for an output
MARK = ".snakemake_timestamp"

# What other programs leave behind: the last part of a path, and what it is.
_LITTER = (
    (re.compile(r"\.git|\.gitattributes|\.gitignore|\.hg|\.svn"), "of a version control system"),
    (re.compile(r"\.DS_Store|\._.*|__MACOSX|\.Spotlight-V100|\.Trashes|\.fseventsd"), "of macOS"),
    (re.compile(r"Thumbs\.db|[Dd]esktop\.ini|\$RECYCLE\.BIN"), "of Windows"),
    (re.compile(r"\.directory|\.Trash-\d+|\.nfs[0-9a-f]+|lost\+found"), "of the desktop or the file system"),
    (re.compile(r".*~|\.?#.*#|\.#.*|\..*\.sw[a-p]|\.~lock\..*#|\.idea|\.vscode"), "an editor's copy"),
    (re.compile(r"\..*\.part|\.tmp\w{6}"), "left by a writer that was killed"),
)


def litter(name: str) -> str | None:
    """What a file or folder of this name is, where another program than chemscale left it; None for any other name."""
    return next((what for pattern, what in _LITTER if pattern.fullmatch(name)), None)


def known_names(study: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a path below a study's folder is that of a file that the study has, by its `config.json`."""
    cells = {Cell.from_dict(values).path for values in study["cells"] + study["controls"]}
    data = set(study["data"])

    def known(path: str) -> bool:
        parts = path.split("/")
        if parts[-1] == MARK or parts[0] == FORMER:
            return True
        if parts[0] == "data" and len(parts) > 2:
            return parts[1] in data and _DATA.fullmatch("/".join(parts[2:])) is not None
        if parts[0] in ("cells", "controls"):
            depth = 5 if parts[0] == "cells" else 6
            cell, inner = "/".join(parts[:depth]), parts[depth:]
            if cell not in cells or not inner:
                return False
            if inner[0] == "checkpoint":
                return _CHECKPOINT.fullmatch("/".join(inner[1:])) is not None
            return "/".join(inner) in (*CELL_FILES, EVALUATION, SPEED)
        return _OTHERS.fullmatch(path) is not None

    return known


def former_runs(root: Path) -> int:
    """How many finished runs `former/` holds."""
    return sum("checkpoint" not in path.parts for path in (root / FORMER).rglob("metrics.json"))

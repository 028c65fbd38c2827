"""The stages of the data pipeline, one after another, as the workflow calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from chemscale.data import assemble, frames, ingest, molecules, prepare_scaffolds, simulation, sources
from chemscale.data.manifest import read_manifest
from chemscale.data.pool import end_items

OFFLINE = {"offline": True, "mirror": None}


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every task be worked out in this process, one after another: a new process takes a second."""

    def one_by_one(function: Callable[[Any], Any], tasks: Any, workers: int, retry: Any = None) -> Iterator[Any]:
        return map(function, tasks)

    for module in (assemble, frames, molecules, prepare_scaffolds):
        monkeypatch.setattr(module, "ordered_map", one_by_one)
    yield
    end_items()


@pytest.fixture(scope="session")
def section() -> Callable[..., dict[str, Any]]:
    """A function that gives a resolved data section by its settings: the config's defaults, what decides bytes."""
    from pydantic import TypeAdapter

    from chemscale.config import AnyData
    from chemscale.study import data_settings

    def resolve(**settings: Any) -> dict[str, Any]:
        values = TypeAdapter(AnyData).validate_python(settings).model_dump(mode="json")
        return data_settings(values) | {"max_reject_share": values["max_reject_share"]}

    return resolve


@pytest.fixture(scope="session")
def read_chunks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Path]]:
    """A function that reads (or simulates) a data section in chunks; it gives the chunks' records."""
    cache = tmp_path_factory.mktemp("cache")

    def read(
        section: Mapping[str, Any],
        folder: Path,
        *,
        chunks: int = 1,
        workers: int = 1,
        code: str = "code",
        path: Path | None = None,
    ) -> list[Path]:
        where = {} if path is None else {"path": str(path)}
        markers = [folder / "chunks" / f"{chunk}of{chunks}.json" for chunk in range(chunks)]
        if section["kind"] in ("conformers", "trajectories"):
            for chunk, marker in enumerate(markers):
                simulation.prepare(section, folder, code, (chunk, chunks), workers, marker)
            return markers
        located = sources.locate({**section, **where}, cache, OFFLINE)
        prepare = molecules.prepare if section["kind"] == "molecules" else ingest.prepare
        for chunk, marker in enumerate(markers):
            prepare(section, folder, located, code, (chunk, chunks), workers, marker)
        return markers

    return read


@pytest.fixture(scope="session")
def build(read_chunks: Callable[..., list[Path]]) -> Callable[..., dict[str, Any]]:
    """A function that makes a data folder of a section, up to its manifest, which it gives."""

    def make(section: Mapping[str, Any], folder: Path, *, workers: int = 1, **options: Any) -> dict[str, Any]:
        markers = read_chunks(section, folder, workers=workers, **options)
        assemble.prepare(section, folder, markers, "code", workers)
        return read_manifest(folder)

    return make

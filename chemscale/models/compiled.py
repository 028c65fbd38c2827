"""Computations compiled ahead of time: a package is built once on a machine, and loads in milliseconds after that.

A function of tensors is traced into a flat graph of operations, every gradient that it takes included, and torch's
inductor makes machine code of that. Where the potentials' small operations rule, a step becomes two to four times as
fast. Building takes half a minute, so it is done once for all cells that share a size; loading imports no compiler.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import logging
import os
import shlex
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemscale.errors import InputError
from chemscale.io import atomic_path, digest, read_json, sha256_file, write_json
from chemscale.models.graph import Graph

# bytes: what the allocator keeps for itself of what was freed, and the largest block that it takes from there; glibc's
# numbers of the two settings (mallopt(3)), and the largest that it accepts for the second
_KEPT, _LARGEST_KEPT = 2**28, 2**25
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# more frames, atoms or edges than this a traced size is not meant for
_LARGEST = 2**31 - 1


# kind of a tensor, and its sizes: those that may change from call to call by name
Shape = tuple[torch.dtype, tuple[int | str, ...]]


@dataclass(frozen=True)
class Package:
    """A compiled function: tensors in, tensors out, without gradients."""

    _loader: Any

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """What the function returns for these inputs."""
        outputs: list[Tensor] = self._loader.run(list(inputs))
        return outputs


def package(
    folder: Path,
    identity: Mapping[str, Any],
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    sizes: Sequence[Mapping[int, str]],
    threads: int,
    log: logging.Logger,
) -> Package:
    """The compiled form of a function; it is built where `folder` does not hold it yet, by one process at a time.

    Args:
        folder: of all packages.
        identity: what decides the function, code included; the package's name is its digest with the machine's.
        function: of tensors alone; of their sizes it may use those named below and no Python number made of them.
        inputs: an example; only kinds and sizes count. Named sizes have to differ from each other and all others.
        sizes: for each input, the names of the dimensions that may change from call to call.
        threads: of the processor that a call may use.
        log: told how long building took.

    Raises:
        InputError: there is no C++ compiler to build it with.
    """
    place = inputs[0].device
    name = digest({**identity, "threads": threads, **_machine(place)})[:24]
    path, record = folder / f"{name}.pt2", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        whole = record.exists() and path.exists() and read_json(record)["sha256"] == sha256_file(path)
        if not whole:
            begun = time.monotonic()
            with atomic_path(path) as temporary, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler's, of its own parts
                _build(function, inputs, sizes, threads, temporary)
            seconds = time.monotonic() - begun
            write_json(record, {**identity, "sha256": sha256_file(path), "build_s": seconds})
            log.info("compiled %s in %.0f s", path, seconds)
    return _load(path, place)


def example(
    shapes: Sequence[Shape], about: Mapping[str, int], others: Sequence[Tensor], place: torch.device
) -> tuple[list[Tensor], list[dict[int, str]]]:
    """Inputs to trace a function with, and the names of those of their sizes that may change.

    Tracing takes equal sizes for the same one, so that the named ones differ from each other and from all others.

    Args:
        shapes: of the inputs.
        about: how large each named size is, about: machine code is laid out for it, and holds for any other.
        others: further inputs.
        place: the device.
    """
    taken = {0, 1, 2, 3} | {size for tensor in others for size in tensor.shape}
    sizes: dict[str, int] = {}
    for name, size in about.items():
        while size in taken:
            size += 1
        taken.add(size)
        sizes[name] = size
    tensors = [
        torch.ones([sizes[size] if isinstance(size, str) else size for size in shape], dtype=kind, device=place)
        for kind, shape in shapes
    ]
    names = [{axis: size for axis, size in enumerate(shape) if isinstance(size, str)} for _, shape in shapes]
    return tensors, names


def graph_shapes(dtype: torch.dtype) -> list[Shape]:
    """Kinds and sizes of what `graph_tensors` gives, positions of a dtype: `atoms`, `edges` and `pairs` may change."""
    return [
        (torch.int64, ("atoms",)),
        (dtype, ("atoms", 3)),
        (torch.int64, (2, "edges")),
        (torch.int64, ("atoms",)),
        (torch.int64, ("edges",)),
        (torch.int64, ("pairs",)),
    ]


def graph_tensors(graph: Graph) -> list[Tensor]:
    """A graph of neutral frames, whose pairs are known, as tensors; `graph_of` undoes it."""
    assert graph.pair is not None
    assert graph.first is not None
    return [graph.species, graph.positions, graph.edges, graph.frame, graph.pair, graph.first]


def graph_of(tensors: Sequence[Tensor], num_frames: int, shifts: Tensor | None = None) -> Graph:
    """The graph of so many frames whose `graph_tensors` these are."""
    species, positions, edges, frame, pair, first = tensors
    return Graph(species, positions, edges, frame, num_frames, shifts, pair=pair, first=first)


def _keep_freed_memory() -> None:
    """Have the allocator keep freed memory, up to 256 MB, for the process: machine code asks for it again at each call.

    Pages that went back to the system cost a fault each when they are written next: a thousand in a step of SchNet.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc's
        library.mallopt(_TRIM_THRESHOLD, _KEPT)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)


def _load(path: Path, place: torch.device) -> Package:
    _keep_freed_memory()
    # by name, since torch's function for it would import the compiler
    from torch._C._aoti import AOTIModelPackageLoader

    index = -1 if place.index is None else place.index
    return Package(AOTIModelPackageLoader(str(path), "model", False, 1, index))


def _machine(place: torch.device) -> dict[str, str]:
    """What machine code depends on: torch, and the processor's or the GPU's kind."""
    if place.type == "cuda":
        kind = torch.cuda.get_device_name(place)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        kind = torch.backends.cpu.get_cpu_capability() + hashlib.sha256(flags.encode()).hexdigest()
    return {"torch": torch.__version__, "device": place.type, "kind": kind}


@contextmanager
def _plain_libraries(scratch: Path) -> Iterator[None]:
    """Name the folder of torch's libraries by a link in `scratch` where its name has a blank or a quote.

    Inductor (2.13) writes it into the linker's command as it is.
    """
    from torch.utils import cpp_extension

    folder = cpp_extension.TORCH_LIB_PATH
    if folder != shlex.quote(folder):
        (scratch / "lib").symlink_to(folder)
        cpp_extension.TORCH_LIB_PATH = str(scratch / "lib")
    try:
        yield
    finally:
        cpp_extension.TORCH_LIB_PATH = folder


def _build(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    sizes: Sequence[Mapping[int, str]],
    threads: int,
    path: Path,
) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise InputError(
            "build machine code", "no C++ compiler", "install g++, or ask for none (compile: never, compiled=False)"
        )
    # what inductor finds out about the compiler, it looks for once in its cache; read when it is imported
    cache = str((path.parent / "cache").resolve())
    if cache == shlex.quote(cache):
        # it writes this path into the compiler's commands as it is: one with a blank stays with its own place in /tmp
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", cache)
    import torch._inductor
    from torch.export import Dim, export
    from torch.fx.experimental.proxy_tensor import make_fx

    dims = {name: Dim(name, min=2, max=_LARGEST) for held in sizes for name in held.values()}
    with tempfile.TemporaryDirectory() as scratch, _plain_libraries(Path(scratch)):
        traced = make_fx(function, tracing_mode="symbolic")(*inputs)
        exported = export(
            traced,
            tuple(inputs),
            dynamic_shapes=[{axis: dims[name] for axis, name in held.items()} or None for held in sizes],
            strict=False,
        )
        built = torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(Path(scratch) / "package.pt2"),
            # the calls of kernels themselves are not worth the compiler's time
            inductor_configs={
                "cpp.threads": threads,
                "compile_threads": 1,
                "aot_inductor.compile_wrapper_opt_level": "O0",
            },
        )
        shutil.copyfile(built, path)

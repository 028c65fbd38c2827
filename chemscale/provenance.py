"""Where a result comes from: digests of the code that made it, versions, machine and repository state."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent
_PACKAGES = (
    "chemscale",
    "torch",
    "deepspeed",
    "numpy",
    "pyarrow",
    "safetensors",
    "rdkit",
    "selfies",
    "ase",
    "tblite",
    "scipy",
    "pandas",
)


@cache
def code_digest(*modules: str) -> str:
    """The sha256 over the source of the named modules: "training/lm" is a file, "scaling" all files of a folder.

    A name that ends like a file's is that file.

    Rules carry it as a parameter: editing a file reruns exactly the rules that name it.
    """
    summed = hashlib.sha256()
    for module in sorted(modules):
        path = _PACKAGE / module
        files = (
            sorted(file for file in path.iterdir() if file.is_file())
            if path.is_dir()
            else [path if path.suffix else path.with_suffix(".py")]
        )
        assert files, f"no module {module}"
        for file in files:
            summed.update(f"{file.relative_to(_PACKAGE).as_posix()}\0".encode())
            summed.update(file.read_bytes())
    return summed.hexdigest()


def machine() -> dict[str, Any]:
    """The machine in words: processor, cores, memory in bytes, operating system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": model, "cores": os.cpu_count(), "memory_bytes": memory, "system": platform.platform()}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that decide results; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def git_state() -> dict[str, Any]:
    """The commit of the checkout that the package runs from and whether it is changed; null values outside of git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(_PACKAGE), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}

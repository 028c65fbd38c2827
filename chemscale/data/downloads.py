"""Published files on this machine: looked for nearby first, else fetched once, and checked before anyone reads them.

A fetch that is under way lies in the cache folder as `FILE.part`, with `FILE.part.json`: from where, and which state of
the file there. The rest of that folder is told in `chemscale.data.cache`.
"""

from __future__ import annotations

import http.client
import importlib.util
import logging
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chemscale
from chemscale.catalogue import Published
from chemscale.data.cache import (
    CHUNK,
    Obtained,
    append,
    check_room,
    digests,
    file_stamp,
    hashes,
    locked,
    no_room,
    opened,
    own_record,
    remember,
    to_disk,
)
from chemscale.errors import DataError, RecordError
from chemscale.io import read_json, write_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_ATTEMPTS = 5
_BACKOFF = 1.0  # seconds before the second attempt, doubled before each further one
_TIMEOUT = 60.0  # seconds without a byte
# answers of a server that may be another one a moment later
_PASSING = (429, 500, 502, 503, 504)


class _Dropped(Exception):  # noqa: N818 (no failure yet: another attempt goes on from there)
    """The connection ended before the file did."""


class _Unfit(Exception):  # noqa: N818 (a finding about one address: the next one may do)
    """What an address answers is not the file; asking again gets the same."""


def obtain(
    entry: Published, cache: Path, *, path: Path | None = None, mirror: str | None = None, offline: bool = False
) -> Obtained:
    """The original file of a published source, checked against what is known of it, fetched only if it is nowhere here.

    Looked for in this order: `path` (the file, or a folder that holds it under its original name), the folder that the
    environment variable DATA_DIR names, the cache, a `mirror` that is a folder, an installed package; then fetched
    from a `mirror` that is an address (it holds files under their original names), from the entry's addresses, or with
    the user's own pip, into the cache. Files outside the cache are used where they are. A cached file of a source that
    changes in place stays what it was when it was fetched. Processes that want the same file at once fetch it once.

    Args:
        entry: a row of the catalogue.
        cache: the folder for what is fetched; made where it is needed.
        path: an explicit local copy; then nothing else is looked at.
        mirror: a folder, or an address that starts with http:// or https://.
        offline: open no connection, and start no pip.

    Raises:
        DataError: the file is nowhere, or it is not the published one, or the disk is full. A fetch that was cut stays
            as `FILE.part` and the next call goes on from there; under its final name there is only a whole file.
    """
    name = entry.file_name
    if path is not None:
        return _checked(entry, _explicit(entry, path), cache)
    cached = cache / entry.folder / name
    mirrored = mirror is not None and mirror.startswith(("http://", "https://"))
    if mirror is not None and not mirrored and not Path(mirror).is_dir():
        raise DataError(f"find {name} in the mirror {mirror}", "no such folder", "name a folder, or an http(s) address")
    folders = [os.environ.get("DATA_DIR"), cached.parent, None if mirrored else mirror]
    for folder in folders:
        if folder and (Path(folder) / name).is_file():
            return _checked(entry, Path(folder) / name, cache)
    local = installed(entry)
    if local is not None:
        return _checked(entry, local, cache)
    if offline:
        raise _nowhere(entry, cached, ["it in no folder, and offline is set"])
    urls = list(entry.urls)
    if mirror is not None and mirrored:
        urls.insert(0, _beside(mirror, name))
    if not urls and entry.distribution is None:
        raise _nowhere(entry, cached, ["no such package or file"])
    with locked(cached):
        if not cached.is_file():  # else another process has fetched it meanwhile
            _fetch_from_any(entry, urls, mirror if mirrored else None, cached)
        return _checked(entry, cached, cache)


def installed(entry: Published) -> Path | None:
    """The file of an entry that lies in an installed package; None where the package or the file is not there.

    The package is found without being imported.
    """
    if entry.package is None:
        return None
    spec = importlib.util.find_spec(entry.package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / entry.file
    return path if path.is_file() else None


def is_html(content: bytes) -> bool:
    """Whether bytes are the beginning of a web page, which hosts send instead of a file when something is wrong."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _beside(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{urllib.parse.quote(name)}"


def _asked(entry: Published) -> str:
    facts = [f"{entry.size:,} bytes"] if entry.size is not None else []
    facts += [f"sha256 {entry.sha256}"] if entry.sha256 is not None else []
    return f"{entry.file_name} of {entry.name} {entry.version}" + (f" ({', '.join(facts)})" if facts else "")


def _nowhere(entry: Published, cached: Path, found: list[str]) -> DataError:
    do = f"get it by `{entry.command}`"
    if entry.package is None:
        do += f", and put it into {cached.parent} or into a folder that DATA_DIR names"
    return DataError(f"find {_asked(entry)}", "; ".join(found), do)


def _explicit(entry: Published, path: Path) -> Path:
    found = path / entry.file_name if path.is_dir() else path
    if not found.is_file():
        raise DataError(
            f"find {_asked(entry)} at {path}",
            "a folder without it" if path.is_dir() else "no such file",
            f"give its path or its folder; `{entry.command}` gets it",
        )
    return found


def remedy(entry: Published, path: Path, cache: Path) -> str:
    """What to do where a file of a source is not the published one."""
    if path.resolve().is_relative_to(Path(cache).resolve()):
        return f"delete {path}; the next run fetches it again"
    if entry.package is not None:
        return f"pip install --force-reinstall {entry.package}=={entry.version}"
    return f"put the published file there; `{entry.command}` gets it"


def _checked(entry: Published, path: Path, cache: Path) -> Obtained:
    """The facts of a local file, after its check; the cheap ones first: hashing some GB takes a while."""
    wrong = _unlike(entry, path)
    if wrong is None:
        found = hashes(path, cache, md5=entry.md5_url is not None)
        wrong = _wrong_sum(entry, found)
    if wrong is not None:
        raise DataError(f"use {path} as {_asked(entry)}", wrong, remedy(entry, path, cache))
    return found


def _unlike(entry: Published, path: Path) -> str | None:
    """What is wrong with a file at first sight."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            beginning = stream.read(1024)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    if not size:
        return "an empty file"
    if is_html(beginning):
        return "an HTML page instead of the data"
    if entry.size is not None and size != entry.size:
        return f"{size:,} bytes instead of {entry.size:,}"
    return None


def _wrong_sum(entry: Published, found: Obtained) -> str | None:
    if entry.sha256 is not None and found.sha256 != entry.sha256:
        return f"sha256 {found.sha256} instead of {entry.sha256}"
    if entry.md5_url is not None:
        # the published sum, where it was fetched along with the file
        sidecar = found.path.with_name(Path(entry.md5_url).name)
        expected = sidecar.read_text(encoding="utf-8", errors="replace").split()[:1] if sidecar.is_file() else []
        if expected and expected[0].lower() != found.md5:
            return f"md5 {found.md5} instead of {expected[0]} in {sidecar.name}"
    return None


# fetching


def _fetch_from_any(entry: Published, urls: list[str], mirror: str | None, final: Path) -> None:
    """Bring the file to `final` from the first address that has it; the caller holds the lock."""
    log = logging.getLogger("chemscale.data")
    part = final.with_name(final.name + ".part")
    failures = []
    for url in urls:
        md5_url = entry.md5_url
        if md5_url is not None and mirror is not None and url.startswith(mirror):
            md5_url = _beside(mirror, Path(md5_url).name)
        log.info("fetching %s from %s", final.name, url)
        try:
            expected = None if md5_url is None else _published_md5(md5_url)
            _download(entry, url, part)
            _accept(entry, part, final, expected)
            return
        except (_Dropped, _Unfit) as failure:
            failures.append(f"{failure} at {url}")
            log.warning("%s: %s", url, failure)
    if entry.distribution is not None:
        log.info("fetching %s by pip", final.name)
        try:
            _pip_download(entry, part)
            _accept(entry, part, final, None)
            return
        except _Unfit as failure:
            failures.append(str(failure))
    error = _nowhere(entry, final, failures)
    if part.exists():
        error = DataError(
            error.asked,
            f"{error.found}; {part.stat().st_size:,} bytes of it are in {part}",
            f"run again to go on from there, or {error.do}",
        )
    raise error


def _accept(entry: Published, part: Path, final: Path, md5: str | None) -> None:
    """Check a complete download and give it its name; a wrong one is deleted."""
    wrong = _unlike(entry, part)
    if wrong is None:
        stamp = file_stamp(part)
        sums = digests(part, md5 is not None)
        if entry.sha256 is not None and sums["sha256"] != entry.sha256:
            wrong = f"sha256 {sums['sha256']} instead of {entry.sha256}"
        elif md5 is not None and sums["md5"] != md5:
            wrong = f"md5 {sums['md5']} instead of the published {md5} (the file may have changed there meanwhile)"
    if wrong is not None:
        _discard(part)
        raise _Unfit(wrong)
    # the record first: a file without one would be taken for whatever it is when it is next read
    remember(own_record(final), {**stamp, **sums})
    os.replace(part, final)
    _state_file(part).unlink(missing_ok=True)


def _state_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_file(part).unlink(missing_ok=True)


def _request(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """Send a request; dropped connections and refusals are told apart."""
    request = urllib.request.Request(url, headers={"User-Agent": f"chemscale/{chemscale.__version__}", **headers})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
        return response
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _PASSING:
            raise _Dropped(f"HTTP {error.code} {error.reason}") from None
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        raise _Unfit(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _told(error) from None


def _told(error: Exception) -> _Dropped | _Unfit:
    """A network error as one that may pass, or as one that will not."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    passing = (ConnectionResetError, ConnectionAbortedError, BrokenPipeError, TimeoutError, http.client.HTTPException)
    text = f"{reason}" or type(reason).__name__
    if isinstance(reason, http.client.InvalidURL):
        return _Unfit(f"no address ({text})")
    if isinstance(reason, ssl.SSLCertVerificationError):
        return _Unfit(f"a certificate that is not trusted ({text})")
    if isinstance(reason, (*passing, ssl.SSLError)):
        return _Dropped(f"a dropped connection ({text})")
    return _Unfit(f"no connection ({text})")


def _again(attempt: int) -> None:
    if attempt:
        time.sleep(_BACKOFF * 2 ** (attempt - 1))


def _published_md5(url: str) -> str:
    """The md5 in a sidecar of the form `HEX  NAME`, as hex."""
    for attempt in range(_ATTEMPTS):
        _again(attempt)
        try:
            with _request(url, {}) as response:
                words = response.read(CHUNK).decode("utf-8", "replace").split()
        except (_Dropped, _Unfit, http.client.HTTPException, OSError) as error:
            if isinstance(error, _Unfit) or attempt == _ATTEMPTS - 1:
                raise _Unfit(f"no checksum from {url} ({error})") from None
            continue
        break
    if not words or len(words[0]) != 32 or set(words[0].lower()) - set("0123456789abcdef"):
        raise _Unfit(f"no md5 in {url}")
    return words[0].lower()


def _download(entry: Published, url: str, part: Path) -> None:
    """Bring the whole of `url` to `part`, going on from what is there; dropped connections are tried again."""
    with _progress() as progress:
        task = progress.add_task(entry.file_name, total=entry.size)
        for attempt in range(_ATTEMPTS):
            _again(attempt)
            try:
                _transfer(entry, url, part, progress, task)
                return
            except _Dropped:
                if attempt == _ATTEMPTS - 1:
                    raise


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        # a log of a batch job would get an empty line of it
        disable=not console.is_terminal,
    )


def _transfer(entry: Published, url: str, part: Path, progress: Progress, task: TaskID) -> None:
    """One request: append what `part` lacks of `url`, or start over where the file there is another one by now."""
    have = part.stat().st_size if part.exists() else 0
    # of a `.part` without its state nobody knows what it is the beginning of
    state = _known_state(part) if have else {}
    same = state.get("url") == url and state.get("validator") is not None
    # a beginning from elsewhere does where the checksum tells in the end whether the rest fits to it
    continues = same or (bool(state) and entry.sha256 is not None)
    if continues and state.get("total") == have:
        return
    headers = {}
    if continues:
        headers["Range"] = f"bytes={have}-"
    if same:
        headers["If-Range"] = state["validator"]
    try:
        response = _request(url, headers)
    except urllib.error.HTTPError:
        _discard(part)
        raise _Dropped("a file there that is shorter by now") from None
    with response:
        at, total = _extent(response, have)
        validator = _validator(response)
        if at and same and validator not in (None, state["validator"]):
            _discard(part)
            raise _Dropped("a file there that has changed by now")
        sure = total is not None or response.chunked or entry.size is not None or entry.sha256 is not None
        if not sure and entry.md5_url is None:
            raise _Unfit("an answer that does not tell its length, so that a cut could not be seen")
        _receive(entry, response, part, at, total, {"url": url, "validator": validator, "total": total}, progress, task)


def _known_state(part: Path) -> dict[str, Any]:
    try:
        state = read_json(_state_file(part))
    except RecordError:
        return {}
    return state if isinstance(state, dict) else {}


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file an answer begins, and the whole file's bytes; refuses an answer that is not data."""
    length = response.headers.get("Content-Length")
    size = int(length) if length is not None and length.isdecimal() else None
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        # bytes FIRST-LAST/TOTAL
        span, _, whole = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if span.partition("-")[0] != str(have):
            raise _Unfit(f"the bytes {span or '(none)'} where those from {have} were asked for")
        return have, int(whole) if whole.isdecimal() else None
    if response.status != http.HTTPStatus.OK:
        raise _Unfit(f"HTTP {response.status} without the data")
    if size == 0:
        raise _Unfit("an empty answer")
    return 0, size


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What names the state of the file at the server, as If-Range takes it: a strong ETag, else the date of change."""
    tag = response.headers.get("ETag")
    if tag is not None and tag.startswith('"'):
        return tag
    return response.headers.get("Last-Modified")


def _receive(
    entry: Published,
    response: http.client.HTTPResponse,
    part: Path,
    at: int,
    total: int | None,
    state: Mapping[str, Any],
    progress: Progress,
    task: TaskID,
) -> None:
    received = at
    chunk = _read(response)
    if not chunk:
        raise _Dropped("a connection cut before the first byte") if total else _Unfit("an empty answer")
    if not at and is_html(chunk):
        raise _Unfit("an HTML page instead of the data")
    if total is not None and entry.size is not None and total != entry.size:
        raise _Unfit(f"{total:,} bytes instead of {entry.size:,}")
    if total is not None:
        check_room(part, total - at)
    if not at:
        # only now, with an answer that may be the file; and before the new state is written, which is not that of the
        # old bytes
        _discard(part)
    try:
        write_json(_state_file(part), dict(state))
    except OSError as error:
        raise no_room(part, None if total is None else total - at, error.errno, error.strerror) from None
    sink = opened(part, "ab")
    with sink:
        while chunk:
            append(sink, chunk, part, None if total is None else total - received)
            received += len(chunk)
            progress.update(task, completed=received, total=total)
            chunk = _read(response)
        to_disk(sink, part)
    if total is not None and received < total:
        raise _Dropped(f"a connection cut after {received:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f"a dropped connection ({error or type(error).__name__})") from None


def _pip_download(entry: Published, part: Path) -> None:
    """Let the user's own pip, with its own settings, fetch a wheel to `part`; nothing is installed or imported."""
    folder = part.with_name(f"{entry.file_name}.pip")
    if folder.exists():  # of a process that was killed
        shutil.rmtree(folder)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--progress-bar", "off"]
    # a source distribution would run its set-up code to say what it is
    command += ["--only-binary", ":all:", "--dest", str(folder), str(entry.distribution)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
    )
    try:
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            errors = [line for line in said if line.startswith("ERROR")] or said or ["no word of why"]
            raise _Unfit(f"pip download {entry.distribution} without success ({' '.join(errors[:2])})")
        if not (folder / entry.file_name).is_file():
            others = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise _Unfit(f"pip download {entry.distribution} with {others} instead of {entry.file_name}")
        _discard(part)
        os.replace(folder / entry.file_name, part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

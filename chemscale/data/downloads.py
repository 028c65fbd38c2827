"""Published files on this machine: looked for nearby first, else fetched once, and checked before anyone reads them.

The cache folder holds, in `NAME-VERSION/`, the files that were fetched and the members taken out of them, each with
`FILE.sha256.json` (size, time of change and hashes, so that no file is hashed twice), a fetch that is under way
(`FILE.part`, with `FILE.part.json`: from where, and which state of the file there), and locks. `verified/` holds the
same small records for files elsewhere: those are used where they are, and nothing is ever written beside them.
"""

from __future__ import annotations

import bz2
import errno
import fcntl
import hashlib
import http.client
import importlib.util
import logging
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import chemscale
from chemscale.catalogue import Member, Published
from chemscale.errors import DataError, RecordError
from chemscale.io import digest, read_json, write_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_CHUNK = 1 << 20  # bytes
_ATTEMPTS = 5
_BACKOFF = 1.0  # seconds before the second attempt, doubled before each further one
_TIMEOUT = 60.0  # seconds without a byte
# answers of a server that may be another one a moment later
_PASSING = (429, 500, 502, 503, 504)
_LISTED = 5  # names of an archive that an error tells


@dataclass(frozen=True)
class Obtained:
    """A file that was found: its path, sha256 (hex), size in bytes, and md5 (hex) where its source publishes one."""

    path: Path
    sha256: str
    size: int
    md5: str | None = None


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
    name = _name(entry)
    if path is not None:
        return _checked(entry, _explicit(entry, path), cache)
    cached = _folder(entry, cache) / name
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
    with _locked(cached):
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


def members(obtained: Obtained, entry: Published, cache: Path) -> list[Path]:
    """The paths in the cache of all files that an entry wants out of its archive, in the entry's order.

    They are taken out once, all in one pass (a pass over a large bzip2 archive takes minutes), each checked against its
    sha256 where one is published, and again only where the archive or a file in the cache has changed.

    Args:
        obtained: the archive, a zip file (also a wheel) or a tar file.
        entry: its row of the catalogue, with `members`.
        cache: the folder that `obtain` was given.

    Raises:
        DataError: the archive is damaged or lacks a member, a member is not the published one, or the disk is full.
    """
    folder = _folder(entry, cache)
    targets = {member: folder / Path(member.path).name for member in entry.members}
    missing = {member: target for member, target in targets.items() if not _taken(member, target, obtained)}
    if missing:
        with _locked(folder / _name(entry)):
            missing = {member: target for member, target in targets.items() if not _taken(member, target, obtained)}
            if missing:
                _take_out(obtained, entry, missing, cache)
    return list(targets.values())


def hashes(path: Path, cache: Path, *, md5: bool = False) -> Obtained:
    """The sha256 and size of any file, and its md5 where asked for; read again only where the file has changed.

    What was found is kept in the cache folder, by the file's path, size and time of change.

    Raises:
        DataError: the file cannot be read, changes while it is read, or is a file of the cache that is no longer what
            it was when it was put there.
    """
    try:
        stamp = _stamp(path)
        record, ours = _record(path, cache)
        known = _known(record)
        if known is not None and all(known.get(key) == value for key, value in stamp.items()):
            if not md5:
                return Obtained(path, known["sha256"], stamp["size"])
            if known.get("md5"):
                return Obtained(path, known["sha256"], stamp["size"], known["md5"])
        found = _digests(path, md5)
        if _stamp(path) != stamp:
            raise DataError(f"read {path}", "a file that changes meanwhile", "run again when it is complete")
    except OSError as error:
        raise DataError(f"read {path}", f"{error.strerror}", "make the file readable") from None
    if ours and known is not None and known["sha256"] != found["sha256"]:
        raise DataError(
            f"read {path}",
            f"sha256 {found['sha256']} where the file had {known['sha256']} when it was put there",
            f"delete it and {record}; the next run fetches it again",
        )
    _remember(record, {**stamp, **found})
    return Obtained(path, found["sha256"], stamp["size"], found.get("md5"))


def is_html(content: bytes) -> bool:
    """Whether bytes are the beginning of a web page, which hosts send instead of a file when something is wrong."""
    return content.removeprefix(b"\xef\xbb\xbf").lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _name(entry: Published) -> str:
    return Path(entry.file).name


def _folder(entry: Published, cache: Path) -> Path:
    return Path(cache) / f"{entry.name}-{entry.version}"


def _beside(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{urllib.parse.quote(name)}"


def _asked(entry: Published) -> str:
    facts = [f"{entry.size:,} bytes"] if entry.size is not None else []
    facts += [f"sha256 {entry.sha256}"] if entry.sha256 is not None else []
    return f"{_name(entry)} of {entry.name} {entry.version}" + (f" ({', '.join(facts)})" if facts else "")


def _command(entry: Published) -> str:
    """The shell command that gets the file by hand."""
    if entry.distribution is not None:
        return f"pip download --no-deps {entry.distribution}"
    if entry.package is not None:
        return f"pip install {entry.package}=={entry.version}"
    return f"wget -O {shlex.quote(_name(entry))} {shlex.quote(entry.urls[0])}"


def _nowhere(entry: Published, cached: Path, found: list[str]) -> DataError:
    do = f"get it by `{_command(entry)}`"
    if entry.package is None:
        do += f", and put it into {cached.parent} or into a folder that DATA_DIR names"
    return DataError(f"find {_asked(entry)}", "; ".join(found), do)


def _explicit(entry: Published, path: Path) -> Path:
    found = path / _name(entry) if path.is_dir() else path
    if not found.is_file():
        raise DataError(
            f"find {_asked(entry)} at {path}",
            "a folder without it" if path.is_dir() else "no such file",
            f"give its path or its folder; `{_command(entry)}` gets it",
        )
    return found


def _remedy(entry: Published, path: Path, cache: Path) -> str:
    if path.resolve().is_relative_to(Path(cache).resolve()):
        return f"delete {path}; the next run fetches it again"
    if entry.package is not None:
        return f"pip install --force-reinstall {entry.package}=={entry.version}"
    return f"put the published file there; `{_command(entry)}` gets it"


def _checked(entry: Published, path: Path, cache: Path) -> Obtained:
    """The facts of a local file, after its check; the cheap ones first: hashing some GB takes a while."""
    wrong = _unlike(entry, path)
    if wrong is None:
        found = hashes(path, cache, md5=entry.md5_url is not None)
        wrong = _wrong_sum(entry, found)
    if wrong is not None:
        raise DataError(f"use {path} as {_asked(entry)}", wrong, _remedy(entry, path, cache))
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


# records of hashes


def _stamp(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _record(path: Path, cache: Path) -> tuple[Path, bool]:
    """Where a file's hashes are kept, and whether the file itself is the cache's own."""
    place = path.resolve()
    if place.is_relative_to(Path(cache).resolve()):
        return _own_record(place), True
    return Path(cache) / "verified" / f"{digest(str(place))[:32]}.json", False


def _own_record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256.json")


def _known(record: Path) -> dict[str, Any] | None:
    try:
        known = read_json(record)
    except RecordError:
        # missing, or not what this module wrote: the file is hashed again, which is all that the record saves
        return None
    return known if isinstance(known, dict) and isinstance(known.get("sha256"), str) else None


def _remember(record: Path, facts: Mapping[str, Any]) -> None:
    try:
        write_json(record, dict(facts))
    except OSError as error:
        # of a cache that may only be read: the facts hold all the same, and the next call pays for them again
        logging.getLogger("chemscale.data").info("%s cannot be kept: %s", record, error.strerror)


def _digests(path: Path, md5: bool) -> dict[str, str]:
    sums = {"sha256": hashlib.sha256()}
    if md5:
        sums["md5"] = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            for known in sums.values():
                known.update(chunk)
    return {name: known.hexdigest() for name, known in sums.items()}


# writing into the cache


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file of the cache; wait for it where another process does. The lock file stays."""
    lock = path.with_name(path.name + ".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = open(lock, "a")  # noqa: SIM115 (closed below, which gives the lock back)
    except OSError as error:
        raise DataError(f"write to the cache {path.parent}", f"{error.strerror}", "name another cache") from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.getLogger("chemscale.data").info("another process is bringing %s here: waiting for it", path.name)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            # some cluster file systems are mounted without locks
            raise DataError(f"lock {lock}", f"{error.strerror}", "name a cache on a disk with file locks") from None
        yield


def _opened(path: Path, mode: Literal["ab", "wb"]) -> IO[bytes]:
    try:
        return open(path, mode)
    except OSError as error:
        raise _no_room(path, None, error.errno, error.strerror) from None


def _write(sink: IO[bytes], chunk: bytes, path: Path, missing: int | None) -> None:
    """Append to a file; `missing` bytes are still to come with this chunk, None where that is not known."""
    try:
        sink.write(chunk)
        sink.flush()
    except OSError as error:
        raise _no_room(path, missing, error.errno, error.strerror) from None


def _to_disk(sink: IO[bytes], path: Path) -> None:
    try:
        os.fsync(sink.fileno())
    except OSError as error:
        raise _no_room(path, None, error.errno, error.strerror) from None


def _no_room(path: Path, missing: int | None, number: int | None, reason: str | None) -> DataError:
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"write {path}", f"{reason}", "see to that disk")
    need = "more room" if missing is None else f"{missing:,} more bytes"
    free = shutil.disk_usage(path.parent).free
    return DataError(
        f"write {path}, which takes {need} in {path.parent}",
        f"{free:,} bytes free ({reason})",
        "make room there, or name a cache on another disk; the next run goes on from what is there",
    )


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
        stamp = _stamp(part)
        sums = _digests(part, md5 is not None)
        if entry.sha256 is not None and sums["sha256"] != entry.sha256:
            wrong = f"sha256 {sums['sha256']} instead of {entry.sha256}"
        elif md5 is not None and sums["md5"] != md5:
            wrong = f"md5 {sums['md5']} instead of the published {md5} (the file may have changed there meanwhile)"
    if wrong is not None:
        _discard(part)
        raise _Unfit(wrong)
    # the record first: a file without one would be taken for whatever it is when it is next read
    _remember(_own_record(final), {**stamp, **sums})
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
                words = response.read(_CHUNK).decode("utf-8", "replace").split()
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
        task = progress.add_task(_name(entry), total=entry.size)
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


def _room(part: Path, missing: int) -> None:
    if shutil.disk_usage(part.parent).free < missing:
        raise _no_room(part, missing, errno.ENOSPC, os.strerror(errno.ENOSPC))


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
        _room(part, total - at)
    if not at:
        # only now, with an answer that may be the file; and before the new state is written, which is not that of the
        # old bytes
        _discard(part)
    try:
        write_json(_state_file(part), dict(state))
    except OSError as error:
        raise _no_room(part, None if total is None else total - at, error.errno, error.strerror) from None
    sink = _opened(part, "ab")
    with sink:
        while chunk:
            _write(sink, chunk, part, None if total is None else total - received)
            received += len(chunk)
            progress.update(task, completed=received, total=total)
            chunk = _read(response)
        _to_disk(sink, part)
    if total is not None and received < total:
        raise _Dropped(f"a connection cut after {received:,} of {total:,} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f"a dropped connection ({error or type(error).__name__})") from None


def _pip_download(entry: Published, part: Path) -> None:
    """Let the user's own pip, with its own settings, fetch a wheel to `part`; nothing is installed or imported."""
    folder = part.with_name(f"{_name(entry)}.pip")
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
        if not (folder / _name(entry)).is_file():
            others = ", ".join(sorted(path.name for path in folder.iterdir()))
            raise _Unfit(f"pip download {entry.distribution} with {others} instead of {_name(entry)}")
        _discard(part)
        os.replace(folder / _name(entry), part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# members of archives


def _taken(member: Member, target: Path, obtained: Obtained) -> bool:
    """Whether a member lies in the cache as it was taken out of this very archive."""
    if not target.is_file():
        return False
    known = _known(_own_record(target))
    return (
        known is not None
        and all(known.get(key) == value for key, value in _stamp(target).items())
        and known.get("archive") == obtained.sha256
        and member.sha256 in (None, known["sha256"])
    )


def _take_out(obtained: Obtained, entry: Published, targets: Mapping[Member, Path], cache: Path) -> None:
    wanted = {member.path: (member, target) for member, target in targets.items()}
    listed: list[str] = []
    opened = _zip_members if entry.file.endswith((".zip", ".whl")) else _tar_members
    try:
        # only names of the catalogue are written: an archive cannot choose where
        for name, size, stream in opened(obtained.path, set(wanted)):
            if stream is None:
                listed.append(name)
                continue
            member, target = wanted.pop(name)
            logging.getLogger("chemscale.data").info("taking %s out of %s", name, obtained.path.name)
            with stream:
                _copy_member(stream, size, member, target, obtained)
            if not wanted:
                return
    except (zipfile.BadZipFile, zlib.error, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"take {', '.join(member.path for member in targets)} out of {obtained.path}",
            f"a damaged archive ({error})",
            _remedy(entry, obtained.path, cache),
        ) from None
    more = ", ..." if len(listed) > _LISTED else ""
    raise DataError(
        f"take {', '.join(wanted)} out of {obtained.path}",
        f"an archive of {', '.join(listed[:_LISTED]) or 'nothing'}{more}",
        _remedy(entry, obtained.path, cache),
    )


def _zip_members(path: Path, wanted: set[str]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Name, size in bytes and stream of each member of a zip file; no stream where it is not wanted."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            try:
                stream = archive.open(info) if info.filename in wanted else None
            except RuntimeError as error:  # encrypted, or of a compression that zipfile doesn't know
                raise zipfile.BadZipFile(f"{info.filename}: {error}") from None
            yield info.filename, info.file_size, stream


def _tar_members(path: Path, wanted: set[str]) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """The same of a tar file, read from front to end; links and folders are no members."""
    # BZ2File, other than tarfile's own stream, tells an end that comes too early
    with (
        bz2.open(path) if path.suffix == ".bz2" else open(path, "rb") as content,
        tarfile.open(fileobj=content, mode="r|") as archive,
    ):
        for info in archive:
            name = info.name.removeprefix("./")
            stream = archive.extractfile(info) if name in wanted and info.isfile() else None
            yield name, info.size, stream


def _copy_member(stream: IO[bytes], size: int, member: Member, target: Path, obtained: Obtained) -> None:
    part = target.with_name(target.name + ".part")
    _room(part, size)
    known = hashlib.sha256()
    written = 0
    try:
        with _opened(part, "wb") as sink:
            while chunk := stream.read(_CHUNK):
                _write(sink, chunk, part, size - written)
                known.update(chunk)
                written += len(chunk)
            _to_disk(sink, part)
        if written != size:
            raise EOFError(f"{member.path} ends after {written:,} of {size:,} bytes")
        if member.sha256 is not None and known.hexdigest() != member.sha256:
            raise DataError(
                f"take {member.path} out of {obtained.path}",
                f"sha256 {known.hexdigest()} instead of {member.sha256}",
                "get the published archive",
            )
        facts = {**_stamp(part), "sha256": known.hexdigest(), "archive": obtained.sha256}
        # the record first, as for a download
        _remember(_own_record(target), facts)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)

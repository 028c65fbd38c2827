"""Published files: where they are looked for, how they are fetched, and all that can go wrong on the way."""

import errno
import hashlib
import http.server
import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from chemscale.catalogue import CATALOGUE, Member, Published
from chemscale.data import archives, downloads
from chemscale.data import cache as cache_files
from chemscale.data.archives import members
from chemscale.data.downloads import obtain
from chemscale.errors import DataError

CONTENT = bytes(range(256)) * 12_000  # three chunks of a download
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "frames.bin"


@dataclass
class Site:
    """What a server holds and how it behaves; `cuts` are the bytes after which the next answers break off."""

    url: str = ""
    content: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    if_range: bool = True
    etag: str | None = '"one"'
    modified: str | None = None
    length: bool = True
    delay: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self):
        site, path = self.site, self.path
        wanted = self.headers.get("Range")
        site.requests.append((path, wanted))
        time.sleep(site.delay)
        status = site.status.get(path, 200)
        if path not in site.content:
            status = 404
        body = site.content.get(path, b"")
        begin = 0
        if status == 200 and wanted and site.ranges:
            same = self.headers.get("If-Range") in (None, site.etag, site.modified)
            if same or not site.if_range:
                begin = int(wanted.removeprefix("bytes=").rstrip("-"))
                status = 206 if begin < len(body) else 416
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if site.length:
            self.send_header("Content-Length", str(len(body) - begin))
        if site.etag:
            self.send_header("ETag", site.etag)
        if site.modified:
            self.send_header("Last-Modified", site.modified)
        self.end_headers()
        rest = body[begin:] if status != 416 else b""
        if site.cuts and rest:
            rest = rest[: site.cuts.pop(0)]
        self.wfile.write(rest)
        site.sent += len(rest)

    def log_message(self, *values):
        pass


@pytest.fixture
def site():
    site = Site()
    handler = type("SiteHandler", (Handler,), {"site": site})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No data folder of the machine, no proxy, and no long waits."""
    for name in ("DATA_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloads, "_BACKOFF", 0.001)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def entry(site):
    site.content["/" + FILE] = CONTENT
    return published(urls=(f"{site.url}/{FILE}",), size=len(CONTENT), sha256=SHA256)


def published(**facts):
    known = {
        "name": "frames",
        "domain": "potentials",
        "version": "2",
        "file": FILE,
        "parser": "none",
        "licence": "CC0-1.0",
        "citation": "nobody",
    }
    return Published(**{**known, **facts})


def no_connection(monkeypatch):
    def refuse(*values, **named):
        raise AssertionError("a connection is opened, or a process started")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


# found nearby


def test_a_file_is_fetched_once_and_checked(entry, site, cache, capsys, monkeypatch):
    found = obtain(entry, cache)
    assert (found.path, found.sha256, found.size, found.md5) == (cache / "frames-2" / FILE, SHA256, len(CONTENT), None)
    assert found.path.read_bytes() == CONTENT
    no_connection(monkeypatch)
    monkeypatch.setattr(cache_files, "digests", None)  # its hash is known
    assert obtain(entry, cache, offline=True) == obtain(entry, cache) == found
    assert len(site.requests) == 1
    assert {path.name for path in found.path.parent.iterdir()} == {FILE, f"{FILE}.lock", f"{FILE}.sha256.json"}
    assert capsys.readouterr() == ("", ""), "the progress is for terminals"


def test_an_explicit_file_or_folder_is_used_in_place(entry, site, cache, tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / FILE).write_bytes(CONTENT)
    other = tmp_path / "renamed.dat"
    other.write_bytes(CONTENT)
    folder.chmod(0o555)
    no_connection(monkeypatch)
    for path, expected in ((folder, folder / FILE), (folder / FILE, folder / FILE), (other, other)):
        found = obtain(entry, cache, path=path)
        assert (found.path, found.sha256, found.size) == (expected, SHA256, len(CONTENT))
    assert [path.name for path in folder.iterdir()] == [FILE]
    assert not (cache / "frames-2").exists()
    monkeypatch.setattr(cache_files, "digests", None)  # known by path, size and time of change
    assert obtain(entry, cache, path=folder).sha256 == SHA256


def test_an_explicit_path_is_never_replaced_by_another_file(entry, site, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (tmp_path / FILE).write_bytes(CONTENT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"none\.bin: found no such file; .*wget -O frames\.bin http"):
        obtain(entry, cache, path=tmp_path / "none.bin")
    with pytest.raises(DataError, match=r"empty: found a folder without it"):
        obtain(entry, cache, path=tmp_path / "empty")
    os.mkfifo(tmp_path / "fifo.bin")
    (tmp_path / "zero.bin").symlink_to("/dev/zero")
    for name in ("fifo.bin", "zero.bin"):
        with pytest.raises(DataError, match=rf"{name}: found no such file"):
            obtain(entry, cache, path=tmp_path / name)
    assert not site.requests


def test_the_order_of_looking(entry, site, cache, tmp_path, monkeypatch):
    mirror, own = tmp_path / "mirror", tmp_path / "own"
    for folder in (mirror, own):
        folder.mkdir()
    site.content[f"/elsewhere/{FILE}"] = CONTENT
    assert obtain(entry, tmp_path / "a", mirror=f"{site.url}/elsewhere/").path == tmp_path / "a" / "frames-2" / FILE
    assert site.requests == [(f"/elsewhere/{FILE}", None)]
    (mirror / FILE).write_bytes(CONTENT)
    assert obtain(entry, cache, mirror=str(mirror), offline=True).path == mirror / FILE
    (cache / "frames-2").mkdir()
    (cache / "frames-2" / FILE).write_bytes(CONTENT)
    assert obtain(entry, cache, mirror=str(mirror)).path == cache / "frames-2" / FILE
    monkeypatch.setenv("DATA_DIR", str(own))
    assert obtain(entry, cache, mirror=str(mirror)).path == cache / "frames-2" / FILE
    (own / FILE).write_bytes(CONTENT)
    assert obtain(entry, cache, mirror=str(mirror)).path == own / FILE
    assert len(site.requests) == 1


def test_a_mirror_without_the_file_is_passed_over_but_a_missing_one_is_not(entry, site, cache, tmp_path, caplog):
    with pytest.raises(DataError, match=r"in the mirror .*none: found no such folder"):
        obtain(entry, cache, mirror=str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"in the mirror ftp://host: found no such folder"):
        obtain(entry, cache, mirror="ftp://host")
    found = obtain(entry, cache, mirror=f"{site.url}/elsewhere")
    assert found.path.read_bytes() == CONTENT
    assert f"{site.url}/elsewhere/{FILE}: HTTP 404" in caplog.text


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({"urls": ("https://host.example/f?download=1",)}, "wget -O frames.bin 'https://host.example/f?download=1'"),
        ({"distribution": "frames==2"}, "pip download --no-deps frames==2"),
        ({"package": "no_such_frames"}, "pip install no_such_frames==2"),
    ],
)
def test_offline_opens_no_connection_and_says_how_to_get_the_file(facts, command, cache, monkeypatch):
    no_connection(monkeypatch)
    entry = published(size=12_345, sha256=SHA256, **facts)
    for mirror in (None, "http://host.example/mirror"):
        with pytest.raises(DataError) as caught:
            obtain(entry, cache, offline=True, mirror=mirror)
        for words in (FILE, "12,345 bytes", SHA256, "offline", command):
            assert words in str(caught.value)
    assert not cache.exists()


def test_a_file_of_an_installed_package_is_used_where_it_is(cache, monkeypatch):
    no_connection(monkeypatch)
    entry = CATALOGUE["chemicals"]
    found = obtain(entry, cache)
    assert found.path.name == Path(entry.file).name
    assert found.sha256 == entry.sha256
    assert "chemicals" not in sys.modules
    with pytest.raises(
        DataError, match=r"found sha256 3b9a.* instead of 000.*pip install --force-reinstall chemicals=="
    ):
        obtain(replace(entry, sha256="0" * 64), cache)
    with pytest.raises(DataError, match=r"no such package or file; get it by `pip install chemicals==1\.5\.2`"):
        obtain(replace(entry, file="none.tsv"), cache)


# found nearby, and wrong


def test_a_wrong_file_is_named_with_both_hashes(entry, site, cache, tmp_path, monkeypatch):
    wrong = bytearray(CONTENT)
    wrong[1000] ^= 1
    own = tmp_path / "own"
    own.mkdir()
    (own / FILE).write_bytes(wrong)
    monkeypatch.setenv("DATA_DIR", str(own))
    both = f"found sha256 {hashlib.sha256(wrong).hexdigest()} instead of {SHA256}"
    with pytest.raises(DataError, match=f"{own / FILE} .*{both}; put the published file there"):
        obtain(entry, cache)
    monkeypatch.delenv("DATA_DIR")
    cached = cache / "frames-2" / FILE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(wrong)
    with pytest.raises(DataError, match=f"{both}; delete {cached}; the next run fetches it again"):
        obtain(entry, cache)
    cached.unlink()
    assert not site.requests
    assert obtain(entry, cache).sha256 == SHA256


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\n <!DOCTYPE HTML><html>", "an HTML page instead of the data"),
        (b"short", "5 bytes instead of 3,072,000"),
    ],
)
def test_a_file_that_is_wrong_at_first_sight_is_not_even_hashed(entry, cache, tmp_path, monkeypatch, content, found):
    (tmp_path / FILE).write_bytes(content)
    monkeypatch.setattr(cache_files, "digests", None)
    with pytest.raises(DataError, match=f"found {found}"):
        obtain(entry, cache, path=tmp_path)


def test_a_cached_file_of_an_unpinned_source_that_changed_is_refused(entry, site, cache):
    entry = replace(entry, sha256=None, size=None)
    path = obtain(entry, cache).path
    path.touch()
    assert obtain(entry, cache).sha256 == SHA256  # the same content at another time
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError, match=f"where the file had {SHA256} when it was put there; delete it and"):
        obtain(entry, cache)
    assert len(site.requests) == 1
    path.unlink()
    assert obtain(entry, cache).sha256 == SHA256


def test_a_record_that_says_nothing_is_made_again(entry, cache):
    path = obtain(entry, cache).path
    record = path.with_name(f"{FILE}.sha256.json")
    for text in ("no JSON", "[]", '{"sha256": 1}'):
        record.write_text(text)
        assert obtain(entry, cache).sha256 == SHA256
        assert json.loads(record.read_text())["sha256"] == SHA256


def test_ones_own_file_may_change_and_is_hashed_again(cache, tmp_path, monkeypatch):
    own = tmp_path / "own.smi"
    for content in (b"CC", b"CCO"):
        own.write_bytes(content)
        found = downloads.hashes(own, cache, md5=True)
        assert (found.sha256, found.md5) == (hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest())
    assert len(list((cache / "verified").iterdir())) == 1
    monkeypatch.setattr(cache_files, "digests", lambda path, md5: own.write_bytes(b"C" * 9) and {"sha256": ""})
    own.write_bytes(b"CCCC")
    with pytest.raises(DataError, match="a file that changes meanwhile"):
        downloads.hashes(own, cache)
    with pytest.raises(DataError, match="No such file"):
        downloads.hashes(tmp_path / "none.smi", cache)


def test_a_cache_that_cannot_be_written_still_serves_what_it_holds(entry, site, cache, tmp_path, monkeypatch):
    path = obtain(entry, cache).path
    path.with_name(f"{FILE}.sha256.json").unlink()

    def refuse(*values):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(cache_files, "write_json", refuse)
    assert obtain(entry, cache).sha256 == SHA256
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match=r"write to the cache .*file/frames-2: found (Not a directory|File exists)"):
        obtain(entry, file)


# fetched, and wrong


@pytest.mark.parametrize(
    ("body", "status", "found"),
    [
        (b"", 202, "HTTP 202 without the data"),
        (b"", 200, "an empty answer"),
        (b"  \n<!DOCTYPE html><p>Sorry", 200, "an HTML page instead of the data"),
        (b"<HTML>", 200, "an HTML page instead of the data"),
        (CONTENT[:-1], 200, "3,071,999 bytes instead of 3,072,000"),
        (CONTENT[:-1] + b"!", 200, f"sha256 .* instead of {SHA256}"),
        (b"", 404, "HTTP 404 Not Found"),
        (b"", 403, "HTTP 403 Forbidden"),
        (b"", 503, "HTTP 503 Service Unavailable"),
    ],
)
def test_an_answer_that_is_not_the_file_leaves_nothing(entry, site, cache, body, status, found):
    site.content["/" + FILE], site.status["/" + FILE] = body, status
    with pytest.raises(
        DataError, match=rf"found {found} at {site.url}/{FILE}; get it by `wget -O frames\.bin"
    ) as caught:
        obtain(entry, cache)
    assert f"into {cache / 'frames-2'} or into a folder that DATA_DIR names" in str(caught.value)
    assert [path.name for path in (cache / "frames-2").iterdir()] == [f"{FILE}.lock"]
    assert len(site.requests) == (5 if status == 503 else 1)


def test_another_address_is_asked_and_every_failure_told(entry, site, cache, caplog):
    site.content["/wrong"] = CONTENT[:-1] + b"!"
    site.content["/page"] = b"<html>"
    first = (f"{site.url}/none", f"{site.url}/page", f"{site.url}/wrong")
    with pytest.raises(DataError) as caught:
        obtain(replace(entry, urls=first), cache)
    for words in ("HTTP 404 Not Found", "an HTML page", "instead of " + SHA256, *first):
        assert words in str(caught.value)
    assert obtain(replace(entry, urls=(*first, f"{site.url}/{FILE}")), cache).sha256 == SHA256


def test_no_server_at_all_is_told_at_once(entry, site, cache):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/{FILE}"
    with pytest.raises(DataError, match=r"no connection \(\[Errno 111\] Connection refused\)"):
        obtain(replace(entry, urls=(url,)), cache)
    with pytest.raises(DataError, match="no address"):
        obtain(replace(entry, urls=(f"{site.url}/a b",)), cache)


def test_a_length_that_nobody_tells_is_no_way_to_know_the_end(entry, site, cache):
    site.length = False
    with pytest.raises(DataError, match="does not tell its length"):
        obtain(replace(entry, sha256=None, size=None), cache)
    assert obtain(entry, cache).sha256 == SHA256


# cut, and gone on with


def test_a_cut_connection_is_gone_on_with_in_the_same_call(entry, site, cache):
    site.cuts = [1_000_000, 500_000]
    assert obtain(entry, cache).path.read_bytes() == CONTENT
    assert [wanted for _, wanted in site.requests] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert site.sent == len(CONTENT), "no byte is fetched twice"


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(
    "validators", [{"etag": '"one"'}, {"etag": None, "modified": "Wed, 21 Oct 2015 07:28:00 GMT"}, {"etag": None}]
)
def test_what_a_cut_left_is_gone_on_with_by_the_next_call(entry, site, cache, pinned, validators):
    vars(site).update(validators)
    if not pinned:
        entry = replace(entry, sha256=None, size=None)
    site.cuts = [600_000] + [100] * 4
    with pytest.raises(
        DataError, match=r"a connection cut after [\d,]+ of 3,072,000 bytes .*; [\d,]+ bytes of it are in"
    ):
        obtain(entry, cache)
    part = cache / "frames-2" / f"{FILE}.part"
    have = part.stat().st_size
    assert not part.with_suffix("").exists()
    sent = site.sent
    assert obtain(entry, cache).path.read_bytes() == CONTENT
    known = pinned or validators["etag"] is not None or "modified" in validators
    # without a checksum, and without a name for the state of the file, nobody knows that it is the same one
    assert site.sent - sent == len(CONTENT) - (have if known else 0)
    assert not part.exists()


def test_a_server_without_ranges_starts_over(entry, site, cache):
    site.ranges, site.cuts = False, [1_000_000]
    assert obtain(entry, cache).path.read_bytes() == CONTENT
    assert site.sent == len(CONTENT) + 1_000_000


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("size", [len(CONTENT), 500_000])
def test_a_file_that_changed_at_the_server_starts_over(entry, site, cache, if_range, size):
    entry = replace(entry, sha256=None, size=None)
    site.cuts = [1_000_000, 1, 1, 1, 1]
    with pytest.raises(DataError, match="cut after"):
        obtain(entry, cache)
    changed = bytes(255 - value for value in CONTENT[:size])
    site.content["/" + FILE], site.etag, site.if_range = changed, '"two"', if_range
    assert obtain(entry, cache).path.read_bytes() == changed


def test_the_rest_may_come_from_another_address_where_the_checksum_is_known(entry, site, cache):
    site.content["/other"] = CONTENT
    site.cuts = [1_000_000, 1, 1, 1, 1]
    with pytest.raises(DataError, match="cut after"):
        obtain(entry, cache)
    have, site.sent = 1_000_004, 0
    other = replace(entry, urls=(f"{site.url}/other",))
    assert obtain(other, cache).path.read_bytes() == CONTENT
    assert site.sent == len(CONTENT) - have
    site.cuts = [1_000_000, 1, 1, 1, 1]
    entry, other = replace(entry, version="3", sha256=None), replace(other, version="3", sha256=None)
    with pytest.raises(DataError, match="cut after"):
        obtain(entry, cache)
    site.sent = 0
    assert obtain(other, cache).path.read_bytes() == CONTENT
    assert site.sent == len(CONTENT)


def test_a_page_or_a_refusal_leaves_the_beginning_alone(entry, site, cache):
    site.cuts = [1_000_000, 1, 1, 1, 1]
    with pytest.raises(DataError, match="cut after"):
        obtain(entry, cache)
    part = cache / "frames-2" / f"{FILE}.part"
    for body, status in ((b"<html>busy", 200), (b"", 202), (b"", 404), (b"", 500)):
        site.content["/" + FILE], site.status["/" + FILE], site.ranges = body, status, False
        with pytest.raises(DataError):
            obtain(entry, cache)
        assert part.read_bytes() == CONTENT[:1_000_004]


@pytest.mark.parametrize("etag", ['"one"', 'W/"weak"', None])
def test_a_complete_part_is_only_checked(entry, site, cache, monkeypatch, etag):
    site.etag = etag
    accept = downloads._accept

    def die(*values):
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads, "_accept", die)
    with pytest.raises(KeyboardInterrupt):
        obtain(entry, cache)
    monkeypatch.setattr(downloads, "_accept", accept)
    assert obtain(entry, cache).sha256 == SHA256
    assert len(site.requests) == 1


# no room


def test_a_disk_that_is_too_small_is_told_before_it_is_full(entry, site, cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 999, 999))
    message = (
        rf"takes 3,072,000 more bytes in {cache / 'frames-2'}: found 999 bytes free \(No space left on device\); make"
    )
    with pytest.raises(DataError, match=message):
        obtain(entry, cache)
    assert not (cache / "frames-2" / FILE).exists()


def test_a_disk_that_fills_up_leaves_no_file(entry, site, cache, monkeypatch):
    monkeypatch.setattr(downloads, "opened", lambda path, mode: open("/dev/full", mode))  # noqa: SIM115
    with pytest.raises(DataError, match=r"frames\.bin\.part, which takes 3,072,000 more bytes .*No space left"):
        obtain(entry, cache)
    assert not (cache / "frames-2" / FILE).exists()
    monkeypatch.undo()
    assert obtain(entry, cache).sha256 == SHA256


# published checksums of a file that changes in place


@pytest.fixture
def changing(entry, site):
    site.content[f"/{FILE}.md5"] = f"{hashlib.md5(CONTENT).hexdigest()}  {FILE}\n".encode()
    return replace(entry, sha256=None, size=None, md5_url=f"{site.url}/{FILE}.md5")


def test_a_published_md5_is_compared_once(changing, site, cache):
    found = obtain(changing, cache)
    assert found.md5 == hashlib.md5(CONTENT).hexdigest()
    site.content["/" + FILE] = b"a later snapshot"
    assert obtain(changing, cache) == found
    assert len(site.requests) == 2


@pytest.mark.parametrize(
    ("sidecar", "found"),
    [
        (b"0" * 32 + b"  frames.bin\n", f"md5 {hashlib.md5(CONTENT).hexdigest()} instead of the published 000"),
        (b"<html>", "no md5 in http"),
        (b"", "no md5 in http"),
        (None, r"no checksum from http.*\(HTTP 404 Not Found\)"),
    ],
)
def test_a_download_that_its_md5_does_not_confirm_is_refused(changing, site, cache, sidecar, found):
    if sidecar is None:
        del site.content[f"/{FILE}.md5"]
    else:
        site.content[f"/{FILE}.md5"] = sidecar
    with pytest.raises(DataError, match=found):
        obtain(changing, cache)
    assert [path.name for path in (cache / "frames-2").iterdir()] == [f"{FILE}.lock"]


def test_a_mirror_brings_its_own_md5(changing, site, cache):
    site.content[f"/elsewhere/{FILE}"] = b"another snapshot"
    site.content[f"/elsewhere/{FILE}.md5"] = hashlib.md5(b"another snapshot").hexdigest().encode()
    found = obtain(changing, cache, mirror=f"{site.url}/elsewhere")
    assert found.path.read_bytes() == b"another snapshot"


def test_an_md5_beside_ones_own_file_is_compared(changing, cache, tmp_path):
    (tmp_path / FILE).write_bytes(CONTENT)
    assert obtain(changing, cache, path=tmp_path).md5 == hashlib.md5(CONTENT).hexdigest()
    (tmp_path / f"{FILE}.md5").write_text("0" * 32)
    with pytest.raises(DataError, match=r"instead of 0{32} in frames\.bin\.md5"):
        obtain(changing, cache, path=tmp_path)


# several processes


def test_two_processes_fetch_it_once(entry, site, cache):
    site.delay = 0.5
    code = (
        "import sys; from pathlib import Path; from chemscale.catalogue import Published;"
        "from chemscale.data.downloads import obtain;"
        "entry = Published('frames', 'potentials', '2', 'frames.bin', 'none', 'CC0-1.0', 'me', urls=(sys.argv[2],));"
        "print(obtain(entry, Path(sys.argv[1])).sha256)"
    )
    command = [sys.executable, "-c", code, str(cache), entry.urls[0]]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == [SHA256] * 2
    assert len(site.requests) == 1


def test_waiting_for_another_process_is_told(entry, cache, caplog):
    caplog.set_level(logging.INFO, "chemscale.data")
    path = cache / "frames-2" / FILE
    found = []
    with cache_files.locked(path):
        waiting = threading.Thread(target=lambda: found.append(obtain(entry, cache, mirror=None)))
        waiting.start()
        deadline = time.monotonic() + 30
        while "waiting for it" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "another process is bringing frames.bin here" in caplog.text
    waiting.join()
    assert found[0].sha256 == SHA256


def test_a_disk_without_locks_is_told(entry, cache, monkeypatch):
    def refuse(*values):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(cache_files.fcntl, "flock", refuse)
    with pytest.raises(DataError, match=r"lock .*frames\.bin\.lock: found Function not implemented; name a cache on"):
        obtain(entry, cache)


# by pip


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in a folder that pip knows as its only place, and the entry that asks for it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    name = "tinysets-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("tinysets/data/train.csv", "SMILES\nCCO\n")
        archive.writestr("tinysets/data/test.csv", "SMILES\nC\n")
        metadata = "tinysets-1.0.dist-info"
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: tinysets\nVersion: 1.0\n")
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{metadata}/RECORD", "")
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    wanted = (Member("tinysets/data/train.csv"), Member("tinysets/data/test.csv"))
    return published(name="tiny", file=name, distribution="tinysets==1.0", members=wanted)


def test_a_wheel_comes_by_the_users_own_pip_and_is_not_installed(wheel, cache, monkeypatch):
    found = obtain(wheel, cache)
    assert found.path == cache / "tiny-2" / wheel.file
    assert [path.read_text() for path in members(found, wheel, cache)] == ["SMILES\nCCO\n", "SMILES\nC\n"]
    assert not (cache / "tiny-2" / f"{wheel.file}.pip").exists()
    no_connection(monkeypatch)
    assert obtain(wheel, cache) == found
    assert not any(Path(place, "tinysets").exists() for place in sys.path)


def test_pip_that_finds_nothing_or_another_file_is_told(wheel, cache):
    other = replace(wheel, distribution="tinysets==9.9")
    with pytest.raises(
        DataError, match=r"pip download tinysets==9\.9 without success \(ERROR: .*by `pip download --no-deps"
    ):
        obtain(other, cache)
    other = replace(wheel, file="tinysets-1.0.zip")
    with pytest.raises(DataError, match=r"with tinysets-1\.0-py3-none-any\.whl instead of tinysets-1\.0\.zip"):
        obtain(other, cache)
    with pytest.raises(DataError, match=f"sha256 .* instead of {SHA256}"):
        obtain(replace(wheel, sha256=SHA256), cache)
    assert all(path.name.endswith(".lock") for path in (cache / "tiny-2").iterdir())


def test_what_a_killed_pip_left_is_cleared(wheel, cache):
    left = cache / "tiny-2" / f"{wheel.file}.pip"
    left.mkdir(parents=True)
    (left / wheel.file).write_bytes(b"a beginning")
    assert zipfile.is_zipfile(obtain(wheel, cache).path)


# members


def tar_of(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("a/link.npz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return packed.getvalue()


def zip_of(files):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(100_000))
FILES = {
    "../../outside.npz": b"not wanted",
    "a/one.npz": NOISE,
    "a/two.npz": b"2",
    "a/other.npz": b"3",
}
ARCHIVES = pytest.mark.parametrize(("name", "pack"), [("set.zip", zip_of), ("set.tar.bz2", tar_of)])


def archive_of(tmp_path, name, content, wanted=("a/two.npz", "a/one.npz")):
    entry = published(file=name, urls=("http://host.example/",), members=tuple(Member(path) for path in wanted))
    (tmp_path / name).write_bytes(content)
    return entry, obtain(entry, tmp_path / "cache", path=tmp_path)


@ARCHIVES
def test_members_are_taken_out_once_in_one_pass(tmp_path, cache, monkeypatch, name, pack):
    entry, found = archive_of(tmp_path, name, pack(FILES))
    paths = members(found, entry, cache)
    assert paths == [cache / "frames-2" / "two.npz", cache / "frames-2" / "one.npz"]
    assert [path.read_bytes() for path in paths] == [b"2", FILES["a/one.npz"]]
    assert {path.name for path in tmp_path.iterdir()} == {name, "cache"}
    assert not (tmp_path.parent / "outside.npz").exists()
    monkeypatch.setattr(archives, "_take_out", None)
    assert members(found, entry, cache) == paths


@ARCHIVES
def test_members_are_taken_out_again_where_something_changed(tmp_path, cache, name, pack):
    entry, found = archive_of(tmp_path, name, pack(FILES))
    two, one = members(found, entry, cache)
    two.write_bytes(b"spoilt")
    one.unlink()
    assert [path.read_bytes() for path in members(found, entry, cache)] == [b"2", FILES["a/one.npz"]]
    entry, found = archive_of(tmp_path, name, pack({**FILES, "a/two.npz": b"new"}))
    assert members(found, entry, cache)[0].read_bytes() == b"new"


@ARCHIVES
def test_a_missing_or_a_wrong_member_is_named(tmp_path, cache, name, pack):
    entry, found = archive_of(tmp_path, name, pack(FILES), ("a/one.npz", "b/none.npz"))
    with pytest.raises(
        DataError, match=r"take b/none\.npz out of .*: found an archive of \.\./\.\./outside\.npz, a/two"
    ):
        members(found, entry, cache)
    wrong = replace(entry, members=(Member("a/two.npz", "0" * 64),))
    with pytest.raises(DataError, match=r"take a/two\.npz out of .*: found sha256 d4735e.* instead of 0000"):
        members(found, wrong, cache)
    assert not (cache / "frames-2" / "two.npz").exists()
    right = replace(entry, members=(Member("a/two.npz", hashlib.sha256(b"2").hexdigest()),))
    assert members(found, right, cache)[0].read_bytes() == b"2"


@ARCHIVES
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, cache, name, pack):
    whole = pack(FILES)
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 255
    for content in (whole[: len(whole) // 2], bytes(spoilt), b"no archive at all"):
        entry, found = archive_of(tmp_path, name, content)
        with pytest.raises(
            DataError, match=rf"out of {tmp_path / name}: found a damaged archive \(.*\); put the published"
        ):
            members(found, entry, cache)
        assert not [path for path in (cache / "frames-2").iterdir() if path.suffix in (".npz", ".part")]


def test_a_damaged_archive_of_the_cache_is_to_be_deleted(tmp_path, cache):
    entry, _ = archive_of(tmp_path, "set.zip", b"no archive")
    cached = cache / "frames-2" / "set.zip"
    cached.parent.mkdir(exist_ok=True)
    cached.write_bytes(b"no archive")
    with pytest.raises(DataError, match=f"delete {cached}; the next run fetches it again"):
        members(obtain(entry, cache), entry, cache)


def test_a_link_is_no_member(tmp_path, cache):
    entry, found = archive_of(tmp_path, "set.tar.bz2", tar_of(FILES), ("a/link.npz",))
    with pytest.raises(DataError, match=r"take a/link\.npz out of"):
        members(found, entry, cache)


def test_an_encrypted_member_is_told(tmp_path, cache):
    content = bytearray(zip_of({"a/two.npz": b"2"}))
    content[6] |= 1  # the flag in the local and in the central header
    content[content.index(b"PK\x01\x02") + 8] |= 1
    entry, found = archive_of(tmp_path, "set.zip", bytes(content), ("a/two.npz",))
    with pytest.raises(DataError, match=r"a damaged archive \(a/two\.npz: .*encrypted"):
        members(found, entry, cache)


def test_no_room_for_a_member_is_told(tmp_path, cache, monkeypatch):
    entry, found = archive_of(tmp_path, "set.zip", zip_of(FILES))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 0))
    with pytest.raises(DataError, match="which takes 3,200,000 more bytes"):
        members(found, entry, cache)


# the catalogue keeps what this module counts on


def test_rows_of_the_catalogue_can_be_fetched():
    for entry in CATALOGUE.values():
        assert sum(map(bool, (entry.urls, entry.distribution, entry.package))) == 1
        names = [Path(member.path).name for member in entry.members]
        assert len(set(names)) == len(names), "members share a folder of the cache"
        assert Path(entry.file).name not in names
        if entry.distribution is not None:
            assert entry.file.endswith(".whl"), "pip would run the code of a source distribution"

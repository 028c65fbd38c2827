"""What a file is by its first bytes, where it is not the table or list of molecules that its name promises."""

from __future__ import annotations

import re
from typing import NamedTuple

from chemscale.data.downloads import is_html

BEGINNING = 4096  # bytes that are enough to tell
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Kind(NamedTuple):
    """What a file is, and what its owner can do about it."""

    name: str
    do: str


_GIVE_TABLE = "give a table or a list of SMILES"
_UNPACK = "unpack it, or pack it with gzip (.gz)"
_SAVE_CSV = "save it as CSV (UTF-8)"
_CONVERT = "convert it to a list of SMILES, for instance with RDKit or Open Babel"

# by the bytes that a file begins with
_SIGNATURES = (
    (
        b"version https://git-lfs.github.com/spec/",
        Kind("a pointer of git LFS, the file itself is not here", "fetch it: git lfs pull"),
    ),
    (b"/annex/objects/", Kind("a pointer of git-annex, the file itself is not here", "fetch it: git annex get")),
    (b"\xff\xfe", Kind("text in UTF-16", "save it as UTF-8")),
    (b"\xfe\xff", Kind("text in UTF-16", "save it as UTF-8")),
    (b"\x1f\x8b", Kind("a gzip file", "end its name in .gz, or unpack it")),
    (b"\xfd7zXZ\0", Kind("an xz file", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", Kind("a zstd file", _UNPACK)),
    (b"\x04\x22\x4d\x18", Kind("an lz4 file", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (b"Rar!\x1a\x07", Kind("a rar archive", _UNPACK)),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an Excel file (xls) or another file of old Office", _SAVE_CSV)),
    (b"PAR1", Kind("a Parquet file", "end its name in .parquet")),
    (b"ARROW1", Kind("an Arrow file", "save it as Parquet")),
    (b"\x89HDF", Kind("an HDF5 file", _GIVE_TABLE)),
    (b"SQLite format 3\0", Kind("an SQLite database", "export its table as CSV")),
    (b"\x93NUMPY", Kind("a NumPy file", _GIVE_TABLE)),
    (b"%PDF-", Kind("a PDF file", _GIVE_TABLE)),
    (b"$RXN", Kind("a reaction file (RXN)", _GIVE_TABLE)),
    (b"$RDFILE", Kind("a reaction file (RDF)", _GIVE_TABLE)),
    (b"{\\rtf", Kind("a text document (RTF)", _SAVE_CSV)),
    (b"<?xml", Kind("an XML file", _GIVE_TABLE)),
)
# by what stands further on
_PATTERNS = (
    (re.compile(rb"BZh[1-9]1AY&SY"), Kind("a bzip2 file", _UNPACK)),
    (re.compile(rb"\x80[\x02-\x05]"), Kind("a Python pickle", "save the table as CSV or Parquet")),
    (re.compile(rb"(?s:.{257})ustar"), Kind("a tar archive", _UNPACK)),
    (re.compile(rb"\s*(?:\{\s*\"|\[\s*\{)"), Kind("JSON", "save it as CSV or Parquet")),
    (re.compile(rb"(?:.*\r?\n){3}[ \d]+V[23]000[ \t]*(?:[\r\n]|\Z)"), Kind("an SDF or MOL file", _CONVERT)),
    (re.compile(rb"(?:#.*\r?\n|\s)*@<TRIPOS>"), Kind("a MOL2 file", _CONVERT)),
    (
        re.compile(
            rb"(?:HEADER|TITLE |COMPND|AUTHOR|REMARK|CRYST1|MODEL )  .*\r?\n(?:[A-Z0-9]{3,6}\b.*\r?\n)"
            rb"|(?:ATOM  |HETATM) *\d+ .*\d\.\d{3} *-?\d+\.\d{3}"
        ),
        Kind("a PDB file", _CONVERT),
    ),
    (re.compile(rb"(?:#.*\r?\n)*data_[^\s,;|\"]*[ \t]*\r?\n(?:#.*\r?\n|\s)*(?:_|loop_)"), Kind("a CIF file", _CONVERT)),
    (
        re.compile(rb" *\d+ *\r?\n.*\r?\n *[A-Z][a-z]?(?:\s+-?\d+\.\d*(?:[eE][-+]?\d+)?){3}"),
        Kind("an XYZ file", "give molecules as SMILES, or name it as structures"),
    ),
)


def foreign_kind(beginning: bytes) -> Kind | None:
    """What a file is by its first bytes, `BEGINNING` of them; None where they may be a table or a list of molecules."""
    bare = beginning.removeprefix(BYTE_ORDER_MARK)
    if not bare:
        return Kind("an empty file", "give a file with at least one molecule")
    if is_html(beginning):
        return Kind("an HTML page instead of the data", "fetch the file itself, not its page")
    if beginning.startswith(b"PK\x03\x04"):
        return _zip_kind(beginning)
    if beginning.startswith(b"PK\x05\x06"):
        return Kind("an empty zip archive", _UNPACK)
    if len(beginning) >= 16 and not beginning.strip(b"\0"):
        return Kind("a file that begins with bytes of zero", "give the whole file: this one is damaged or a hole")
    for signature, kind in _SIGNATURES:
        if bare.startswith(signature):
            return kind
    for pattern, kind in _PATTERNS:
        if pattern.match(bare):
            return kind
    # without a byte order mark: every second byte of Latin text is zero
    if len(bare) >= 8 and (not bare[1:8:2].strip(b"\0") or not bare[0:8:2].strip(b"\0")) and bare[:8].strip(b"\0"):
        return Kind("text in UTF-16", "save it as UTF-8")
    return None


def _zip_kind(beginning: bytes) -> Kind:
    if b"mimetypeapplication/vnd.oasis.opendocument" in beginning:
        return Kind("a spreadsheet of LibreOffice (ods)", _SAVE_CSV)
    if b"[Content_Types].xml" in beginning or b"xl/" in beginning:
        return Kind("an Excel file (xlsx)", _SAVE_CSV)
    return Kind("a zip archive", _UNPACK)

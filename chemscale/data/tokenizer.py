"""One token per SELFIES symbol, with the special ids of the published ChemGPT tokenizer; token shards and manifest.

The vocabulary is built from training molecules alone: a symbol that only other splits show becomes [UNK] there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.data.shards import LANGUAGE_SCHEMA, write_manifest, write_shards
from chemscale.data.subsets import split_of
from chemscale.errors import DataError
from chemscale.io import digest, read_json, read_parquet, write_json

SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
UNK, PAD, CLS, SEP, MASK = range(len(SPECIAL))
# ids are stored in 16 bits
_MAX_VOCABULARY = 2**16
_SYMBOL = re.compile(r"\[[^\]]*\]|\.")


def symbols(selfies: str) -> list[str]:
    """The symbols of a SELFIES string, in order; "." between fragments is one of them."""
    return _SYMBOL.findall(selfies)


class Tokenizer:
    """Symbols to ids and back: the five special ones first, then the vocabulary in the order of its text."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        """`vocabulary`: all tokens in the order of their ids, the special ones included."""
        self.vocabulary = tuple(vocabulary)
        self._ids = {symbol: index for index, symbol in enumerate(self.vocabulary)}

    @classmethod
    def build(cls, strings: Iterable[str], min_count: int = 1) -> Tokenizer:
        """The tokenizer of all symbols that stand at least `min_count` times in these SELFIES strings."""
        counts = Counter(symbol for selfies in strings for symbol in symbols(selfies))
        known = sorted(symbol for symbol, count in counts.items() if count >= min_count and symbol not in SPECIAL)
        if len(known) + len(SPECIAL) > _MAX_VOCABULARY:
            raise DataError("build a vocabulary", f"{len(known):,} symbols", f"at most {_MAX_VOCABULARY:,} tokens")
        return cls([*SPECIAL, *known])

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.vocabulary)

    def encode(self, selfies: str) -> list[int]:
        """The ids of a SELFIES string, [CLS] first and [SEP] last; an unknown symbol is [UNK]."""
        return [CLS, *(self._ids.get(symbol, UNK) for symbol in symbols(selfies)), SEP]

    def decode(self, ids: Iterable[int]) -> str:
        """The SELFIES string of ids, special tokens left out."""
        return "".join(self.vocabulary[index] for index in ids if index >= len(SPECIAL))

    @property
    def digest(self) -> str:
        """The digest of the vocabulary in its order."""
        return digest(list(self.vocabulary))

    def save(self, path: Path) -> None:
        """Write the vocabulary and its digest as JSON."""
        write_json(path, {"vocabulary": list(self.vocabulary), "digest": self.digest})

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """The tokenizer of a file; `DataError` where its digest does not fit its vocabulary."""
        stored = read_json(path)
        tokenizer = cls(stored["vocabulary"])
        if tokenizer.digest != stored["digest"]:
            raise DataError(f"read {path}", "a vocabulary that its digest does not match", "run the data stage again")
        return tokenizer


def prepare(section: Mapping[str, Any], folder: Path) -> None:
    """Assign splits, build the vocabulary, and write `tokenizer.json`, token shards and `manifest.json`, in this order.

    Raises:
        DataError: the molecules are not those that their ledger counts, or a split is empty.
    """
    ledger = read_json(folder / "molecules.json")
    table = read_parquet(folder / "molecules.parquet")
    if table.num_rows != ledger["rows_kept"]:
        raise DataError(
            f"read {folder / 'molecules.parquet'}",
            f"{table.num_rows:,} rows of {ledger['rows_kept']:,}",
            "run the data stage again",
        )
    molecules = table.to_pylist()
    for molecule in molecules:
        molecule["split"] = split_of(molecule["group"], section["validation"], section["test"])
    counts = Counter(molecule["split"] for molecule in molecules)
    empty = [split for split in ("train", "validation", "test") if not counts[split]]
    if empty:
        raise DataError(
            f"split {len(molecules):,} molecules", f"no molecule in {', '.join(empty)}", "use more molecules"
        )
    tokenizer = Tokenizer.build(
        (molecule["selfies"] for molecule in molecules if molecule["split"] == "train"), section["min_symbol_count"]
    )
    tokenizer.save(folder / "tokenizer.json")
    unknown: Counter[str] = Counter(dict.fromkeys(counts, 0))
    entries = write_shards(
        folder, _tokenized(molecules, tokenizer, unknown), LANGUAGE_SCHEMA, section["rows_per_shard"]
    )
    write_manifest(
        folder,
        name=folder.name,
        domain="language",
        source=ledger["source"],
        settings={key: value for key, value in section.items() if key != "workers"},
        shards=entries,
        rejected=ledger["rejected"],
        tokenizer_digest=tokenizer.digest,
        unknown=unknown,
    )


def _tokenized(
    molecules: list[dict[str, Any]], tokenizer: Tokenizer, unknown: Counter[str]
) -> Iterator[dict[str, Any]]:
    for molecule in molecules:
        tokens = tokenizer.encode(molecule["selfies"])
        unknown[molecule["split"]] += tokens.count(UNK)
        yield {**molecule, "tokens": tokens}

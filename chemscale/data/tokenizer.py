"""One token per SELFIES symbol, with the special ids of the published ChemGPT tokenizer; vocabularies and their files.

A study's vocabulary is built from its training molecules alone (a symbol that only other splits show is [UNK] there),
or pinned: read from a file whose digest the config states.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chemscale.errors import DataError
from chemscale.io import digest, read_json, read_text, write_json

SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
UNK, PAD, CLS, SEP, MASK = range(len(SPECIAL))
# ids are stored in 16 bits
MAX_VOCABULARY = 2**16
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
        return cls.of_counts(Counter(symbol for selfies in strings for symbol in symbols(selfies)), min_count)

    @classmethod
    def of_counts(cls, counts: Mapping[str, int], min_count: int = 1) -> Tokenizer:
        """The tokenizer of all symbols that were counted at least `min_count` times.

        Raises:
            DataError: there are more than 65,536 tokens.
        """
        known = sorted(symbol for symbol, count in counts.items() if count >= min_count and symbol not in SPECIAL)
        if len(known) + len(SPECIAL) > MAX_VOCABULARY:
            raise DataError("build a vocabulary", f"{len(known):,} symbols", f"at most {MAX_VOCABULARY:,} tokens")
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
        """The tokenizer of a file: one that `save` wrote, or a Hugging Face tokenizer.json or vocab.txt.

        Of a published tokenizer that also splits symbols into pieces, the whole symbols are used.

        Raises:
            DataError: it is none of these, its digest does not fit its vocabulary, or its special tokens are others.
        """
        if path.suffix == ".txt":
            return cls(_checked(path, read_text(path, error=DataError).splitlines()))
        stored = read_json(path)
        model = stored.get("model") if isinstance(stored, dict) else None
        if isinstance(model, dict) and isinstance(vocabulary := model.get("vocab"), dict):
            if not all(type(index) is int for index in vocabulary.values()):
                raise DataError(f"read {path}", "token ids that are no whole numbers", "give a tokenizer.json")
            by_id = sorted(vocabulary.items(), key=lambda item: item[1])
            if [index for _, index in by_id] != list(range(len(by_id))):
                raise DataError(f"read {path}", "token ids with gaps", "give a vocabulary of consecutive ids")
            return cls(_checked(path, [token for token, _ in by_id]))
        if not isinstance(stored, dict) or not isinstance(stored.get("vocabulary"), list):
            raise DataError(
                f"read the vocabulary {path}", "neither vocabulary nor model.vocab", "give a tokenizer.json"
            )
        tokenizer = cls(_checked(path, stored["vocabulary"]))
        if tokenizer.digest != stored.get("digest"):
            raise DataError(f"read {path}", "a vocabulary that its digest does not match", "run the data stage again")
        return tokenizer

    def hugging_face_files(self) -> dict[str, Any]:
        """The files of a Hugging Face tokenizer folder, as JSON values by name.

        `transformers.AutoTokenizer` of such a folder takes a SELFIES string and adds [CLS] and [SEP].
        """
        special = [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, token in enumerate(SPECIAL)
        ]
        sequence = [{"Sequence": {"id": "A", "type_id": 0}}]
        second = [{"Sequence": {"id": "B", "type_id": 0}}]
        begin, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
        names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        names |= {"mask_token": "[MASK]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
        return {
            "tokenizer.json": {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": special,
                "normalizer": None,
                "pre_tokenizer": {
                    "type": "Split",
                    "pattern": {"Regex": r"\[[^\]]*\]|\."},
                    "behavior": "Isolated",
                    "invert": False,
                },
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [begin, *sequence, end],
                    "pair": [begin, *sequence, end, *second, end],
                    "special_tokens": {
                        token: {"id": token, "ids": [SPECIAL.index(token)], "tokens": [token]}
                        for token in ("[CLS]", "[SEP]")
                    },
                },
                "decoder": {"type": "Fuse"},
                "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": "[UNK]"},
            },
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": 2048,
                # transformers 4 would hand over token type ids, of which GPT-Neo adds an embedding to every token
                "model_input_names": ["input_ids", "attention_mask"],
                # generation goes on at the right end
                "padding_side": "left",
                "clean_up_tokenization_spaces": False,
                **names,
            },
            "special_tokens_map.json": names,
        }


def _checked(path: Path, vocabulary: list[Any]) -> list[str]:
    """The vocabulary of a file, where it is one: text, each token once, the special ones first."""
    if not all(isinstance(token, str) for token in vocabulary) or len(set(vocabulary)) != len(vocabulary):
        raise DataError(f"read the vocabulary {path}", "a token twice, or one that is no text", "name each token once")
    try:
        "".join(vocabulary).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"read the vocabulary {path}", f"a token that is no text ({error})", "give text") from None
    if tuple(vocabulary[: len(SPECIAL)]) != SPECIAL:
        found = ", ".join(vocabulary[: len(SPECIAL)])
        raise DataError(f"read the vocabulary {path}", f"the first tokens {found}", f"begin with {', '.join(SPECIAL)}")
    if len(vocabulary) > MAX_VOCABULARY:
        raise DataError(f"read the vocabulary {path}", f"{len(vocabulary):,} tokens", f"at most {MAX_VOCABULARY:,}")
    return vocabulary


def vocabulary_of(section: Mapping[str, Any], counts: Mapping[str, int]) -> Tokenizer:
    """The tokenizer that a resolved data section asks for: the pinned one, or one of the symbols counted in training.

    Raises:
        DataError: the pinned vocabulary's digest is not the one that the section states.
    """
    if section["vocabulary"] is None:
        return Tokenizer.of_counts(counts, section["min_symbol_count"])
    tokenizer = Tokenizer.load(Path(section["vocabulary"]))
    if tokenizer.digest != section["vocabulary_digest"]:
        raise DataError(
            f"the vocabulary {section['vocabulary']} of digest {section['vocabulary_digest']}",
            f"digest {tokenizer.digest}",
            "give the vocabulary that the config pins, or pin this one: vocabulary_digest",
        )
    return tokenizer

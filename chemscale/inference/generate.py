"""Molecules drawn from a language model, token by token, many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from chemscale.data.tokenizer import CLS, MASK, PAD, SEP, SPECIAL, UNK, Tokenizer, symbols
from chemscale.errors import InputError, shown
from chemscale.models.decoder import MAX_POSITIONS, Decoder
from chemscale.models.operations import Past

# Drawn at a time, and so the unit of the stream of random numbers: the first molecules of a seed are the same for
# every number of them
BATCH = 256
_NEVER = [UNK, PAD, CLS, MASK]
# temperatures at which no finite logit is too large or too small
_COLDEST, _HOTTEST = 1e-6, 1e6
# strings that may be left out before the first molecule is found
_PATIENCE = 10 * BATCH
_SHOWN = 200  # characters of a prompt in a message


@dataclass(frozen=True)
class Drawn:
    """A drawn string: SELFIES, prompt included, and whether it ended by itself before the limit of tokens.

    `log_probability` is the model's, in nats, of all tokens after [CLS] and the prompt, the [SEP] of a finished string
    included.
    """

    selfies: str
    log_probability: float
    finished: bool


def draw(
    model: Decoder,
    tokenizer: Tokenizer,
    seed: int,
    *,
    prompt: str = "",
    max_symbols: int = 128,
    temperature: float = 1.0,
) -> Iterator[Drawn]:
    """An endless stream of strings, a pure function of the arguments on one machine.

    Special tokens but [SEP] are never drawn; the log-probability is that of the model itself, at temperature 1 and with
    all tokens allowed.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        seed: of the draw.
        prompt: SELFIES that every string begins with.
        max_symbols: the most symbols of a string, prompt included.
        temperature: of the draw; below 1 likely tokens become likelier.

    Raises:
        InputError: the prompt has symbols that the model does not know or is too long, a number is out of range, or the
            model's logits are not finite.
    """
    begin = [CLS, *_prompt(tokenizer, prompt)]
    limit = max_symbols + 2  # with [CLS] and [SEP]
    most = MAX_POSITIONS - 2
    if len(begin) > most:
        raise InputError("continue a prompt", f"{len(begin) - 1:,} symbols", f"give at most {most - 1:,}")
    if not len(begin) <= max_symbols <= most:
        raise InputError(
            f"draw strings of at most {max_symbols} symbols after a prompt of {len(begin) - 1}",
            "no room for one",
            f"allow {len(begin)} to {most}",
        )
    if not _COLDEST <= temperature <= _HOTTEST:
        allowed = f"give one from {_COLDEST:g} to {_HOTTEST:g}"
        raise InputError("draw strings", f"a temperature of {temperature}", allowed)
    if not 0 <= seed < 2**63:
        raise InputError("draw strings", f"a seed of {seed}", "give a whole number from 0 to 2^63 - 1")
    random = torch.Generator().manual_seed(seed)
    while True:
        yield from _batch(model, tokenizer, begin, limit, temperature, random)


def _prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    asked = f"continue the prompt {shown(prompt, _SHOWN)!r}"
    if "".join(symbols(prompt)) != prompt:
        raise InputError(asked, "text that is not SELFIES", "write symbols like [C][=O]")
    ids = tokenizer.encode(prompt)[1:-1]
    unknown = [symbol for symbol, number in zip(symbols(prompt), ids, strict=True) if number < len(SPECIAL)]
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        raise InputError(asked, f"{shown(names, _SHOWN)} outside the vocabulary", "use symbols of it")
    return ids


@torch.no_grad()
def _batch(
    model: Decoder, tokenizer: Tokenizer, begin: list[int], limit: int, temperature: float, random: torch.Generator
) -> list[Drawn]:
    pasts = [Past(limit) for _ in model.blocks]
    tokens = torch.full((BATCH, limit), PAD)
    tokens[:, : len(begin)] = torch.tensor(begin)
    sums = torch.zeros(BATCH, dtype=torch.float64)
    ends = torch.full((BATCH,), limit - 1)
    active = torch.arange(BATCH)
    new = tokens[:, : len(begin)]
    for place in range(len(begin), limit):
        logits = model(new, pasts)[:, -1].double()
        if not torch.isfinite(logits).all():
            raise InputError("draw strings", "logits that are not finite", "give a model that was trained")
        drawn = _choose(logits / temperature, random)
        ended = drawn == SEP
        if place == limit - 1:
            # the last place is for [SEP] alone: a string that goes on is cut before it
            active, logits, drawn, ended = active[ended], logits[ended], drawn[ended], ended[ended]
        tokens[active, place] = drawn
        sums[active] += logits.log_softmax(1).gather(1, drawn[:, None])[:, 0]
        ends[active[ended]] = place + 1
        going = torch.nonzero(~ended)[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(active):
            active = active[going]
            for past in pasts:
                past.keep(going)
        new = tokens[active, place, None]
    found = []
    for row in range(BATCH):
        ids = tokens[row, : int(ends[row])].tolist()
        found.append(Drawn(tokenizer.decode(ids), float(sums[row]), ids[-1] == SEP))
    return found


def _choose(logits: Tensor, random: torch.Generator) -> Tensor:
    """A token for each row, drawn from the softmax of logits [rows, V] without the tokens that are never drawn."""
    logits = logits.clone()
    logits[:, _NEVER] = -torch.inf
    return torch.multinomial(logits.softmax(1), 1, generator=random)[:, 0]


def molecules(
    model: Decoder,
    tokenizer: Tokenizer,
    num: int,
    seed: int,
    *,
    prompt: str = "",
    max_symbols: int = 128,
    temperature: float = 1.0,
) -> tuple[list[tuple[str, float]], dict[str, int]]:
    """So many molecules as SMILES, each with its log-probability in nats; and what was drawn and left out, by reason.

    A string that is cut by the limit, stands for no atom or is not SELFIES is no molecule: another is drawn for it.

    Raises:
        InputError: see `draw`; or nearly everything that the model draws is left out.
    """
    found: list[tuple[str, float]] = []
    left_out = {"cut by the limit": 0, "without an atom": 0, "not SELFIES": 0}
    for string in draw(model, tokenizer, seed, prompt=prompt, max_symbols=max_symbols, temperature=temperature):
        if len(found) == num:
            break
        smiles = _smiles(string.selfies) if string.finished else ""
        if smiles:
            found.append((smiles, string.log_probability))
            continue
        reason = "cut by the limit" if not string.finished else "not SELFIES" if smiles is None else "without an atom"
        left_out[reason] += 1
        if sum(left_out.values()) > (100 * (len(found) + BATCH) if found else _PATIENCE):
            raise InputError(
                f"draw {num} molecules of at most {max_symbols} symbols",
                f"{len(found)} among {len(found) + sum(left_out.values()):,} strings",
                "allow more symbols, or ask a trained model",
            )
    return found, left_out


def _smiles(string: str) -> str | None:
    """The SMILES of a SELFIES string; None where it is none, as a stranger's vocabulary makes it."""
    import selfies

    try:
        return str(selfies.decoder(string))
    except (selfies.DecoderError, RecursionError):
        return None

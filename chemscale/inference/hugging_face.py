"""Our language models in the files of Hugging Face, there and back: `transformers` gives the same logits.

ChemGPT is a GPT-Neo, ChemGPT of the modern style a Llama.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemscale.cost.parameters import count, gated_width
from chemscale.data.tokenizer import CLS, MAX_VOCABULARY, PAD, SEP, SPECIAL, Tokenizer
from chemscale.errors import InputError
from chemscale.families import knobs_fault
from chemscale.io import atomic_path, read_json, regular_file, write_json
from chemscale.models import registry, weights
from chemscale.models.chemgpt import WINDOW, ChemGPT
from chemscale.models.chemgpt_modern import ROTARY_BASE
from chemscale.models.decoder import MAX_POSITIONS, Decoder

# the oldest and the newest release of transformers that the tests load an export with
VERSIONS = ("4.57.6", "5.23.0")
# how a model card says to use the model; the tests run the code
USE = f"""For transformers {VERSIONS[0]} to {VERSIONS[1]}; chemscale's tests compare logits and drawn tokens under both.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
prompts = tokenizer(["[CLS][C][C]", "[CLS][N]"], padding=True, return_tensors="pt", add_special_tokens=False)
drawn = model.generate(**prompts, do_sample=True, max_length=128)
selfies = tokenizer.batch_decode(drawn, skip_special_tokens=True)
```

- The tokenizer adds [CLS] and [SEP] to a string. A prompt begins with [CLS] and has no [SEP]: write it out and pass
  `add_special_tokens=False`, to `pipeline("text-generation")` too.
- Pads stand on the left, and `generate` takes care of them. A direct call of the model on a padded batch needs
  `position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0)`, or a tokenizer call with `padding_side="right"`.
- The model knows {MAX_POSITIONS:,} positions, [CLS] and [SEP] included.
- transformers 4 cannot load the tokenizer of a folder that transformers 5 has saved again.
"""

# what messages tell the user to do with a folder that is damaged or made up
_DO = "get the whole folder again"
_MAX_PICKLE_BYTES = 2**24  # of names and shapes; the numbers lie beside them

# our name and theirs of the modules of a block
_NEO = {
    "norm_attention": "ln_1",
    "attention_output": "attn.attention.out_proj",
    "norm_mlp": "ln_2",
    "mlp_input": "mlp.c_fc",
    "mlp_output": "mlp.c_proj",
}
_LLAMA = {
    "norm_attention": "input_layernorm",
    "attention_output": "self_attn.o_proj",
    "norm_mlp": "post_attention_layernorm",
    "mlp_output": "mlp.down_proj",
}


def _config(model: Decoder) -> dict[str, Any]:
    layers, heads = len(model.blocks), int(model.blocks[0].heads)  # type: ignore[arg-type]
    vocab_size, width = model.embedding.weight.shape
    common = {
        "vocab_size": vocab_size,
        "hidden_size": width,
        "max_position_embeddings": MAX_POSITIONS,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        "pad_token_id": PAD,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
    if isinstance(model, ChemGPT):
        kinds = [[["global", "local"], layers // 2]] + ([[["global"], 1]] if layers % 2 else [])
        return {
            "architectures": ["GPTNeoForCausalLM"],
            "model_type": "gpt_neo",
            "num_layers": layers,
            "num_heads": heads,
            "attention_types": [kind for kind in kinds if kind[1]],
            "window_size": WINDOW,
            "intermediate_size": 4 * width,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": 1e-5,
            "resid_dropout": 0.0,
            "embed_dropout": 0.0,
            **common,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": gated_width(width),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROTARY_BASE},
        "rope_theta": ROTARY_BASE,
        "attention_bias": False,
        "mlp_bias": False,
        **common,
    }


def _names(model_type: str, layers: int) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Our name and theirs of every weight, and which part of ours theirs is: (number, of how many)."""
    neo = model_type == "gpt_neo"
    whole = (0, 1)
    yield "embedding.weight", "transformer.wte.weight" if neo else "model.embed_tokens.weight", whole
    if neo:
        yield "position.weight", "transformer.wpe.weight", whole
    for number in range(layers):
        ours, theirs = f"blocks.{number}", f"transformer.h.{number}" if neo else f"model.layers.{number}"
        attention = f"{theirs}.attn.attention" if neo else f"{theirs}.self_attn"
        for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
            yield f"{ours}.query_key_value.weight", f"{attention}.{name}.weight", (part, 3)
        if not neo:
            for part, name in enumerate(("gate_proj", "up_proj")):
                yield f"{ours}.mlp_input.weight", f"{theirs}.mlp.{name}.weight", (part, 2)
        for one, other in (_NEO if neo else _LLAMA).items():
            for kind in ("weight", "bias") if neo else ("weight",):
                yield f"{ours}.{one}.{kind}", f"{theirs}.{other}.{kind}", whole
    for kind in ("weight", "bias") if neo else ("weight",):
        yield f"norm.{kind}", f"transformer.ln_f.{kind}" if neo else "model.norm.weight", whole


def save(model: Decoder, tokenizer: Tokenizer, folder: Path, card: str) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: weights, config, tokenizer, model card."""
    from safetensors.torch import save_file

    config, state = _config(model), model.state_dict()
    tensors: dict[str, Tensor] = {}
    for ours, theirs, (part, parts) in _names(config["model_type"], len(model.blocks)):
        tensors[theirs] = state[ours].chunk(parts)[part].contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    for name, content in tokenizer.hugging_face_files().items():
        write_json(folder / name, content)
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    # what loaders look for first comes last
    write_json(folder / "config.json", config)


def load(folder: Path) -> tuple[Decoder, Tokenizer]:
    """The model and the tokenizer of a folder that `save` wrote, or of a published ChemGPT.

    Weights in a pickle are read by torch's restricted unpickler, which makes tensors and nothing else. No other code of
    the folder is run, and no memory is taken before the weights are known to be as many as the config says.

    Raises:
        InputError: the folder holds another kind of model, lacks a file or a weight, or holds what no model is.
    """
    path = folder / "config.json"
    config = read_json(path, do=_DO)
    family, knobs, vocab_size = _size(path, config)
    file = _one_of(folder, "model.safetensors", "pytorch_model.bin")
    pickled = file.suffix == ".bin"
    stored = {} if pickled else weights.contents(file)
    needed = count(family, knobs, vocab_size).total
    found = file.stat().st_size // 2 if pickled else sum(prod(tensor.shape) for tensor in stored.values())
    if needed > found:
        most = "at most " if pickled else ""
        raise InputError(f"read {file}", f"{most}{found:,} numbers", f"the model of {path.name} has {needed:,}: {_DO}")
    model, _ = registry.outline(family, knobs, seed=0, vocab_size=vocab_size, embedding_std=1.0)
    assert isinstance(model, Decoder)
    _check(path, config, _config(model))
    tokenizer = Tokenizer.load(_one_of(folder, "tokenizer.json", "vocab.txt"))
    if len(tokenizer) != vocab_size:
        raise InputError(
            f"read the vocabulary in {folder}", f"{len(tokenizer)} tokens", f"{vocab_size} are in {path.name}: {_DO}"
        )
    names = list(_names(config["model_type"], len(model.blocks)))
    state: Mapping[str, Any] = _unpickled(file) if pickled else stored
    _check_shapes(file, names, state, model)
    if not pickled:
        state = weights.read(file, [theirs for _, theirs, _ in names])
    parts: dict[str, list[Tensor]] = {}
    for ours, theirs, _ in names:
        parts.setdefault(ours, []).append(state[theirs].float())
    weights.fill(model, {name: torch.cat(part) if len(part) > 1 else part[0] for name, part in parts.items()}, folder)
    return model.eval(), tokenizer


def _size(path: Path, config: Any) -> tuple[str, dict[str, int], int]:
    """The family, the knobs and the number of tokens of a model of ours as a config states them."""
    kinds = {
        "gpt_neo": ("chemgpt", "num_layers", "num_heads"),
        "llama": ("chemgpt_modern", "num_hidden_layers", "num_attention_heads"),
    }
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(f"read {path}", f"model_type {kind!r}", f"name one of {', '.join(kinds)}")
    family, layers, heads = kinds[kind]
    keys = {"layers": layers, "width": "hidden_size", "heads": heads}
    knobs = {name: config.get(key) for name, key in keys.items()}
    if fault := knobs_fault(family, knobs):
        named = ", ".join(f"{key} {config.get(key)!r}" for key in keys.values())
        raise InputError(f"read {path}", f"{named}: {fault}", _DO)
    vocab_size = config.get("vocab_size")
    if type(vocab_size) is not int or not len(SPECIAL) <= vocab_size <= MAX_VOCABULARY:
        allowed = f"give a whole number from {len(SPECIAL)} to {MAX_VOCABULARY:,}"
        raise InputError(f"read {path}", f"vocab_size {vocab_size!r}", allowed)
    return family, knobs, vocab_size


# keys of a config that decide no logits
_FREE = {"architectures", "attention_dropout", "bos_token_id", "embed_dropout", "eos_token_id", "initializer_range",
         "pad_token_id", "resid_dropout", "torch_dtype"}  # fmt: skip


def _check(path: Path, config: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """See that a config is what we would write for a model of its size, wherever that decides logits."""
    wanted = dict(wanted)
    # what transformers takes where a key is missing
    if config["model_type"] == "gpt_neo":
        defaults = {"window_size": 256, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
        defaults |= {"tie_word_embeddings": True, "max_position_embeddings": 2048}
        found = {
            **defaults,
            **config,
            "attention_types": _expanded(config.get("attention_types"), config["num_layers"]),
        }
        wanted["attention_types"] = _expanded(wanted["attention_types"], config["num_layers"])
        computed = ["intermediate_size"]
    else:
        del wanted["max_position_embeddings"]  # there is no table of positions
        wanted |= {"rope_scaling": None, "head_dim": wanted["hidden_size"] // wanted["num_attention_heads"]}
        found = {"attention_bias": False, "mlp_bias": False, "rope_theta": 10_000.0, **config}
        if found.get("rope_parameters") is None:
            found["rope_parameters"] = {"rope_type": "default", "rope_theta": found["rope_theta"]}
        computed = ["num_key_value_heads", "head_dim"]
    # a null there is computed from the sizes
    found |= {key: wanted[key] for key in computed if found.get(key) is None}
    for key, value in wanted.items():
        if key not in _FREE and not _equal(found.get(key), value):
            raise InputError(f"read {path}", f"{key} {found.get(key)!r}", f"{value!r} is what such a model has")


def _equal(one: Any, other: Any) -> bool:
    """Equality that keeps true and 1 apart."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _expanded(kinds: Any, most: int) -> list[str] | None:
    """The kind of attention of each layer; None where the value is not such a list, or one of more than `most`."""
    layers: list[str] = []
    for entry in kinds if isinstance(kinds, list) else [None]:
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], list):
            return None
        group, times = entry
        if type(times) is not int or times < 0 or len(layers) + times * len(group) > most:
            return None
        layers += group * times
    return layers


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if os.path.lexists(folder / name):
            return regular_file(folder / name, do=_DO)
    raise InputError(f"read the model in {folder}", f"neither {' nor '.join(names)}", _DO)


def _check_shapes(
    path: Path, names: Sequence[tuple[str, str, tuple[int, int]]], state: Mapping[str, Any], model: Decoder
) -> None:
    """See that a file has every weight of a model, in its shape."""
    wanted = model.state_dict()
    for ours, theirs, (_, parts) in names:
        first, *others = wanted[ours].shape
        shape = (first // parts, *others)
        if theirs not in state:
            raise InputError(f"read {path}", f"no {theirs}", _DO)
        value = state[theirs]
        if tuple(value.shape) != shape:
            found = f"{theirs} of shape {tuple(value.shape)}"
            raise InputError(f"read {path}", found, f"config.json says {shape}: {_DO}")
        if isinstance(value, Tensor) and not (value.is_floating_point() and value.layout == torch.strided):
            raise InputError(f"read {path}", f"{theirs} of the kind {value.dtype}, {value.layout}", _DO)


def _unpickled(path: Path) -> dict[str, Any]:
    """The values of a file of `torch.save` by name, none of which takes more memory than the file has bytes."""
    do = f"{_DO}, with model.safetensors"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise InputError(f"read {path}", f"no file of torch.save ({error})", do) from None
    pickles = [entry.file_size for entry in entries if entry.filename.endswith(".pkl")]
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > path.stat().st_size or sum(pickles) > _MAX_PICKLE_BYTES:
        raise InputError(f"read {path}", "entries that unfold to more than torch.save writes", do)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a stranger's pickle may fail in any way
        raise InputError(f"read {path}", f"no weights ({type(error).__name__}: {error})", do) from None
    if not isinstance(state, dict):
        raise InputError(f"read {path}", f"{type(state).__name__} in place of tensors by name", do)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}

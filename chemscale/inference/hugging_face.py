"""ChemGPT in the files of Hugging Face's GPT-Neo, there and back: `transformers` gives the same logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemscale.data.tokenizer import CLS, PAD, SEP, Tokenizer
from chemscale.errors import InputError
from chemscale.io import atomic_path, read_json, write_json
from chemscale.models.chemgpt import MAX_POSITIONS, WINDOW, ChemGPT

_LAYERS = {
    "norm_attention": "ln_1",
    "attention_output": "attn.attention.out_proj",
    "norm_mlp": "ln_2",
    "mlp_input": "mlp.c_fc",
    "mlp_output": "mlp.c_proj",
}


def _config(model: ChemGPT) -> dict[str, Any]:
    layers, heads = len(model.blocks), int(model.blocks[0].heads)  # type: ignore[arg-type]
    vocab_size, width = model.embedding.weight.shape
    kinds = [[["global", "local"], layers // 2]] + ([[["global"], 1]] if layers % 2 else [])
    return {
        "architectures": ["GPTNeoForCausalLM"],
        "model_type": "gpt_neo",
        "vocab_size": vocab_size,
        "hidden_size": width,
        "num_layers": layers,
        "num_heads": heads,
        "attention_types": [kind for kind in kinds if kind[1]],
        "window_size": WINDOW,
        "intermediate_size": 4 * width,
        "activation_function": "gelu_new",
        "max_position_embeddings": MAX_POSITIONS,
        "layer_norm_epsilon": 1e-5,
        "resid_dropout": 0.0,
        "embed_dropout": 0.0,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "bos_token_id": CLS,
        "eos_token_id": SEP,
        "pad_token_id": PAD,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def _names(layers: int) -> Iterator[tuple[str, str, int | None]]:
    """Our name, theirs, and which third of ours it is (None: the whole) of every weight."""
    yield "embedding.weight", "transformer.wte.weight", None
    yield "position.weight", "transformer.wpe.weight", None
    for number in range(layers):
        ours, theirs = f"blocks.{number}", f"transformer.h.{number}"
        for third, name in enumerate(("q_proj", "k_proj", "v_proj")):
            yield f"{ours}.query_key_value.weight", f"{theirs}.attn.attention.{name}.weight", third
        for one, other in _LAYERS.items():
            for kind in ("weight", "bias"):
                yield f"{ours}.{one}.{kind}", f"{theirs}.{other}.{kind}", None
    for kind in ("weight", "bias"):
        yield f"norm.{kind}", f"transformer.ln_f.{kind}", None


def save(model: ChemGPT, tokenizer: Tokenizer, folder: Path, card: str) -> None:
    """Write a folder that `AutoModelForCausalLM` and `AutoTokenizer` load: weights, config, tokenizer, model card."""
    from safetensors.torch import save_file

    state = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for ours, theirs, third in _names(len(model.blocks)):
        value = state[ours] if third is None else state[ours].chunk(3)[third]
        tensors[theirs] = value.contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    for name, content in tokenizer.hugging_face_files().items():
        write_json(folder / name, content)
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    # what loaders look for first comes last
    write_json(folder / "config.json", _config(model))


def load(folder: Path) -> tuple[ChemGPT, Tokenizer]:
    """The model and the tokenizer of a GPT-Neo folder, such as a published ChemGPT.

    Weights in a pickle are read by torch's restricted unpickler, which makes tensors and nothing else.

    Raises:
        InputError: the folder holds another kind of model, or lacks a file or a weight.
    """
    config = read_json(folder / "config.json")
    _check(folder, config)
    tokenizer = Tokenizer.load(_one_of(folder, "tokenizer.json", "vocab.txt"))
    state = _weights(_one_of(folder, "model.safetensors", "pytorch_model.bin"))
    layers, width = int(config["num_layers"]), int(config["hidden_size"])
    with torch.device("meta"):
        model = ChemGPT(layers, width, int(config["num_heads"]), int(config["vocab_size"]))
    ours: dict[str, Tensor] = {}
    parts: dict[str, list[Tensor]] = {}
    for name, theirs, third in _names(layers):
        if theirs not in state:
            raise InputError(f"read the weights in {folder}", f"no {theirs}", "give a folder of a whole GPT-Neo")
        if third is None:
            ours[name] = state[theirs].float()
        else:
            parts.setdefault(name, []).append(state[theirs].float())
    ours |= {name: torch.cat(thirds) for name, thirds in parts.items()}
    for name, value in model.state_dict().items():
        if ours[name].shape != value.shape:
            found, asked = tuple(ours[name].shape), tuple(value.shape)
            raise InputError(f"read {name} of shape {asked} in {folder}", f"shape {found}", "give matching files")
    if len(tokenizer) > model.embedding.weight.shape[0]:
        raise InputError(
            f"read the vocabulary in {folder}", f"{len(tokenizer)} tokens", f"{config['vocab_size']} in config.json"
        )
    model.load_state_dict(ours, assign=True)
    return model.eval(), tokenizer


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    layers, heads = config.get("num_layers"), config.get("num_heads")
    wanted: dict[str, Any] = {
        "model_type": "gpt_neo",
        "activation_function": "gelu_new",
        "window_size": WINDOW,
        "max_position_embeddings": MAX_POSITIONS,
    }
    for key, value in wanted.items():
        if config.get(key) != value:
            raise InputError(
                f"read {folder / 'config.json'}", f"{key} {config.get(key)!r}", f"{value!r} is what a ChemGPT has"
            )
    kinds = [kind for group, times in config.get("attention_types", []) for kind in group * times]
    if not layers or not heads or kinds != [("global", "local")[layer % 2] for layer in range(layers)]:
        raise InputError(
            f"read {folder / 'config.json'}", f"attention {kinds}", "global and local in turn is what a ChemGPT has"
        )
    if config.get("intermediate_size") not in (None, 4 * config["hidden_size"]):
        raise InputError(
            f"read {folder / 'config.json'}", f"intermediate_size {config['intermediate_size']}", "four times the width"
        )


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"read the model in {folder}", f"neither {' nor '.join(names)}", "give a whole folder")


def _weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded

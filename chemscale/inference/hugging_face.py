"""Our language models in the files of Hugging Face, there and back: `transformers` gives the same logits.

ChemGPT is a GPT-Neo, ChemGPT of the modern style a Llama.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chemscale.cost.parameters import gated_width
from chemscale.data.tokenizer import CLS, PAD, SEP, Tokenizer
from chemscale.errors import InputError
from chemscale.io import atomic_path, read_json, write_json
from chemscale.models.chemgpt import WINDOW, ChemGPT
from chemscale.models.chemgpt_modern import ROTARY_BASE, ChemGPTModern
from chemscale.models.decoder import MAX_POSITIONS, Decoder

# the oldest and the newest release of transformers that the tests load an export with
VERSIONS = ("4.57.6", "5.23.0")
# how a model card says to use the model; the tests run the code
USE = f"""For transformers {VERSIONS[0]} to {VERSIONS[1]}: under both, the tests of chemscale compare logits and generated tokens.

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

    Weights in a pickle are read by torch's restricted unpickler, which makes tensors and nothing else.

    Raises:
        InputError: the folder holds another kind of model, or lacks a file or a weight.
    """
    config = read_json(folder / "config.json")
    _check(folder, config)
    tokenizer = Tokenizer.load(_one_of(folder, "tokenizer.json", "vocab.txt"))
    state = _weights(_one_of(folder, "model.safetensors", "pytorch_model.bin"))
    with torch.device("meta"):
        model = _empty(config)
    parts: dict[str, list[Tensor]] = {}
    for name, theirs, _ in _names(config["model_type"], len(model.blocks)):
        if theirs not in state:
            raise InputError(f"read the weights in {folder}", f"no {theirs}", "give a folder of a whole model")
        parts.setdefault(name, []).append(state[theirs].float())
    ours = {name: torch.cat(found) for name, found in parts.items()}
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


def _empty(config: Mapping[str, Any]) -> Decoder:
    width, vocab_size = int(config["hidden_size"]), int(config["vocab_size"])
    if config["model_type"] == "gpt_neo":
        return ChemGPT(int(config["num_layers"]), width, int(config["num_heads"]), vocab_size)
    return ChemGPTModern(int(config["num_hidden_layers"]), width, int(config["num_attention_heads"]), vocab_size)


def _check(folder: Path, config: Mapping[str, Any]) -> None:
    """See that a config is that of a model of ours: what we would write for one of its size."""
    path = folder / "config.json"
    kinds = {"gpt_neo": ("num_layers", "num_heads"), "llama": ("num_hidden_layers", "num_attention_heads")}
    if config.get("model_type") not in kinds:
        raise InputError(f"read {path}", f"model_type {config.get('model_type')!r}", f"name one of {', '.join(kinds)}")
    sizes = (*kinds[config["model_type"]], "hidden_size", "vocab_size")
    for key in sizes:
        if not isinstance(config.get(key), int):
            raise InputError(f"read {path}", f"{key} {config.get(key)!r}", "give a whole config")
    with torch.device("meta"):
        wanted = _config(_empty(config))
    if config["model_type"] == "gpt_neo":
        decided = {"window_size": WINDOW, "activation_function": "gelu_new", "max_position_embeddings": MAX_POSITIONS}
        wanted["attention_types"] = _expanded(wanted["attention_types"])
        found = {**config, "attention_types": _expanded(config.get("attention_types", []))}
        found["intermediate_size"] = config.get("intermediate_size") or wanted["intermediate_size"]
        decided |= {key: wanted[key] for key in ("attention_types", "intermediate_size")}
    else:
        decided = {key: wanted[key] for key in ("intermediate_size", "hidden_act", "num_key_value_heads")}
        found = dict(config)
        theta = (config.get("rope_parameters") or config).get("rope_theta")
        decided["rope_theta"], found["rope_theta"] = ROTARY_BASE, theta
    for key, value in decided.items():
        if found.get(key) != value:
            raise InputError(f"read {path}", f"{key} {found.get(key)!r}", f"{value!r} is what such a model has")


def _expanded(kinds: list[Any]) -> list[str]:
    """The kind of attention of each layer."""
    return [kind for group, times in kinds for kind in group * times]


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

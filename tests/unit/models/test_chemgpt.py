"""ChemGPT against transformers' GPT-Neo, and its weights as a function of the seed."""

import pytest
import torch
from torch.nn import functional

from chemscale.cost.parameters import count
from chemscale.models import registry
from chemscale.models.chemgpt import ChemGPT
from chemscale.models.operations import Past

KNOBS = {"layers": 4, "width": 32, "heads": 4}
VOCABULARY = 50


def _build(seed=0, knobs=KNOBS):
    return registry.build("chemgpt", knobs, seed=seed, vocab_size=VOCABULARY, embedding_std=0.1)


def _reference(model):
    """A transformers model with the weights of ours."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=256,
        attention_dropout=0.0,
        embed_dropout=0.0,
        resid_dropout=0.0,
    )
    reference = GPTNeoForCausalLM(config).eval()
    state = {"transformer.wte.weight": model.embedding.weight, "transformer.wpe.weight": model.position.weight}
    for index, block in enumerate(model.blocks):
        head = f"transformer.h.{index}"
        query, key, value = block.query_key_value.weight.chunk(3)
        state |= {
            f"{head}.attn.attention.{name}_proj.weight": w for name, w in zip("qkv", (query, key, value), strict=True)
        }
        for name, layer in (
            ("attn.attention.out_proj", block.attention_output),
            ("mlp.c_fc", block.mlp_input),
            ("mlp.c_proj", block.mlp_output),
            ("ln_1", block.norm_attention),
            ("ln_2", block.norm_mlp),
        ):
            state |= {f"{head}.{name}.weight": layer.weight, f"{head}.{name}.bias": layer.bias}
    state |= {"transformer.ln_f.weight": model.norm.weight, "transformer.ln_f.bias": model.norm.bias}
    missing = reference.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    reference.tie_weights()
    return reference


def test_logits_equal_transformers_beyond_the_local_window():
    model = _build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(5, VOCABULARY, (2, 320), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ours, theirs = model(tokens), _reference(model)(tokens).logits
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        # the window acts: without it the late tokens differ
        for block in model.blocks:
            block.local = False
        assert (model(tokens) - theirs)[:, 300:].abs().max() > 1e-4
        torch.testing.assert_close(model(tokens)[:, :256], theirs[:, :256], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("width", "published"),
    [(16, 77_600), (32, 302_656), (64, 1_195_136), (128, 4_749_568), (256, 18_936_320), (512, 75_621_376),
     (1024, 302_237_696), (2048, 1_208_455_168)],
)  # fmt: skip
def test_parameters_are_the_published_ladder(width, published):
    with torch.device("meta"):
        model = ChemGPT(layers=24, width=width, heads=16, vocab_size=684)
    tables = model.embedding.weight.numel() + model.position.weight.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total - tables == published
    counted = count("chemgpt", {"layers": 24, "width": width, "heads": 16}, 684)
    assert (counted.total, counted.non_embedding) == (total, published)


def test_padded_batch_gives_the_loss_of_each_molecule_alone():
    model = _build()
    molecules = [torch.randint(5, VOCABULARY, (length,)) for length in (4, 17, 9, 30)]
    block = torch.full((4, 30), 1)
    for row, molecule in enumerate(molecules):
        block[row, : len(molecule)] = molecule
    with torch.no_grad():
        logits = model(block[:, :-1])
        for row, molecule in enumerate(molecules):
            alone = functional.cross_entropy(model(molecule[None, :-1])[0], molecule[1:], reduction="none")
            batched = functional.cross_entropy(logits[row, : len(molecule) - 1], molecule[1:], reduction="none")
            torch.testing.assert_close(batched, alone, rtol=1e-5, atol=1e-6)


def test_seed_fixes_every_weight_whatever_was_drawn_before():
    first = _build(7).state_dict()
    torch.rand(5)
    assert all(torch.equal(value, first[name]) for name, value in _build(7).state_dict().items())
    assert not torch.equal(_build(8).state_dict()["embedding.weight"], first["embedding.weight"])
    assert float(first["embedding.weight"].std()) == pytest.approx(0.1, rel=0.05)
    assert float(first["blocks.0.mlp_input.weight"].std()) == pytest.approx(0.02, rel=0.1)


def test_tokens_one_by_one_have_the_logits_of_all_at_once():
    model = _build()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    # beyond the window of the local blocks
    tokens = torch.randint(5, VOCABULARY, (3, 300), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = model(tokens)
        pasts = [Past(300) for _ in model.blocks]
        parts = [model(tokens[:, :4], pasts), model(tokens[:, 4:250], pasts), model(tokens[:, 250:270], pasts)]
        parts += [model(tokens[:, place, None], pasts) for place in range(270, 290)]
        for past in pasts:
            past.keep(torch.tensor([2, 0]))
        torch.testing.assert_close(torch.cat(parts, 1), whole[:, :290], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(tokens[[2, 0], 290:], pasts), whole[[2, 0], 290:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["chemgpt", "chemgpt_modern"])
def test_an_outline_holds_nothing_and_has_the_weights_of_a_build(family):
    options = {"seed": 4, "vocab_size": VOCABULARY, "embedding_std": 0.1}
    outline, initial = registry.outline(family, KNOBS, **options)
    assert {parameter.device.type for parameter in outline.parameters()} == {"meta"}
    built = dict(registry.build(family, KNOBS, **options).named_parameters())
    drawn = dict(initial)
    assert drawn.keys() == built.keys()
    for name, value in drawn.items():
        assert torch.equal(value, built[name]), name

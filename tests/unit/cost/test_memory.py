import pytest
import torch

from chemscale.cost import memory, parameters
from chemscale.cost.engine import chosen, plain, ranks_that_would_do
from chemscale.cost.memory import language_memory, saved_by_block
from chemscale.cost.parameters import count
from chemscale.grid import ALONE, Cell
from chemscale.models import registry
from chemscale.models.decoder import MAX_POSITIONS
from chemscale.training import engine as training_engine
from chemscale.training import lm, zero

SMALL = {"layers": 2, "width": 256, "heads": 16}
W1024 = {"layers": 24, "width": 1024, "heads": 16}
W2048 = {"layers": 24, "width": 2048, "heads": 16}
UNSET = dict.fromkeys(("zero", "offload", "recompute", "micro_tokens"))


def cell(family="chemgpt", knobs=SMALL, precision="fp32", average=0.0, batch_tokens=2048, **engine):
    return Cell(
        study="toy", family=family, size="w", num_samples=10, seed=0, control=None, domain="language", knobs=knobs,
        protocol={"kind": "equal_steps", "steps": 3},
        training={"precision": precision, "average": average, "batch_tokens": batch_tokens},
        data={"name": "toy", "key": "toy", "evaluations": {}}, threads=1, engine=ALONE | engine,
    )  # fmt: skip


def saved_bytes(family, knobs, tokens, length, dtype):
    """Bytes that torch keeps for the gradient of a pass, weights left out, each storage once."""
    model = registry.build(family, knobs, vocab_size=50, seed=0, embedding_std=0.02).to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden(torch.arange(tokens) % 50, lengths=torch.full((tokens // length,), length))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("length", [29, 119, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["chemgpt", "chemgpt_modern"])
def test_a_block_saves_what_the_model_says(family, dtype, length):
    knobs, tokens = {"width": 128, "heads": 8}, 8 * length
    # the difference of two depths is what one pair of blocks keeps, a global and a local one
    two, four = (saved_bytes(family, {**knobs, "layers": layers}, tokens, length, dtype) for layers in (2, 4))
    expected = sum(saved_by_block(family, knobs, tokens, length, dtype.itemsize))
    assert expected == pytest.approx((four - two) / 2, rel=0.03)


def test_the_model_has_the_constants_of_what_it_describes():
    assert parameters.POSITIONS == MAX_POSITIONS
    assert memory._EVALUATION_TOKENS == lm._EVALUATION_TOKENS
    assert memory._PART == training_engine.PART
    assert memory._BUCKET == zero._BUCKET


@pytest.mark.parametrize("family", ["chemgpt", "chemgpt_modern"])
@pytest.mark.parametrize("knobs", [W1024, W2048], ids=["302M", "1.2B"])
def test_weights_and_state_are_those_of_the_model_on_the_meta_device(family, knobs):
    model, _ = registry.outline(family, knobs, seed=0, vocab_size=600, embedding_std=0.02)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == count(family, knobs, 600).total
    assert total > {1024: 3.0e8, 2048: 1.2e9}[knobs["width"]]
    ranks = 8
    held = language_memory(cell(family, knobs, "bf16", 0.9, ranks=ranks, zero=3), 600, 130)
    share = -(-total // ranks)
    assert (held.weights, held.masters, held.moments) == (2 * share, 4 * share, 8 * share)
    assert (held.average, held.best) == (4 * share, 4 * share)
    alone = language_memory(cell(family, knobs), 600, 130)
    assert (alone.weights, alone.masters, alone.gradients, alone.moments) == (4 * total, 0, 4 * total, 8 * total)


def test_each_way_to_save_memory_saves_it():
    def peak(**engine):
        return language_memory(cell(knobs=W1024, batch_tokens=65536, ranks=8, **engine), 600, 130).total

    assert peak() > peak(micro_tokens=2048) > peak(micro_tokens=2048, recompute=True)
    parts = {"micro_tokens": 2048, "recompute": True}
    assert peak(**parts) > peak(**parts, zero=1) > peak(**parts, zero=2) > peak(**parts, zero=3)
    long, short = (language_memory(cell(), 600, length).activations for length in (256, 30))
    assert long > short, "scores grow with the length"


def test_an_engine_is_chosen_in_the_stated_order():
    asked = cell(knobs=W1024, batch_tokens=16384, **UNSET, ranks=4)
    found = [chosen(asked, 130, gigabytes * 1e9) for gigabytes in range(200, 0, -1)]
    fitting = [engine for engine in found if engine is not None]
    assert fitting[0] == plain(asked.engine), "with much memory nothing is spared"
    assert found[-1] is None, "one gigabyte does not do"

    def order(engine):
        return (engine["zero"], engine["offload"], engine["recompute"], -(engine["micro_tokens"] or 1 << 30))

    assert [order(engine) for engine in fitting] == sorted(order(engine) for engine in fitting)
    assert fitting[-1]["zero"] == 3
    assert {engine["zero"] for engine in fitting} >= {0, 3}
    for gigabytes, engine in zip(range(200, 0, -1), found, strict=True):
        if engine is not None:
            assert None not in (engine["zero"], engine["offload"], engine["recompute"])
            peak = memory.BASE + language_memory(cell(knobs=W1024, batch_tokens=16384, **engine), 600, 130).total
            assert peak <= gigabytes * 1e9


def test_what_is_set_stays():
    asked = cell(knobs=W1024, batch_tokens=16384, **UNSET | {"recompute": False, "micro_tokens": 4096}, ranks=4)
    engines = [chosen(asked, 130, gigabytes * 1e9) for gigabytes in range(1, 60)]
    assert {(engine["recompute"], engine["micro_tokens"]) for engine in engines if engine} == {(False, 4096)}


def test_the_ranks_that_would_do_do():
    asked = cell(knobs=W2048, batch_tokens=16384, **UNSET)
    ranks = ranks_that_would_do(asked, 130, 12e9)
    assert ranks > 1
    for number, fits in ((ranks, True), (ranks // 2, False)):
        engine = asked.engine | {"ranks": number}
        assert (chosen(cell(knobs=W2048, batch_tokens=16384, **engine), 130, 12e9) is not None) is fits
    assert ranks_that_would_do(asked, 130, 1e6) is None


def test_offload_is_the_last_resort_of_a_gpu():
    def least(device):
        asked = cell(knobs=W2048, batch_tokens=4096, **UNSET, ranks=2, device=device)
        fits = (chosen(asked, 130, gigabytes * 1e9) for gigabytes in range(1, 40))
        return next(engine for engine in fits if engine is not None)

    assert least("cuda")["offload"] is True
    assert least("cpu")["offload"] is False

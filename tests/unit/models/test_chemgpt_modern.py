"""The modern style against transformers' Llama, and its draws token by token."""

import pytest
import torch

from chemscale.data.tokenizer import SPECIAL, Tokenizer
from chemscale.inference import hugging_face
from chemscale.models import registry
from chemscale.models.operations import Past

VOCABULARY = 50


@pytest.fixture(params=[(3, 32, 4), (2, 22, 1)])
def model(request):
    layers, width, heads = request.param
    knobs = {"layers": layers, "width": width, "heads": heads}
    built = registry.build("chemgpt_modern", knobs, seed=1, vocab_size=VOCABULARY, embedding_std=0.1)
    random = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=random)
    return built.eval()


@pytest.fixture
def tokens():
    return torch.randint(5, VOCABULARY, (3, 60), generator=torch.Generator().manual_seed(3))


def test_logits_equal_those_of_transformers_llama(model, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    words = Tokenizer([*SPECIAL, *(f"[C{index}]" for index in range(VOCABULARY - len(SPECIAL)))])
    hugging_face.save(model, words, tmp_path / "model", "a card")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(theirs).__name__ == "LlamaForCausalLM"
    again, tokenizer = hugging_face.load(tmp_path / "model")
    assert tokenizer.vocabulary == words.vocabulary
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(again(tokens), model(tokens))
    total = sum(parameter.numel() for parameter in theirs.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == total


def test_tokens_one_by_one_have_the_logits_of_all_at_once(model, tokens):
    with torch.no_grad():
        whole = model(tokens)
        pasts = [Past(60) for _ in model.blocks]
        parts = [model(tokens[:, :9], pasts), model(tokens[:, 9:40], pasts)]
        parts += [model(tokens[:, place, None], pasts) for place in range(40, 60)]
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)

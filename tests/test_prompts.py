"""Texts to embeddings: as diffusers makes them, each text once, and pass by pass."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from storydiff_lite.prompts import LazyPromptEmbeds, PromptEncoder

TEXTS = ["a bear reads", None, "a cat", "a bear reads", ""]


@pytest.fixture
def parts(tiny_parts):
    return [tiny_parts[name] for name in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")]


def test_embeddings_are_those_of_diffusers(tiny_parts, parts):
    theirs = StableDiffusionXLPipeline(**tiny_parts, add_watermarker=False)
    states, _, pooled, _ = theirs.encode_prompt(["a bear reads", "a cat"], do_classifier_free_guidance=False)
    got = PromptEncoder(*parts)(["a bear reads", "a cat"])
    assert torch.equal(got[0], states) and torch.equal(got[1], pooled)


@pytest.mark.parametrize("zero_none", [False, True])
def test_each_text_is_encoded_once_and_none_is_no_text(parts, zero_none):
    encoder, asked = PromptEncoder(*parts, zero_none=zero_none), []
    encode = encoder.encode
    encoder.encode = lambda ids: asked.append(len(ids)) or encode(ids)
    for got, want in zip(encoder.distinct(TEXTS), encoder([t or "" for t in TEXTS]), strict=True):
        want[1] *= not zero_none
        torch.testing.assert_close(got, want)
    assert asked == [4, 5]
    got = encoder.distinct([None] * 3)
    assert got[0].shape == (3, 77, 32) and bool(got[0].any()) != zero_none


def test_lazy_embeddings_are_the_embeddings(parts):
    encoder, asked = PromptEncoder(*parts), []
    want = encoder.distinct(TEXTS)
    lazy = LazyPromptEmbeds(TEXTS, lambda texts: asked.append(texts) or encoder.distinct(texts))
    for rows in ([0, 1], [1, 2], [3, 4]):
        for got, all_of_them in zip(lazy(torch.tensor(rows)), want, strict=True):
            torch.testing.assert_close(got, all_of_them[rows])
    assert asked == [["a bear reads", None], ["a cat"], ["a bear reads", ""]]

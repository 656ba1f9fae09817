"""Text spans tile the text; phases are found on it, however the marks are tokenised."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_lens import tokenizer as word_tokenizer

from ringlens.data import tokenizer as nano
from ringlens.errors import ObservationError
from ringlens.observe.text import TokenText, token_text
from ringlens.observe.turns import Markup, phases


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=nano.build())


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_spans_tile_any_text(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    cut = token_text(tokenizer, ids)
    assert cut.text == tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=False)
    assert "".join(cut.pieces) == cut.text
    assert cut.starts == [0, *cut.ends[:-1]][: len(ids)]
    assert [cut.text[a:b] for a, b in zip(cut.starts, cut.ends, strict=True)] == cut.pieces


def test_a_split_character_belongs_to_its_last_token(tokenizer):
    ids = tokenizer.encode("a€b", add_special_tokens=False)
    assert token_text(tokenizer, ids).pieces == ["a", "", "", "€", "b"]


def test_bytes_that_complete_no_character_are_kept(tokenizer):
    ids = tokenizer.encode("a€", add_special_tokens=False)[:-1]
    cut = token_text(tokenizer, ids)
    assert cut.text.startswith("a")
    assert cut.ends[-1] == len(cut.text)


def cut(pieces):
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    return TokenText("".join(pieces), pieces, [0, *ends[:-1]], ends)


@pytest.mark.parametrize(
    ("pieces", "n_prompt", "wanted"),
    [
        (["q", "<think>", "x", "</think>", "a"], 1, "pttta"),
        (["q", "<think>", "x", "</think>", "a"], 2, "pptta"),  # the template opens the phase
        (["q", "<th", "ink", ">x", "</th", "ink", ">", "a"], 1, "pttttt" + "ta"),  # byte pairs
        (["q", "x", "y"], 1, "paa"),  # no marks: all answer
        (["q", "x", "</think>", "a"], 1, "ptta"),  # opened out of sight
        (["q", "<think>", "x", "y"], 1, "pttt"),  # never closed
        (["<think>", "</think>", "q", "x"], 3, "pppa"),  # marks inside the prompt
        (["<think>", "x", "</think>", "a"], 0, "ttta"),
        (["q", " <think>", "x", "</think>\n", "a"], 1, "pttta"),  # marks that share a token
    ],
)
def test_phases(pieces, n_prompt, wanted):
    names = phases(cut(pieces), n_prompt)
    assert "".join(name[0] for name in names) == wanted


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (
            "<role>HUMAN</role>q<role>ASSISTANT</role><think>x",
            "<role>HUMAN</role>q<role>ASSISTANT</role>",
        ),
        ("q<think>x</think>a", "q"),
        ("plain", ""),
    ],
)
def test_prompt_of_finished_text(text, prompt):
    assert text[: Markup().prompt_of(text)] == prompt


def test_slow_tokenizers_are_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ObservationError, match="fast tokenizer"):
        token_text(Slow(), [1])
    assert word_tokenizer().is_fast

"""Steps tile the text, whatever it is; what must stay together does; time grows with length."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT

from ringlens.analysis.steps import segment
from ringlens.errors import ConfigError

TEXTS = ROOT.parent / "shared" / "oracles" / "texts"
PIECES = [
    *("$", "$$", "\\(", "\\)", "\\[", "\\]", "```", "~~~", "\n", "\n\n", "\r\n", " ", "\t", "\\\\"),
    *(
        ". ",
        "! ",
        "? ",
        "…",
        "。",
        "！",
        "؟",
        "۔",
        "3.14",
        "5! = 120",
        "e.g. ",
        "Dr. ",
        "1. ",
        "- ",
    ),
    *("Wait", " so the sum is 12", "数字", "مرحبا", "שלום", "🙂", "👩‍👩‍👧", "\u200f", "é", "\x00"),
]
ANY_TEXT = st.one_of(st.text(max_size=200), st.lists(st.sampled_from(PIECES)).map("".join))


def cut(text):
    return [text[start:end] for start, end in segment(text)]


@given(ANY_TEXT)
def test_steps_tile_any_text(text):
    steps = segment(text)
    assert [s.start for s in steps] == [0, *(s.end for s in steps[:-1])][: len(steps)]
    assert (steps[-1].end if steps else 0) == len(text)
    assert all(s.start < s.end for s in steps)
    if len(steps) > 1:  # a short piece belongs to a neighbour, and white space to what is before
        assert all(len(piece.strip()) >= 10 for piece in cut(text))
        assert all(not piece[0].isspace() for piece in cut(text)[1:])


@given(ANY_TEXT, ANY_TEXT)
def test_paragraphs_do_not_depend_on_each_other_unless_something_is_open(first, second):
    opening = ("$", "\\", "```", "~~~")
    if any(mark in first + second for mark in opening) or not second[:1].isalpha():
        return
    whole = "A first sentence. " + first.strip() + ".\n\n" + "The second paragraph " + second
    assert any(whole[s.start :].startswith("The second paragraph") for s in segment(whole))


@pytest.mark.parametrize(
    "text",
    [
        "The ratio is 3.14 at x. It grows.",
        "Dr. Fu Manchu has an account, e.g. at a bank, vs. none.",
        "There are 5! = 120 orders, and n! in all cases.",
        "Let $x = 1. Then y = 2. Also z$ be given here.",
        "Let \\(x. A B. C\\) be what we are looking for.",
        "\\[ a = 1. B = 2!\n\nC = 3. \\]",
        "$$ a. B. C\n\n D. $$ is displayed here",
        "```python\nx = 1.\n\nprint(x). Done.\n```",
        "~~~\nOne. Two. ``` Three.\n~~~",
        "This has, i.e. by Fig. 3 and Eq. (4), no end",
        "a last sentence that is not over",
    ],
)
def test_what_belongs_together_is_one_step(text):
    assert cut(text) == [text]


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        (["Wait, is that right? ", "Let me check it."], "sentences"),
        (['He said "It is so." ', "Then (that is all.) ", "He went home."], "quotes"),
        (["1. Compute the sum.\n", "2. Compare it with 24.\n"], "list numbers"),
        (["- the first item\n", "- the second item"], "items"),
        (["7 * 3 = 21, too few\n", "21 + 3 = 24, as wanted\n"], "lines"),
        (["So it is very big! ", "And it grows on."], "exclamations"),
        (["It costs $5 and $6 here. ", "That is $11 in all. "], "prices"),
        (["Let $x be open here. ", "It never closes at all.\n\n", "But $y = 1$ does."], "unclosed"),
        (["这是第一句话，很长的一句。", "这是第二句话，也很长的一句！"], "CJK"),
        (["هل هذا سؤال طويل؟ ", "نعم هذا جواب صحيح."], "right to left"),
        (["This works well 🙂! ", "So do 👩‍👩‍👧 families."], "emoji"),
        (["So that is a no. ", "It is another number."], "words that abbreviate"),
        (["Wait. It is not that. ", "It is something else…"], "short ones join what follows"),
        (["It is 1105 in all.\nYes.\n", "Then the next one."], "short lines join what is before"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_end_where_sentences_and_lines_do(steps, why):
    assert cut("".join(steps)) == steps


def test_what_is_no_text_is_refused():
    for wrong in (None, b"bytes", ["a"]):
        with pytest.raises(ConfigError, match="give a string"):
            segment(wrong)
    assert segment("") == []
    assert segment(" \n") == [(0, 2)]


ADVERSARIAL = [
    *("$", "$a", "```", "`", ". ", "!", "\n", "\\(", "\\[", "$$", "。", "1.\n", " ", '."', "("),
    *("a! ", "$a $ "),
    *("e.g. ", "...... ", "\n \n", "~~~$", "\\\\(", "x. y", "A. ", "\n" + " " * 500),
]  # fmt: skip


def seconds(text):
    before = time.process_time()
    segment(text)
    return time.process_time() - before


@pytest.mark.parametrize("unit", ADVERSARIAL, ids=repr)
def test_time_grows_with_the_length_alone(unit):
    """Four times the text takes about four times as long; what is quadratic takes sixteen."""
    short = unit * (6_000 // len(unit))
    ratio = min(seconds(short * 4) / max(seconds(short), 1e-3) for _ in range(5))
    assert ratio < 10


def test_60_000_tokens_are_cut_in_less_than_a_second():
    sentence = "So 3 times 4 is 12. Wait, let me check $x^2 = 4. y$ again, e.g. by 2.5 * 2.\n"
    text = sentence * (240_000 // len(sentence))
    assert min(seconds(text) for _ in range(3)) < 1
    assert "".join(cut(text)) == text


@pytest.mark.skipif(not TEXTS.exists(), reason="published texts are not here")
def test_published_solutions_are_tiled():
    for path in sorted(TEXTS.glob("*.md")):
        text = path.read_text()
        pieces = cut(text)
        assert "".join(pieces) == text
        assert 30 < len(text) / len(pieces) < 120  # sentences
        for piece in pieces:
            assert piece.count("$$") % 2 == 0, piece
            assert piece.count("\\[") == piece.count("\\]"), piece

"""Conversations in several templates: phases and turns are those that they were built with.

``RINGLENS_FUZZ=10`` makes ten times as many.
"""

import os
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from ringlens.data import tokenizer as nano
from ringlens.observe.pipeline.trace_buffer import Task, TraceBuffer
from ringlens.observe.text import TokenText, token_text
from ringlens.observe.turns import Markup, markup
from ringlens.problem import Problem, find_answer


@dataclass(frozen=True)
class Style:
    """A chat template, as the pieces that it writes around contents."""

    user: str
    assistant: str
    end: str
    begin: str = ""
    system: str = "<role>SYSTEM</role>"

    @property
    def jinja(self):
        return (
            f"{{% set o = {{'user': {self.user!r}, 'assistant': {self.assistant!r},"
            f" 'system': {self.system!r}}} %}}"
            "{% for m in messages %}"
            f"{{{{ o[m['role']] + m['content'] + {self.end!r} }}}}"
            "{% endfor %}{% if add_generation_prompt %}"
            f"{{{{ {self.assistant + self.begin!r} }}}}"
            "{% endif %}"
        )


MANY = int(os.environ.get("RINGLENS_FUZZ", "1"))
H, A = "<role>HUMAN</role>", "<role>ASSISTANT</role>"
STYLES = {
    "ring-1t": Style(H, A, "", "<think>"),
    "ring-1t, thought in the answer": Style(H, A, ""),
    "ring-2": Style(H, A, "<|role_end|>"),
    "ring-nano": Style(H, A, "<|role_end|>", "<think>\n"),
    "chatml": Style(
        "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n", "<think>\n",
        "<|im_start|>system\n",
    ),
}  # fmt: skip

words = st.lists(
    st.sampled_from(["so", "7 * 3", "don't", "naïve", "数", "🙂", "{", "``x``", "<b>", "Wait,"]),
    min_size=1, max_size=5,
).map(" ".join)  # fmt: skip
quoted = st.sampled_from(
    [
        "`</think>`", '"</think>"', "'<think>'", "“</think>”", "`<think>x</think> y`",
        "``</think>``", f"`{A}`", f'"{H}"',
    ]
)  # fmt: skip
fenced = st.sampled_from(
    ["```\n<think>\nx\n</think>\n```", "~~~xml\n</think>\n~~~", "```py\n1\n```"]
)
line = (
    words | st.tuples(words, quoted, words).map(" ".join) | st.tuples(words, quoted).map(" ".join)
)
content = st.lists(line | fenced, min_size=1, max_size=4).map("\n".join)
plain_mark = st.tuples(words, st.sampled_from(["</think>", "<think>"]), words).map(" ".join)


@st.composite
def thoughts(draw):
    """A thought with what closes it: alone on a line, and then marks may be discussed before it."""
    inside = draw(content)
    if draw(st.booleans()):
        talk = draw(st.lists(plain_mark, max_size=2))
        return "\n".join([inside, *talk]) + "\n</think>\n"
    return f"{inside}</think>"


exchanges = st.lists(st.tuples(content, st.none() | thoughts(), content), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def tokenizers():
    """A tokenizer of each style, by name."""
    found = {}
    for name, style in STYLES.items():
        found[name] = PreTrainedTokenizerFast(tokenizer_object=nano.build())
        found[name].chat_template = style.jinja
    return found


def cut(text, bounds):
    """A text cut into tokens at some characters; nothing is known of their ids."""
    ends = sorted({b for b in bounds if 0 < b < len(text)} | {len(text)})
    starts = [0, *ends[:-1]]
    return TokenText(text, [text[a:b] for a, b in zip(starts, ends, strict=True)], starts, ends)


def expected(text, parts):
    """Phase and turn of each token by its first character; think where a token reaches into it."""
    edges = np.cumsum([0] + [len(part) for _, _, part in parts])
    assert edges[-1] == len(text.text)
    found = []
    for start, end in zip(text.starts, text.ends, strict=True):
        here = int(np.searchsorted(edges, start, side="right")) - 1
        for place, (low, high) in enumerate(pairwise(edges.tolist())):
            if parts[place][0] == "think" and start < high and end > low:
                here = place
        found.append(parts[here][:2])
    return found


def built(style, talk):
    """A finished conversation as (phase, turn, text) parts."""
    parts = []
    for number, (question, thought, answer) in enumerate(talk):
        turn = 2 * number
        parts.append(("prompt", turn, f"{style.user}{question}{style.end.rstrip()}"))
        head = style.end[len(style.end.rstrip()) :] + style.assistant
        opened = style.begin if thought else ""
        parts.append(("prompt", turn + 1, head + opened))
        if thought:
            mark = "" if style.begin else "<think>"
            inside, _, blank = thought.rpartition("</think>")
            parts.append(("think", turn + 1, f"{mark}{inside}</think>"))
            answer = blank + answer
        parts.append(("answer", turn + 1, answer + style.end.rstrip()))
        if number + 1 < len(talk):  # white space of the template belongs to what follows
            rest = style.end[len(style.end.rstrip()) :]
            question = talk[number + 1][0]
            parts.append(("prompt", turn + 2, rest)) if rest else None
    return [part for part in parts if part[2]]


many = settings(deadline=None, max_examples=25 * MANY, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", STYLES)
def test_marks_are_those_of_the_template(tokenizers, name):
    style, marks = STYLES[name], markup(tokenizers[name]).marks
    assert marks.openings[style.user.strip()] == "user"
    assert marks.openings[style.assistant.strip()] == "assistant"
    assert marks.openings[style.system.strip()] == "system"
    assert marks.ends == ((style.end.strip(),) if style.end else ())
    assert marks.begin == style.assistant + style.begin


@many
@given(st.sampled_from(sorted(STYLES)), exchanges, st.data())
def test_finished_conversations_are_split_as_they_were_built(tokenizers, name, talk, data):
    """However the text is cut into tokens."""
    parts = built(STYLES[name], talk)
    whole = "".join(part for _, _, part in parts)
    marks = Markup(markup(tokenizers[name]).marks)
    prompt = marks.prompt_of(whole)
    assert whole[:prompt] == "".join(
        part for phase, turn, part in parts if turn < 1 or (turn == 1 and phase == "prompt")
    )
    bounds = data.draw(st.lists(st.integers(0, len(whole)), max_size=40))
    text = cut(whole, [*bounds, prompt])
    n_prompt = text.ends.index(prompt) + 1
    reading = marks.read(text, n_prompt, written=False)
    assert list(zip(reading.phase, reading.turn.tolist(), strict=True)) == expected(text, parts)


@many
@given(st.sampled_from(sorted(STYLES)), exchanges, st.booleans(), st.data())
def test_what_a_model_writes_is_read_as_it_was_built(tokenizers, name, talk, stops, data):
    """The prompt holds earlier turns; thought and answer follow. Graded is what is answer."""
    style = STYLES[name]
    *before, (question, thought, answer) = talk
    if style.begin and thought is None:
        thought = "</think>"
    parts = [
        ("prompt", turn, text) for _, turn, text in built(style, [*before, (question, None, "x")])
    ]
    *parts, (_, turn, _) = parts
    if style.begin:
        parts.append(("prompt", turn, style.begin))
    prompt = "".join(text for _, _, text in parts)
    inside, mark, blank = (thought or "").rpartition("</think>")
    if thought:
        parts.append(("think", turn, ("" if style.begin else "<think>") + inside + mark))
    end = (style.end.strip() or "<|endoftext|>") if stops else ""
    parts.append(("answer", turn, blank + answer + end))
    whole = "".join(text for _, _, text in parts)
    bounds = data.draw(st.lists(st.integers(0, len(whole)), max_size=40))
    text = cut(whole, [*bounds, len(prompt)])
    reading = Markup(markup(tokenizers[name]).marks).read(
        text, text.ends.index(len(prompt)) + 1, question=question
    )
    assert list(zip(reading.phase, reading.turn.tolist(), strict=True)) == expected(text, parts)
    assert reading.transcript.answer == blank + answer
    assert find_answer(reading.transcript) == (blank + answer).strip().splitlines()[-1].strip()


@many
@given(st.sampled_from(sorted(STYLES)), exchanges, st.booleans(), st.data())
def test_a_trace_written_in_parts_ends_with_the_phases_of_the_whole(
    tokenizers, name, talk, written, data
):
    """Phases told too early are told anew; no part is left as it was first read."""
    tokenizer, parts = tokenizers[name], built(STYLES[name], talk)
    whole = "".join(text for _, _, text in parts)
    begin = markup(tokenizer).prompt_of(whole)
    ids = [
        tokenizer.encode(text, add_special_tokens=False) for text in (whole[:begin], whole[begin:])
    ]
    problem = Problem("p", "", talk[0][0]) if written else None
    both = ids[0] + ids[1]
    task = Task(both, len(ids[0]), len(both), 0, problem, written=written)
    buffer = TraceBuffer(task, tokenizer, 0, 0, (), "length")
    stored = []
    left = list(task.token_ids)
    while left:
        some = data.draw(st.integers(1, len(left)))
        buffer._push(left[:some])
        left = left[some:]
        if not left:
            buffer.end()
        record = buffer.cut()
        if record is None:
            continue
        if record.rewritten is not None:
            stored = list(zip(record.rewritten.phase, record.rewritten.turn.tolist(), strict=True))
        assert len(stored) == record.start
        stored += zip(record.tokens.phase, record.tokens.turn.tolist(), strict=True)
        counts = [[phase for phase, _ in stored].count(p) for p in ("prompt", "think", "answer")]
        assert counts == [record.n_prompt, record.n_think, record.n_answer]
    text = token_text(tokenizer, task.token_ids)
    reading = markup(tokenizer).read(
        text, len(ids[0]), written=written, question=talk[0][0] if written else ""
    )
    assert stored == list(zip(reading.phase, reading.turn.tolist(), strict=True))
    if not written:
        assert [phase for phase, _ in stored] == [phase for phase, _ in expected(text, parts)]


def test_marks_that_are_spelled_in_ordinary_tokens_are_none(tokenizers):
    tokenizer = tokenizers["ring-2"]
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    spelled = [encode(letter)[0] for letter in "</think>"]
    assert tokenizer.decode(spelled) == "</think>"
    head = encode(f"{H}q<|role_end|>{A}")
    ids = [*head, *encode("<think>a"), *spelled, *encode("b</think>c")]
    reading = markup(tokenizer).read(token_text(tokenizer, ids), len(head))
    assert reading.transcript.answer == "c"
    role = [encode(letter)[0] for letter in f"<|role_end|>{A}"]
    ids = [*encode(f"{H}q"), *role, *encode(f" x<|role_end|>{A}y")]
    reading = markup(tokenizer).read(token_text(tokenizer, ids), 0, written=False)
    assert reading.transcript.answer == "y"
    assert set(reading.turn.tolist()) == {0, 1}
    assert reading.phase.count("answer") == 1


def test_half_a_character_is_part_of_the_thought_that_the_prompt_opens(tokenizers):
    tokenizer = tokenizers["ring-nano"]
    head = tokenizer.encode(f"{H}q<|role_end|>{A}<think>\n", add_special_tokens=False)
    ids = head + tokenizer.encode("数</think>a", add_special_tokens=False)
    phase = markup(tokenizer).read(token_text(tokenizer, ids), len(head)).phase
    assert phase[len(head) :] == ["think"] * 4 + ["answer"]


def test_templates_that_refuse_or_tell_nothing_leave_the_family_s_own_marks(tokenizers):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=nano.build())
    for template in (
        None,
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
    ):
        tokenizer.chat_template = template
        assert markup(tokenizer).marks.openings[A] == "assistant"

"""Following a session: what is told is what is stored; stopping; what goes wrong."""

import contextlib
import itertools
import threading

import numpy as np
import pytest
import tiny_lens
from hypothesis import given
from hypothesis import strategies as st
from sessions import PROMPTS
from transformers import PreTrainedTokenizerFast
from waiting import wait_for

import ringlens as rl
from ringlens.data import tokenizer as nano
from ringlens.errors import ConfigError, RinglensError
from ringlens.observe.pipeline.block import Block
from ringlens.observe.pipeline.following import Following
from ringlens.observe.pipeline.trace_buffer import Task, TraceBuffer
from ringlens.store.check.check import check

WORDS = [
    "<think>", "</think>", "</", "think", ">", "<", "`", '"', "'", "\n", " ", "```\n", "a", "7 + 1",
    "€", "🧮", "\x1b[2J", "<|role_end|>", "<role>HUMAN</role>",
]  # fmt: skip


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


@pytest.fixture(scope="module")
def tokenizer():
    """Characters beyond ASCII are several tokens; ``<think>`` may be one or three."""
    return PreTrainedTokenizerFast(tokenizer_object=nano.build(), chat_template=nano.CHAT_TEMPLATE)


class Follower:
    """Keeps what it is told, by trace."""

    def __init__(self):
        self.tokens, self.phase, self.end = {}, {}, {}

    def __call__(self, steps):
        assert steps
        for step in steps:
            known = self.phase.setdefault(step.item, [])
            for pos, phase in step.reread.items():
                assert known[pos] != phase
                known[pos] = phase
            told = self.tokens.setdefault(step.item, [])
            told += step.tokens
            known += [token.phase for token in step.tokens]
            assert [token.pos for token in told] == list(range(len(told)))
            if step.end is not None:
                assert step.item not in self.end
                self.end[step.item] = step.end

    def text(self, item):
        return "".join(token.text for token in self.tokens[item])


def assert_told(follower, store, item):
    """What was told of a trace is what is stored, to the last character and digit."""
    trace = store.trace(follower.end[item].trace_id)
    tokens, told = trace.tokens(), follower.tokens[item]
    assert trace.summary["item"] == item
    assert trace.summary["finish_reason"] == follower.end[item].finish_reason
    assert follower.text(item) == trace.text
    assert [token.text for token in told] == tokens["text"]
    assert [token.token_id for token in told] == tokens["token_id"].tolist()
    assert follower.phase[item] == tokens["phase"]
    np.testing.assert_array_equal([token.entropy for token in told], tokens["entropy"])
    return trace


def test_what_is_told_is_what_is_stored(lens, tmp_path):
    """Traces of different lengths, padded, some of which end early."""
    follower = Follower()
    caller = threading.get_ident()
    seen = set()

    def follow(steps):
        seen.add(threading.get_ident())
        follower(steps)

    store = rl.capture(
        lens, PROMPTS, tmp_path / "s", max_new_tokens=70, temperature=1.0, on_tokens=follow,
        batch_size=3,
    )  # fmt: skip
    assert seen == {caller}
    assert sorted(follower.end) == [0, 1, 2, 3]
    for item in follower.end:
        trace = assert_told(follower, store, item)
        for at, layer in enumerate((1, 2, 3)):
            stored = trace.routing(layer)
            for name in ("expert_ids", "margin", "bias_flips", "weights"):
                told = [getattr(token.routing, name)[at] for token in follower.tokens[item]]
                np.testing.assert_array_equal(np.array(told), stored[name])
    assert check(store).findings == []


def test_what_is_recorded_does_not_change(lens, tmp_path):
    """Up to rounding; tokens, choices and logits not even by that."""
    followed = rl.capture(lens, PROMPTS, tmp_path / "a", max_new_tokens=9, on_tokens=Follower())
    plain = rl.capture(lens, PROMPTS, tmp_path / "b", max_new_tokens=9)
    for table in ("tokens", "routing", "router_logits"):
        rows = [store.sql(f"from {table} order by all").fetchall() for store in (followed, plain)]
        assert repr(rows[0]) == repr(rows[1])
    for layer in range(4):
        a, b = followed.trace(1).heads(layer), plain.trace(1).heads(layer)
        np.testing.assert_allclose(a["entropy"], b["entropy"], rtol=2e-3, atol=1e-5)


def test_what_is_not_recorded_is_not_told(lens, tmp_path):
    follower = Follower()
    rl.capture(
        lens, PROMPTS[:1], tmp_path / "s", max_new_tokens=4, on_tokens=follower, record=["heads"]
    )
    assert all(token.routing is None for token in follower.tokens[0])
    assert np.isnan([token.entropy for token in follower.tokens[0]]).all()


def after(forwards, do):
    """Progress that does something at a forward; what is told comes whenever it arrives."""
    left = itertools.count(forwards, -1)

    def progress(_):
        if next(left) == 0:
            do()

    return progress


def test_stopping_keeps_what_is_there(lens, tmp_path):
    follower, stop = Follower(), threading.Event()
    store = rl.capture(
        lens,
        PROMPTS[:2],
        tmp_path / "s",
        max_new_tokens=400,
        on_tokens=follower,
        on_progress=after(40, stop.set),
        stop=stop,
    )
    assert {end.finish_reason for end in follower.end.values()} == {"interrupted"}
    for item in follower.end:
        trace = assert_told(follower, store, item)
        assert trace.summary["n_prompt"] < len(trace) < 300
    assert store.sql("select finished is not null from runs").fetchall() == [(True,)]
    assert check(store).findings == []


def test_problems_that_were_not_begun_are_taken_up(lens, tmp_path):
    stop = threading.Event()
    options = {"max_new_tokens": 6, "batch_size": 1}
    path, stopping = tmp_path / "s", after(3, stop.set)
    store = rl.capture(lens, PROMPTS, path, on_progress=stopping, stop=stop, **options)
    query = "select item, finish_reason from traces order by 1"
    assert store.sql(query).fetchall() == [(0, "interrupted")]
    follower = Follower()
    store = rl.capture(lens, PROMPTS, tmp_path / "s", on_tokens=follower, **options)
    assert store.sql(query).fetchall()[0] == (0, "interrupted")
    assert sorted(follower.end) == [1, 2, 3]
    assert store.sql("select count(*) from runs").fetchall() == [(1,)]
    assert check(store).findings == []


def test_a_trace_that_is_taken_up_is_told_as_a_whole(lens, tmp_path):
    class HaltError(Exception):
        pass

    def committed():
        with contextlib.suppress(RinglensError), rl.Store(tmp_path / "s") as store:
            return store.sql("select count(*) from tokens").fetchall()[0][0]

    forwards = itertools.count()

    def halt(progress):
        if next(forwards) == 40:
            wait_for(lambda: (committed() or 0) > 12)
            raise HaltError

    options = {"max_new_tokens": 60, "commit_every": 0}
    seen = Follower()
    with pytest.raises(HaltError):
        rl.capture(lens, PROMPTS[:1], tmp_path / "s", on_progress=halt, on_tokens=seen, **options)
    follower = Follower()
    store = rl.capture(lens, PROMPTS[:1], tmp_path / "s", on_tokens=follower, **options)
    assert_told(follower, store, 0)
    assert follower.tokens[0][0].routing is None  # stored by the call before


def test_an_error_of_the_follower_ends_the_session(lens, tmp_path):
    def fail(steps):
        raise ValueError("no more paper")

    with pytest.raises(ValueError, match="no more paper"):
        rl.capture(lens, PROMPTS[:1], tmp_path / "s", max_new_tokens=4, on_tokens=fail)
    store = rl.capture(lens, PROMPTS[:1], tmp_path / "s", max_new_tokens=4)
    assert len(store.sql("from traces").fetchall()) == 1
    assert check(store).findings == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"on_tokens": 3}, "on_tokens is int 3; give a function of steps"),
        ({"stop": True}, "stop is bool True; give a threading.Event"),
    ],
)
def test_what_cannot_follow_is_refused(lens, tmp_path, settings, says):
    with pytest.raises(ConfigError, match=says):
        rl.capture(lens, PROMPTS[:1], tmp_path / "s", **settings)
    assert list(tmp_path.iterdir()) == []


@given(
    words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=40),
    prompt=st.sampled_from(["<think>\n", "q", "q€", ""]),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=60),
    cut=st.integers(0, 3),
    ends=st.booleans(),
)
def test_any_text_is_told_as_it_is_stored(tokenizer, words, prompt, sizes, cut, ends):
    """Whatever the tokens, the blocks they come in, and where they end."""
    head = f"<role>HUMAN</role>{prompt}<|role_end|><role>ASSISTANT</role>{prompt}"
    known = tokenizer.encode(head, add_special_tokens=False)
    written = [i for word in words for i in tokenizer.encode(word, add_special_tokens=False)]
    token_ids = [*known, *written][: len(known) + max(len(written) - cut, 1)]  # within a character
    limit = len(token_ids) if ends else len(token_ids) + 5
    task = Task(token_ids=known, n_prompt=len(known), limit=limit, item=0)
    buffer = TraceBuffer(task, tokenizer, 0, 0, (), "length")
    follower, shown = Follower(), ""
    following = Following(follower, None)
    following.begin([buffer])
    start = 0
    while start < len(token_ids):
        size = sizes[start % len(sizes)] if start else len(known)
        part = token_ids[start : start + size]
        stop = start + len(part)
        buffer.add(Block(start, stop, np.array([part]), {}, {}, {}))
        following.saw(buffer, Block(start, stop, np.array([part]), {}, {}, {}), start)
        following.tell()
        assert follower.text(0).startswith(shown)  # what was shown is never taken back
        shown, start = follower.text(0), stop
    if not buffer.done:
        buffer.end("interrupted")
        following.ended(buffer)
        following.tell()
    record = buffer.cut()
    assert follower.text(0) == record.text
    assert [token.text for token in follower.tokens[0]] == record.tokens.text
    assert follower.phase[0] == record.tokens.phase

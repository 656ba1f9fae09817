"""Two captures of the same tokens."""

from dataclasses import replace

import numpy as np
import pytest
from records import random_run, random_trace

from ringlens.analysis import agreement
from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter

RUN = random_run(heads=1)
TRACES = [random_trace(RUN, 40 + seed, seed=seed, heads=None) for seed in range(3)]


def store_of(path, traces, **changes):
    with StoreWriter(path) as writer:
        run_id = writer.start_run(replace(RUN, **changes))
        writer.commit(run_id, traces)
    return Store(path)


def disturbed(trace, source, positions):
    """A replay that chose another expert on one layer at some positions, and is less sure there."""
    routing = trace.routing
    ids_STk = routing.expert_ids.copy()
    for pos in positions:
        unused = next(e for e in range(RUN.experts) if e not in ids_STk[1, pos])
        ids_STk[1, pos, 0] = unused
    logprob_T = trace.tokens.logprob.copy()
    logprob_T[positions] -= 0.5
    return replace(
        trace,
        source_trace_id=source,
        finish_reason="replay",
        routing=replace(routing, expert_ids=ids_STk),
        router_logits=None,
        tokens=replace(trace.tokens, logprob=logprob_T),
    )


def test_equal_captures_agree(tmp_path):
    with store_of(tmp_path / "a", TRACES) as a, store_of(tmp_path / "b", TRACES[::-1]) as b:
        frame = agreement(a, b)
    assert frame["layer"].tolist() == [1, 2, 3]
    assert (frame["tokens"] == 40 + 41 + 42).all()
    for name in ("mismatch", "tokens_differ", "order_differs", "weight_error"):
        assert (frame[name] == 0).all(), name
    attrs = frame.attrs
    assert (attrs["traces"], attrs["unpaired"], attrs["any_layer"]) == (3, (0, 0), 0)
    assert attrs["logprob_error"] == 0


def test_a_planted_difference_is_counted(tmp_path):
    positions = [3, 9, 20, 21]
    replays = [disturbed(TRACES[0], 1, positions)]
    with (
        store_of(tmp_path / "a", TRACES) as a,
        store_of(tmp_path / "b", replays, mode="replay", record=("routing",)) as b,
    ):
        frame = agreement(a, b).set_index("layer")
        attrs = agreement(a, b).attrs
    assert frame["mismatch"].tolist() == pytest.approx([0, 4 / 3 / 40, 0])
    assert frame["tokens_differ"].tolist() == pytest.approx([0, 4 / 40, 0])
    assert attrs["unpaired"] == (2, 0)
    assert attrs["any_layer"] == pytest.approx(4 / 40)
    assert attrs["logprob_error_differ"] == pytest.approx(0.5)
    assert attrs["logprob_error"] == pytest.approx(0.5 * 4 / 39)  # position 0 has none


def test_an_order_is_told_from_a_choice(tmp_path):
    routing = TRACES[0].routing
    ids_STk = routing.expert_ids.copy()
    weights_STk = routing.weights.copy()
    ids_STk[0, 5] = ids_STk[0, 5][[1, 0, 2]]
    other = replace(TRACES[0], routing=replace(routing, expert_ids=ids_STk), router_logits=None)
    with (
        store_of(tmp_path / "a", TRACES[:1]) as a,
        store_of(tmp_path / "b", [other], record=("routing",)) as b,
    ):
        frame = agreement(a, b).set_index("layer")
    assert frame.loc[1, "tokens_differ"] == 0
    assert frame.loc[1, "order_differs"] == pytest.approx(1 / 40)
    expected = np.abs(weights_STk[0, 5, 0] - weights_STk[0, 5, 1])
    assert frame.loc[1, "weight_error"] == pytest.approx(expected)


def test_captures_of_other_tokens_are_refused(tmp_path):
    others = [random_trace(RUN, 40, seed=9, heads=None)]
    with store_of(tmp_path / "a", TRACES) as a, store_of(tmp_path / "b", others) as b:
        with pytest.raises(StoreError, match="no traces of the same tokens"):
            agreement(a, b)
        with pytest.raises(StoreError, match="no traces of the same tokens"):
            agreement(b, b)  # a trace is not compared with itself

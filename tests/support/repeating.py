"""Captures whose steps are repeated as they stand: what a graph repeats, on the CPU."""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
from sessions import PROMPTS, assert_same
from waiting import wait_for

from ringlens.observe import session
from ringlens.observe.decoding.generating import AsItStands, generate_repeating
from ringlens.store import Store


@contextmanager
def repeated(make=AsItStands):
    """Have ``rl.capture`` decode by a step that is repeated."""
    with patch.object(session, "generating", lambda *_: partial(generate_repeating, make=make)):
        yield


EVERYTHING = (
    *("logprobs", "routing", "router_logits", "heads", "expert_outputs"),
    *("resid_post@1+3", "head_out@2/0+1[3:20]", "final_norm@", "attention:3@0+2/1"),
)


def rows(store, table):
    return store.sql(
        f"select t.item, k.* exclude (trace_id) from {table} k join traces t using (trace_id) "
        "order by all"
    ).fetchall()


def same_tables(one, other):
    """Every table holds the same rows, numbers up to float32."""
    for trace_id in range(1, len(PROMPTS) + 1):
        assert_same(one.trace(trace_id), other.trace(trace_id))
    for table in ("expert_outputs", "activations", "attention", "head_blocks"):
        for a, b in zip(rows(one, table), rows(other, table), strict=True):
            for x, y in zip(a, b, strict=True):
                if isinstance(x, list) and isinstance(x[0], float):
                    np.testing.assert_allclose(x, y, rtol=2e-3, atol=2e-5, err_msg=table)
                elif not isinstance(x, float):
                    assert x == y, table


def interrupt_behind_a_block(path):
    """An ``on_progress`` that interrupts when a block of steps is stored and more have run."""
    calls = []

    def stored():
        with Store(path) as store:
            return store.sql("select 1 from traces where n_think + n_answer > 40").fetchall()

    def interrupt(progress):
        calls.append(progress)
        if len(calls) > 85:
            wait_for(stored)
            raise KeyboardInterrupt

    return interrupt

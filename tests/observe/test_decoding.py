"""A decoding step that is repeated decodes and records what ``generate`` does; here on the CPU."""

import numpy as np
import pytest
import tiny_lens
from repeating import repeated
from sessions import PROMPTS, assert_same

import ringlens as rl
from ringlens.observe.decoding import generating

EVERYTHING = (
    *("logprobs", "routing", "router_logits", "heads", "expert_outputs"),
    *("resid_post@1+3", "head_out@2/0+1[3:20]", "final_norm@", "attention:3@0+2/1"),
)


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


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


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_repeated_step_records_what_generate_records(temperature, lens, tmp_path, monkeypatch):
    """Past a full ring, past several rooms, with padding, and with rows of different ends."""
    monkeypatch.setattr(generating, "ROOM", 16)
    options = {
        "max_new_tokens": 75,
        "record": EVERYTHING,
        "temperature": temperature,
        "top_p": 0.95 if temperature else 1.0,
        "top_k": 100 if temperature else 0,
    }
    eager = rl.capture(lens, PROMPTS, tmp_path / "eager", **options)
    with repeated():
        again = rl.capture(lens, PROMPTS, tmp_path / "again", **options)
    same_tables(eager, again)

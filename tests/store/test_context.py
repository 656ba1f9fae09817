"""The view that selections are made over."""

import pytest
from records import random_run, random_trace

from ringlens.store import Store, StoreWriter

RUN = random_run()


@pytest.fixture
def store(tmp_path):
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        traces = writer.commit(run_id, [random_trace(RUN, n, seed=n) for n in (24, 40)])
        steps = [
            {"trace_id": traces[1], "step": i, "start": 0, "end": 1, "token_start": start,
             "token_end": start + 5, "role": role, "is_backtrack": role == "doubt",
             "label_source": "test", "text": "x"}
            for i, (start, role) in enumerate([(10, "plan"), (15, "doubt"), (20, None)])
        ]  # fmt: skip
        writer.replace_rows(run_id, "steps", steps)
    with Store(tmp_path) as store:
        yield store


def test_every_token_has_one_row_with_its_trace_and_run(store):
    query = """select trace_id, pos, token_id, text, phase, turn, entropy, logprob, run_id, model,
        mode, task, problem_id, correct, finish_reason from {} order by all"""
    joined = "tokens join traces using (trace_id) join runs using (run_id)"
    joined = query.replace(" text,", " tokens.text,").format(joined)
    assert store.sql(query.format("token_context")).fetchall() == store.sql(joined).fetchall()
    ends = "select min(rel_pos), max(rel_pos) from token_context group by trace_id order by 2"
    assert store.sql(ends).fetchall() == [(0, 23 / 24), (0, 39 / 40)]


def test_tokens_outside_steps_have_none(store):
    query = """select step, role, is_backtrack, min(pos), max(pos) from token_context
        where trace_id = 2 group by all order by min(pos)"""
    found = store.sql(query).fetchall()
    assert found == [
        (None, None, None, 0, 39),
        (0, "plan", False, 10, 14),
        (1, "doubt", True, 15, 19),
        (2, None, False, 20, 24),
    ]
    cut = store.sql("select distinct trace_id from token_context where step is not null")
    assert cut.fetchall() == [(2,)]

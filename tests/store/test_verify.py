"""A store agrees with itself, and the check notices where it does not."""

from dataclasses import replace

import numpy as np
import pytest
from records import choose, random_run, random_trace

from ringlens.store import Store, StoreWriter
from ringlens.store.check.verify import select, verify_choices

THOUGHT_ROWS = """
select count(*) as thought_rows,
       count(*) filter (routed = 1) as with_one_routing_row
from (
    select tokens.trace_id, tokens.pos, sparse.layer, count(routing.pos) as routed
    from tokens
    join traces using (trace_id)
    join (select run_id, unnest(sparse_layers) as layer from runs) as sparse using (run_id)
    left join routing
      on routing.trace_id = tokens.trace_id
     and routing.layer = sparse.layer
     and routing.pos = tokens.pos
    where tokens.phase = 'think'
    group by all)
"""
"""SQL that counts pairs of a thought token and a sparse layer, and those with one routing row.

The two are equal in a store whose runs recorded routing themselves; an imported trace has no row
for its last token.
"""


def store_of(path, run, traces):
    with StoreWriter(path) as writer:
        writer.commit(writer.start_run(run), traces)
    return Store(path)


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"experts": 320, "groups": 8, "groups_kept": 4, "k": 8},
        {"groups": 1, "groups_kept": 1, "k": 1},
        {"experts": 8, "groups": 4, "groups_kept": 4, "k": 8},
    ],
)
def test_recorded_choices_follow_from_recorded_logits(tmp_path, shape):
    run = random_run(**shape)
    with store_of(tmp_path, run, [random_trace(run, seed=i) for i in range(4)]) as store:
        found = verify_choices(store)
    assert (found.rows, found.differ, found.examples) == (4 * 24 * 3, 0, ())


def test_every_wrong_choice_is_found(tmp_path):
    run = random_run()
    trace = random_trace(run)
    ids = trace.routing.expert_ids.copy()
    for layer, pos in ((0, 3), (2, 0), (2, 23)):
        others = np.setdiff1d(np.arange(run.experts), ids[layer, pos])
        ids[layer, pos, -1] = others[0]
    wrong = replace(trace, routing=replace(trace.routing, expert_ids=ids))
    with store_of(tmp_path, run, [trace, wrong]) as store:
        found = verify_choices(store)
    assert (found.rows, found.differ) == (144, 3)
    assert sorted(found.examples) == [(2, 1, 3), (2, 3, 0), (2, 3, 23)]


def test_the_bias_and_the_group_limit_are_taken_into_account(tmp_path):
    run = random_run()
    trace = random_trace(run, tokens=200)
    for changed in (
        replace(run, expert_bias=np.zeros_like(run.expert_bias)),
        replace(run, groups_kept=run.groups),
    ):
        path = tmp_path / str(changed.groups_kept)
        with store_of(path, changed, [trace]) as store:
            assert verify_choices(store).differ > 0


def test_equal_scores_may_stand_in_either_order(tmp_path):
    run = random_run(groups=1, groups_kept=1, expert_bias=np.zeros((3, 16), np.float32))
    trace = random_trace(run, router_logits=np.zeros((3, 24, 16), np.float32))
    with store_of(tmp_path, run, [trace]) as store:
        assert verify_choices(store).differ == 0


def test_logits_without_routing_count_as_different(tmp_path):
    run = random_run()
    with store_of(tmp_path, run, [random_trace(run, routing=None)]) as store:
        found = verify_choices(store)
    assert (found.rows, found.differ, len(found.examples)) == (72, 72, 10)


def test_each_thought_token_has_one_routing_row_a_sparse_layer(tmp_path):
    run = random_run()
    traces = [random_trace(run, seed=i) for i in range(3)]
    with store_of(tmp_path, run, traces) as store:
        thought = sum(trace.n_think for trace in traces) * len(run.sparse_layers)
        assert store.sql(THOUGHT_ROWS).fetchall() == [(thought, thought)]


def test_thought_tokens_without_routing_are_counted(tmp_path):
    run = random_run()
    traces = [random_trace(run), random_trace(run, routing=None)]
    with store_of(tmp_path, run, traces) as store:
        thought = traces[0].n_think * len(run.sparse_layers)
        assert store.sql(THOUGHT_ROWS).fetchall() == [(2 * thought, thought)]


def test_selection_agrees_with_a_plain_reference():
    rng = np.random.default_rng(0)
    for groups, kept, k in ((1, 1, 3), (4, 2, 4), (8, 4, 8), (8, 8, 1)):
        scores = rng.random((300, 64))
        ids, _ = choose(scores, groups, kept, k)
        flags = np.zeros(scores.shape, bool)
        np.put_along_axis(flags, ids, True, axis=1)
        np.testing.assert_array_equal(select(scores, groups, kept, k), flags)

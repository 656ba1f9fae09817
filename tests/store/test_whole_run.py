"""Arrays of many traces at once, against the same read trace by trace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import random_run, random_trace, random_vectors

from ringlens.errors import ConfigError, NotInStoreError, StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter

RUN = random_run(record=("logprobs", "routing", "router_logits", "heads", "residual@2", "out@1"))
POS = (0, 3, 11, 40)
LENGTHS = (60, 24, 60, 41, 9)


def trace(i, tokens):
    rng = np.random.default_rng(i)
    pos = [p for p in POS if p < tokens]
    residual = random_vectors(rng, "residual", (2,), pos)
    out = random_vectors(rng, "out", (1,), pos, heads=(0, 3), width=3)
    return random_trace(RUN, tokens, seed=i, vectors=(residual, out))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Five traces in two commits."""
    path = tmp_path_factory.mktemp("stores") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(RUN)
        traces = [trace(i, tokens) for i, tokens in enumerate(LENGTHS)]
        writer.commit(run_id, traces[:2])
        writer.commit(run_id, traces[2:])
        writer.finish_run(run_id)
    return path


@pytest.fixture(scope="module")
def store(path):
    with Store(path) as store:
        yield store


def by_trace(store, read):
    """What ``read`` gives of each trace, end to end."""
    return np.concatenate([read(each) for each in store])


def test_all_tokens_in_order(store):
    rows = store.tokens(context=["correct", "problem_id"])
    np.testing.assert_array_equal(rows.trace_id, np.repeat(range(1, 6), LENGTHS))
    np.testing.assert_array_equal(rows.pos, np.concatenate([np.arange(n) for n in LENGTHS]))
    for name in ("token_id", "text", "phase", "entropy", "logprob"):
        np.testing.assert_array_equal(rows[name], by_trace(store, lambda t, n=name: t.tokens()[n]))
    problem = by_trace(store, lambda t: [t.summary["problem_id"]] * len(t))
    np.testing.assert_array_equal(rows["problem_id"], problem)
    assert len({id(text) for text in rows["text"]}) < 20  # one object for each text


def test_arrays_are_those_of_the_traces(store):
    rows = store.router_logits(2)
    np.testing.assert_array_equal(rows.values, by_trace(store, lambda t: t.router_logits(2)))
    assert rows.values.dtype == np.float32
    heads = store.heads(3)
    for name in ("entropy", "first_weight", "previous_weight", "output_norm"):
        np.testing.assert_array_equal(heads[name], by_trace(store, lambda t, n=name: t.heads(3)[n]))
    np.testing.assert_array_equal(store.statistics("heads", 3)["entropy"], heads["entropy"])
    routing = store.routing(1)
    for name in ("expert_ids", "weights", "affinities", "margin", "bias_flips", "entropy"):
        wanted = by_trace(store, lambda t, n=name: t.routing(1)[n])
        np.testing.assert_array_equal(routing[name], wanted, name)
    assert routing["bias_flips"].any()


def test_routing_by_expert(store):
    rows = store.routing(1)
    values = rows.values
    assert values.shape == (sum(LENGTHS), RUN.experts)
    assert ((values > 0).sum(axis=1) == RUN.experts_per_token).all()
    np.testing.assert_allclose(values.sum(axis=1), 2.5, atol=0.01)
    n = 17
    np.testing.assert_array_equal(values[n, rows["expert_ids"][n]], rows["weights"][n])


def test_vectors_at_the_positions_that_were_recorded(store):
    rows = store.vectors("residual", 2)
    np.testing.assert_array_equal(
        rows.values, by_trace(store, lambda t: t.vectors("residual", 2)[1])
    )
    np.testing.assert_array_equal(rows.pos, by_trace(store, lambda t: t.vectors("residual", 2)[0]))
    assert rows.absent == sum(LENGTHS) - len(rows)
    both = store.vectors("out", 1, "pos < 20")
    assert both.heads == (0, 3)
    one = store.vectors("out", 1, "pos < 20", head=3)
    np.testing.assert_array_equal(both.values[:, 1], one.values)
    assert "selected tokens have none" in repr(rows)


PREDICATES = st.sampled_from(
    ["phase = 'think'", "entropy > 0.5", "correct", "not correct", "trace_id in (2, 5)",
     "pos % 7 = 0", "rel_pos < 0.5", "text like ' %'", "pos > 1 -- a comment",
     "logprob is null", "true"]
)  # fmt: skip


@pytest.fixture(scope="module")
def logits(store):
    """All tokens' logits by layer."""
    return {layer: store.router_logits(layer) for layer in RUN.sparse_layers}


@settings(max_examples=12)
@given(PREDICATES, PREDICATES, st.sampled_from(["and", "or"]), st.integers(1, 3))
def test_where_keeps_just_the_rows_that_it_names(store, logits, one, other, word, layer):
    where = f"({other}\n) {word} {one}"
    query = f"select trace_id, pos from token_context where {where}\n order by all"
    wanted = {*store.sql(query).fetchall()}
    if not wanted:
        with pytest.raises(NotInStoreError, match="is selected"):
            store.router_logits(layer, where)
        return
    rows = store.router_logits(layer, where, context=["entropy"])
    everything = logits[layer]
    places = [
        i
        for i, key in enumerate(zip(everything.trace_id, everything.pos, strict=True))
        if key in wanted
    ]
    assert len(places) == len(wanted) == len(rows)
    np.testing.assert_array_equal(rows.values, everything.values[places])
    np.testing.assert_array_equal(rows["phase"], everything["phase"][places])


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("phse = 'think'", ConfigError, "unknown column 'phse'. Did you mean 'phase'. Known"),
        ('phase = "think"', ConfigError, "A text has single quotes: 'think'"),
        ("phase = 'thinking'", NotInStoreError, "none of the 194 tokens .* is selected"),
        ("entropy", ConfigError, "is FLOAT; it must be true or false"),
        ("phase =", ConfigError, "is no predicate .syntax"),
        ("pos = 1) or (pos = 2", ConfigError, "no predicate"),
        ("true; drop view tokens", ConfigError, "no predicate"),
        ("true) from traces; drop view tokens; select (true", ConfigError, "no predicate"),
        ("max(pos) > 3", ConfigError, "no predicate"),
        ("true order by pos", ConfigError, "no predicate"),
        ("", ConfigError, "it must be a predicate"),
        (5, ConfigError, "where = 5"),
    ],
)  # fmt: skip
def test_a_wrong_predicate_is_answered_with_a_sentence(store, where, error, said):
    with pytest.raises(error, match=said):
        store.tokens(where)


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda s: s.router_logits(0), NotInStoreError, "layer 0 was not .*its layers .* 1, 2, 3"),
        (lambda s: s.heads(99), NotInStoreError, "its layers in heads are 0, 1, 2, 3"),
        (lambda s: s.heads("2"), NotInStoreError, "'2' is not a whole number"),
        (lambda s: s.vectors("residual", 1), NotInStoreError, "'residual' of layer 1 was not"),
        (lambda s: s.statistics("hedas", 1), ConfigError, "Did you mean 'heads'"),
        (lambda s: s.statistics("head_blocks", 1), ConfigError, "unknown table of numbers"),
        (lambda s: s.statistics("heads"), NotInStoreError, "has layers: name one"),
        (lambda s: s.statistics("tokens", 1), NotInStoreError, "has no layers"),
        (lambda s: s.tokens(context=["corect"]), ConfigError, "Did you mean 'correct'"),
        (lambda s: s.tokens(context="correct"), ConfigError, "must be a list of columns"),
        (lambda s: s.tokens(wher="x"), ConfigError, "Did you mean 'where'"),
        (lambda s: s.heads(1).values, ConfigError, r"take one: rows\['entropy'\]"),
        (lambda s: s.heads(1)["entrpy"], ConfigError, "Did you mean 'entropy'"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_said(store, ask, error, said):
    with pytest.raises(error, match=said):
        ask(store)


def test_frames(store):
    rows = store.router_logits(1, "trace_id = 5", context=["task"])
    frame = rows.df()
    assert [*frame.columns[:5]] == ["trace_id", "pos", "phase", "task", "logits_0"]
    np.testing.assert_array_equal(frame.filter(like="logits").to_numpy(), rows.values)
    polars = rows.pl()
    assert polars.columns == [*frame.columns]
    np.testing.assert_array_equal(polars["logits_7"].to_numpy(), rows.values[:, 7])
    assert rows._ipython_key_completions_() == ["trace_id", "pos", "phase", "task", "logits"]


def add(path, run, *traces):
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, traces)
        writer.finish_run(run_id)
    return run_id


def test_runs_that_do_not_fit_together_are_refused(tmp_path):
    one = add(tmp_path, RUN, trace(0, 24))
    small = random_run(experts=8, heads=2)
    other = add(tmp_path, small, random_trace(small, 24, seed=1))
    bare = add(tmp_path, RUN, random_trace(RUN, 9, seed=2, router_logits=None, heads=None))
    with Store(tmp_path) as store:
        with pytest.raises(NotInStoreError, match=f"run {bare}.*recorded.*leaves the run out"):
            store.router_logits(1, f"run_id <> '{other}'")
        with pytest.raises(StoreError, match=r"different sizes \(\d+ and \d+ numbers"):
            store.router_logits(1, f"run_id <> '{bare}'")
        assert store.router_logits(1, f"run_id = '{one}'").values.shape == (24, 16)
        assert store.router_logits(1, f"run_id = '{other}'").values.shape == (24, 8)
        with pytest.raises(StoreError, match="different sizes"):
            store.heads(1, f"run_id <> '{bare}'")


def test_imported_runs_have_choices_alone(tmp_path):
    full = trace(0, 24)
    choices = ChoiceArrays(full.routing.layers, full.routing.expert_ids[:, 2:23], 2)
    served = replace(full, routing=choices, router_logits=None, heads=None, vectors=())
    imported = random_run(
        mode="imported", record=("routing",), expert_bias=np.full((3, 16), np.nan)
    )
    add(tmp_path, imported, served)
    add(tmp_path, RUN, full)
    with Store(tmp_path) as store:
        rows = store.routing(1)
        assert (len(rows), rows.absent) == (21 + 24, 3)
        assert np.isnan(rows["weights"][:21]).all() and not np.isnan(rows["weights"][21:]).any()
        np.testing.assert_array_equal(rows["expert_ids"][:21], rows["expert_ids"][23:44])
        with pytest.raises(NotInStoreError, match="imported, and tell which experts"):
            _ = rows.values
        assert store.routing(1, "mode <> 'imported'").values.shape == (24, 16)


def test_rows_that_are_lost_are_missed(tmp_path):
    half = replace(trace(0, 24), heads=None)
    add(tmp_path, RUN, trace(1, 24), half)
    with Store(tmp_path) as store:
        with pytest.raises(
            StoreError, match="missing for 24 selected tokens, the first in trace 2"
        ):
            store.heads(1)
        assert len(store.heads(1, "trace_id <> 2")["entropy"]) == 24

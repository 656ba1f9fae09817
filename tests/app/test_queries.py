"""What the dashboard asks of a store, against the same figures computed from the records."""

import base64
import shutil
import sqlite3
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records import part, random_run, random_trace
from small_store import write_run

from ringlens.app.listing import conditions as grid
from ringlens.app.listing.rows import traces_page
from ringlens.app.routing.evidence import EvidenceCache
from ringlens.app.shared import queries
from ringlens.app.shared.catalogue import Catalogue
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.app.store import queries as store_queries
from ringlens.app.trace import payload
from ringlens.cli.console import summary
from ringlens.errors import NotInStoreError
from ringlens.plot.heatmap import figure as usage_heatmap
from ringlens.store import ChoiceArrays, Store, StoreWriter
from ringlens.store.maintain.info import info
from ringlens.store.schema.recorded_tables import HEADS

PHASES = ("prompt", "think", "answer")
RUN = random_run(layers=5, dense=2, experts=16, groups=4, k=3)
OTHER = random_run(seed=1, layers=3, dense=0, experts=300, groups=2, groups_kept=1, k=4, heads=2)
TRACES = [random_trace(RUN, 150 + 10 * i, seed=i) for i in range(6)]
BARE = random_trace(RUN, 20, seed=8, routing=None, router_logits=None, heads=None, correct=None)
WIDE = random_trace(OTHER, 70, seed=9)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Traces 1-6 and, bare, 7 of one run; 8 of another, with more than 256 experts."""
    path = tmp_path_factory.mktemp("stores") / "store"
    with StoreWriter(path) as writer:
        first = writer.start_run(RUN)
        writer.commit(first, TRACES[:4])
        writer.commit(first, [*TRACES[4:], BARE])
        writer.finish_run(first)
        writer.commit(writer.start_run(OTHER), [WIDE])
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module")
def old_store(store, tmp_path_factory):
    """The same as a version without usage tables wrote it."""
    path = shutil.copytree(store.path, tmp_path_factory.mktemp("old") / "store")
    with sqlite3.connect(path / "manifest.sqlite") as manifest:
        manifest.execute("delete from files where table_name like 'usage%'")
    with Store(path) as old:
        yield old


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A trace that a serving engine routed: its choices, without the last token's."""
    path = tmp_path_factory.mktemp("stores") / "store"
    full = random_trace(RUN, 60, seed=3, router_logits=None, heads=None)
    ids = full.routing.expert_ids[:, :-1]
    trace = replace(full, routing=ChoiceArrays(RUN.sparse_layers, ids))
    with StoreWriter(path) as writer:
        writer.commit(writer.start_run(RUN), [trace])
    with Store(path) as store:
        yield store, trace


@pytest.fixture(scope="module")
def catalogue(store):
    return Catalogue(store)


@pytest.fixture(scope="module")
def evidence(store):
    return EvidenceCache(store)


@pytest.fixture(scope="module")
def scope(store):
    return Scope(store.trace(1).summary["run_id"])


def decoded(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype="<" + dtype)


def shares(trace):
    weights = trace.routing.weights
    return weights / weights.sum(-1, keepdims=True)


# --- the store ------------------------------------------------------------------------------


def test_totals_and_runs(catalogue):
    every = [*TRACES, BARE, WIDE]
    totals = store_queries.totals(catalogue)
    assert totals["traces"] == 8
    assert totals["n_think"] == sum(t.n_think for t in every)
    assert totals["judged"] == 7
    assert totals["correct"] == sum(bool(t.correct) for t in every)
    assert totals["unfinished"] == 1
    runs = queries.runs(catalogue)
    assert [run["traces"] for run in runs] == [1, 7]  # newest first
    assert runs[1]["tokens"] == sum(len(t.tokens.token_id) for t in [*TRACES, BARE])


def test_replays_are_counted_apart(tmp_path):
    """Three originals, two replays of them; and a store of replays alone."""
    first, again = random_run(), random_run(mode="replay")
    originals = [random_trace(first, 40 + i, seed=i) for i in range(3)]
    replays = [
        random_trace(again, 40 + i, seed=i, source_trace_id=i + 1, finish_reason="replay")
        for i in range(2)
    ]
    with StoreWriter(tmp_path / "s") as writer:
        writer.commit(writer.start_run(first), originals)
        writer.commit(writer.start_run(again), replays)
    write_run(tmp_path / "r", again, replays)
    with Store(tmp_path / "s") as store:
        catalogue = Catalogue(store)
        totals = store_queries.totals(catalogue)
        assert (totals["traces"], totals["replays"], totals["all_traces"]) == (3, 2, 5)
        assert totals["n_think"] == sum(t.n_think for t in originals)
        assert totals["correct"] == sum(bool(t.correct) for t in originals)
        assert totals["replay_tokens"] == 40 + 41
        assert {run["mode"]: run["replays"] for run in queries.runs(catalogue)} == {
            first.mode: 0, "replay": 2
        }  # fmt: skip
        for kind, found in (
            ("all", [1, 2, 3, 4, 5]),
            ("originals", [1, 2, 3]),
            ("replays", [4, 5]),
        ):
            wanted = grid.condition(None, "all", None, kind)
            rows, _ = traces_page(catalogue, wanted.sql, grid.order_sql(None), wanted.params, 0, 9)
            assert [row["trace_id"] for row in rows] == found
        line = summary("s", info(store))
        assert "s: 3 traces (" in line
        assert f"{sum(map(len, (t.tokens.token_id for t in originals))):,} tokens (" in line
        assert "2 replays, 81 tokens in them" in line
    with Store(tmp_path / "r") as store:
        totals = store_queries.totals(Catalogue(store))
        assert totals["only_replays"] and totals["traces"] == totals["replays"] == 2
        assert "r: 2 replays, 81 tokens in them" in summary("r", info(store))


def test_version_changes_with_each_commit_only(tmp_path):
    with StoreWriter(tmp_path / "s") as writer, Store(tmp_path / "s") as store:
        seen = [queries.version(store)]
        run_id = writer.start_run(RUN)
        seen.append(queries.version(store))
        writer.commit(run_id, TRACES[:1])
        seen += [queries.version(store), queries.version(store)]
        writer.finish_run(run_id)
        seen.append(queries.version(store))
    assert len(set(seen)) == 4
    assert seen[2] == seen[3]


def test_the_catalogue_follows_the_store(tmp_path):
    """New traces, a trace that goes on, a trace told anew: always what the store says."""
    with StoreWriter(tmp_path / "s") as writer, Store(tmp_path / "s") as store:
        catalogue = Catalogue(store)

        def same() -> int:
            truth = store.sql(
                "select trace_id, n_think, mean_entropy from trace_summary order by trace_id"
            ).fetchall()
            found = catalogue.sql(
                "select trace_id, n_think, entropy from traces left join tokens using (trace_id)"
                " order by trace_id"
            ).fetchall()
            assert [row[:2] for row in found] == [row[:2] for row in truth]
            means = [[row[2] for row in rows] for rows in (found, truth)]
            assert means[0] == pytest.approx(means[1], rel=1e-6)
            return len(found)

        assert same() == 0
        run_id = writer.start_run(RUN)
        assert store_queries.totals(catalogue)["unfinished"] == 1
        writer.commit(run_id, TRACES[:2])
        (going,) = writer.commit(run_id, [part(TRACES[2], 0, 60, None)])
        assert same() == 3
        writer.commit(run_id, [TRACES[3]])
        writer.commit(run_id, [part(TRACES[2], 60, 170, going)])
        assert same() == 4
        writer.finish_run(run_id)
        assert store_queries.totals(catalogue)["unfinished"] == 0


# --- the grid -------------------------------------------------------------------------------


def page(catalogue, filters=None, sort=None, verdict="all", search=None, start=0, end=100):
    wanted = grid.condition(filters, verdict, search)
    return traces_page(catalogue, wanted.sql, grid.order_sql(sort), wanted.params, start, end)


def test_grid_pages_and_entropy(catalogue):
    rows, total = page(catalogue, start=2, end=5)
    assert total == 8
    assert [row["trace_id"] for row in rows] == [3, 4, 5]
    trace = TRACES[2]
    after_prompt = np.array([phase != "prompt" for phase in trace.tokens.phase])
    assert rows[0]["entropy"] == pytest.approx(np.nanmean(trace.tokens.entropy[after_prompt]), 1e-5)
    assert page(catalogue, start=8, end=20) == ([], 8)


@pytest.mark.parametrize("column", grid.COLUMNS)
def test_grid_sorts_by_every_column(catalogue, column):
    for direction in ("asc", "desc"):
        rows, _ = page(catalogue, sort=[{"colId": column, "sort": direction}])
        values = [row[column] for row in rows if row[column] is not None]
        assert values == sorted(values, reverse=direction == "desc")
        assert len(rows) == 8


@pytest.mark.parametrize(
    ("model", "keeps"),
    [
        ({"type": "greaterThan", "filter": 170}, lambda n: n > 170),
        ({"type": "lessThanOrEqual", "filter": 170}, lambda n: n <= 170),
        ({"type": "inRange", "filter": 160, "filterTo": 180}, lambda n: 160 <= n <= 180),
        ({"type": "blank"}, lambda n: False),
        (
            {
                "operator": "OR",
                "conditions": [
                    {"filterType": "number", "type": "equals", "filter": 150},
                    {"filterType": "number", "type": "equals", "filter": 70},
                ],
            },
            lambda n: n in (150, 70),
        ),
    ],
)
def test_grid_number_filters(catalogue, model, keeps):
    rows, total = page(catalogue, {"tokens": {"filterType": "number", **model}})
    lengths = [len(t.tokens.token_id) for t in [*TRACES, BARE, WIDE]]
    assert total == sum(map(keeps, lengths))
    assert all(keeps(row["tokens"]) for row in rows)


def test_grid_text_search_and_verdict(catalogue):
    text = {"answer": {"filterType": "text", "type": "contains", "filter": "2+3"}}
    assert page(catalogue, text)[1] == sum(t.answer == "2+3+4" for t in [*TRACES, BARE, WIDE])
    assert page(catalogue, search="make COUNTDOWN 24")[1] == 8
    assert [row["trace_id"] for row in page(catalogue, search="#5")[0]] == [5]
    assert page(catalogue, search="100% _ \\")[1] == 0
    counts = {name: page(catalogue, verdict=name)[1] for name in grid.VERDICTS}
    assert counts["unjudged"] == 1
    assert counts["correct"] + counts["wrong"] + counts["unjudged"] == counts["all"] == 8


@given(
    column=st.one_of(st.sampled_from(grid.COLUMNS), st.text()),
    operator=st.text(),
    value=st.text(),
    search=st.text(),
    verdict=st.text(),
)
def test_nothing_from_the_browser_is_ever_sql(column, operator, value, search, verdict):
    hostile = f"'; drop table traces; --{value}"
    models = [{"filterType": "text", "type": t, "filter": hostile} for t in (operator, "contains")]
    for model in models:
        made = grid.condition({column: model}, verdict, hostile + search)
        assert "drop table" not in made.sql
    order = grid.order_sql([{"colId": column, "sort": operator}])
    assert set(order.replace(",", "").split()) <= {*grid.COLUMNS, "asc", "desc", "nulls", "last"}


# --- one trace ------------------------------------------------------------------------------


def test_head_knows_its_neighbours(catalogue):
    assert queries.trace_head(catalogue, 99) is None
    head = queries.trace_head(catalogue, 1)
    assert (head["previous"], head["next"]) == (None, 2)
    assert queries.trace_head(catalogue, 8)["next"] is None


def test_tokens_payload(store):
    body, tokens = payload.tokens(store, 2), TRACES[1].tokens
    units = body["text"].encode("utf-16-le")
    ends = decoded(body["ends"], "u4")
    starts = [0, *ends[:-1]]
    pieces = [units[2 * a : 2 * b].decode("utf-16-le") for a, b in zip(starts, ends, strict=True)]
    assert pieces == tokens.text  # with 🙂, which JavaScript counts twice
    assert [PHASES[i] for i in decoded(body["phase"], "u1")] == tokens.phase
    np.testing.assert_array_equal(decoded(body["entropy"], "f4"), tokens.entropy)
    np.testing.assert_array_equal(decoded(body["logprob"], "f4"), tokens.logprob)
    with pytest.raises(NotInStoreError, match="no trace 99"):
        payload.tokens(store, 99)


@given(st.text(alphabet="a数🙂é\n"))
def test_utf16_offsets(text):
    offsets = payload.utf16_offsets(text, np.arange(len(text) + 1))
    assert offsets.tolist() == [
        len(text[:i].encode("utf-16-le")) // 2 for i in range(len(text) + 1)
    ]


@pytest.mark.parametrize(("trace_id", "record"), [(1, TRACES[0]), (8, WIDE)])
def test_routing_payload(store, trace_id, record):
    routing = record.routing
    pos = 65
    body = payload.routing(store, trace_id, pos)
    end = min(64 + payload.ROUTING_BLOCK, routing.margin.shape[1])
    part = slice(64, end)
    assert (body["start"], body["tokens"]) == (64, end - 64)
    assert body["layers"] == list(routing.layers)
    shape = routing.expert_ids[:, part].shape
    for name, dtype in (("weights", "f4"), ("affinities", "f4"), ("bias_flips", "u1")):
        wanted = getattr(routing, name)[:, part]
        np.testing.assert_array_equal(decoded(body[name], dtype).reshape(shape), wanted)
    np.testing.assert_array_equal(
        decoded(body["ids"], "u2").reshape(shape), routing.expert_ids[:, part]
    )
    for name in ("margin", "group_margin", "entropy"):
        wanted = getattr(routing, name)[:, part].ravel()
        np.testing.assert_array_equal(decoded(body[name], "f4"), wanted)
    lost = [
        set(ids[flags])
        for ids, flags in zip(
            routing.unlimited_ids[:, part].reshape(-1, shape[2]),
            routing.group_flips[:, part].reshape(-1, shape[2]),
            strict=True,
        )
    ]
    ends = np.cumsum(decoded(body["shut_out_counts"], "u2"))
    found = np.split(decoded(body["shut_out"], "u2"), ends)
    assert [set(ids) for ids in found] == [*lost, set()]


def test_heads_payload(store):
    body, heads = payload.statistics(store, 1, 100, HEADS, RUN.layers, RUN.heads), TRACES[0].heads
    part = slice(body["start"], body["start"] + body["tokens"])
    assert body["layers"] == list(range(RUN.layers))
    assert body["start"] <= 100 < body["start"] + body["tokens"]
    for name in ("entropy", "first_weight", "previous_weight", "output_norm"):
        wanted = getattr(heads, name)[:, part].ravel()
        np.testing.assert_array_equal(decoded(body[name], "f4"), wanted)


def test_layer_map_and_margin(store):
    routing = TRACES[3].routing
    body = payload.layer(store, 4, 3)
    np.testing.assert_array_equal(decoded(body["expert"], "u2"), routing.expert_ids[1, :, 0])
    np.testing.assert_allclose(decoded(body["share"], "f4"), shares(TRACES[3])[1, :, 0], rtol=1e-5)
    tokens = routing.margin.shape[1]
    whole = payload.expert_map(store, 4, tokens)
    assert whole["stride"] == 1
    np.testing.assert_array_equal(
        decoded(whole["expert"], "u2").reshape(3, tokens), routing.expert_ids[:, :, 0]
    )
    thin = payload.expert_map(store, 4, 3 * payload.MAP_COLUMNS)  # as if it were so long
    assert thin["stride"] == 3
    np.testing.assert_array_equal(
        decoded(thin["expert"], "u2").reshape(3, -1), routing.expert_ids[:, ::3, 0]
    )
    np.testing.assert_allclose(
        decoded(payload.margin(store, 4)["margin"], "f4"), routing.margin.mean(0), rtol=1e-5
    )


def test_not_recorded(store):
    assert queries.recorded(store, "routing", 1)
    assert not queries.recorded(store, "routing", 7)
    assert not queries.recorded(store, "heads", 7)


# --- usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("trace_id", [None, 3])
def test_usage_is_the_count_of_the_records(store, scope, trace_id):
    traces = TRACES if trace_id is None else [TRACES[trace_id - 1]]
    usage = UsageCache(store).get(Scope(scope.run_id, trace_id))
    n, flips = np.zeros((3, 3, 16)), np.zeros((3, 3, 16))
    weight = np.zeros((3, 3, 16))
    for trace in traces:
        phase = [PHASES.index(name) for name in trace.tokens.phase]
        for (s, t, k), expert in np.ndenumerate(trace.routing.expert_ids):
            n[phase[t], s, expert] += 1
            weight[phase[t], s, expert] += trace.routing.weights[s, t, k]
            flips[phase[t], s, expert] += trace.routing.bias_flips[s, t, k]
    np.testing.assert_array_equal(usage.n_PSE, n)
    np.testing.assert_array_equal(usage.flips_PSE, flips)
    np.testing.assert_allclose(usage.weight_PSE, weight, rtol=1e-6)
    assert usage.layers == RUN.sparse_layers


@pytest.mark.parametrize("trace_id", [None, 3])
def test_usage_is_the_same_without_rollups(store, old_store, scope, trace_id):
    scope = Scope(scope.run_id, trace_id)
    with_rollups, without = UsageCache(store).get(scope), UsageCache(old_store).get(scope)
    assert with_rollups.from_rollups
    assert not without.from_rollups
    np.testing.assert_array_equal(without.tokens_P, with_rollups.tokens_P)
    np.testing.assert_array_equal(without.n_PSE, with_rollups.n_PSE)
    np.testing.assert_array_equal(without.flips_PSE, with_rollups.flips_PSE)
    np.testing.assert_allclose(without.weight_PSE, with_rollups.weight_PSE, rtol=1e-6)


def test_a_commit_is_added_to_the_usage(tmp_path, monkeypatch):
    with StoreWriter(tmp_path / "s") as writer:
        run_id = writer.start_run(RUN)
        writer.commit(run_id, TRACES[:1])
        with Store(tmp_path / "s") as store:
            cache, scope = UsageCache(store), Scope(run_id)
            first = cache.get(scope)
            assert cache.get(scope).sums is first.sums
            writer.commit(run_id, TRACES[1:3])
            read = []
            scan = store.scan
            monkeypatch.setattr(
                store, "scan", lambda t, files: read.extend(files) or scan(t, files)
            )
            grown = cache.get(scope)
            assert [file.first_trace for file in read] == [2]
            np.testing.assert_array_equal(grown.n_PSE, UsageCache(store).get(scope).n_PSE)
            assert grown.n_PSE.sum() > first.n_PSE.sum()


def test_usage_of_an_imported_run_knows_the_choice_alone(imported):
    store, trace = imported
    scope = Scope(store.trace(1).summary["run_id"])
    usage = UsageCache(store).get(scope)
    assert usage.n_PSE.sum() == trace.routing.expert_ids.size
    assert usage.tokens("all") == trace.routing.expert_ids.shape[1]
    for metric in ("weight", "flips"):
        assert np.isnan(usage.metric_SE(metric, "all")).all()
        usage_heatmap(usage, metric, "difference", 2, 5, "dark")
    evidence = EvidenceCache(store)
    chosen = evidence.chosen(scope, RUN.sparse_layers[0], 5, "all")
    assert {row["weight"] for row in chosen.top("count", 9)} == {None}
    assert {row["weight"] for row in chosen.contexts(9)} == {None}


# --- one expert -----------------------------------------------------------------------------


def test_layers_beside_are_read_ahead(store, scope):
    evidence, read = EvidenceCache(store), []
    reading = evidence._layers._read
    evidence._layers._read = lambda key, files: (read.append(key[1]), reading(key, files))[1]
    known = evidence.chosen(scope, 3, 5, "all").top("count", 9)
    evidence.look_ahead(scope, (4, 2))
    evidence._reading.result()
    assert read == [3, 4, 2]
    for layer in (2, 3, 4):
        evidence.chosen(scope, layer, 1, "all")
    assert read == [3, 4, 2]
    assert evidence.chosen(scope, 3, 5, "all").top("count", 9) == known
    evidence.look_ahead(scope, (2,) * 1000)
    evidence.close()
    evidence.look_ahead(scope, (2,))
    assert read == [3, 4, 2]


@pytest.mark.parametrize("phase", ["all", "think"])
@pytest.mark.parametrize("order", ["count", "share"])
def test_expert_tokens(evidence, scope, phase, order):
    layer, expert = 3, 5
    seen, chosen, weights = Counter(), Counter(), defaultdict(list)
    for trace in [*TRACES, BARE]:
        for t, token in enumerate(trace.tokens.token_id):
            if phase not in ("all", trace.tokens.phase[t]):
                continue
            seen[token] += 1
            if trace.routing is None:
                continue
            (where,) = np.nonzero(trace.routing.expert_ids[1, t] == expert)
            if len(where):
                chosen[token] += 1
                weights[token].append(shares(trace)[1, t, where[0]])
    rows = evidence.chosen(scope, layer, expert, phase).top(order, 100)
    least = 10 if order == "share" else 1
    assert {row["token_id"]: row["n"] for row in rows} == {
        token: n for token, n in chosen.items() if seen[token] >= least
    }
    for row in rows:
        assert row["occurrences"] == seen[row["token_id"]]
        assert row["share"] == pytest.approx(row["n"] / row["occurrences"])
        assert row["weight"] == pytest.approx(np.mean(weights[row["token_id"]]), rel=1e-5)
    key = "n" if order == "count" else "share"
    assert [row[key] for row in rows] == sorted((row[key] for row in rows), reverse=True)


def test_expert_contexts(evidence, scope):
    rows = evidence.chosen(scope, 3, 5, "all").contexts(limit=4, around=3)
    assert len(rows) == 4
    for row in rows:
        trace, pos = TRACES[row["trace_id"] - 1], row["pos"]
        text = trace.tokens.text
        assert row["token"] == text[pos]
        assert row["before"] == "".join(text[max(0, pos - 3) : pos])
        assert row["after"] == "".join(text[pos + 1 : pos + 4])
        (where,) = np.nonzero(trace.routing.expert_ids[1, pos] == 5)
        assert row["weight"] == pytest.approx(shares(trace)[1, pos, where[0]], rel=1e-5)
    heaviest = max(float(shares(t)[1][t.routing.expert_ids[1] == 5].max(initial=0)) for t in TRACES)
    assert rows[0]["weight"] == pytest.approx(heaviest, rel=1e-5)


def test_expert_facts(store, scope):
    facts = queries.expert_facts(store, scope.run_id, 4, 9)
    assert facts == {"group": 2, "bias": pytest.approx(RUN.expert_bias[2, 9])}
    assert queries.expert_facts(store, scope.run_id, 0, 0) is None

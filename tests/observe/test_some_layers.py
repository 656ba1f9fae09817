"""Recording some layers only: what is recorded is that of a whole run, and all else knows it."""

import numpy as np
import pytest
import tiny_lens
from compacted import run_compact
from hypothesis import given, settings
from hypothesis import strategies as st
from sessions import PROMPTS

import ringlens as rl
from ringlens.analysis.load.usage import Sums
from ringlens.analysis.load.usage_count import usage as usage_of
from ringlens.app import make_app
from ringlens.app.shared import queries
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.app.trace import page as trace_page
from ringlens.config import OnLayers, Vectors
from ringlens.errors import ConfigError, NotInStoreError, StoreError
from ringlens.plot import heatmap
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.maintain.export import arrays_of
from ringlens.store.maintain.rollup import rebuild
from ringlens.store.schema.promise import recorded_layers

HOST = {"Host": "127.0.0.1:8050"}
SPARSE, LAYERS = (1, 2, 3), (0, 1, 2, 3)
OPTIONS = {"max_new_tokens": 20, "batch_size": 2, "commit_every": 0}
NAMES = {"routing": SPARSE, "router_logits": SPARSE, "heads": LAYERS, "head_blocks": LAYERS}


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


def capture(lens, path, record):
    return rl.capture(lens, PROMPTS[:2], path, record=record, **OPTIONS)


@pytest.fixture(scope="module")
def whole(lens, tmp_path_factory):
    record = ("routing", "router_logits", "heads")
    return capture(lens, tmp_path_factory.mktemp("whole") / "s", record)


@pytest.fixture(scope="module")
def replayed(lens, whole, tmp_path_factory):
    """The same texts in one forward: cheaper to run again."""
    record = ("routing", "router_logits", "heads")
    return rl.replay(lens, whole, tmp_path_factory.mktemp("replayed") / "s", record=record)


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def assert_part(store, whole, layers):
    """Every trace has these layers by table, and on them what the whole run has."""
    for (trace_id,) in store.sql("select trace_id from traces order by 1").fetchall():
        mine, all_of_it = store.trace(trace_id), whole.trace(trace_id)
        assert mine.text == all_of_it.text
        for name, wanted in layers.items():
            assert mine.layers(name) == list(wanted), name
            for layer in wanted:
                found = getattr(mine, name)(layer), getattr(all_of_it, name)(layer)
                assert equal(*found), (name, layer)


def text(name, layers):
    return f"{name}@{'+'.join(map(str, layers))}"


ASKED = st.fixed_dictionaries(
    {name: st.sets(st.sampled_from(layers)) for name, layers in NAMES.items()}
)


@settings(max_examples=8, deadline=None)
@given(ASKED)
def test_some_layers_are_those_of_a_whole_run(lens, whole, replayed, tmp_path_factory, asked):
    record = [text(name, sorted(layers)) for name, layers in asked.items() if layers]
    path = tmp_path_factory.mktemp("part") / "s"
    with rl.replay(lens, whole, path, record=record) as store:
        asked["head_blocks"] |= asked["heads"]
        assert_part(store, replayed, {name: sorted(layers) for name, layers in asked.items()})
        (run,) = store.runs().to_arrow_table().to_pylist()
        assert {name: set(recorded_layers(run, name)) for name in NAMES} == asked
        found = check(store)
        assert found.findings == []
        both = asked["routing"] & asked["router_logits"]
        assert found.choices == len(both) * sum(len(store.trace(i)) for i in (1, 2))


RECORD = [OnLayers("routing", (2, 3)), "router_logits@1", "heads@0+2", "resid_post@1"]
FOUND = {"routing": [2, 3], "router_logits": [1], "heads": [0, 2], "head_blocks": [0, 2]}


@pytest.fixture(scope="module")
def some(lens, tmp_path_factory):
    return capture(lens, tmp_path_factory.mktemp("some") / "s", RECORD)


def test_what_was_not_recorded_is_said(some):
    (record,) = some.sql("select record from runs").fetchall()[0]
    assert record == [
        "routing@2+3", "router_logits@1", "heads@0+2", "head_blocks@0+2", "resid_post@1",
    ]  # fmt: skip
    with pytest.raises(NotInStoreError, match="routing has no layer 1 in trace 1: it has 2, 3"):
        some.trace(1).routing(1)
    layers = "select distinct layer from expert_usage order by layer"
    assert some.sql(layers).fetchall() == [(2,), (3,)]


def test_usage_counts_the_layers_that_there_are(some):
    (run_id,) = some.sql("select run_id from runs").fetchall()[0]
    usage = UsageCache(some).get(Scope(run_id, None))
    assert usage.layers == (2, 3) and usage.from_rollups
    assert isinstance(usage.sums, Sums) and (usage.sums.tokens_PS.sum(axis=0) > 0).all()


def test_usage_of_several_runs_is_of_layers_that_all_recorded(lens, tmp_path):
    for record in (["heads"], ["routing@1+3"], ["routing@1+3"]):
        capture(lens, tmp_path / "s", record).close()
    with Store(tmp_path / "s") as store:
        found, runs = usage_of(store)
        assert (found.layers, len(runs)) == ((1, 3), 3)
        tokens = store.sql("select layer, count(*) from routing group by 1 order by 1").fetchall()
        assert dict(tokens) == dict(zip((1, 3), found.sums.tokens_PS.sum(axis=0), strict=True))
        capture(lens, tmp_path / "s", ["routing@2"]).close()
        with pytest.raises(StoreError, match="recorded the routing of different layers"):
            usage_of(store)


def test_pages_show_the_layers_that_there_are(lens, tmp_path):
    """Rows between two that were recorded are blank, and no layer beside them can be chosen."""
    capture(lens, tmp_path / "s", ["routing@1+3"]).close()
    app = make_app(tmp_path / "s")
    sources = app.server.extensions["ringlens.sources"]
    (run,) = queries.runs(sources.catalogue)
    head = queries.trace_head(sources.catalogue, 1)
    boot = trace_page.boot(sources.store, head | {"previous": None, "next": None}, run)
    assert list(boot["sparse_layers"]) == [1, 3] and boot["head_tables"] == []
    usage = sources.usage.get(Scope(run["run_id"], None))
    figure = heatmap.figure(usage, "share", "all", 1, None, "light")
    assert figure["data"][0]["y"] == [1, 2, 3]
    client = app.server.test_client()
    map_of = client.get(f"/data/usage?run={run['run_id']}", headers=HOST)
    assert b'"layers":[1,3]' in map_of.data
    answers = [
        client.get(f"/data/trace/1/layer/{layer}", headers=HOST).status_code for layer in (1, 2)
    ]
    assert answers == [200, 404]
    sources.close()


def test_upkeep_keeps_some_layers(lens, whole, tmp_path):
    with capture(lens, tmp_path / "s", RECORD) as store:
        before = store.sql("select * from expert_usage order by all").fetchall()
        (run_id,) = store.sql("select run_id from runs").fetchall()[0]
    run_compact(tmp_path / "s")
    with StoreWriter(tmp_path / "s") as writer:
        rebuild(writer.rewriter(), run_id, lambda done, total: None)
    with Store(tmp_path / "s") as store:
        assert check(store).findings == []
        assert_part(store, whole, FOUND)
        assert store.sql("select * from expert_usage order by all").fetchall() == before
        arrays, metadata = arrays_of(store.trace(1))
        assert (metadata["routing_layers"], metadata["router_logits_layers"]) == ("[2, 3]", "[1]")
        assert (len(arrays["margin"]), len(arrays["router_logits"])) == (2, 1)


class StopError(Exception):
    """What interrupts a run."""


def test_an_interrupted_run_goes_on_with_its_layers(lens, whole, tmp_path):
    def interrupt(progress):
        if progress.tokens >= 20:
            raise StopError

    with pytest.raises(StopError):
        rl.capture(lens, PROMPTS[:2], tmp_path / "s", record=RECORD, on_progress=interrupt,
                   **OPTIONS)  # fmt: skip
    with capture(lens, tmp_path / "s", RECORD) as store:
        assert store.sql("select count(*) from runs").fetchall() == [(1,)]
        assert check(store).findings == []
        assert_part(store, whole, FOUND)


def test_a_replay_records_its_own_layers(lens, whole, tmp_path):
    with rl.replay(lens, whole, tmp_path / "s", record=["routing@1"]) as store:
        assert store.trace(1).layers("routing") == [1]
        assert check(store).findings == []
        ids = (each.trace(1).routing(1)["expert_ids"] for each in (store, whole))
        assert equal(*ids)


def test_a_lost_layer_is_found(lens, tmp_path):
    """The check knows which layers there must be, of a run that recorded some."""
    with capture(lens, tmp_path / "s", ["routing@2-3"]) as store:
        files = [tmp_path / "s" / file.path for file in store.files("routing")]
    import pyarrow.parquet as pq

    for file in files:
        rows = pq.read_table(file)
        pq.write_table(rows.filter(pq.filters_to_expression([("layer", "==", 2)])), file)
    with Store(tmp_path / "s") as store:
        assert any("layer 3" in finding.sentence for finding in check(store).findings)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (["routing@0"], r"layer 0 is dense, without a router; routing exists in layers 1-3"),
        (["router_logits@2+9"], r"layer 9 is not there; router_logits exists in layers 1-3"),
        ([OnLayers("heads", (-5,))], r"layer -5 is not there; heads exists in layers 0-3"),
        (["logprobs@1"], "logprobs stands outside the layers"),
        (["routing@"], "names no layers"),
        ([OnLayers("routing", ())], "on no layer"),
        (["routing@1/0"], "only layers are chosen of routing"),
        (["heads@1[0:3]"], "only layers are chosen of heads"),
        (["routing@1", "routing@2"], "routing is requested twice"),
        (["routing", "routing@2"], "routing is requested twice"),
        (["routng@1"], "Did you mean 'routing'"),
        ([OnLayers("rooting", (1,))], "cannot record 'rooting'"),
    ],
)
def test_layers_that_cannot_be_recorded_are_refused(lens, record, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        rl.capture(lens, PROMPTS, tmp_path / "s", record=record)
    assert not (tmp_path / "s").exists()


def test_all_layers_are_the_name_alone(lens, tmp_path):
    record = ["routing@1-3", OnLayers("heads", (0, 1, 2, -1)), Vectors("resid_post", (1,))]
    with rl.capture(lens, PROMPTS[:1], tmp_path / "s", record=record, max_new_tokens=1) as store:
        (found,) = store.sql("select record from runs").fetchall()[0]
    assert found == ["routing", "heads", "head_blocks", "resid_post@1"]

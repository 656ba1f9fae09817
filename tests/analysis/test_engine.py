"""Analyses whose scans are shared out: the same numbers, bit for bit, as in one piece."""

import os
import pickle
from dataclasses import replace

import pandas as pd
import pytest
from paths import ROOT, SUPPORT
from records import part, random_run, random_trace

from ringlens import analysis
from ringlens.analysis.scans import choices, parts
from ringlens.analysis.structure import pair_counts
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store, StoreWriter

SURE, UNSURE = "phase = 'think' and entropy <= 0.4", "phase = 'think' and entropy > 0.4"
EVEN, ODD = f"{UNSURE} and trace_id % 2 = 0", f"{UNSURE} and trace_id % 2 = 1"

ANALYSES = {
    "load": lambda s, **e: analysis.expert_load(s, UNSURE, baseline=SURE, draws=20, **e),
    "load by a column with nulls": lambda s, **e: analysis.expert_load(s, "pos > 1", "role", **e),
    "balance": lambda s, **e: analysis.layer_balance(s, "entropy > 0.2", **e),
    "association": lambda s, **e: analysis.association(s, "text like '% %'", UNSURE, **e),
    "contrast": lambda s, **e: analysis.contrast(s, SURE, UNSURE, draws=20, **e),
    "contrast of traces": lambda s, **e: analysis.contrast(s, EVEN, ODD, draws=20, **e),
    "equal tokens": lambda s, **e: analysis.contrast(
        s, SURE, UNSURE, within="token", draws=20, **e
    ),
    "equal tokens of traces": lambda s, **e: analysis.contrast(
        s, EVEN, ODD, within="token", draws=20, **e
    ),
    "shift": lambda s, **e: analysis.routing_shift(s, SURE, UNSURE, draws=20, **e),
    "coactivation": lambda s, **e: analysis.coactivation(s, UNSURE, "role", **e),
    "transitions": lambda s, **e: analysis.transitions(s, "pos > 1", **e),
    "committees": lambda s, **e: analysis.committees(s, "pos > 1", least=2, **e),
    "causes": lambda s, **e: analysis.selection_causes(s, UNSURE, "role", **e),
    "displacements": lambda s, **e: analysis.group_displacements(s, "pos > 1", "role", **e),
    "entropy": lambda s, **e: analysis.router_entropy(s, UNSURE, "role", **e),
    "words": lambda s, **e: analysis.token_experts(s, "pos > 1", "role", least=2, **e),
    "words of an expert": lambda s, **e: analysis.token_experts(s, UNSURE, expert=3, least=1, **e),
    "bias": lambda s, **e: analysis.bias_audit(s, UNSURE, "role", draws=20, **e),
    "bias of experts": lambda s, **e: analysis.expert_bias(s, "pos > 1", **e),
    "saturation": lambda s, **e: saturated(s, **e),
    "agreement": lambda s, **e: analysis.agreement(s, s, **e),
    "paths": lambda s, **e: analysis.routing_path(s, "pos > 1", "role", draws=20, **e),
    "clusters of paths": lambda s, **e: analysis.path_clusters(s, "pos > 1", draws=20, **e),
    "card": lambda s, **e: analysis.expert_card(s, 2, 3, UNSURE, **e).frame,
    "importance": lambda s, **e: analysis.expert_importance(s, UNSURE, **e),
    "predictability": lambda s, **e: analysis.predictability(s, UNSURE, draws=20, **e),
}


def saturated(store, **engine):
    """Two traces of equal tokens stand for what two checkpoints make of a text."""
    texts = store.sql("select min(trace_id), max(trace_id) from traces").fetchall()[0]
    steps = [analysis.Checkpoint(str(n), store, f"trace_id = {t}") for n, t in enumerate(texts)]
    return analysis.saturation(steps, "pos > 1", "role", draws=0, **engine)


class Elsewhere:
    """An engine as a cluster is one: everything is pickled, and the last part is done first."""

    def __init__(self):
        self.parts = 0

    def map(self, function, shards):
        for shard in reversed(shards):
            self.parts += 1
            call, which = pickle.loads(pickle.dumps((function, shard)))
            yield pickle.loads(pickle.dumps(call(which)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Four traces, each of a commit; the last has the tokens of the first."""
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, heads=1)
    path = tmp_path_factory.mktemp("s") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        texts = [random_trace(run, 60 + seed, seed=seed, heads=None) for seed in range(3)]
        again = random_trace(run, 60, seed=3, heads=None)
        first = texts[0]
        again = replace(again, tokens=first.tokens, text=first.text)
        for trace in (*texts, again):
            writer.commit(run_id, [trace])
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    """Each trace a part, and each layer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PART_BYTES", 1)
        patch.setattr(choices, "_SHARE", 1)
        yield


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="pip install 'ringlens[ray]'")
    from ringlens.store.maintain.engine_ray import RayEngine

    paths = [str(ROOT), str(SUPPORT), os.environ.get("PYTHONPATH", "")]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}},
    )
    yield RayEngine()
    ray.shutdown()


def check(name, store, engine):
    here, there = ANALYSES[name](store), ANALYSES[name](store, engine=engine)
    pd.testing.assert_frame_equal(here, there, check_exact=True)
    assert here.attrs == there.attrs


@pytest.mark.parametrize("name", ANALYSES)
def test_the_same_numbers_in_parts(store, name):
    engine = Elsewhere()
    check(name, store, engine)
    assert engine.parts > 2 or name == "agreement"  # of one pair of traces


@pytest.mark.extra
@pytest.mark.slow
def test_the_same_numbers_on_ray(store, cluster):
    for name in ANALYSES:
        check(name, store, cluster)


def test_what_is_no_store_is_not_counted_elsewhere(store):
    with pytest.raises(ConfigError, match="this is a Shuffled; leave the engine out"):
        analysis.contrast(analysis.Shuffled(store), SURE, UNSURE, engine=Elsewhere())


def test_a_store_that_changes_meanwhile_is_refused(tmp_path):
    run = random_run(heads=1)
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        for seed in range(3):
            writer.commit(run_id, [random_trace(run, 40, seed=seed, heads=None)])

        class Late(Elsewhere):
            def map(self, function, shards):
                writer.commit(run_id, [random_trace(run, 40, seed=9, heads=None)])
                return super().map(function, shards)

        with Store(tmp_path) as store, pytest.raises(StoreError, match="while it was counted"):
            analysis.expert_load(store, UNSURE, engine=Late())


def test_pieces_of_a_trace_are_one_part(tmp_path):
    """Two traces that are written in turns, and one after them."""
    run = random_run(heads=1)
    long = [random_trace(run, 60, seed=seed, heads=None) for seed in (0, 1)]
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        ids = writer.commit(run_id, [part(trace, 0, 30, None) for trace in long])
        for trace, trace_id in zip(long, ids, strict=True):
            writer.commit(run_id, [part(trace, 30, 60, trace_id)])
        (last,) = writer.commit(run_id, [random_trace(run, 30, seed=2, heads=None)])
    with Store(tmp_path) as store:
        assert parts.by_traces(store, Elsewhere()) == [(0, last - 1), (last, parts.ALL[1])]
        assert parts.by_traces(store) == [parts.ALL]


@pytest.mark.parametrize("name", ["coactivation", "transitions"])
def test_more_pairs_than_memory_should_hold_are_refused(store, name, monkeypatch):
    monkeypatch.setattr(pair_counts, "MOST", 3_000)
    getattr(analysis, name)(store, "pos > 1")  # 3 phases, 3 layers and 16² pairs
    with pytest.raises(ConfigError, match=r"by = \['trace_id', 'phase'\] makes .* at most 3,000"):
        getattr(analysis, name)(store, "pos > 1", "trace_id")

"""Passes over a store on a local Ray cluster of two workers: the same results as here."""

import os
import time

import numpy as np
import pytest
from click.testing import CliRunner
from paths import ROOT, SUPPORT
from records import random_run, random_trace
from s3_server import BUCKET, reached, serve

from ringlens.cli.main import main
from ringlens.errors import StoreError
from ringlens.store import Store, StoreWriter
from ringlens.store.maintain import rollup, scan
from ringlens.store.maintain.scan import expert_counts, scan_batches

ray = pytest.importorskip("ray", reason="pip install 'ringlens[ray]'")

pytestmark = [pytest.mark.extra, pytest.mark.slow]

RUN = random_run()
TRACES = [random_trace(RUN, 40, seed=seed) for seed in range(6)]
USAGE = ("usage_traces", "usage_blocks")


@pytest.fixture(scope="module")
def s3():
    with serve() as server, reached(server):
        yield server


@pytest.fixture(scope="module")
def engine(s3):
    """Two workers, which find ringlens, these tests and the server."""
    from ringlens.store.maintain.engine_ray import RayEngine

    paths = os.pathsep.join([str(ROOT), str(SUPPORT)])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": paths, **s3.environment}},
    )
    yield RayEngine()
    ray.shutdown()


@pytest.fixture(params=["local", "shared", "s3"])
def address(request, tmp_path):
    """A store of one run in six commits."""
    place = {"local": str(tmp_path / "store"), "shared": f"file://{tmp_path}/store"}
    address = place.get(request.param, f"s3://{BUCKET}/{tmp_path.name}")
    with StoreWriter(address) as writer:
        run_id = writer.start_run(RUN)
        for trace in TRACES:
            writer.commit(run_id, [trace])
        writer.finish_run(run_id)
    return address


def usage(store):
    return {
        name: store.sql(f"select * from {name} order by all").to_arrow_table().to_pylist()
        for name in USAGE
    }


def test_a_scan_runs_on_the_workers(engine, tmp_path, tmp_path_factory):
    seen = tmp_path_factory.mktemp("seen")
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(RUN)
        for trace in TRACES:
            writer.commit(run_id, [trace])

    def process_of(batch):
        (seen / str(os.getpid())).touch()
        late = time.monotonic() + 300
        # So that one worker cannot do it all.
        while len(list(seen.iterdir())) < 2 and time.monotonic() < late:
            time.sleep(0.05)
        return {os.getpid()}

    with Store(tmp_path) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "SHARD_BYTES", 1)
        found = scan_batches(store, "routing", ["pos"], process_of, set.union, engine=engine)
    assert os.getpid() not in found
    assert len(found) == 2


def test_the_same_as_here(engine, address, monkeypatch):
    """Counts, rollups rebuilt and a compacted store, each compared with what this process finds."""
    monkeypatch.setattr(scan, "SHARD_BYTES", 1)
    monkeypatch.setattr(rollup, "GROUP_ROWS", 1)  # one file per shard
    with Store(address) as store:
        here = expert_counts(store)
        assert here.sum() == 6 * 40 * len(RUN.sparse_layers) * RUN.experts_per_token
        np.testing.assert_array_equal(expert_counts(store, engine=engine), here)

        before, logits = usage(store), store.trace(3).router_logits(2)
        run_id = store.runs().fetchall()[0][0]
        with StoreWriter(address) as writer:
            rollup.rebuild(writer.rewriter(), run_id, lambda done, total: None, engine)
        assert usage(store) == before
        assert len(store.files("usage_traces")) == 6

        result = CliRunner().invoke(main, ["compact", address, "--engine", "ray"])
        assert result.exit_code == 0, result.output
        assert len(store.files("routing")) == len(store.files("router_logits")) == 1
        assert usage(store) == before
        np.testing.assert_array_equal(store.trace(3).router_logits(2), logits)
        np.testing.assert_array_equal(expert_counts(store, engine=engine), here)


def test_an_error_on_a_worker_is_ours(engine, tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.commit(writer.start_run(RUN), TRACES[:1])
    with Store(tmp_path) as store:
        file = store.files("routing")[0]
        (tmp_path / file.path).write_bytes(b"not parquet")
        with pytest.raises(StoreError, match=file.path) as caught:
            expert_counts(store, engine=engine)
        assert "Traceback" not in str(caught.value)

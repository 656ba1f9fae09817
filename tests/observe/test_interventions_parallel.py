"""Interventions in two processes (torchrun, gloo) equal those in one, in every layout."""

import intervene_worker
import parallel_ring
import pytest
import torch
import warm
from paths import SUPPORT
from sessions import assert_same
from torchrun_environment import environment

from ringlens.store import Store
from ringlens.store.check.check import check

WORKER = SUPPORT / "intervene_worker.py"
LAYOUTS = {"tp": "2,1,1", "ep": "1,2,1", "tp_x_ep": "2,2,1", "pp": "1,1,2"}
ALONE = "1,1,1"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = parallel_ring.save(tmp_path_factory.mktemp("ring"))
    out = tmp_path_factory.mktemp("ranks")
    warm.run_ranks([WORKER, folder, out, *LAYOUTS.values()], 2, environment())
    alone = warm.run([WORKER, folder, out, ALONE], env=environment())
    assert alone.returncode == 0, alone.stderr[-3000:]
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_process_computes_and_counts_what_one_process_does(layout, out):
    alone = torch.load(out / f"{ALONE}-0.pt")
    for rank in (0, 1):
        found = torch.load(out / f"{LAYOUTS[layout]}-{rank}.pt")
        for name in intervene_worker.SETS:
            assert torch.allclose(found[name], alone[name], atol=1e-4), name
            assert found[f"{name}: effect"] == alone[f"{name}: effect"]
    for name in ("experts", "force", "stream"):
        assert not torch.allclose(alone[name], alone["plain"], atol=1e-3)
    assert torch.equal(alone["nothing"], alone["plain"])
    assert "no token of 20 stands at positions 500 to the end" in alone["nothing: effect"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_capture_of_two_processes_is_that_of_one(layout, out):
    with Store(out / LAYOUTS[layout]) as store, Store(out / ALONE) as alone:
        query = "select interventions from runs"
        assert store.sql(query).fetchall() == alone.sql(query).fetchall()
        for number in (1, 2, 3):
            a, b = store.trace(number), alone.trace(number)
            assert_same(a, b)
            for layer in (1, 2, 3):
                one, other = a.own_routing(layer), b.own_routing(layer)
                assert one["intervened"] == other["intervened"]
                assert (one["expert_ids"] == other["expert_ids"]).all()
                assert one["differs"].any()
        assert check(store).findings == check(alone).findings == []

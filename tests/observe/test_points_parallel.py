"""Caches and functions at points in two processes (torchrun, gloo) equal those in one."""

import parallel_ring
import points_worker
import pytest
import torch
import warm
from paths import SUPPORT

import ringlens as rl

WORKER = SUPPORT / "points_worker.py"
LAYOUTS = {"tp": "2,1,1", "ep": "1,2,1", "tp_x_ep": "2,2,1", "pp": "1,1,2"}
pytestmark = [pytest.mark.slow, pytest.mark.extra]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return parallel_ring.save(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module")
def alone(folder):
    return points_worker.observe(rl.load(str(folder)))


@pytest.fixture(scope="module")
def out(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    warm.run_ranks([WORKER, folder, out, *LAYOUTS.values()], 2)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_process_sees_and_changes_what_one_process_does(layout, alone, out):
    ranks = [torch.load(out / f"{LAYOUTS[layout]}-{rank}.pt") for rank in (0, 1)]
    assert ranks[0]["cache"].keys() | ranks[1]["cache"].keys() == alone["cache"].keys()
    for seen in ranks:
        for name, tensor in seen["cache"].items():
            if name.endswith("hook_indices"):
                assert torch.equal(tensor, alone["cache"][name])
            else:
                assert torch.allclose(tensor, alone["cache"][name], atol=1e-4), name
        for name in ("plain", *points_worker.CHANGES):
            assert torch.allclose(seen[name], alone[name], atol=1e-4), name
    for name in points_worker.CHANGES:
        assert not torch.allclose(alone[name], alone["plain"], atol=1e-2)
    held = [len(seen["cache"]) for seen in ranks]
    if layout == "pp":
        assert sum(held) == len(alone["cache"])
        assert min(held) > 0
    else:
        assert held == [len(alone["cache"])] * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_does_not_work_divided_is_refused(layout, alone, out):
    assert alone["refused"] == []
    for rank in (0, 1):
        tracing, *stopping = torch.load(out / f"{LAYOUTS[layout]}-{rank}.pt")["refused"]
        assert "divided over processes" in tracing and "run_with_cache" in tracing
        assert len(stopping) == (layout == "pp")
        assert all("pp_size" in message for message in stopping)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attention_is_whole_on_every_rank_or_refused(layout, alone, out):
    for rank in (0, 1):
        found = torch.load(out / f"{LAYOUTS[layout]}-{rank}.pt")["attention"]
        if layout == "pp":
            assert "pp_size > 1" in found
        else:
            assert torch.allclose(found, alone["attention"], atol=1e-5)

"""Evaluations and ablations in two processes (torchrun, gloo) are those of one."""

import shutil

import evaluate_worker
import pandas as pd
import pytest
import torch
import warm
from click.testing import CliRunner
from paths import SUPPORT
from torchrun_environment import environment

import ringlens as rl
from ringlens.cli.main import main
from ringlens.store.check.check import check

WORKER = SUPPORT / "evaluate_worker.py"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(lens, tmp_path_factory):
    """Tables of one process and of two, and the stores that they were kept in."""
    out = tmp_path_factory.mktemp("out")
    rl.capture(
        lens, evaluate_worker.PROBLEMS, out / "one", max_new_tokens=8, record=("routing",)
    ).close()  # fmt: skip
    shutil.copytree(out / "one", out / "two")
    alone = warm.run([WORKER, out / "one", out / "one"], env=environment())
    assert alone.returncode == 0, alone.stderr[-3000:]
    warm.run_ranks([WORKER, out / "two", out / "two"], 2, environment())
    return out


@pytest.mark.parametrize("rank", [0, 1])
def test_tables_of_two_processes_are_those_of_one(out, rank):
    one = torch.load(out / "one-0.pt", weights_only=False)
    two = torch.load(out / f"two-{rank}.pt", weights_only=False)
    assert one["evaluate"]["accuracy"].notna().all() and len(one["evaluate"]) == 2
    for name, table in one.items():
        pd.testing.assert_frame_equal(two[name], table, rtol=1e-4, atol=1e-6)


def test_what_two_processes_keep_is_what_one_keeps(out):
    rows = []
    for name in ("one", "two"):
        with rl.Store(out / name) as store:
            assert check(store).findings == []
            rows.append(
                store.sql(
                    "select probe, trace_id, layer, unit, key, value, json from probes order by all"
                ).df()
            )
    assert len(rows[0]) == 3 * (
        2 * len(rows[0]["key"][rows[0]["probe"] == "ablation"].unique()) + 2
    )
    pd.testing.assert_frame_equal(rows[1], rows[0], rtol=1e-4, atol=1e-6)


def test_a_plan_is_not_written_by_several_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ["prune", "ring-nano", "nowhere", "--keep", "0.5", "--save", str(tmp_path / "p.json")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1 and "write in one process" in done.output
    assert list(tmp_path.iterdir()) == []

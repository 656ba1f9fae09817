"""Analyses under a bound of memory: the same numbers, or a refusal that says what to do."""

import pandas as pd
import pytest
from records import random_run, random_trace
from small_store import write_run

from ringlens import analysis
from ringlens.errors import ConfigError, StoreError
from ringlens.store import Store

UNSURE, SURE = "phase = 'think' and entropy > 0.4", "phase = 'think' and entropy <= 0.4"

ANALYSES = {
    "load": lambda s: analysis.expert_load(s, UNSURE),
    "contrast": lambda s: analysis.contrast(s, SURE, UNSURE, draws=20),
    "causes": lambda s: analysis.selection_causes(s, UNSURE),
    "transitions": lambda s: analysis.transitions(s, UNSURE),
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    run = random_run(heads=1)
    traces = [random_trace(run, 400, seed=seed, heads=None) for seed in range(4)]
    return write_run(tmp_path_factory.mktemp("m") / "store", run, traces)


@pytest.mark.parametrize("name", ANALYSES)
def test_the_same_numbers_in_little_memory(path, name):
    with Store(path) as plenty, Store(path, memory="100MB") as little:
        ((limit,),) = little.sql("select current_setting('memory_limit')").fetchall()
        assert limit == "95.3 MiB"
        pd.testing.assert_frame_equal(ANALYSES[name](plenty), ANALYSES[name](little))
    with Store(path, memory="1MB") as none, pytest.raises(StoreError, match="RINGLENS_MEMORY=4GB"):
        ANALYSES[name](none)


def test_what_does_not_fit_is_written_to_a_folder_that_goes(path, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RINGLENS_MEMORY", "40 MB")
    with Store(path) as store:
        many = "select hash(i) as h, i::varchar || repeat('x', 40) as t from range(1_000_000) t(i)"
        rows = store.sql(f"from ({many}) order by h").to_arrow_reader(1_000)
        first = rows.read_next_batch()["h"].to_pylist()
        assert first == sorted(first)
        assert [folder.name[:15] for folder in tmp_path.iterdir()] == ["ringlens-spill-"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("memory", ["much", "1", "-1GB", "1 GB please", 5])
def test_what_is_no_size_is_refused(path, memory):
    with pytest.raises(ConfigError, match="give a size with its unit, such as '1GB'"):
        Store(path, memory=memory)

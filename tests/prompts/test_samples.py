"""Samples of a problem in a store: told apart, each once, however often a run is interrupted."""

import pytest
import tiny_lens

import ringlens as rl


class StopError(Exception):
    """What interrupts a run."""


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


def capture(lens, path, on_progress=None):
    return rl.capture(
        lens, ["t5. t6.", "t7.", "t5. t6."], path, samples=3, temperature=1.0, batch_size=2,
        max_new_tokens=6, record=["routing"], commit_every=0, on_progress=on_progress,
    )  # fmt: skip


COLUMNS = "problem_id, sample, text, item, seed"


def test_an_interrupted_run_has_each_sample_once(lens, tmp_path):
    whole = capture(lens, tmp_path / "whole").sql(f"select {COLUMNS} from traces order by item")
    rows = whole.fetchall()
    assert [row[1] for row in rows] == [0, 1, 2] * 3
    assert len({row[0] for row in rows}) == 3 and rows[6][0] == f"{rows[0][0]}-2"
    assert len({row[2] for row in rows[:3]}) == 3  # drawn apart
    for stop in (1, 4):

        def interrupt(progress, stop=stop):
            if progress.traces >= stop:
                raise StopError

        with pytest.raises(StopError):
            capture(lens, tmp_path / "s", interrupt)
    with rl.Store(tmp_path / "s") as store:
        assert 4 <= store.sql("select count(*) from traces").fetchall()[0][0] < 9
    again = capture(lens, tmp_path / "s")
    assert again.sql(f"select {COLUMNS} from traces order by item").fetchall() == rows
    assert again.sql("select count(*) from runs").fetchall() == [(1,)]


def test_replays_keep_the_number_of_the_sample(lens, tmp_path):
    store = capture(lens, tmp_path / "s")
    again = rl.replay(lens, store, tmp_path / "again", record=["routing"])
    query = "select problem_id, sample, text from traces order by trace_id"
    assert again.sql(query).fetchall() == store.sql(query).fetchall()
    texts = rl.replay(lens, ["t5."], tmp_path / "texts", record=["routing"])
    assert texts.sql("select sample from traces").fetchall() == [(None,)]

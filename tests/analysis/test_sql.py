"""The SQL that a table of differences carries, run on its store: the same numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from records import random_run, random_trace

from ringlens import analysis
from ringlens.analysis.differences.routing_shift import chance_along
from ringlens.errors import NotInStoreError
from ringlens.store import Store, StoreWriter

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"
EVEN, ODD = "trace_id % 2 = 0", "trace_id % 2 = 1"
UNSURE, SURE = f"{THINK} and entropy > 0.4", f"{THINK} and entropy <= 0.4"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Some answers are correct, some are not, and of one it is not known."""
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, heads=1)
    path = tmp_path_factory.mktemp("s") / "store"
    with StoreWriter(path) as writer:
        run_id = writer.start_run(run)
        for seed, correct in enumerate((True, False, None, True, False, True)):
            trace = random_trace(run, 60 + seed, seed=seed, heads=None, correct=correct)
            writer.commit(run_id, [trace])
    with Store(path) as store:
        yield store


def check(store, frame, keys, columns, chosen=None):
    """Every row of the SQL is one of the frame, and none but those of unchosen experts is left."""
    sql = store.sql(frame.attrs["sql"]).df()
    of_frame = frame if chosen is None else frame[chosen]
    assert len(sql) == len(of_frame) > 0
    assert set(sql.columns) == {*keys, *columns}
    merged = of_frame.merge(sql, on=keys, suffixes=("", "_sql"))
    assert len(merged) == len(sql)
    for name in columns:
        np.testing.assert_allclose(merged[name], merged[f"{name}_sql"], rtol=1e-9, atol=1e-12)
        assert name.startswith("tokens") or merged[name].std() > 0


DIFFERENCES = ["tokens_a", "tokens_b", "share_a", "share_b", "difference"]


@pytest.mark.parametrize("within", [None, "token"])
@pytest.mark.parametrize(
    ("a", "b", "by"),
    [
        (THINK, ANSWER, []),
        (UNSURE, SURE, []),
        (f"{THINK} and {EVEN}", f"{THINK} and {ODD}", []),
        (EVEN, ODD, ["phase"]),
        (UNSURE, SURE, ["task"]),
    ],
)
def test_contrast(store, a, b, by, within):
    frame = analysis.contrast(store, a, b, by, within=within, draws=0)
    chosen = (frame.share_a > 0) | (frame.share_b > 0)
    check(store, frame, [*by, "layer", "expert"], DIFFERENCES, chosen)
    unchosen = frame[~chosen]
    assert (unchosen["difference"] == 0).all()


@pytest.mark.parametrize("event", ["text like '%a%'", "phase"])
def test_association(store, event):
    where = "phase <> 'prompt'" if event == "phase" else THINK
    frame = analysis.association(store, event, where)
    chosen = (frame.share_a > 0) | (frame.share_b > 0)
    columns = [*DIFFERENCES, "lift", "npmi"]
    check(store, frame, ["event", "layer", "expert"], columns, chosen)


@pytest.mark.parametrize(
    ("a", "b", "by"), [(THINK, ANSWER, []), (EVEN, ODD, ["phase"]), (UNSURE, SURE, [])]
)
def test_shift(store, a, b, by):
    frame = analysis.routing_shift(store, a, b, by, draws=2)
    check(store, frame, [*by, "layer"], ["divergence"])


@pytest.mark.parametrize(("where", "by"), [(THINK, []), ("entropy > 0.2", ["role"])])
def test_displacements(store, where, by):
    frame = analysis.group_displacements(store, where, by)
    found = store.sql(frame.attrs["sql"]).df()
    pd.testing.assert_frame_equal(frame, found[frame.columns], check_dtype=False)
    assert frame["n"].max() > 1


def test_words(store):
    frame = analysis.token_experts(store, "entropy > 0.2", "role", least=2)
    found = store.sql(frame.attrs["sql"]).df()
    keys = ["role", "phase", "layer", "expert", "token_id"]
    both = [each.sort_values(keys, ignore_index=True) for each in (frame, found[frame.columns])]
    pd.testing.assert_frame_equal(*both, check_dtype=False)
    assert (frame["share"].diff().dropna() <= 0).all()


def test_agreement(tmp_path):
    """Two routings of the same tokens."""
    run = random_run(experts=16, groups=4, groups_kept=2, k=3, heads=1)
    first, other = (random_trace(run, 60, seed=seed, heads=None) for seed in (0, 1))
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        writer.commit(run_id, [first])
        writer.commit(run_id, [replace(other, tokens=first.tokens, text=first.text)])
    with Store(tmp_path) as store:
        frame = analysis.agreement(store, store)
        found = store.sql(frame.attrs["sql"]).df()
    pd.testing.assert_frame_equal(frame, found, check_dtype=False, rtol=1e-6)
    assert frame["weight_error"].min() > 0 and 0 < frame["mismatch"].min() < 1


def test_shift_along_a_trace(store):
    frame = analysis.shift_along(store, 1, 16)
    found = store.sql(frame.attrs["sql"]).df()
    pd.testing.assert_frame_equal(frame, found, check_dtype=False)
    assert frame["from_previous"].notna().sum() == len(frame) * 3 / 4


@pytest.mark.parametrize("seed", [0, 7])
def test_chance_along_a_trace_is_the_shuffled_store(store, seed):
    found = chance_along(store, 1, 16, seed=seed)
    plain = analysis.shift_along(store, 1, 16)
    pd.testing.assert_frame_equal(found.drop(columns="by_chance"), plain)
    null = analysis.shift_along(analysis.Shuffled(store, seed), 1, 16)
    np.testing.assert_array_equal(found["by_chance"], null["from_previous"])
    assert not np.allclose(found["by_chance"][1:], found["from_previous"][1:], equal_nan=True)


def test_shift_along_some_layers(store):
    frame = analysis.shift_along(store, 1, 16)
    layers = sorted(frame["layer"].unique())[1:]
    some = analysis.shift_along(store, 1, 16, layers=layers)
    wanted = frame[frame["layer"].isin(layers)].reset_index(drop=True)
    pd.testing.assert_frame_equal(some, wanted)
    told = store.sql(some.attrs["sql"]).df()
    np.testing.assert_allclose(told["from_previous"], some["from_previous"], atol=1e-9)
    with pytest.raises(NotInStoreError, match=r"no routing of the layers \[99\]"):
        analysis.shift_along(store, 1, 16, layers=[99])

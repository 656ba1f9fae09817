"""A monitor at work: its scores are those of stored vectors; what it stops, and how it resumes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import probed
import pytest

import ringlens as rl
from ringlens.analysis.importance.alarms import alarms
from ringlens.analysis.roles.labelling import label_stored
from ringlens.config import Sampling
from ringlens.errors import ConfigError, StoreError
from ringlens.observe import batch
from ringlens.observe.monitoring.monitor import Monitor, mark_of, read_monitor
from ringlens.observe.pipeline.ranks import RankRole
from ringlens.observe.pipeline.run_record import run_record
from ringlens.store.check.check import check

LAYER, WINDOW, LIMIT = 3, 4, 40
RECORD = ["logprobs", f"resid_post@{LAYER}"]


@pytest.fixture(scope="module")
def lens():
    return rl.load(probed.MODEL)


def mark(lens):
    role = RankRole(tuple(range(lens.sizes.layers)))
    return mark_of(vars(run_record(lens, "live", (), Sampling(), [], role)))


@pytest.fixture(scope="module")
def monitor(lens):
    """A monitor of random weights that warns of nothing."""
    rng = np.random.default_rng(0)
    D = lens.sizes.hidden_size
    numbers = {
        "mean": tuple(rng.normal(size=D)),
        "scale": tuple(rng.uniform(0.5, 2, D)),
        "weights": tuple(rng.normal(size=D)),
    }
    return Monitor(
        "backtrack", "True", "resid_post", LAYER, **numbers, bias=0.5, window=WINDOW,
        threshold=1e6, criterion="flag", model=mark(lens), trained={"steps": 1}, calibrated={},
        held_out={},
    )  # fmt: skip


def captured(lens, path, monitor, **more):
    given = {"max_new_tokens": LIMIT, "record": RECORD, "batch_size": 3} | more
    return rl.capture(lens, rl.problems("countdown", n=3), path, monitor=monitor, **given)


@pytest.fixture(scope="module")
def watched(lens, monitor, tmp_path_factory):
    with captured(lens, tmp_path_factory.mktemp("w") / "s", monitor) as store:
        yield store


def scores(store, trace_id):
    return store.trace(trace_id).statistics("monitor_scores")


def test_scores_are_those_of_the_stored_vectors(lens, watched, monitor, tmp_path):
    for trace_id in (1, 2, 3):
        trace = watched.trace(trace_id)
        found, values = scores(watched, trace_id), trace.vectors("resid_post", LAYER)[1]
        wanted = ((values - monitor.mean) / monitor.scale) @ np.array(monitor.weights) + 0.5
        np.testing.assert_allclose(found["score"], wanted, rtol=2e-3, atol=0.3)
        think = np.array(trace.tokens()["phase"]) == "think"
        recent = monitor.recent(found["score"], think)
        np.testing.assert_allclose(found["recent"], recent, rtol=1e-5, atol=1e-5)
        assert np.isinf(recent[: np.flatnonzero(think)[0] + WINDOW - 1]).all()
        assert np.isfinite(recent[think][WINDOW - 1 :]).all()
    assert check(watched).findings == []
    assert watched.sql("select count(*) from traces where flags is not null").fetchall() == [(0,)]
    ((said,),) = watched.sql("select json from probes where probe = 'monitor'").fetchall()
    assert json.loads(said)["digest"] == monitor.digest and "weights" not in json.loads(said)
    with captured(lens, tmp_path / "bare", None) as bare:
        same = "select trace_id, pos, token_id, logprob from tokens order by all"
        assert bare.sql(same).fetchall() == watched.sql(same).fetchall()


def low(watched):
    """A threshold that some thoughts pass in their midst, and where each first does."""
    recent = {i: scores(watched, i)["recent"] for i in (1, 2, 3)}
    tops = sorted(float(np.max(t)) for t in recent.values())
    threshold = float(np.float32((tops[0] + tops[1]) / 2))
    over = {i: np.flatnonzero(t > np.float32(threshold)) for i, t in recent.items()}
    return threshold, {i: int(at[0]) for i, at in over.items() if len(at)}


def test_a_flag_marks_a_trace_and_a_stop_ends_it_where_it_warns(lens, watched, monitor, tmp_path):
    threshold, first = low(watched)
    assert len(first) == 2
    flagging = replace(monitor, threshold=threshold)
    with captured(lens, tmp_path / "flag", flagging) as store:
        rows = store.sql("select trace_id, flags, finish_reason from traces").fetchall()
        assert {i for i, flags, _ in rows if flags == ["warned"]} == set(first)
        assert {reason for _, _, reason in rows} == {"length"}
    stopping = replace(flagging, criterion="stop")
    with captured(lens, tmp_path / "stop", stopping) as store:
        for trace_id in (1, 2, 3):
            trace, whole = store.trace(trace_id), watched.trace(trace_id)
            stops = trace_id in first
            n = first[trace_id] + 1 if stops else len(whole)
            assert len(trace) == n, trace_id
            assert trace.summary["finish_reason"] == ("monitor" if stops else "length")
            assert trace.summary["flags"] == (["warned"] if stops else None)
            assert trace.tokens()["token_id"].tolist() == whole.tokens()["token_id"][:n].tolist()
            np.testing.assert_allclose(
                scores(store, trace_id)["score"], scores(watched, trace_id)["score"][:n], rtol=1e-4
            )
        assert check(store).findings == []


def test_alarms_are_counted_beside_what_the_steps_say(lens, watched, monitor, tmp_path):
    threshold, _ = low(watched)
    flagging = replace(monitor, threshold=threshold, target="is_backtrack", window=1)
    with captured(lens, tmp_path / "s", flagging, on_stored=label_stored) as store:
        found = alarms(store).set_index("trace_id")
        for trace_id, row in found.iterrows():
            over = scores(store, trace_id)["recent"] > np.float32(threshold)
            onsets = over & ~np.concatenate(([False], over[:-1]))
            assert row["alarms"] == onsets.sum()
            assert pd.isna(row["first_alarm"]) == (not over.any())
            if over.any():
                assert over.argmax() == row["first_alarm"]
            gone = store.sql(
                "select pos from token_context where trace_id = ? and is_backtrack", [trace_id]
            ).df()["pos"]
            assert row["in_vain"] == onsets.sum() - onsets[gone].sum()
        assert found["alarms"].sum() > 0
        said = alarms(store).attrs
    assert (said["traces"], said["stopped"], said["unknown"]) == (3, 0, 0)
    assert said["false"] == (found["in_vain"] > 0).sum() and "in vain" in said["said"]
    bare = captured(lens, tmp_path / "bare", None, max_new_tokens=2)
    with bare, pytest.raises(StoreError, match="no run of the store had a monitor"):
        alarms(bare)


def test_an_interrupted_capture_stops_where_the_whole_one_does(
    lens, watched, monitor, tmp_path, monkeypatch
):
    monkeypatch.setattr(batch, "STEPS", 4)  # so that there is something to commit midway
    stopping = replace(monitor, threshold=low(watched)[0], criterion="stop")
    prompts = sum(watched.trace(i).summary["n_prompt"] for i in (1, 2, 3))

    def interrupt(progress):
        if progress.tokens > prompts + 45:
            raise KeyboardInterrupt

    more = {"commit_every": 0, "record": ["logprobs"]}
    whole = captured(lens, tmp_path / "whole", stopping, **more)
    with pytest.raises(KeyboardInterrupt):
        captured(lens, tmp_path / "cut", stopping, on_progress=interrupt, **more)
    with rl.Store(tmp_path / "cut") as cut:
        running = "select count(*) from traces where finish_reason = 'running'"
        assert cut.sql(running).fetchall()[0][0] > 0 and len(cut.sql("from monitor_scores")) > 0
    with captured(lens, tmp_path / "cut", stopping, **more) as again, whole:
        assert len(again.runs()) == 1
        for query in (
            "select trace_id, pos, token_id, logprob, entropy, phase from tokens order by all",
            "from monitor_scores order by all",
            "select trace_id, finish_reason, flags, text from traces order by all",
            "select probe, key, json from probes",
        ):
            assert again.sql(query).fetchall() == whole.sql(query).fetchall()


def test_a_file_gives_the_same_monitor_and_bad_ones_are_refused(monitor, tmp_path):
    path = monitor.save(tmp_path / "m.json")
    assert read_monitor(path) == monitor and read_monitor(str(path)).digest == monitor.digest
    assert [each.name for each in tmp_path.iterdir()] == ["m.json"]
    told = json.loads(path.read_text())
    for change, said in (
        ({"format": "x"}, "its format is not"),
        ({"layer": True}, "layer is missing, or of another kind"),
        ({"weights": [1.0]}, "not as many of each"),
        ({"mean": ["x", *told["mean"][1:]]}, "something else than numbers"),
        ({"criterion": "shout"}, "must be one of flag, stop"),
        ({"model": {"name": "x"}}, "does not say which it is"),
        ({"scale": [0.0, *told["scale"][1:]]}, "not above 0"),
    ):
        bad = tmp_path / "bad.json"
        bad.write_text(json.dumps(told | change))
        with pytest.raises(ConfigError, match=said):
            read_monitor(bad)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        read_monitor(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="cannot read the monitor"):
        read_monitor(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="monitor is int"):
        read_monitor(3)


def test_a_monitor_of_another_model_is_refused(lens, monitor, tmp_path):
    for change in ({"name": "other"}, {"digest": "0"}, {"quantization": "nf4"}):
        other = replace(monitor, model=replace(monitor.model, **change))
        with pytest.raises(ConfigError, match=f"differs in its {next(iter(change))}"):
            captured(lens, tmp_path / "s", other)
    few = replace(monitor, mean=(0.0,), scale=(1.0,), weights=(1.0,))
    with pytest.raises(ConfigError, match="reads 1 numbers a token"):
        captured(lens, tmp_path / "s", few)
    with pytest.raises(ConfigError, match="of a capture with a monitor"):
        captured(lens, tmp_path / "s", None, record=["monitor_scores"])
    with pytest.raises(ConfigError, match="decode = 'graph' is not possible"):
        captured(lens, tmp_path / "s", monitor, decode="graph")

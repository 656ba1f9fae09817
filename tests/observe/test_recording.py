"""The recording thread: it waits rather than drops, and its errors stop the run at once."""

import json
import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import slow_disk
import tiny_lens
from sessions import PROMPTS, assert_same

import ringlens as rl
from ringlens.errors import ConfigError, StoreError
from ringlens.observe.pipeline import commit_thread
from ringlens.observe.tasks import Text
from ringlens.store import StoreWriter
from ringlens.store.parallel.processes import InProcesses


@pytest.fixture(scope="module")
def lens():
    found = tiny_lens.lens()
    found.model.generation_config.eos_token_id = 10**6
    return found


def test_a_slow_disk_makes_the_model_wait_and_loses_nothing(lens, tmp_path, monkeypatch, caplog):
    wanted = rl.capture(lens, PROMPTS[:2], tmp_path / "wanted", max_new_tokens=200)
    commit, wait, progress = StoreWriter.commit, commit_thread.Recording._wait, []
    waits = threading.Event()

    def slowly(self, run_id, traces):
        assert waits.wait(300)  # slower than the model, whatever the machine
        return commit(self, run_id, traces)

    def waiting(self, size):
        waits.set()
        wait(self, size)

    monkeypatch.setattr(StoreWriter, "commit", slowly)
    monkeypatch.setattr(commit_thread.Recording, "_wait", waiting)
    monkeypatch.setitem(commit_thread.QUEUED, "cpu", 1)  # one block at a time
    with caplog.at_level(logging.WARNING):
        store = rl.capture(
            lens,
            PROMPTS[:2],
            tmp_path / "s",
            max_new_tokens=200,
            commit_every=0,
            on_progress=progress.append,
        )
    assert progress[-1].waited > 0
    said = [record for record in caplog.records if "the model waits" in record.message]
    assert len(said) == 1
    for trace_id in (1, 2):
        assert_same(store.trace(trace_id), wanted.trace(trace_id))


def test_an_error_of_the_writer_stops_the_run_at_once(lens, tmp_path, monkeypatch):
    forwards, failed = [], threading.Event()
    run = commit_thread.Recording._run

    def full(self, run_id, traces):
        raise StoreError("the disk is full")

    def until_it_fails(self):
        run(self)
        failed.set()

    def forward(progress):
        forwards.append(progress)
        if len(forwards) == 200:  # the first block is full after 64 steps
            assert failed.wait(300)  # however busy the machine is

    monkeypatch.setattr(StoreWriter, "commit", full)
    monkeypatch.setattr(commit_thread.Recording, "_run", until_it_fails)
    with pytest.raises(StoreError, match="the disk is full"):
        rl.capture(
            lens,
            PROMPTS,
            tmp_path / "s",
            max_new_tokens=1000,
            commit_every=0,
            on_progress=forward,
        )
    assert len(forwards) <= 200  # of 1,000
    assert lens.model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks for module in lens.model.modules())


def test_processes_record_what_threads_do(lens, tmp_path, caplog):
    settings = {"max_new_tokens": 80, "commit_every": 0}
    wanted = rl.capture(lens, PROMPTS[:2], tmp_path / "wanted", **settings, workers=0)
    with caplog.at_level(logging.INFO):
        store = rl.capture(lens, PROMPTS[:2], tmp_path / "s", **settings, workers=2)
    assert "; encoded in 2 processes beside this one" in caplog.text
    for trace_id in (1, 2):
        assert_same(store.trace(trace_id), wanted.trace(trace_id))
    assert len(store.files("routing")) == len(wanted.files("routing"))


def test_a_process_that_is_killed_stops_the_run(lens, tmp_path, monkeypatch):
    made, init = [], InProcesses.__init__
    monkeypatch.setattr(
        InProcesses, "__init__", lambda self, n: (init(self, n), made.append(self))[0]
    )

    def kill(progress):
        made[0]._all[0].process.kill()

    with pytest.raises(StoreError, match=r"encoding process \d+ has ended \(SIGKILL\)"):
        rl.capture(lens, PROMPTS[:1], tmp_path / "s", on_progress=kill, workers=1)
    store = rl.capture(lens, PROMPTS[:1], tmp_path / "s", workers=1)  # the same call goes on
    assert store.sql("select count(*), count(finished) from runs").fetchall() == [(1, 1)]
    with pytest.raises(ConfigError, match="workers = -1"):
        rl.capture(lens, PROMPTS[:1], tmp_path / "t", workers=-1)


def test_blocks_of_a_prefill_hold_no_more_than_their_bound(lens, tmp_path):
    """A text that goes through in many forwards is committed while it does."""
    text = Text([4 + i % 300 for i in range(900)], 10)
    seen = []
    store = rl.replay(
        lens, [text], tmp_path / "s", prefill=64, commit_every=0, on_progress=seen.append
    )
    whole = rl.replay(lens, [text], tmp_path / "whole")
    assert len(store.files("routing")) > 5
    assert len(whole.files("routing")) == 1
    assert_same(store.trace(1), whole.trace(1))
    assert [p.bytes_written for p in seen] == sorted(p.bytes_written for p in seen)


@pytest.mark.extra
def test_a_slow_disk_bounds_the_memory_of_a_process_that_records(tmp_path):
    """Every flush takes 20 ms: the model waits, says so once, and nothing is dropped."""
    done = subprocess.run(
        [sys.executable, slow_disk.__file__, tmp_path / "s"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["traces"] == 1
    assert len(said["warnings"]) == 1
    assert "the model waits for it" in said["warnings"][0]
    assert said["waited"] > 0  # nearly all of the time on an idle machine
    recorded = slow_disk.BLOCKS * slow_disk.PendingBlock(0).bytes
    assert said["grown"] < recorded / 2, f"{said['grown'] / 2**20:.0f} MiB"
    with rl.Store(tmp_path / "s") as store:
        trace = store.trace(2)
        tokens = slow_disk.BLOCKS * slow_disk.POSITIONS
        assert len(trace) == tokens
        assert len(store.files("heads")) > 5
        for layer in (0, slow_disk.LAYERS - 1):
            entropy = trace.heads(layer)["entropy"]
            assert (entropy == (np.arange(tokens) % 1000)[:, None]).all()

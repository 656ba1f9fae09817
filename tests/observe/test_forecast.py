"""What a run will write is said before it begins; what is recorded by default follows the model."""

import itertools
import logging
import threading
from collections import namedtuple
from dataclasses import replace

import pytest
import tiny_lens
from paths import CONFIGS

import ringlens as rl
from ringlens.cli.console import forecasts_shown
from ringlens.model.family import sizes_of
from ringlens.model.loading import read_config
from ringlens.observe.pipeline import forecast as said
from ringlens.observe.pipeline.forecast import Pace, forecast
from ringlens.observe.session import resolved
from ringlens.store.schema import instruments
from ringlens.store.schema.instruments import default_names, recordable

LOGGER = "ringlens.observe.pipeline.forecast"
PROMPTS = [tiny_lens.prompt(5, 6, 7), tiny_lens.prompt(8, 9, 10)]
EVERY_HEAD = ("logprobs", "routing", "router_logits", "heads", "head_blocks")
Usage = namedtuple("Usage", "total used free")


def sizes(name):
    return sizes_of(read_config(str(CONFIGS / name)))


def recorded(store):
    return store.sql("select record from runs").fetchall()[0][0]


def test_heads_of_every_token_are_the_default_of_small_models():
    assert default_names(20 * 16) == EVERY_HEAD
    assert default_names(80 * 64) == tuple(name for name in EVERY_HEAD if name != "heads")
    assert said.left_out(sizes("ring-1t.json")) == "without heads, as the model has 5,120"


@pytest.fixture
def large(monkeypatch):
    """A tiny model that counts as one of many heads."""
    fewer = [replace(d, most_heads=1 if d.most_heads else None) for d in instruments.INSTRUMENTS]
    monkeypatch.setattr(instruments, "INSTRUMENTS", tuple(fewer))
    return tiny_lens.lens()


def test_a_run_keeps_what_was_chosen_and_an_explicit_record_is_never_changed(large, tmp_path):
    options = {"max_new_tokens": 3}
    with rl.capture(large, PROMPTS, tmp_path / "default", **options) as store:
        assert recorded(store) == [name for name in EVERY_HEAD if name != "heads"]
    with rl.replay(large, PROMPTS, tmp_path / "replayed") as store:
        assert recorded(store) == [name for name in EVERY_HEAD if name != "heads"]
    with rl.capture(large, PROMPTS, tmp_path / "asked", record=["heads"], **options) as store:
        assert recorded(store) == ["heads", "head_blocks"]


def test_one_line_says_what_is_recorded_and_what_it_takes(large, tmp_path, caplog):
    with caplog.at_level(logging.INFO, LOGGER):
        rl.capture(large, PROMPTS, tmp_path / "s", max_new_tokens=3).close()
        rl.capture(large, PROMPTS, tmp_path / "s", max_new_tokens=3, record=["heads"]).close()
    chosen, asked = [r.getMessage() for r in caplog.records if r.name == LOGGER]
    assert chosen.startswith(
        "recording logprobs, routing, router_logits, head_blocks (without heads, as the model has"
    )
    assert asked.startswith("recording heads, head_blocks: about ")
    assert "per 1,000 tokens, " in asked and "for 12 tokens at most; " in asked
    assert " are free; encoded in " in asked and asked.endswith(" threads of this process")


def test_a_full_disk_is_told_before_the_run_begins(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(said.shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 100))
    told = []
    watch = {"on_progress": lambda progress: told.append((progress.tokens, len(warnings())))}

    def warnings():
        return [r for r in caplog.records if r.levelno == logging.WARNING and r.name == LOGGER]

    lens = tiny_lens.lens()
    rl.capture(lens, PROMPTS, tmp_path / "s", max_new_tokens=3, **watch).close()
    assert told[0] == (0, 1)
    assert len(warnings()) == 1
    assert "0.1 kB are free at" in warnings()[0].getMessage()


def test_a_run_that_is_taken_up_counts_what_is_left(tmp_path, caplog):
    lens = tiny_lens.lens()
    options = {"max_new_tokens": 3, "batch_size": 1, "record": ["routing"]}

    stop = threading.Event()
    watch = {"on_tokens": lambda steps: stop.set(), "stop": stop}
    rl.capture(lens, PROMPTS, tmp_path / "s", **watch, **options).close()
    with caplog.at_level(logging.INFO, LOGGER):
        rl.capture(lens, PROMPTS, tmp_path / "s", **options).close()
    assert "for 6 tokens at most" in caplog.records[-1].getMessage()


def test_what_is_foretold_is_about_what_is_written(tmp_path):
    lens = rl.load("ring-nano")
    record = resolved(lens, [*EVERY_HEAD, "expert_outputs", "resid_post@2[0:40]", "attention:4@3"])
    problems = rl.problems("countdown", n=4)
    with rl.capture(lens, problems, tmp_path / "s", record=record, max_new_tokens=90) as store:
        lengths = [
            n for (n,) in store.sql("select count(*) from tokens group by trace_id").fetchall()
        ]
    written = sum(f.stat().st_size for f in (tmp_path / "s").rglob("*.parquet"))
    plan = forecast(record, lens.sizes, lengths)
    assert plan.tokens == sum(lengths)
    assert 0.5 * written < plan.bytes < 1.2 * written  # short traces in files of their own


@pytest.mark.parametrize(
    ("names", "kilobytes"),
    [
        (["routing"], 4.1),
        (["routing", "head_blocks"], 5.4),
        (["routing", "router_logits", "head_blocks"], 45),
        (["routing", "heads"], 39),
        (["routing", "router_logits", "heads"], 79),
    ],
)
def test_the_rates_of_ring_1t_are_those_that_were_measured(names, kilobytes):
    """docs/recording.md, what it weighs."""
    plan = forecast(recordable(names), sizes("ring-1t.json"), [1000])
    assert plan.bytes / 1e6 == pytest.approx(kilobytes, rel=0.1)


def test_some_layers_weigh_less(tmp_path):
    model = sizes("ring-1t.json")
    some, every = (forecast(recordable([r]), model, [10]).bytes for r in ("routing@4-7", "routing"))
    row = forecast((), model, [10]).bytes
    assert (every - row) / (some - row) == pytest.approx(len(model.sparse_layers) / 4)


def test_the_pace_is_told_once_after_a_second_of_work(monkeypatch, capsys):
    clock = itertools.count(0, 0.4)
    monkeypatch.setattr(said.time, "perf_counter", lambda: next(clock))
    pace = Pace()
    with forecasts_shown():
        for tokens in (0, 100, 200, 300, 400):
            with pace.working():
                pass
            pace.committed(tokens)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "this machine records about 167 tokens a second (first 1.2 s of work on it); a model that "
        "makes more waits"
    ]

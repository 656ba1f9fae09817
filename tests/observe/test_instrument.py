"""A new statistic is a row and a kind of instrument: here one that only this file knows.

It is captured, stored, found, checked, compacted, exported, taken up, replayed, deleted and shown
without another file being touched.
"""

import base64
import shutil
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest.mock import ANY

import numpy as np
import pyarrow as pa
import pytest
import tiny_lens
import torch
from compacted import run_compact
from records import random_run, random_trace
from safetensors.numpy import load_file
from sessions import PROMPTS

import ringlens as rl
from ringlens.app import make_app
from ringlens.app.trace.page import head_tables
from ringlens.errors import ConfigError, NotInStoreError, ObservationError, StoreError
from ringlens.model.fit.memory import EVERYTHING, Observed, Workload, recording_bytes
from ringlens.observe.instruments.attention import attention_statistic, causal
from ringlens.observe.instruments.base import OUTSIDE, Kind, kind_of
from ringlens.observe.kernels.attention_segments import top_positions
from ringlens.observe.points import POINTS, module_at
from ringlens.store import Store, StoreWriter
from ringlens.store.check.check import check
from ringlens.store.encode.encoders import ENCODERS
from ringlens.store.maintain.delete import delete_run, delete_traces
from ringlens.store.maintain.export import arrays_of, to_safetensors, to_store
from ringlens.store.maintain.merge import merge
from ringlens.store.read.catalog import catalog
from ringlens.store.schema import documentation, instruments
from ringlens.store.schema.instruments import Declaration
from ringlens.store.schema.records import LayerArrays
from ringlens.store.schema.table import POS, TRACE, Column, Table, Tiles, per_head
from ringlens.store.schema.table import per_layer_and_token as by_token

NAME = "largest_weight"
HOST = {"Host": "127.0.0.1:8050"}
RECORD = ("logprobs", "routing", "head_blocks", NAME, "stream")


# --- what a newcomer writes: a file … ------------------------------------------------------------


def largest(scaling, key_BGSC, first_B, *seen):
    """The largest attention weight of each head [B, t, H], and how far back it lies."""
    query_BHtC = torch.cat(seen[0::2], dim=2)
    position, weight = top_positions(query_BHtC, key_BGSC, causal(first_B), scaling, 1)
    return {"weight": weight[..., 0].half(), "position": position[..., 0].float()}


# --- … and a row. --------------------------------------------------------------------------------

HEADS = Declaration(
    NAME,
    by_token(
        NAME,
        "One row a token and layer: the largest weight of each head.",
        per_head("weight", "the largest weight, fp16", "probability", label="Largest"),
        per_head("position", "the position that has it, padding counted", "tokens"),
    ),
    kind=attention_statistic(NAME, largest),
    attaches_to="attention",
)


class Stream:
    """A second one, of each token alone: size of the last hidden state."""

    def __init__(self, watched):
        self.model, self.transfer, self.start, self.seen = watched.model, watched.transfer, 0, []

    def attach(self):
        module = module_at(self.model, POINTS["final_norm"])
        return [module.register_forward_hook(lambda *seen: self.seen.append(seen[2].clone()))]

    def begin(self, token_ids_BT, stop):
        if not self.seen:
            self.start = stop - token_ids_BT.shape[1]

    def take(self):
        seen, self.seen = self.seen, []
        return {OUTSIDE: self.transfer.send(size, *seen)} if seen else {}


def size(*seen):
    return {"norm": torch.cat(seen, dim=1).float().norm(dim=-1)}


STREAM = Declaration(
    "stream",
    Table(
        "stream",
        "One row a token: the stream behind the last layer.",
        ("trace_id", "pos"),
        (TRACE, POS, Column("norm", pa.float32(), "L2 norm")),
        tiles=Tiles("none"),
    ),
    kind=Kind(lambda watched, asked: iter([("stream", Stream(watched))])),
    attaches_to="point",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(instruments, "INSTRUMENTS", (*instruments.INSTRUMENTS, HEADS, STREAM))


# --- what it then does ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lens():
    return tiny_lens.lens()


def capture(lens, path, **changes):
    options = {"max_new_tokens": 12, "record": RECORD, "commit_every": 0, "batch_size": 2}
    return rl.capture(lens, PROMPTS, path, **(options | changes))


@pytest.fixture(scope="module")
def made(lens, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instruments, "INSTRUMENTS", (*instruments.INSTRUMENTS, HEADS, STREAM))
        capture(lens, path).close()
    return path


@pytest.fixture
def path(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def store(path):
    with Store(path) as found:
        yield found


def values(store, trace_id):
    """All that the two have of a trace."""
    trace = store.trace(trace_id)
    found = [trace.statistics(NAME, layer) for layer in trace.layers(NAME)]
    return [*found, trace.statistics("stream")]


def same(one, other):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


def test_its_numbers_are_those_of_a_plain_forward(lens, store):
    eager = tiny_lens.lens(attention="eager")
    for trace_id in (1, 2, 3):
        trace = store.trace(trace_id)
        ids = torch.tensor([trace.tokens()["token_id"].tolist()])
        with torch.inference_mode():
            out = eager.model(input_ids=ids, output_attentions=True, output_hidden_states=True)
        assert trace.layers(NAME) == list(range(4))
        for layer in range(4):
            found = trace.statistics(NAME, layer)
            weights_HTS = out.attentions[layer][0].numpy()
            assert found["pos"].tolist() == list(range(len(trace)))
            np.testing.assert_allclose(
                found["weight"], weights_HTS.max(axis=2).T, rtol=2**-10, atol=3e-5
            )
        norm = trace.statistics("stream")["norm"]
        assert norm.dtype == np.float32
        wanted = out.hidden_states[-1][0].norm(dim=-1).numpy()
        np.testing.assert_allclose(norm, wanted, rtol=1e-4)


def test_sql_finds_it(store):
    rows = store.sql(
        f"select layer, max(weight[3]) from {NAME} join tokens using (trace_id, pos) group by all"
    )
    assert len(rows.fetchall()) == 4
    (entry,) = [entry for entry in catalog(store) if entry.name == NAME]
    assert [column.name for column in entry.columns] == ["trace_id", "layer", "pos", "weight",
                                                         "position"]  # fmt: skip
    assert entry.columns[3].meaning == "the largest weight, fp16"


def test_what_was_not_recorded_is_said(lens, store, tmp_path):
    with pytest.raises(NotInStoreError, match="has no layer 9"):
        store.trace(1).statistics(NAME, 9)
    with rl.capture(lens, PROMPTS[:1], tmp_path / "lean", max_new_tokens=2, record=()) as lean:
        with pytest.raises(NotInStoreError, match=rf"replay the trace with record=\[…, '{NAME}'\]"):
            lean.trace(1).statistics(NAME, 1)
        assert check(lean).findings == []
    with pytest.raises(NotInStoreError, match="'moods' is no table"):
        store.trace(1).statistics("moods", 1)
    with pytest.raises(ConfigError, match=NAME):
        rl.capture(lens, PROMPTS, tmp_path / "none", record=["largest_wieght"])


def test_a_check_passes_and_finds_what_is_spoiled_or_gone(path):
    with Store(path) as store:
        report = check(store)
        assert report.findings == [] and not report.unknown
        files = store.files(NAME)
    content = (path / files[0].path).read_bytes()
    spoiled = bytearray(content)
    spoiled[len(content) // 3] ^= 1
    for broken in (bytes(spoiled), None):
        if broken is None:
            (path / files[0].path).unlink()
        else:
            (path / files[0].path).write_bytes(broken)
        with Store(path) as store:
            found = check(store).findings
        assert {f.path for f in found} <= {files[0].path, NAME} and found
        assert any(f.traces for f in found)
    manifest = sqlite3.connect(path / "manifest.sqlite")
    with manifest:
        manifest.execute("delete from files where table_name = ?", [NAME])
    for file in files[1:]:
        (path / file.path).unlink()
    with Store(path) as store:
        (found,) = check(store).findings
    assert (found.kind, found.path) == ("gone", NAME)


def test_it_is_compacted_exported_merged_and_deleted(path, tmp_path):
    with Store(path) as store:
        before = {trace_id: values(store, trace_id) for trace_id in (1, 2, 3)}
        many = len(store.files(NAME))
    run_compact(path)
    with Store(path) as store:
        assert many > 1 and len(store.files(NAME)) == 1
        assert all(same(values(store, i), before[i]) for i in before)
        to_store(store, [2], tmp_path / "out", None, lambda *_: None)
        to_store(store, [2], tmp_path / "lean", ["tokens"], lambda *_: None)
        to_safetensors(store, [3], tmp_path / "arrays", None, lambda *_: None)
        arrays, metadata = arrays_of(store.trace(3))
        (run_id,) = {row["run_id"] for row in store.runs().to_arrow_table().to_pylist()}
    saved = load_file(tmp_path / "arrays" / "trace-00000003.safetensors")
    wanted = np.stack([layer["weight"] for layer in before[3][:-1]])
    assert np.array_equal(saved[f"{NAME}_weight"], wanted)
    assert np.array_equal(arrays["stream_norm"][0], before[3][-1]["norm"])
    assert metadata[f"{NAME}_layers"] == "[0, 1, 2, 3]"
    with Store(tmp_path / "out") as store:
        assert same(values(store, 2), before[2]) and check(store).findings == []
    with Store(tmp_path / "lean") as store:
        assert NAME in store.runs().to_arrow_table()["lost"].to_pylist()[0]
        assert check(store).findings == []
    with Store(tmp_path / "out") as source, StoreWriter(tmp_path / "both") as writer:
        merge(source, writer.rewriter())
    with Store(tmp_path / "both") as store:
        assert same(values(store, 1), before[2])
    with Store(path) as store, StoreWriter(path) as writer:
        delete_traces(writer.rewriter(), run_id, [2], store.tables())
        assert store.sql(f"select distinct trace_id from {NAME} order by 1").fetchall() == [
            (1,),
            (3,),
            (4,),
        ]
        assert same(values(store, 3), before[3]) and check(store).findings == []


def test_an_interrupted_run_is_taken_up_bit_for_bit(lens, made, tmp_path):
    def stop(progress):
        if progress.tokens > 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(lens, tmp_path, on_progress=stop)
    with Store(tmp_path) as store:
        assert 0 < len(store.sql("from stream")) < len(store.sql("from tokens")) + 1
        assert store.sql("select count(finished) from runs").fetchall() == [(0,)]
    with capture(lens, tmp_path) as store, Store(made) as whole:
        assert len(store.runs()) == 1
        for trace_id in (1, 2, 3):
            assert same(values(store, trace_id), values(whole, trace_id))


def test_a_replay_records_it_too(lens, store, tmp_path):
    with rl.replay(lens, store, tmp_path / "again", record=(NAME,)) as again:
        for trace_id in (1, 2, 3):
            for layer in range(4):
                live = store.trace(trace_id).statistics(NAME, layer)["weight"]
                found = again.trace(trace_id).statistics(NAME, layer)["weight"]
                np.testing.assert_allclose(found, live, rtol=2**-9, atol=3e-5)
        assert check(again).findings == []


def test_numbers_that_are_none_are_refused(lens, tmp_path, monkeypatch):
    def broken(*inputs):
        found = largest(*inputs)
        found["weight"][:, 4, 2] = torch.nan
        return found

    kind = attention_statistic(NAME, broken)
    row = Declaration(NAME, HEADS.table, kind=kind, attaches_to="attention")
    monkeypatch.setattr(instruments, "INSTRUMENTS", (*instruments.INSTRUMENTS[:-2], row))
    with pytest.raises(ObservationError, match=f"layer 0, token 4 .*a number of {NAME} is nan"):
        rl.capture(lens, PROMPTS[:1], tmp_path, max_new_tokens=2, record=(NAME,))


def test_a_record_must_fit_its_declaration(tmp_path):
    run = random_run(record=(NAME,))
    fits = {name: np.ones((4, 24, 4), np.float32) for name in ("weight", "position")}
    with StoreWriter(tmp_path) as writer:
        run_id = writer.start_run(run)
        for name, arrays, said in (
            ("moods", LayerArrays((), {}), "'moods', which no instrument fills"),
            (NAME, LayerArrays((0, 1), fits), rf"{NAME}.weight is \(4, 24, 4\)"),
            (NAME, LayerArrays((0, 1, 2, 9), fits), f"{NAME}.layers"),
            (NAME, LayerArrays((0, 1, 2, 3), {"weight": fits["weight"]}), "give weight, position"),
        ):
            with pytest.raises(ObservationError, match=said):
                writer.commit(run_id, [random_trace(run, statistics={name: arrays})])
        (trace_id,) = writer.commit(
            run_id, [random_trace(run, statistics={NAME: LayerArrays((0, 1, 2, 3), fits)})]
        )
    with Store(tmp_path) as store:
        assert (store.trace(trace_id).statistics(NAME, 3)["weight"] == 1).all()


def test_the_trace_page_shows_it(path, store):
    client = make_app(path).server.test_client()
    assert head_tables(store, 2) == [
        {
            "table": NAME,
            "title": f"Attention heads: {NAME}",
            "columns": [
                {"column": "weight", "label": "Largest", "unit": "", "meaning": ANY, "term": ""},
                {
                    "column": "position",
                    "label": "position",
                    "unit": "",
                    "meaning": ANY,
                    "term": "",
                },
            ],
        }
    ]
    body = client.get(f"/data/trace/2/statistics/{NAME}/5", headers=HOST).get_json()
    assert (body["start"], body["layers"]) == (0, [0, 1, 2, 3])
    shape = (4, body["tokens"], 8)
    shown = np.frombuffer(base64.b64decode(body["weight"]), "<f4").reshape(shape)
    for layer in range(4):
        wanted = store.trace(2).statistics(NAME, layer)["weight"]
        assert np.array_equal(shown[layer], wanted[: body["tokens"]])
    for table in ("stream", "moods"):
        assert client.get(f"/data/trace/2/statistics/{table}/5", headers=HOST).status_code == 404


def test_a_plan_knows_what_waits_of_it():
    """What is recorded without being asked for is also written down where no store is known."""
    every, sparse = instruments.waiting_bytes(instruments.default_names())
    assert Observed(every, sparse) == EVERYTHING
    config = tiny_lens.lens().config
    usual = recording_bytes(config, Workload(1024, 2, 1024), 4)
    observed = Observed(*instruments.waiting_bytes([*instruments.default_names(), NAME]))
    more = recording_bytes(config, Workload(1024, 2, 1024, observed), 4)
    of_token = 2 * 4 * config.num_attention_heads  # two numbers a head
    assert more.sparse_layer - usual.sparse_layer == 2 * 1024 * of_token
    assert instruments.waiting_bytes(["head_blocks"])[0] == {"H": 16}


def test_the_documentation_lists_it():
    page = documentation.page()
    assert f"#### `{NAME}`" in page and "| `weight` | FLOAT[] | probability |" in page


# --- where it is not known -----------------------------------------------------------------------


@pytest.fixture
def elsewhere(registered, monkeypatch):
    """As in a ringlens without these rows."""
    monkeypatch.setattr(instruments, "INSTRUMENTS", instruments.INSTRUMENTS[:-2])


def test_a_ringlens_without_it_reads_checks_and_deletes_its_rows(path, elsewhere, tmp_path):
    with Store(path) as store:
        assert len(store.sql(f"select distinct layer, weight[1] from {NAME}").fetchall()) > 4
        assert [t.name for t in store.foreign_tables()] == [NAME, "stream"]
        found = store.trace(1).statistics(NAME, 2)["weight"]
        assert found.shape == (len(store.trace(1)), 8)
        report = check(store)
        assert report.findings == []
        assert report.unknown.keys() == {NAME, "stream"} and report.unknown[NAME] > 1
        to_store(store, [2], tmp_path / "out", None, lambda *_: None)
        (run_id,) = {row["run_id"] for row in store.runs().to_arrow_table().to_pylist()}
        (entry,) = [entry for entry in catalog(store) if entry.name == NAME]
        assert "does not know" in entry.meaning
    run_compact(path)
    with Store(tmp_path / "out") as store:
        assert store.sql(f"select distinct trace_id from {NAME}").fetchall() == [(2,)]
    with Store(path) as store, StoreWriter(path) as writer:
        delete_traces(writer.rewriter(), run_id, [2], store.tables())
        assert store.sql(f"select count(*) from {NAME} where trace_id = 2").fetchall() == [(0,)]
        delete_traces(writer.rewriter(), run_id, [1, 3], store.tables())
        spoiled = path / store.files(NAME)[0].path
    spoiled.write_bytes(spoiled.read_bytes()[:-40])
    with Store(path) as store:
        assert len(store.traces()) == 1
        assert {f.path for f in check(store).findings} == {str(spoiled.relative_to(path))}
        with pytest.raises(StoreError):
            store.sql(f"select sum(weight[1]) from {NAME}").fetchall()


def test_a_table_that_is_not_known_goes_with_its_last_run(path, elsewhere):
    with Store(path) as store, StoreWriter(path) as writer:
        assert len(store.sql(f"from {NAME}"))
        (run_id,) = {row["run_id"] for row in store.runs().to_arrow_table().to_pylist()}
        delete_run(writer.rewriter(), run_id)
        with pytest.raises(StoreError, match=f"there is no table {NAME}"):
            store.sql(f"from {NAME}")
        assert store.foreign_tables() == ()


def test_a_row_names_its_file(lens, tmp_path, monkeypatch):
    """A row has no torch: the file is imported by who observes."""
    file = ModuleType("ringlens.observe.instruments.newcomer")
    file.KIND = attention_statistic("newcomer", largest)
    monkeypatch.setitem(sys.modules, file.__name__, file)
    table = replace(HEADS.table, name="newcomer")
    row = Declaration("newcomer", table, kind="newcomer", attaches_to="attention")
    monkeypatch.setattr(instruments, "INSTRUMENTS", (*instruments.INSTRUMENTS, row))
    options = {"max_new_tokens": 2, "record": (NAME, "newcomer")}
    with rl.capture(lens, PROMPTS[:1], tmp_path, **options) as store:
        trace = store.trace(1)
        found, wanted = (trace.statistics(name, 2) for name in ("newcomer", NAME))
        assert np.array_equal(found["weight"], wanted["weight"])


def test_every_row_of_the_table_holds_together():
    rows = instruments.INSTRUMENTS
    assert len({row.name for row in rows}) == len(rows)
    known = {row.name for row in rows}
    for row in rows:
        assert isinstance(kind_of(row.kind), Kind)
        assert row.attaches_to in instruments.ORDER
        assert row.table.encoder in ENCODERS
        assert {row.brings} <= known | {""}
        assert {column.shape for column in row.values} <= {"", *instruments.SIZES}
        assert row.request or row.table.tiles
        assert row.name == row.table.name or row.columns

"""What is exported is what was stored: read back as a store, as JSON lines, as safetensors."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from compacted import rows
from deleted import TRACES, make, without
from records import random_run, random_trace
from safetensors import safe_open
from safetensors.numpy import load_file
from same_rows import assert_same
from usage_sums import assert_sums

from ringlens.cli.main import main
from ringlens.errors import NotInStoreError, StoreError
from ringlens.store import ChoiceArrays, Store, StoreWriter
from ringlens.store.maintain import export

RUN = random_run()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Traces 1 to 3 of one run, 4 and 5 of another."""
    path = tmp_path_factory.mktemp("stores") / "store"
    make(path)
    return path


def quiet(done, total):
    assert 0 < done <= total


def test_an_exported_store_has_the_same_rows(path, tmp_path):
    out = tmp_path / "new" / "out"
    with Store(path) as store:
        chosen = export.select(store, "n_think > 6", trace_ids=[1, 2, 3, 5])
        assert chosen == [1, 3, 5]
        export.to_store(store, chosen, out, None, quiet)
        with Store(out) as found:
            expected = without(rows(store), lambda trace_id: trace_id in chosen)
            assert without(rows(found), lambda _: True) == expected
            for name in ("runs", "experts"):
                assert rows(found)[name] == rows(store)[name]
            assert_same(found.trace(3), TRACES[2], RUN)
            assert_sums(found)
    with StoreWriter(out) as writer:  # and it is a store like any other
        assert writer.commit(writer.start_run(RUN), [TRACES[1]])[0] > 5


def test_a_store_of_some_tables(path, tmp_path):
    with Store(path) as store:
        run_id = store.trace(4).summary["run_id"]
        chosen = export.select(store, run_ids=[run_id])
        export.to_store(store, chosen, tmp_path / "out", ["tokens"], quiet)
        with Store(tmp_path / "out") as found:
            filled = {t.name for t in found.tables() if found.files(t.name)}
            assert filled == {"runs", "experts", "traces", "tokens"}
            # The trace that it replays is not in this store.
            assert found.trace(4).summary["source_trace_id"] is None
            assert found.trace(4).tokens()["text"] == store.trace(4).tokens()["text"]


def test_lines_hold_tokens_and_routing(path, tmp_path):
    out = tmp_path / "out.jsonl"
    with Store(path) as store:
        export.to_lines(store, [1, 2], out, None, quiet)
        lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
        assert [line["trace_id"] for line in lines] == [1, 2]
        line, record = lines[0], TRACES[0]
        assert line["text"] == record.text and line["run"]["experts"] == RUN.experts
        assert line["tokens"]["phase"] == record.tokens.phase
        assert line["tokens"]["entropy"][0] is None
        np.testing.assert_array_equal(line["tokens"]["entropy"][1:], record.tokens.entropy[1:])
        for i, layer in enumerate(RUN.sparse_layers):
            found = line["routing"][str(layer)]
            np.testing.assert_array_equal(found["expert_ids"], record.routing.expert_ids[i])
            np.testing.assert_array_equal(found["weights"], record.routing.weights[i])


def test_safetensors_read_back_equal(path, tmp_path):
    with Store(path) as store:
        export.to_safetensors(store, [1, 4], tmp_path / "out", None, quiet)
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["trace-00000001.safetensors", "trace-00000004.safetensors"]
    found = load_file(tmp_path / "out" / files[0])
    record = TRACES[0]
    np.testing.assert_array_equal(found["router_logits"], record.router_logits)
    for name in ("expert_ids", "weights", "affinities", "margin", "group_margin"):
        np.testing.assert_array_equal(found[name], getattr(record.routing, name))
    np.testing.assert_array_equal(found["router_entropy"], record.routing.entropy)
    for name in ("entropy", "first_weight", "previous_weight", "output_norm"):
        np.testing.assert_array_equal(found[f"head_{name}"], getattr(record.heads, name))
    np.testing.assert_array_equal(found["token_id"], record.tokens.token_id)
    np.testing.assert_array_equal(found["logprob"], record.tokens.logprob)
    with safe_open(tmp_path / "out" / files[0], "numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["routing_layers"]) == list(RUN.sparse_layers)
    assert json.loads(metadata["trace"])["text"] == record.text
    names = json.loads(metadata["phases"])
    assert [names[i] for i in found["phase"]] == record.tokens.phase
    assert load_file(tmp_path / "out" / files[1])["expert_ids"].dtype == np.uint16


def test_choices_without_reasons_are_exported(tmp_path):
    full = random_trace(RUN, 20, router_logits=None, heads=None)
    ids = full.routing.expert_ids[:, 2:19]
    record = replace(full, routing=ChoiceArrays(full.routing.layers, ids, first=2))
    with StoreWriter(tmp_path / "store") as writer:
        writer.commit(writer.start_run(RUN), [record])
    with Store(tmp_path / "store") as store:
        export.to_safetensors(store, [1], tmp_path / "arrays", None, quiet)
        export.to_lines(store, [1], tmp_path / "lines", None, quiet)
        export.to_store(store, [1], tmp_path / "out", None, quiet)
    found = load_file(tmp_path / "arrays" / "trace-00000001.safetensors")
    np.testing.assert_array_equal(found["expert_ids"], ids)
    np.testing.assert_array_equal(found["routing_pos"], np.arange(2, 19))
    assert "weights" not in found and "router_logits" not in found
    assert json.loads((tmp_path / "lines").read_text())["routing"]["1"]["weights"] is None
    with Store(tmp_path / "out") as store:
        assert store.trace(1).routing(1)["weights"] is None


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(path, tmp_path):
    with Store(path) as store:
        (tmp_path / "taken").mkdir()
        (tmp_path / "taken" / "file").touch()
        for write in (export.to_store, export.to_safetensors, export.to_lines):
            with pytest.raises(StoreError, match="taken already exists: give a new name"):
                write(store, [1], tmp_path / "taken", None, quiet)
            with pytest.raises(StoreError, match="nothing cannot be exported here: choose from"):
                write(store, [1], tmp_path / "out", ["nothing"], quiet)
        with pytest.raises(NotInStoreError, match=r"no trace of .* matches the selection"):
            export.select(store, "n_think > 9999")
        with pytest.raises(NotInStoreError, match="there is no run x"):
            export.select(store, run_ids=["x"])
        with pytest.raises(NotInStoreError, match="there is no trace 77"):
            export.select(store, trace_ids=[77])
        with pytest.raises(StoreError, match="wrong"):
            export.select(store, "wrong = 1")

        def stopped(done, total):
            raise KeyboardInterrupt

        for write in (export.to_store, export.to_safetensors, export.to_lines):
            with pytest.raises(KeyboardInterrupt):
                write(store, [1, 5], tmp_path / "out", None, stopped)
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]


def test_the_command(path, tmp_path):
    def call(*args):
        return CliRunner().invoke(main, ["export", str(path), *map(str, args)])

    done = call("--out", tmp_path / "out", "--where", "trace_id > 3")
    assert done.exit_code == 0 and "2 traces" in done.output
    with Store(tmp_path / "out") as store:
        assert len(store.traces()) == 2
    lines = ("--format", "jsonl", "--tables", "tokens", "--trace", 2)
    assert call("--out", tmp_path / "a.jsonl", *lines).exit_code == 0
    assert "routing" not in json.loads((tmp_path / "a.jsonl").read_text())
    pages = ("--out", tmp_path / "site", "--format", "bundle", "--trace", 2)
    assert call(*pages, "--tables", "tokens").exit_code == 2
    assert call(*pages).exit_code == 0
    assert (tmp_path / "site" / "index.html").exists()
    tokens = json.loads((tmp_path / "site" / "data" / "trace" / "2" / "tokens.json").read_text())
    assert tokens["text"] == TRACES[1].text
    again = call("--out", tmp_path / "a.jsonl", *lines)
    assert again.exit_code == 1 and "already exists" in again.output

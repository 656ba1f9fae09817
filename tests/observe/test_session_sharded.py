"""A model spread over real processes records what one process records."""

import shutil
import signal

import golden_data
import numpy as np
import pytest
import tiny_lens
import warm
from paths import SUPPORT
from sessions import PROMPTS, assert_same
from slow_files import few
from torchrun_environment import environment

import ringlens as rl
from ringlens.store import Store
from ringlens.store.check.check import check
from ringlens.store.schema.instruments import default_names

WORKER = SUPPORT / "sharded_worker.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "ring"
    shutil.copytree(golden_data.FOLDER, folder)
    tiny_lens.tokenizer().save_pretrained(folder)
    return folder


LAYOUTS = few(
    (
        *("tp_size=2", "tp_size=2,repeated=1", "ep_size=2", "ep_size=2,repeated=1"),
        *("tp_size=2,ep_size=2", "tp_size=2,ep_size=2,repeated=1", "pp_size=2"),
    ),
    2,
)


@pytest.fixture(scope="module")
def stores(model, tmp_path_factory):
    """A store for each layout, and one of a single process, "tp_size=1"; one launch for all."""
    folder = tmp_path_factory.mktemp("stores")
    warm.run_ranks([WORKER, model, folder, *LAYOUTS], 2, environment())
    alone = warm.run([WORKER, model, folder, "tp_size=1"], env=environment())
    assert alone.returncode == 0, alone.stderr[-3000:]
    names = [f"{layout}{part}" for layout in (*LAYOUTS, "tp_size=1") for part in ("", "-few")]
    return {name: Store(folder / name) for name in names}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sharded_records_equal_those_of_one_process(stores, layout):
    store, alone = stores[layout], stores["tp_size=1"]
    assert store.sql("select count(*), count(finished) from runs").fetchall() == [(2, 2)]
    assert store.sql("select count(*) from traces").fetchall() == [(10,)]
    writers = {file.path.rsplit("/")[-1] for file in store.files("routing")}
    assert any("-r1" in name for name in writers)
    assert any("-r1" not in name for name in writers)
    for trace_id in range(1, 11):
        a, b = store.trace(trace_id), alone.trace(trace_id)
        assert_same(a, b)
        for layer in (0, 2):
            np.testing.assert_allclose(
                a.vectors("resid_post", layer=layer).values,
                b.vectors("resid_post", layer=layer).values,
                rtol=2e-3,
                atol=1e-4,
            )
        for layer in (1, 2, 3):
            found, wanted = (x.statistics("expert_outputs", layer) for x in (a, b))
            assert np.array_equal(found["expert_ids"], wanted["expert_ids"])
            for name in ("norms", "peaks", "contribution"):
                np.testing.assert_allclose(found[name], wanted[name], rtol=1e-3, atol=1e-6)
        for layer, head in ((1, 0), (3, 7)):
            found, wanted = a.attention(layer, head), b.attention(layer, head)
            np.testing.assert_allclose(found.weights, wanted.weights, rtol=2e-3, atol=1e-4)
    biases = "select layer, expert, bias from experts order by all"
    assert store.sql(biases).fetchall() == alone.sql(biases).fetchall()
    (parallel,) = store.sql("select distinct parallel from runs").fetchall()
    sizes = [size for size in layout.split(",") if not size.startswith("repeated")]
    assert all(size.replace("=", '": ') in parallel[0] for size in sizes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_record_the_layers_that_are_asked_for(stores, layout):
    store, alone = stores[f"{layout}-few"], stores["tp_size=1-few"]
    assert check(store).findings == check(alone).findings == []
    for table in ("steps", "usage_roles"):
        columns = "trace_id, step, role" if table == "steps" else "trace_id, phase, role, tokens, n"
        rows = [
            each.sql(f"select {columns} from {table} order by all").fetchall()
            for each in (store, alone)
        ]
        assert rows[0] == rows[1] != []
    for trace_id in (1, 2):
        a, b = store.trace(trace_id), alone.trace(trace_id)
        found = {name: a.layers(name) for name in ("routing", "router_logits", "heads")}
        assert found == {"routing": [3], "router_logits": [1, 3], "heads": [2]}
        assert a.layers("head_blocks") == [2]
        assert a.layers("expert_outputs") == [1, 3]
        assert (a.routing(3)["expert_ids"] == b.routing(3)["expert_ids"]).all()
        for layer in (1, 3):
            logits = b.router_logits(layer)
            np.testing.assert_allclose(a.router_logits(layer), logits, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("sizes", ["tp_size=2", "pp_size=2"])
def test_a_dead_process_stops_the_others_and_leaves_no_half_trace(model, tmp_path, sizes):
    # Nobody watches over them: torchrun would end the others itself.
    left, dead = warm.ranks([WORKER, model, tmp_path, f"{sizes},dies=1"], 2, environment())
    _, said = left.communicate(timeout=600)
    assert dead.wait(timeout=600) == -signal.SIGKILL
    assert left.returncode not in (0, None)
    assert "another process of this run has ended" in said, said[-2000:]
    with Store(tmp_path / f"{sizes},dies=1") as store:
        rows = store.sql(
            "select n_prompt + n_think + n_answer, (select count(*) from routing r where "
            "r.trace_id = t.trace_id), (select count(*) from heads h where h.trace_id = t.trace_id)"
            " from traces t"
        ).fetchall()
    for tokens, routed, heads in rows:
        assert (routed, heads) == (3 * tokens, 4 * tokens)


PLACES = {
    "model.word_embeddings": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.layers.3": "cpu",
    "model.norm": "cpu",
    "lm_head": "disk",
}


def test_an_offloaded_model_records_the_same(model, tmp_path):
    def capture(name, **options):
        lens = rl.load(str(model), dtype="float32", **options)
        record = (*default_names(), "expert_outputs")
        return rl.capture(lens, PROMPTS, tmp_path / name, max_new_tokens=8, record=record)

    plain = capture("plain")
    offloaded = capture("offloaded", device_map=PLACES, offload_folder=tmp_path / "weights")
    for trace_id in range(1, len(PROMPTS) + 1):
        assert_same(plain.trace(trace_id), offloaded.trace(trace_id))
        for layer in (1, 2, 3):
            a, b = (
                x.trace(trace_id).statistics("expert_outputs", layer) for x in (plain, offloaded)
            )
            for name in ("norms", "peaks", "contribution"):
                np.testing.assert_allclose(b[name], a[name], rtol=1e-3, atol=1e-6)
    assert '"devices": 2' in offloaded.sql("select parallel from runs").fetchall()[0][0]


def test_a_quantised_model_is_recorded_and_the_run_says_how(model, tmp_path):
    pytest.importorskip("bitsandbytes")
    lens = rl.load(str(model), dtype="float32", quantization="nf4")
    store = rl.capture(lens, PROMPTS, tmp_path / "s", max_new_tokens=4)
    said = store.sql("select quantization->>'bnb_4bit_quant_type' from runs").fetchall()
    assert said == [("nf4",)]
    tokens, routed = store.sql(
        "select (select count(*) from tokens), count(*) from routing"
    ).fetchall()[0]
    assert routed == 3 * tokens

"""Published tables, recomputed; they are read where they lie, and are not part of this project."""

import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from paths import SHARED
from records import random_run, random_tokens

from ringlens import analysis
from ringlens.analysis.experts.label_score import label_score
from ringlens.analysis.load.concentration import lost_choices, smallest_set, winners
from ringlens.store import Store, StoreWriter
from ringlens.store.schema.records import RoutingArrays, TraceRecord

ORACLES = SHARED / "oracles"
DEEPSEEK = replace(
    random_run(layers=21, dense=20, experts=64, groups=1, groups_kept=1, k=6, heads=1),
    record=("routing",), routed_scaling_factor=1.0,
)  # fmt: skip
pytestmark = pytest.mark.skipif(not ORACLES.exists(), reason="no published data beside the project")


def read(name):
    return json.loads((ORACLES / name).read_text(encoding="utf-8"))


def test_esft_chooses_the_published_experts():
    layers = 0
    for task, chosen in {"law": 153, "intent": 124, "summary": 128, "translation": 83}.items():
        scores = read(f"esft/{task}_expert_scores.json")["token_scores"]
        published = read(f"esft/{task}_expert_config.json")["experts"]
        found = {
            layer: smallest_set([of_layer[str(e)] for e in range(64)], 0.2).tolist()
            for layer, of_layer in scores.items()
        }
        assert found == {layer: published[layer] for layer in scores}, task
        assert sum(map(len, found.values())) == chosen
        layers += len(found)
    assert layers == 104


def test_esft_scores_from_raw_choices_in_a_store(tmp_path):
    """The published file of raw ids and weights, stored, and read back as load and weight."""
    lines = (ORACLES / "esft/law_layer20_expert_weights.txt").read_text().splitlines()
    halves = [np.array(line.split(), float).reshape(2, -1, 6) for line in lines if line.strip()]
    assert sum(weights.size for _, weights in halves) == 49_962
    with StoreWriter(tmp_path / "s") as writer:
        run_id = writer.start_run(DEEPSEEK)
        writer.commit(run_id, [raw_trace(ids.astype(int), weights) for ids, weights in halves])
    with Store(tmp_path / "s") as store:
        load = analysis.expert_load(store, "phase = 'think'")
    published = read("esft/law_expert_scores.json")
    for name, values in {"token": load["share"] / 6, "gate": load["weight"]}.items():
        expected = [published[f"{name}_scores"]["20"][str(e)] for e in range(64)]
        np.testing.assert_allclose(values, expected, atol=5e-5)


def raw_trace(ids_Tk, weights_Tk):
    """A trace of which only the choice on one layer is known, and its weights."""
    order_Tk = np.argsort(-weights_Tk, axis=1, kind="stable")
    ids_Tk = np.take_along_axis(ids_Tk, order_Tk, axis=1)
    weights_Tk = np.take_along_axis(weights_Tk, order_Tk, axis=1).astype(np.float32)
    T, k = ids_Tk.shape
    none_Tk, zero_T = np.zeros((1, T, k), bool), np.zeros((1, T), np.float32)
    routing = RoutingArrays(
        layers=(20,), expert_ids=ids_Tk[None], weights=weights_Tk[None],
        affinities=weights_Tk[None], margin=zero_T, group_margin=zero_T, bias_flips=none_Tk,
        unlimited_ids=ids_Tk[None], group_flips=none_Tk, entropy=zero_T,
    )  # fmt: skip
    tokens = random_tokens(np.random.default_rng(0), (0, T, 0))
    return TraceRecord(
        prompt="", text="".join(tokens.text), n_prompt=0, n_think=T, n_answer=0,
        finish_reason="stop", seed=0, tokens=tokens, routing=routing,
    )  # fmt: skip


def test_olmoe_and_mixtral_specialise_as_published():
    counts, tokens = read("olmoe/expert_counts.json"), 208_896
    published = {
        "arxiv": (97.7, 78.5, 93.7), "github": (62.6, 77.0, 56.4), "wikipedia": (77.2, 84.8, 58.1),
        "book": (45.4, 50.7, 36.6), "c4": (37.7, 33.2, 31.2),
    }  # fmt: skip
    for domain, percent in published.items():
        for layer, expected in zip(counts[f"olmoe/expert_counts/{domain}"], percent, strict=True):
            share = np.array(list(layer.values())) / tokens
            load = pd.DataFrame({"layer": 0, "share": share})
            assert round(100 * share.max(), 1) == expected, (domain, expected)
            assert lost_choices(load, 8).empty
        for layer in counts.get(f"mistral/expert_counts/{domain}", ()):
            assert 26.8 < 100 * max(layer.values()) / tokens < 33.3  # of 25 if all were equal


def test_prefill_and_generation_are_not_one_distribution():
    published = read("generation-half/winners.json")
    for name, expected in published["expected"].items():
        found = winners(published["winners"][name])
        assert found["distinct"] == expected["distinct"]
        assert found["max_wins"] == expected["max_wins"]
        assert found["herfindahl"] == pytest.approx(expected["herfindahl"], abs=5e-4)
        assert found["normalized_entropy"] == pytest.approx(expected["norm_entropy"], abs=5e-4)


def test_scores_of_expert_labels():
    f1, rows = {}, 0
    with (ORACLES / "expert-strikes-back/auto_interp_scores.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            names = ("precision", "recall", "f1", "accuracy")
            published = [float(row[name]) for name in names]
            if row["scores"]:
                said, true = ([c == "1" for c in row[k]] for k in ("scores", "labels"))
                score = label_score(said, true)
                found = [getattr(score, name) for name in names]
            else:  # the published table counts an expert without predictions as 0
                found = [0.0] * 4
            assert found == pytest.approx(published, abs=1e-6), row
            f1.setdefault(row["model_layer"], []).append(found[2])
            rows += 1
    assert rows == 1_088
    means = {name: np.mean(values) for name, values in f1.items() if "OLMoE" in name}
    by_layer = {name.rpartition("_")[2]: round(value, 3) for name, value in means.items()}
    assert {name: by_layer[name] for name in ("L1", "L7", "L15")} == {
        "L1": 0.692, "L7": 0.845, "L15": 0.820,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["facts_True_True", "gpqa_genetics_True_False"])
def test_counts_that_lost_tokens_are_flagged(name):
    table = read(f"gpt-oss-fingerprint/{name}.json")["think_expert_analytics"]
    rows = [
        {"layer": int(layer.removeprefix("layer_")), "share": expert["count_frequency"]}
        for layer, experts in table.items()
        for expert in experts.values()
    ]
    flagged = lost_choices(pd.DataFrame(rows), 4)
    assert len(flagged) == len(table)
    assert (flagged["lost"] > 0.01).all()

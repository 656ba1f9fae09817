"""Importances: published ones recomputed, planted ones told from headroom, halves of samples."""

import json

import numpy as np
import pandas as pd
import pytest
from paths import SHARED

from ringlens.analysis.importance.agreement import (
    importance_agreement,
    partial_rank_correlation,
    rank_correlation,
)
from ringlens.analysis.importance.published import published_importance, published_matrix
from ringlens.analysis.importance.resampling import divergence, entropy, is_alike, kl, noise
from ringlens.errors import ConfigError, StoreError

ANCHORS = SHARED / "oracles" / "thought-anchors"
published = pytest.mark.skipif(not ANCHORS.exists(), reason="no published data beside the project")


@published
def test_published_importances_follow_from_their_accuracies_but_in_gaps():
    frame = published_importance(ANCHORS / "chunks_labeled.csv")
    assert len(frame) == 6_011
    assert (frame.attrs["steps"], frame.attrs["agree"], frame.attrs["gaps"]) == (5_969, 5_952, 17)
    assert set(frame[frame["gap"]]["problem_id"]) == {"scenario_0"}
    own = frame[frame["model"] == "deepseek-r1-distill-qwen-14b"]
    means = own.groupby("role")["counterfactual_kl"].mean().round(3).to_dict()
    assert means == {
        "problem_setup": 0.345,
        "plan_generation": 0.338,
        "fact_retrieval": 0.274,
        "uncertainty_management": 0.269,
        "result_consolidation": 0.173,
        "active_computation": 0.162,
        "self_checking": 0.074,
        "final_answer_emission": 0.020,
    }


@published
def test_a_published_problem_has_its_summary():
    folder = ANCHORS / "problem_330_llama8b_incorrect"
    said = json.loads((folder / "summary.json").read_text())
    matrix = published_matrix(folder)
    assert matrix.attrs["steps"] == said["num_chunks"] == 26 and len(matrix) == 26 * 25 / 2
    assert matrix.attrs["mean"] == pytest.approx(said["avg_importance"], abs=1e-12)
    assert (matrix.attrs["max"], matrix.attrs["min"]) == (1.0, pytest.approx(-0.3))
    outgoing = matrix.groupby("changed_step")["effect"].mean()
    for step in said["top_influential_steps"]:
        assert outgoing[step["step_idx"]] == pytest.approx(step["avg_outgoing_importance"])
    assert published_importance(folder).attrs["gaps"] == 0


def test_what_is_no_published_table_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("chunk_idx,accuracy\n0,0.5\n")
    with pytest.raises(ConfigError, match="has no function_tags"):
        published_importance(tmp_path / "a.csv")
    for read in (published_importance, published_matrix):
        with pytest.raises(ConfigError, match="cannot read"):
            read(tmp_path / "nowhere")


def planted(rng, steps=30, problems=12, own=1.0):
    """Two measures that headroom drives, and that also share something of their own."""
    N = steps * problems
    headroom, shared = rng.normal(size=N), rng.normal(size=N)
    return pd.DataFrame(
        {
            "problem_id": np.repeat([f"p{i}" for i in range(problems)], steps),
            "suppression": headroom + own * shared + rng.normal(size=N) / 2,
            "resampling": headroom + own * shared + rng.normal(size=N) / 2,
            "belief": np.nan,
            "reach": np.nan,
            "answer_suppression": np.nan,
            "counterfactual": np.nan,
            "headroom": headroom,
            "position": np.tile(np.linspace(0, 1, steps), problems),
            "tokens": rng.integers(5, 30, N),
        }
    )


def test_what_headroom_explains_is_gone_in_partial_correlations():
    rng = np.random.default_rng(0)
    only = importance_agreement(planted(rng, own=0.0), draws=100).iloc[0]
    assert (only["first"], only["second"], only["problems"]) == ("suppression", "resampling", 12)
    assert only["rank"] > 0.6 and only["low"] > 0.5
    assert only["partial_low"] < 0 < only["partial_high"] and abs(only["partial"]) < 0.15
    both = importance_agreement(planted(rng, own=1.0), draws=100)
    assert both.iloc[0]["partial_low"] > 0.5
    controls = both.set_index(["first", "second"])["rank"]
    assert controls["suppression", "headroom"] > 0.4 > abs(controls["suppression", "position"])
    with pytest.raises(StoreError, match="only suppression was measured"):
        importance_agreement(planted(rng).assign(resampling=np.nan))
    with pytest.raises(ConfigError, match="unknown control"):
        importance_agreement(planted(rng), controls=("length",))


def test_rank_correlations_are_those_of_ranks():
    first, second = np.array([1.0, 2, 2, 5, 9]), np.array([2.0, 1, 4, 8, 8])
    wanted = pd.Series(first).corr(pd.Series(second), method="spearman")
    assert rank_correlation(first, second) == pytest.approx(wanted)
    assert np.isnan(rank_correlation(first, np.ones(5)))
    assert np.isnan(partial_rank_correlation(first, second, first[:, None]))


def test_samples_are_compared_by_their_answers():
    same, other = np.array([6.0, 2, 0]), np.array([0.0, 0, 8])
    assert divergence(same, same) == 0 and divergence(same, other) == pytest.approx(1)
    assert kl(same, same) == 0 and kl(same, other) > 1 > kl(same, same + 1) > 0
    # Answers that neither gave count for nothing.
    assert kl(np.array([4.0, 0]), np.array([2.0, 0])) == 0
    assert entropy(np.array([5.0, 5])) == pytest.approx(np.log(2)) and entropy(other) == 0
    rng = np.random.default_rng(0)
    assert noise(np.zeros(8, int), 2, 20, rng) == 0
    few, many = (noise(np.arange(n) % 2, 3, 200, rng) for n in (8, 80))
    assert few > 3 * many > 0 and np.isnan(noise(np.array([0, 1, 0]), 3, 20, rng))
    assert is_alike("Maybe 3 * 4 = 12.", "Maybe 3 * 4 = 12.", 1.0)
    assert not is_alike("Maybe 3 * 4 = 12.", "Wait, that is wrong.", 0.8)

"""The null of a table: choices shuffled within layer and trace."""

import numpy as np
import pytest
from planted import LAYERS, RUN, planted

from ringlens import analysis
from ringlens.errors import ConfigError
from ringlens.store import Store

THINK, ANSWER = "phase = 'think'", "phase = 'answer'"


def in_thought(number, phase_T, token_T):
    effect_STE = np.zeros((len(LAYERS), len(phase_T), RUN.experts))
    effect_STE[1, phase_T == "think", 3] = 3
    return effect_STE


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store(planted(tmp_path_factory.mktemp("s") / "s", in_thought)) as store:
        yield store


def test_what_is_planted_is_gone_and_how_often_is_kept(store):
    null = analysis.Shuffled(store)
    assert (analysis.contrast(store, THINK, ANSWER, draws=2)["q"] < 0.05).any()
    for within in (None, "token"):
        frame = analysis.contrast(null, THINK, ANSWER, draws=2, within=within)
        assert not (frame["q"] < 0.05).any()
        assert frame.attrs["source"] == "scan"
    kept, shuffled = (
        analysis.expert_load(table, "pos >= 0", by="trace_id")
        .groupby(["trace_id", "layer", "expert"])["n"]
        .sum()
        for table in (store, null)
    )
    assert kept.sum() == 16 * 80 * 3 * len(LAYERS)
    assert kept.equals(shuffled)
    by_phase = [analysis.expert_load(table, THINK)["n"].tolist() for table in (store, null)]
    assert by_phase[0] != by_phase[1]


def test_a_seed_gives_one_order_and_another_gives_another(store):
    def loads(seed):
        return analysis.expert_load(analysis.Shuffled(store, seed), THINK)["n"].tolist()

    assert loads(1) == loads(1) != loads(2)


@pytest.mark.parametrize(
    "function",
    [
        analysis.expert_load, analysis.layer_balance, analysis.selection_causes,
        analysis.router_entropy, analysis.transitions,
        analysis.token_experts, analysis.group_displacements, analysis.routing_path,
        analysis.path_clusters, analysis.bias_audit, analysis.expert_bias,
    ],
)  # fmt: skip
def test_every_table_has_a_null(store, function):
    real, null = function(store, THINK), function(analysis.Shuffled(store), THINK)
    assert real.columns.tolist() == null.columns.tolist()


def test_the_shift_between_phases_is_that_of_chance(store):
    frame = analysis.routing_shift(analysis.Shuffled(store), THINK, ANSWER)
    assert (frame["p"] > 0.02).all()


@pytest.mark.parametrize("function", [analysis.coactivation, analysis.committees])
def test_what_keeps_experts_together_is_no_null_of_pairs(store, function):
    with pytest.raises(ConfigError, match=f"no null of {function.__name__}. Compare n with"):
        function(analysis.Shuffled(store), THINK)

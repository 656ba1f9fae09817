"""Geometry of gates and experts: planted ranks, numpy, every layout, quantised experts."""

import numpy as np
import pytest
import tiny_lens
import torch

import ringlens as rl
from ringlens import probes
from ringlens.errors import ConfigError, ObservationError
from ringlens.model.family import WeightPlace
from ringlens.model.quantization import plain_weight
from ringlens.observe.points import gate, router_weight

RANK, LAYER = 3, 2


@pytest.fixture(scope="module")
def planted():
    """A tiny lens, one gate of which has rank 3 and known singular values; and its row space."""
    lens = tiny_lens.lens("modules")
    weight = gate(lens.model, lens.sizes.sparse_layers[LAYER]).weight
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(weight.shape[0], RANK)))
    right, _ = np.linalg.qr(rng.normal(size=(weight.shape[1], RANK)))
    with torch.no_grad():
        weight.copy_(torch.tensor(left * [4.0, 2.0, 1.0] @ right.T))
    return lens, right.T


def row_of(frame, lens):
    return frame[frame.layer == lens.sizes.sparse_layers[LAYER]].iloc[0]


def test_a_planted_gate_has_its_rank_and_singular_values(planted):
    lens, _ = planted
    frame = probes.gate_spectrum(lens)
    assert frame["layer"].tolist() == list(lens.sizes.sparse_layers)
    row = row_of(frame, lens)
    assert row["rank"] == RANK
    np.testing.assert_allclose(row.singular_values[:RANK], [4, 2, 1], rtol=1e-5)
    share = np.array([4, 2, 1]) / 7
    assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-3)
    assert row.stable_rank == pytest.approx(21 / 16)
    assert row.norm == pytest.approx(np.sqrt(21))
    assert (frame["rank"] <= frame[["experts", "hidden_size"]].min(axis=1)).all()
    assert row_of(probes.gate_spectrum(lens, tolerance=0.4), lens)["rank"] == 2


def test_directions_lie_where_they_were_planted(planted):
    lens, basis_RD = planted
    inside = probes.direction_parts(lens, basis_RD[0] * 7)
    row = row_of(inside, lens)
    assert (row.control, row.content) == pytest.approx((1, 0), abs=1e-5)
    assert row.logit_change == pytest.approx(4, rel=1e-5)
    assert row.chance == RANK / lens.sizes.hidden_size
    outside_D = np.linalg.svd(basis_RD)[2][-1]
    row = row_of(probes.direction_parts(lens, outside_D), lens)
    assert (row.control, row.content, row.logit_change) == pytest.approx((0, 1, 0), abs=1e-5)
    for wrong in (np.zeros(lens.sizes.hidden_size), [1.0, 2.0], basis_RD[0] * np.nan):
        with pytest.raises(ObservationError, match="finite numbers, the hidden size"):
            probes.direction_parts(lens, wrong)


def test_control_and_content_are_numpys_projections(planted):
    lens, basis_RD = planted
    ids = [[5, 6, 7, 8], [9, 10]]
    frame = probes.control_content(lens, ids)
    assert len(frame) == 6 * len(lens.sizes.sparse_layers)
    assert frame["token_id"].tolist()[:4] == [5, 6, 7, 8]
    layer = lens.sizes.sparse_layers[LAYER]
    inputs = []
    handle = gate(lens.model, layer).register_forward_pre_hook(
        lambda _, given: inputs.append(given[0].reshape(-1, lens.sizes.hidden_size))
    )
    for row in ids:
        lens.run_with_hooks([row])
    handle.remove()
    hidden_TD = torch.cat(inputs).double().numpy()
    own = frame[frame.layer == layer].sort_values(["row", "pos"])
    control = ((hidden_TD @ basis_RD.T) ** 2).sum(axis=1) / (hidden_TD**2).sum(axis=1)
    np.testing.assert_allclose(own["control"], control, rtol=1e-4)
    np.testing.assert_allclose(own["control"] + own["content"], 1)
    np.testing.assert_allclose(own["norm"], np.linalg.norm(hidden_TD, axis=1))
    # What the router sees makes its scores, and nothing else does.
    weight_ED = router_weight(lens.model, layer).numpy()
    seen_TD = hidden_TD @ basis_RD.T @ basis_RD
    np.testing.assert_allclose(seen_TD @ weight_ED.T, hidden_TD @ weight_ED.T, atol=1e-4)


def test_cosines_are_those_of_the_gates_rows():
    lens = tiny_lens.lens()
    frame = probes.gate_cosines(lens)
    E, layer = lens.router.experts, lens.sizes.sparse_layers[0]
    own = frame[frame.layer == layer]
    assert len(own) == E * (E - 1) // 2
    weight_ED = router_weight(lens.model, layer).numpy()
    row = own[(own.expert == 1) & (own.other == 4)].iloc[0]
    a, b = weight_ED[1], weight_ED[4]
    assert row.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    size = E // lens.router.groups
    assert (own["same_group"] == (own["expert"] // size == own["other"] // size)).all()


def test_norms_are_the_same_in_both_layouts_and_those_of_the_weights():
    lens = tiny_lens.lens("modules")
    fused, modules = probes.expert_norms(tiny_lens.lens("fused")), probes.expert_norms(lens)
    np.testing.assert_allclose(fused.to_numpy(), modules.to_numpy(), rtol=1e-9)
    layer = lens.sizes.sparse_layers[1]
    names = dict(lens.model.named_parameters())

    def norm(*projections):
        kept = [names[f"model.layers.{layer}.mlp.experts.3.{p}.weight"] for p in projections]
        return np.sqrt(sum(float((w.detach().double() ** 2).sum()) for w in kept))

    row = modules[(modules.layer == layer) & (modules.expert == 3)].iloc[0]
    assert row.reading == pytest.approx(norm("gate_proj", "up_proj"))
    assert row.writing == pytest.approx(norm("down_proj"))
    assert row.gate == pytest.approx(np.linalg.norm(router_weight(lens.model, layer)[3]))


@pytest.mark.parametrize("method", ["nf4", "int8"])
def test_norms_of_quantised_experts_are_near_those_of_the_whole(method):
    pytest.importorskip("bitsandbytes")
    whole = probes.expert_norms(rl.load("ring-nano"))
    quantised = rl.load("ring-nano", quantization=method)
    for _ in range(2):  # after a forward int8 keeps its scales elsewhere
        found = probes.expert_norms(quantised)
        for name in ("reading", "writing"):
            np.testing.assert_allclose(found[name], whole[name], rtol=0.02)
            assert not np.array_equal(found[name], whole[name])
        np.testing.assert_array_equal(found["gate"], whole["gate"])
        quantised.run_with_hooks("2 + 2")


def test_weights_that_cannot_be_read_are_refused():
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(2, 2).to(torch.float8_e4m3fn), False)
    with pytest.raises(ConfigError, match=r"float8_e4m3fn beside scales .* device='cpu'"):
        plain_weight(WeightPlace(module, "weight"))
    module.weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), False)
    with pytest.raises(ConfigError, match="a quantiser that ringlens does not know"):
        plain_weight(WeightPlace(module, "weight"))


def test_ring_nano_routes_by_a_part_of_what_it_holds():
    lens = rl.load("ring-nano")
    spectrum = probes.gate_spectrum(lens)
    assert (spectrum["rank"] == lens.router.experts).all()
    frame = probes.control_content(lens, "Make 24 from 4, 6, 1.")
    means = frame.groupby("layer")[["control", "chance"]].mean()
    assert ((means["control"] > 0) & (means["control"] < 1)).all()
    assert (means["chance"] == lens.router.experts / lens.sizes.hidden_size).all()

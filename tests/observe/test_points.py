"""Points: names, layers, and functions attached to them."""

import pytest
import tiny_lens
import torch
from plain_points import plain_points

from ringlens.errors import ObservationError
from ringlens.observe.hooks import attach
from ringlens.observe.kernels.router import choose
from ringlens.observe.points import POINTS, find_point, layer_of, layers_with, location

IDS = torch.tensor([[74, 276, 166, 285, 103], [9, 50, 173, 343, 39]])


@pytest.fixture(scope="module")
def model():
    return tiny_lens.lens().model


def attached(model, hooks, ids=IDS):
    with torch.no_grad(), attach(model, hooks):
        return model(input_ids=ids, use_cache=False).logits


def snapshot(model):
    """All that torch keeps of hooks, of every module."""
    kinds = [name for name in vars(model) if "hook" in name]
    assert len(kinds) >= 8
    return [
        (name, sorted(vars(module)), [(kind, repr(vars(module)[kind])) for kind in kinds])
        for name, module in model.named_modules()
    ]


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_each_point_has_three_names(point, model):
    layer = None if point.layers == "none" else 2
    assert find_point(point.name) == (point, None)
    assert find_point(point.at(layer)) == (point, layer)
    place = location(point, model.config)
    by_path, found = find_point(place.path.format(layer), model.config)
    assert location(by_path, model.config).path == place.path
    assert found == layer


def test_a_shared_module_path_is_its_output(model):
    assert find_point("model.layers.3", model.config) == (POINTS["resid_post"], 3)
    assert find_point("model.layers.3.mlp.gate", model.config) == (POINTS["router_logits"], 3)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resid_pots", "resid_post"),
        ("blocks.7.hook_resid_pst", "blocks.7.hook_resid_post"),
        ("model.layers.12.mlp.gates", "model.layers.12.mlp.gate"),
        ("router_choices", "router_choice"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest, model):
    with pytest.raises(ObservationError, match=rf"Nearest: .*{nearest}\b"):
        find_point(name, model.config)


def test_layers_are_checked(model):
    config = model.config
    assert layer_of(POINTS["router_choice"], -1, config) == 3
    assert layer_of(POINTS["resid_pre"], -4, config) == 0
    assert layers_with(POINTS["expert_out"], config) == (1, 2, 3)
    for name, layer, message in [
        ("router_choice", 0, "layer 0 is dense.*layers 1-3"),
        ("router_choice", -4, "layer -4 is dense.*layers 1-3"),
        ("resid_post", 4, "layer 4 is not there.*layers 0-3"),
        ("resid_post", -5, "layer -5 is not there"),
        ("resid_post", None, "say which one"),
        ("logits", 1, "outside the layers"),
    ]:
        with pytest.raises(ObservationError, match=message):
            layer_of(POINTS[name], layer, config)


def test_functions_see_what_torch_hooks_see_and_leave_the_model_as_it_was(model):
    before, seen = snapshot(model), {}
    places = [
        (point, layer)
        for point in POINTS.values()
        for layer in layers_with(point, model.config) or [None]
    ]
    hooks = [(p, n, lambda x, key=(p.name, n): seen.update({key: x})) for p, n in places]
    logits = attached(model, hooks)
    wanted, plain = plain_points(model, input_ids=IDS)
    assert torch.equal(logits, plain)
    assert seen.keys() == wanted.keys()
    assert all(torch.equal(seen[key], wanted[key]) for key in wanted)
    letters = {"B": 2, "T": 5, "D": 64, "H": 8, "C": 16, "E": 16, "k": 4, "V": 384}
    for (name, _), tensor in seen.items():
        assert tuple(tensor.shape) == tuple(letters[x] for x in POINTS[name].shape)
    assert snapshot(model) == before


def test_detached_after_an_error(model):
    before = snapshot(model)

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attached(model, [(POINTS["expert_out"], 2, fail)])
    with (
        pytest.raises(ObservationError, match="layers 1-3"),
        attach(model, [(POINTS["mlp_out"], 1, fail), (POINTS["expert_out"], 0, fail)]),
    ):
        pass
    assert snapshot(model) == before


CHANGED = [
    (point.name, None if point.layers == "none" else 2)
    for point in POINTS.values()
    if point.name != "router_choice"
]


@pytest.mark.parametrize(("name", "layer"), CHANGED, ids=[name for name, _ in CHANGED])
def test_a_change_in_place_and_a_replacement_do_the_same(name, layer, model):
    """One row is changed: the other stays bit by bit what it was."""
    point = POINTS[name]

    def in_place(x):
        x[1] *= -0.5

    def replaced(x):
        x = x.clone()
        x[1] *= -0.5
        return x

    plain = attached(model, [])
    one, two = (attached(model, [(point, layer, fn)]) for fn in (in_place, replaced))
    assert torch.equal(one, two)
    assert torch.allclose(one[0], plain[0], atol=1e-6)
    assert not torch.allclose(one[1], plain[1], atol=1e-2)


def test_functions_run_in_order_and_see_each_other(model):
    point, seen = POINTS["mlp_out"], []
    hooks = [
        (point, 1, lambda x: x + 1),
        (point, 1, seen.append),
        (point, 1, torch.zeros_like),
        (point, 1, seen.append),
    ]
    attached(model, hooks)
    assert torch.equal(seen[0], plain_points(model, input_ids=IDS)[0]["mlp_out", 1] + 1)
    assert not seen[1].any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("in_place", [True, False])
def test_from_changed_router_logits_the_router_chooses_anew(in_place, mode, model):
    """Choice and weights are those of the selection rule written out for the changed logits."""
    spec = tiny_lens.lens().router
    gate, seen, expert = model.get_submodule("model.layers.2.mlp.gate"), {}, 13

    def steer(x):
        x = x if in_place else x.clone()
        x[0, 1:, expert] = 30.0
        return None if in_place else x

    names = ("router_logits", "router_weights", "router_choice")
    look = [(POINTS[n], 2, lambda x, n=n: seen.update({n: x.clone()})) for n in names]
    with mode(), attach(model, [(POINTS["router_logits"], 2, steer), *look]):
        steered = model(input_ids=IDS, use_cache=False).logits
    logits = seen["router_logits"].flatten(0, 1)
    affinity = logits.sigmoid()
    wanted = choose(affinity + gate.expert_bias, spec)
    weights = affinity.gather(1, wanted)
    weights = 2.5 * weights / weights.sum(1, keepdim=True)
    order = wanted.argsort(1)
    choice = seen["router_choice"].flatten(0, 1)
    assert torch.equal(choice.sort(1).values, wanted.sort(1).values)
    by_id = seen["router_weights"].flatten(0, 1).gather(1, choice.argsort(1))
    assert torch.allclose(by_id, weights.gather(1, order), atol=1e-6)
    plain = plain_points(model, input_ids=IDS)[0]
    assert (seen["router_choice"][0, 1:] == expert).any(-1).all()
    assert torch.equal(seen["router_choice"][1], plain["router_choice", 2][1])
    assert not torch.allclose(steered[0, 1:], plain["logits", None][0, 1:], atol=1e-3)
    assert torch.allclose(steered[1], plain["logits", None][1], atol=1e-6)


def test_what_cannot_stand_there_is_refused(model):
    for fn, message in [
        (lambda x: x[:1], r"shape \(2, 5, 8, 16\) \(BTHC\).*\(1, 5, 8, 16\)"),
        (lambda x: 0.0, "not float"),
    ]:
        with pytest.raises(ObservationError, match=message):
            attached(model, [(POINTS["head_out"], 1, fn)])

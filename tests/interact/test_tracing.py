"""nnsight's doors: trace, generate, edit, with the points by name."""

import subprocess
import sys
import textwrap

import pytest
import torch
import warm
from placed import placed_model
from plain_points import plain_points
from traced import SHORT, TEXT, state

from ringlens.errors import ConfigError, ObservationError
from ringlens.lens import Lens
from ringlens.observe.points import POINTS, layers_with


def places(lens):
    """Points and layers in the order in which the model computes them."""
    config = lens.model.config
    names = [p for p in POINTS.values() if p.layers != "none"]
    inside = [
        (point.name, layer)
        for layer in range(config.num_hidden_layers)
        for point in names
        if layer in layers_with(point, config)
    ]
    return [("embed", None), *inside, ("final_norm", None), ("logits", None)]


def traced_points(lens, text):
    with lens.trace(text):
        seen = {}.save()
        for name, layer in places(lens):
            value = getattr(lens.points, name)
            seen[name, layer] = value if layer is None else value[layer]
    return seen


def check_every_point(lens, text):
    traced = traced_points(lens, text)
    wanted, _ = plain_points(lens.model, input_ids=torch.tensor([lens.encode(text)]))
    assert traced.keys() == wanted.keys()
    assert all(torch.equal(traced[key], wanted[key]) for key in wanted)
    cache = lens.run_with_cache(text)[1]
    for (name, layer), tensor in traced.items():
        assert torch.equal(cache[name] if layer is None else cache[name, layer], tensor)


def test_every_point_equals_plain_torch_hooks_and_the_cache(any_lens):
    text = TEXT if any_lens.name == "ring-tiny" else "Use 3, 5 and 7 to make 22."
    before = state(any_lens.model)
    check_every_point(any_lens, text)
    assert state(any_lens.model) == before


@pytest.mark.parametrize("placed", ["some layers on disk", "all on disk", "nf4", "int8"])
def test_offloaded_and_quantised_models(placed, lens, tmp_path):
    other = Lens(placed_model(placed, tmp_path), lens.tokenizer, placed)
    check_every_point(other, TEXT)
    wanted = other.run_with_hooks(TEXT, [(("router_logits", 2), steer)])
    before = state(other.model)
    with other.trace(TEXT):
        other.points.router_logits[2][..., 13] = 30.0
        logits = other.points.logits.save()
    assert torch.equal(logits, wanted)
    with other.generate(TEXT, max_new_tokens=3, min_new_tokens=3, do_sample=False) as tracer:
        ids = tracer.result.save()
    assert ids.shape == (1, 9)
    assert state(other.model) == before


def test_all_spellings_name_the_same_tensor(lens):
    cache = lens.run_with_cache(TEXT)[1]
    with lens.trace(TEXT):
        one = lens.points["blocks.1.mlp.gate.hook_indices"].save()
        two = lens.points["model.layers.2.mlp.gate"].save()
        three = lens.points["resid_post", -1].save()
        four = lens.points["logits"].save()
    assert torch.equal(one, cache["router_choice", 1])
    assert torch.equal(two, cache["router_logits", 2])
    assert torch.equal(three, cache["resid_post", 3])
    assert torch.equal(four, cache["logits"])
    assert dir(lens.points) == sorted(POINTS)


def steer(x, hook):
    x[..., 13] = 30.0


EDITS = {name: None if p.layers == "none" else 2 for name, p in POINTS.items()}
EDITS.pop("router_choice")


@pytest.mark.parametrize("name", EDITS)
def test_changes_do_what_functions_at_points_do(name, lens):
    """In place, and by a replacement; the functions are tested against torch elsewhere."""
    place = name if EDITS[name] is None else (name, 2)

    def turn(x, hook):
        return x * -0.5

    wanted = lens.run_with_hooks(TEXT, [(place, turn)])
    with lens.trace(TEXT):
        lens.points[place][:] *= -0.5
        in_place = lens.points.logits.save()
    with lens.trace(TEXT):
        lens.points[place] = lens.points[place] * -0.5
        replaced = lens.points.logits.save()
    assert torch.equal(in_place, wanted)
    assert torch.equal(replaced, wanted)
    assert not torch.allclose(wanted, lens.run_with_hooks(TEXT), atol=1e-3)


def test_replacing_a_point_by_attribute(lens):
    wanted = lens.run_with_hooks(TEXT, [("final_norm", lambda x, hook: x + 1)])
    with lens.trace(TEXT):
        lens.points.final_norm = lens.points.final_norm + 1
        logits = lens.points.logits.save()
    assert torch.equal(logits, wanted)


def test_the_router_chooses_anew_from_changed_logits(lens):
    seen = {}
    fwd_hooks = [
        (("router_logits", 2), steer),
        (("router_choice", 2), lambda x, hook: seen.update(choice=x)),
        (("router_weights", 2), lambda x, hook: seen.update(weights=x)),
    ]
    wanted = lens.run_with_hooks(TEXT, fwd_hooks)
    with lens.trace(TEXT):
        router_logits = lens.points.router_logits[2]
        router_logits[..., 13] = 30.0
        choice = lens.points.router_choice[2].save()
        weights = lens.points.router_weights[2].save()
        logits = lens.points.logits.save()
    assert (choice == 13).any(-1).all()
    assert torch.equal(choice, seen["choice"])
    assert torch.equal(weights, seen["weights"])
    assert torch.equal(logits, wanted)


def test_several_texts_in_one_trace(lens):
    """Each block sees its own rows, at router points too, and changes only them."""
    both = lens.run_with_cache([TEXT, SHORT])[1]
    with lens.trace() as tracer:
        with tracer.invoke(TEXT):
            first = lens.points.router_choice[1].save()
            lens.points.router_logits[2][..., 13] = 30.0
            lens.points.router_weights[3] = lens.points.router_weights[3] * 0
            out = lens.points.expert_out[3].save()
        with tracer.invoke(SHORT):
            second = lens.points.router_choice[1].save()
            resid = lens.points.resid_post[3].save()
            logits = lens.points.logits.save()
    assert torch.equal(first, both["router_choice", 1][:1])
    assert torch.equal(second, both["router_choice", 1][1:])
    assert not out.any()
    assert torch.allclose(resid, both["resid_post", 3][1:], atol=1e-5)
    assert torch.allclose(logits, both["logits"][1:], atol=1e-5)


def test_a_batch_of_texts_is_padded_as_in_the_cache(lens):
    wanted = lens.run_with_hooks([TEXT, SHORT])
    with lens.trace([TEXT, SHORT]):
        logits = lens.points.logits.save()
    with lens.trace([lens.encode(TEXT), lens.encode(SHORT)]):
        again = lens.points.logits.save()
    assert torch.equal(logits, wanted)
    assert torch.equal(again, wanted)


def test_gradients_flow_in_a_trace(lens):
    with lens.trace(TEXT):
        resid = lens.points.resid_post[1]
        loss = lens.points.logits[0, -1].logsumexp(0)
        with loss.backward():
            gradient = resid.grad.save()
    assert gradient.shape == (1, 6, 64)
    assert gradient.abs().max() > 0


def test_modules_are_reached_by_path_and_called_out_of_order(lens):
    """A logit lens on the last layer gives the logits."""
    with lens.trace(TEXT):
        ring = lens.nnsight
        resid = ring.model.layers[3].output.save()
        early = ring.lm_head(ring.model.norm(resid)).save()
        logits = lens.points.logits.save()
    assert torch.equal(resid, lens.run_with_cache(TEXT, "resid_post")[1]["resid_post", 3])
    assert torch.equal(early, logits)


def test_layers_and_names_are_checked_inside_a_trace(lens):
    with pytest.raises(ObservationError, match=r"layer 0 is dense.*layers 1-3"), lens.trace(TEXT):
        lens.points.router_logits[0].save()
    with pytest.raises(ObservationError, match=r"layer 7 is not there.*0-3"), lens.trace(TEXT):
        lens.points.resid_post[7].save()
    with pytest.raises(ObservationError, match="Nearest: resid_post"), lens.trace(TEXT):
        _ = lens.points.resid_pots[1]
    with pytest.raises(ObservationError, match=r"shape \(1, 6, 64\)"), lens.trace(TEXT):
        lens.points.resid_post[1] = torch.zeros(64)
    with pytest.raises(ConfigError, match="no token"), lens.trace(""):
        _ = lens.points.resid_post[1]
    with lens.trace(TEXT):
        fine = lens.points.logits.save()
    assert torch.equal(fine, lens.run_with_hooks(TEXT))


def test_outside_a_trace_a_point_has_no_value(lens):
    for read in (
        lambda: lens.points.router_logits[1],
        lambda: lens.points.logits,
        lambda: lens.points["blocks.1.hook_resid_post"],
    ):
        with pytest.raises(ObservationError, match=r"inside `with lens\.trace"):
            read()
    with pytest.raises(ObservationError, match="only while the model runs"):
        lens.points.logits = torch.zeros(1)
    assert not hasattr(lens.points, "__array__")


def test_an_error_in_the_block_leaves_the_model_as_it_was(lens):
    before = state(lens.model)
    with pytest.raises(ZeroDivisionError), lens.trace(TEXT):
        _ = lens.points.resid_post[1] / (1 // 0)
    assert state(lens.model) == before
    assert torch.equal(lens.run_with_hooks(TEXT), lens.run_with_hooks(TEXT))


def test_the_tokenizer_and_the_device_stay_what_they_were(lens):
    tokenizer = lens.tokenizer
    before = (tokenizer.padding_side, tokenizer.pad_token, len(tokenizer), lens.model.device)
    with lens.trace(TEXT):
        _ = lens.points.logits.save()
    after = (tokenizer.padding_side, tokenizer.pad_token, len(tokenizer), lens.model.device)
    assert before == after


def test_a_model_divided_over_processes_is_refused(lens, monkeypatch):
    from ringlens.interact import tracing
    from ringlens.model.parallel import Parallel

    monkeypatch.setattr(tracing, "parallel_of", lambda model: Parallel(tp_size=2, ep_size=2))
    other = Lens(lens.model, lens.tokenizer, "divided")
    for door in (lambda: other.trace(TEXT), lambda: other.generate(TEXT), other.edit):
        with pytest.raises(ObservationError, match=r"tp_size = 2, ep_size = 2.*run_with_cache"):
            door()


SCRIPT = """
import sys
import ringlens as rl
assert "torch" not in sys.modules and "nnsight" not in sys.modules

def steps(lens, texts):
    found = []
    for text in texts:
        with lens.trace(text):
            resid = lens.points.resid_post[1].save()
            if resid.shape[1] > 3:
                lens.points.resid_post[2][:] = 0
            norm = lens.points.logits.norm().item().save()
        found.append((tuple(resid.shape), norm))
    return found

def main():
    lens = rl.load()
    assert "nnsight" not in sys.modules
    texts = ["3, 5", "Use 3, 5 and 7 to make 22."]
    (short, a), (long, b) = steps(lens, texts)
    assert short[1] < 4 < long[1], (short, long)
    plain = [lens.run_with_hooks(text).norm().item() for text in texts]
    assert a == plain[0] and b != plain[1]
    print("done")

main()
"""


def test_in_a_script_and_in_a_function(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    apart = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    code = "\n".join(line for line in SCRIPT.splitlines() if "sys.modules" not in line)
    for result in (apart, warm.run(["-c", code], cwd=tmp_path)):
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "done"

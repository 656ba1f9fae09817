"""nnsight's doors over many forwards: generations step by step, and edits that stay."""

import pytest
import torch
from traced import SHORT, TEXT, state


def plain_generation(lens, ids, n):
    """Greedy, with a torch hook on one router; the choices step by step."""
    choices = []
    handle = lens.model.get_submodule("model.layers.2.mlp.gate").register_forward_hook(
        lambda module, args, output: choices.append(output[2].view(*args[0].shape[:2], -1))
    )
    try:
        out = lens.model.generate(
            torch.tensor([ids]), max_new_tokens=n, min_new_tokens=n, do_sample=False
        )
    finally:
        handle.remove()
    return out, choices


def test_generation_step_by_step_equals_plain_hooks(any_lens):
    lens, n = any_lens, 6
    prompt = TEXT if lens.name == "ring-tiny" else lens.encode_prompt("3, 5, 7 to make 22")
    ids = lens.encode(prompt) if isinstance(prompt, str) else prompt
    wanted, wanted_choices = plain_generation(lens, ids, n)
    with lens.generate(prompt, max_new_tokens=n, min_new_tokens=n, do_sample=False) as tracer:
        choices = [].save()
        for _ in tracer.iter[:n]:
            choices.append(lens.points.router_choice[2])
        out = tracer.result.save()
    assert torch.equal(out, wanted)
    assert [c.shape[1] for c in choices] == [len(ids)] + [1] * (n - 1)
    assert all(torch.equal(a, b) for a, b in zip(choices, wanted_choices, strict=True))


def test_an_edited_generation_takes_another_course(lens):
    n, plain = 6, plain_generation(lens, lens.encode(TEXT), 6)[0]
    with lens.generate(TEXT, max_new_tokens=n, min_new_tokens=n, do_sample=False) as tracer:
        for _ in tracer.iter[:n]:
            lens.points.head_out[1][:, :, :4] = 0
            lens.points.router_logits[2][..., 13] = 30.0
            lens.points.resid_post[3][:] *= -1
        edited = tracer.result.save()
    assert edited.shape == plain.shape
    assert torch.equal(edited[:, :6], plain[:, :6])
    assert not torch.equal(edited[:, 6:], plain[:, 6:])
    again = plain_generation(lens, lens.encode(TEXT), 6)[0]
    assert torch.equal(again, plain)


def test_generating_from_several_prompts(lens):
    """The first prompt's experts are steered at every step; the second runs as if alone."""
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with lens.generate(TEXT, **options) as tracer:
        for _ in tracer.iter[:4]:
            lens.points.router_logits[2][..., 13] = 30.0
            lens.points.router_weights[3] = lens.points.router_weights[3] * -1
        steered = tracer.result.save()
    with lens.generate(**options) as tracer:
        with tracer.invoke(TEXT):
            for _ in tracer.iter[:4]:
                lens.points.router_logits[2][..., 13] = 30.0
                lens.points.router_weights[3] = lens.points.router_weights[3] * -1
            one = tracer.result.save()
        with tracer.invoke(SHORT):
            choices = [].save()
            for _ in tracer.iter[:4]:
                choices.append(lens.points.router_choice[2])
            two = tracer.result.save()
    wanted, wanted_choices = plain_generation(lens, lens.encode(SHORT), 4)
    assert torch.equal(one, steered)
    assert not torch.equal(one, plain_generation(lens, lens.encode(TEXT), 4)[0])
    assert torch.equal(two[:, -7:], wanted)
    assert [tuple(c.shape) for c in choices] == [(1, 6, 4)] + [(1, 1, 4)] * 3
    assert torch.equal(choices[0][:, 3:], wanted_choices[0])
    assert all(torch.equal(a, b) for a, b in zip(choices[1:], wanted_choices[1:], strict=True))


def test_an_edit_stays_with_the_twin_and_can_be_removed(lens):
    plain = lens.run_with_hooks(TEXT)
    wanted = lens.run_with_hooks(TEXT, [(("mlp_out", 2), lambda x, hook: x * 0)])
    before = state(lens.model)
    with lens.edit() as (_, edited):
        edited.points.mlp_out[2][:] = 0
    for _ in range(2):
        with edited.trace(TEXT):
            twin = edited.points.logits.save()
        assert torch.equal(twin, wanted)
        with lens.trace(TEXT):
            own = lens.points.logits.save()
        assert torch.equal(own, plain)
    with edited.edit() as (_, twice):
        twice.points.logits[:] += 1
    with twice.trace(TEXT):
        both = twice.points.logits.save()
    assert torch.equal(both, wanted + 1)
    edited.clear_edits()
    with edited.trace(TEXT):
        cleared = edited.points.logits.save()
    assert torch.equal(cleared, plain)
    assert state(lens.model) == before


@pytest.mark.filterwarnings("ignore:.*was never reached")
def test_an_edit_of_every_step_changes_the_generation(lens):
    n, plain = 5, plain_generation(lens, lens.encode(TEXT), 5)[0]
    with lens.edit() as (tracer, edited):
        for _ in tracer.iter[:]:
            edited.points.resid_post[3][:] *= -1
    options = {"max_new_tokens": n, "min_new_tokens": n, "do_sample": False}
    with edited.generate(TEXT, **options) as tracer:
        twin = tracer.result.save()
    with lens.generate(TEXT, **options) as tracer:
        own = tracer.result.save()
    assert torch.equal(own, plain)
    assert not torch.equal(twin, plain)

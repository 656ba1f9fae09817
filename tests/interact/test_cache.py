"""run_with_cache and run_with_hooks: as people know them from TransformerLens."""

import pytest
import tiny_lens
import torch
from placed import placed_model
from plain_points import plain_points
from traced import SHORT, TEXT

from ringlens.errors import ConfigError, ObservationError
from ringlens.lens import Lens
from ringlens.observe.points import POINTS


def hooks_left(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_every_point_equals_plain_torch_hooks(any_lens):
    text = TEXT if any_lens.name == "ring-tiny" else "Use 3, 5 and 7 to make 22."
    logits, cache = any_lens.run_with_cache(text)
    ids = torch.tensor([any_lens.encode(text)])
    wanted, plain = plain_points(any_lens.model, input_ids=ids)
    assert torch.equal(logits, plain)
    assert len(cache) == len(wanted)
    for (name, layer), tensor in wanted.items():
        kept = cache[name] if layer is None else cache[name, layer]
        assert torch.equal(kept, tensor)
        assert torch.equal(cache[POINTS[name].at(layer)], tensor)
    assert hooks_left(any_lens.model) == 0


def test_all_spellings_name_the_same_tensor(lens):
    cache = lens.run_with_cache(TEXT)[1]
    kept = cache["blocks.3.hook_resid_post"]
    for name in (("resid_post", 3), ("resid_post", -1), "model.layers.3"):
        assert cache[name] is kept
    assert cache["model.layers.3.mlp.gate"] is cache["router_logits", 3]
    assert cache["unembed.hook_out"] is cache["logits"]
    assert ("resid_post", 3) in cache
    assert ("resid_post", 4) not in cache
    assert "nonsense" not in cache
    assert cache.get("nonsense", 5) == 5
    assert list(cache)[:3] == ["hook_embed", "blocks.0.hook_resid_pre", "blocks.0.attn.hook_z"]
    assert list(cache)[-1] == "unembed.hook_out"
    stacked = cache.stack("router_logits")
    assert stacked.shape == (3, 1, 6, 16)
    assert torch.equal(stacked[1], cache["router_logits", 2])


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        ("router_choice", [f"blocks.{i}.mlp.gate.hook_indices" for i in (1, 2, 3)]),
        ("blocks.2.hook_resid_post", ["blocks.2.hook_resid_post"]),
        ("model.layers.2.attention.dense", ["blocks.2.attn.hook_z"]),
        (("resid_pre", -1), ["blocks.3.hook_resid_pre"]),
        (["logits", ("mlp_out", 0)], ["blocks.0.hook_mlp_out", "unembed.hook_out"]),
        (lambda name: name.endswith("hook_z"), [f"blocks.{i}.attn.hook_z" for i in range(4)]),
        ([], []),
        (lambda name: False, []),
    ],
)
def test_only_what_the_filter_names_is_kept(names, kept, lens):
    assert sorted(lens.run_with_cache(TEXT, names_filter=names)[1]) == sorted(kept)


def test_kept_tensors_are_detached_and_may_go_elsewhere(lens):
    with torch.enable_grad():
        logits, cache = lens.run_with_cache(TEXT, "resid_post")
        _, moved = lens.run_with_cache(TEXT, "resid_post", device="meta")
    assert not logits.requires_grad
    assert not any(tensor.requires_grad for tensor in cache.values())
    assert {tensor.device.type for tensor in moved.values()} == {"meta"}
    assert {tensor.device.type for tensor in cache.to("meta").values()} == {"meta"}
    assert moved["resid_post", 2].shape == cache["resid_post", 2].shape


def test_a_name_that_is_not_there_is_refused_before_running(lens):
    for run in (
        lambda: lens.run_with_cache(TEXT, ["resid_post", "blocks.1.hook_resid_pots"]),
        lambda: lens.run_with_hooks(TEXT, [("blocks.1.hook_resid_pots", print)]),
    ):
        with pytest.raises(ObservationError, match=r"Nearest: blocks\.1\.hook_resid_post"):
            run()
    with pytest.raises(ObservationError, match="layers 1-3"):
        lens.run_with_cache(TEXT, ("router_choice", 0))
    with pytest.raises(ObservationError, match="say which one"):
        lens.run_with_hooks(TEXT, [("resid_post", lambda x, hook: None)])
    cache = lens.run_with_cache(TEXT, "resid_post")[1]
    with pytest.raises(ObservationError, match="not in this cache; let names_filter"):
        cache["resid_pre", 1]
    with pytest.raises(ObservationError, match="no layer of mlp_out"):
        cache.stack("mlp_out")


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_stop_at_layer(layer, lens):
    _, cache = lens.run_with_cache(TEXT)
    resid, stopped = lens.run_with_cache(TEXT, stop_at_layer=layer)
    layer %= 4
    assert torch.equal(resid, cache["resid_pre", layer])
    assert torch.equal(resid, stopped["resid_pre", layer])
    begun = {int(name.split(".")[1]) for name in stopped if name.startswith("blocks")}
    assert begun == set(range(layer + 1))
    assert "logits" not in stopped
    assert hooks_left(lens.model) == 0


def test_a_batch_of_texts_equals_each_alone(lens):
    logits, cache = lens.run_with_cache([TEXT, SHORT], ["resid_post", "router_choice"])
    for row, text in enumerate((TEXT, SHORT)):
        n = len(lens.encode(text))
        alone, single = lens.run_with_cache(text)
        assert torch.allclose(logits[row, -n:], alone[0], atol=1e-5)
        for layer in (1, 3):
            ids = cache["router_choice", layer][row, -n:]
            assert torch.equal(ids, single["router_choice", layer][0])


def test_text_or_ids(lens):
    ids = lens.encode(TEXT)
    wanted = lens.run_with_hooks(TEXT)
    for given in (ids, [ids], tuple(ids), [TEXT], torch.tensor(ids), torch.tensor([ids])):
        assert torch.equal(lens.run_with_hooks(given), wanted)
    last = lens.run_with_hooks(TEXT, logits_to_keep=1)
    assert torch.allclose(last, wanted[:, -1:], atol=1e-6) and last.shape == (1, 1, 384)
    for given, message in [
        ([], "no token"),
        ("", "no token"),
        ([TEXT, ""], "row 1 has no token"),
        ([1.5], "give a text"),
        (torch.tensor([[[1]]]), "give a text"),
    ]:
        with pytest.raises(ConfigError, match=message):
            lens.run_with_hooks(given)


def test_ablating_a_head_takes_its_share_from_the_attention_output(lens):
    head, called = 5, []

    def ablate(z, hook):
        called.append((hook.name, hook.layer()))
        z[:, :, head] = 0

    seen = {}
    fwd_hooks = [
        ("blocks.2.attn.hook_z", ablate),
        (("attn_out", 2), lambda x, hook: seen.update(out=x)),
    ]
    logits = lens.run_with_hooks(TEXT, fwd_hooks)
    plain, cache = lens.run_with_cache(TEXT)
    weight = lens.model.get_submodule("model.layers.2.attention.dense").weight
    share = cache["head_out", 2][:, :, head] @ weight[:, head * 16 : (head + 1) * 16].T
    assert torch.allclose(seen["out"], cache["attn_out", 2] - share, atol=1e-5)
    assert not torch.allclose(logits, plain, atol=1e-3)
    assert called == [("blocks.2.attn.hook_z", 2)]


def test_patching_a_run_with_another(lens):
    """All residual streams of a layer from another text: its logits come out."""
    other = tiny_lens.prompt(301, 12, 44, 7, 81, 99)
    wanted, cache = lens.run_with_cache(other)
    patched = lens.run_with_hooks(
        TEXT, [("blocks.1.hook_resid_pre", lambda x, hook: cache[hook.name])]
    )
    assert torch.equal(patched, wanted)


def test_an_expert_put_in_by_hand_is_the_one_that_works(lens):
    """Only expert 9, with weight 1: the routed experts' output is that expert's alone."""
    seen = {}
    fwd_hooks = [
        (("router_choice", 2), lambda ids, hook: torch.full_like(ids, 9)),
        (("router_weights", 2), lambda w, hook: torch.tensor([1.0, 0, 0, 0]).expand_as(w)),
        (("expert_out", 2), lambda x, hook: seen.update(out=x)),
    ]
    mlp = lens.model.get_submodule("model.layers.2.mlp")
    handle = mlp.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    try:
        lens.run_with_hooks(TEXT, fwd_hooks)
    finally:
        handle.remove()
    experts = lens.model.get_submodule("model.layers.2.mlp.experts")
    gate, up = (seen["x"] @ experts.gate_up_proj[9].T).chunk(2, -1)
    wanted = (torch.nn.functional.silu(gate) * up) @ experts.down_proj[9].T
    assert torch.allclose(seen["out"], wanted, atol=1e-5)


def test_a_function_of_names_picks_the_points(lens):
    names = []
    lens.run_with_hooks(
        TEXT, [(lambda name: "gate" in name, lambda x, hook: names.append(hook.name))]
    )
    assert len(names) == 9
    assert names[:3] == [f"blocks.1.mlp.gate.hook_{x}" for x in ("out", "weights", "indices")]


def test_an_error_in_a_function_leaves_nothing_behind(lens):
    def fail(x, hook):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lens.run_with_hooks(TEXT, [("logits", fail)])
    assert hooks_left(lens.model) == 0


@pytest.mark.parametrize("placed", ["some layers on disk", "all on disk", "nf4", "int8"])
def test_offloaded_and_quantised_models(placed, lens, tmp_path):
    other = Lens(placed_model(placed, tmp_path), lens.tokenizer, placed)
    logits, cache = other.run_with_cache(TEXT)
    wanted, plain = plain_points(other.model, input_ids=torch.tensor([lens.encode(TEXT)]))
    assert torch.equal(logits, plain)
    for (name, layer), tensor in wanted.items():
        assert torch.equal(cache[name] if layer is None else cache[name, layer], tensor)
    if placed in ("nf4", "int8"):
        return
    assert torch.allclose(logits, lens.run_with_cache(TEXT)[0], atol=1e-5)

    def steer(x, hook):
        x[..., 13] = 30.0

    one, two = (
        each.run_with_hooks(TEXT, [(("router_logits", 2), steer)]) for each in (other, lens)
    )
    assert torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(one, logits, atol=1e-3)

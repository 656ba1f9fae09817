"""How a lens, its points and a cache show themselves."""

import tiny_lens


def test_a_lens_is_a_few_lines():
    lens = tiny_lens.lens()
    text = repr(lens)
    assert len(text.splitlines()) <= 6
    sizes, router = lens.sizes, lens.router
    assert f"{lens.model.num_parameters():,} parameters, float32 on cpu" in text
    assert f"{router.experts_per_token} of {router.experts} experts a token" in text
    assert f"{sizes.heads} heads" in text
    assert "<table" in lens._repr_html_()


def test_a_cache_names_its_points_and_layers():
    lens = tiny_lens.lens()
    _, cache = lens.run_with_cache("t5. t6.", ["resid_post", ("router_logits", -1), "logits"])
    layers, last = lens.sizes.layers, lens.sizes.sparse_layers[-1]
    lines = repr(cache).splitlines()
    assert lines[0] == f"ActivationCache: {layers + 2} tensors"
    assert any(line.startswith(f"  resid_post: layers 0–{layers - 1}, [1, 2, ") for line in lines)
    assert any(line.startswith(f"  router_logits: layers {last}, ") for line in lines)
    assert "logits" in cache._repr_html_()
    assert cache._ipython_key_completions_() == [*cache]
    _, everything = lens.run_with_cache("t5. t6.")
    assert len(repr(everything).splitlines()) == 6
    assert repr(lens.run_with_cache("t5.", [])[1]) == "ActivationCache: 0 tensors"


def test_points_can_be_completed_outside_a_trace():
    lens = tiny_lens.lens()
    assert {"resid_post", "router_logits", "logits"} <= {*dir(lens.points)}
    assert "resid_post" in repr(lens.points)
    assert repr(lens.points.resid_post).startswith("Point resid_post, [B T D] in layers 0–")

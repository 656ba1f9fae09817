"""Sessions to compare."""

import numpy as np
import tiny_lens

PROMPTS = [
    tiny_lens.prompt(74, 276, 166, 285, 103, 65, 353),
    tiny_lens.prompt(37, 184, 307),
    tiny_lens.prompt(9, 50, 173, 343, 39, 302, 52, 180, 55, 93),
    tiny_lens.prompt(320, 170, 308, 347, 44),
]


STATISTICS = ("entropy", "first_weight", "previous_weight", "output_norm")


def assert_same(a, b, sparse=(1, 2, 3), layers=4):
    """Two traces hold the same tokens and, up to float32, the same records."""
    ta, tb = a.tokens(), b.tokens()
    assert list(ta["token_id"]) == list(tb["token_id"])
    assert list(ta["phase"]) == list(tb["phase"])
    for name in ("logprob", "entropy"):
        np.testing.assert_allclose(ta[name], tb[name], atol=3e-5)
    for layer in sparse:
        ra, rb = a.routing(layer), b.routing(layer)
        assert (ra["expert_ids"] == rb["expert_ids"]).all()
        assert (ra["bias_flips"] == rb["bias_flips"]).all()
        for name in ("weights", "affinities", "margin", "group_margin", "entropy"):
            np.testing.assert_allclose(ra[name], rb[name], rtol=2e-3, atol=3e-6)
        np.testing.assert_allclose(
            a.router_logits(layer), b.router_logits(layer), rtol=2e-3, atol=1e-5
        )
    for layer in range(layers):
        ha, hb = a.heads(layer), b.heads(layer)
        for name in STATISTICS:
            np.testing.assert_allclose(ha[name], hb[name], rtol=2e-3, atol=1e-5)

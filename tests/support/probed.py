"""Short thoughts to be probed, and what plain forwards say of them."""

import numpy as np
import torch

import ringlens as rl

MODEL, TASK = "ring-nano", "products"
RECORD = ("logprobs",)


def captured(lens, path, n=2):
    """A store of short thoughts."""
    asked = rl.problems(TASK, n=n)
    return rl.capture(lens, asked, path, max_new_tokens=200, record=RECORD)


def log_probability(lens, before, text):
    """Log-probability of tokens behind others, in one plain forward."""
    ids = torch.tensor([[*before, *text]])
    with torch.inference_mode():
        told = lens.model(ids, use_cache=False).logits[0].float().log_softmax(-1)
    own = told[len(before) - 1 : -1].gather(-1, ids[0, len(before) :, None])
    return float(own.double().sum())


def written(lens, before, most):
    """What the model writes greedily behind tokens, each in a forward of its own."""
    ids = list(before)
    for _ in range(most):
        with torch.inference_mode():
            logits = lens.model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] in lens.eos_token_ids:
            break
    return ids[len(before) :]


def rows(store, probe):
    """All results of a probe, without the run."""
    return (
        store.sql("select * exclude (run_id) from probes where probe = ?", [probe])
        .df()
        .sort_values(["trace_id", "step", "changed_step", "pos", "layer", "unit", "key"])
        .reset_index(drop=True)
    )


def same(first, second, **within):
    """Whether two frames of results are the same, numbers within rounding."""
    assert first.drop(columns="value").equals(second.drop(columns="value"))
    np.testing.assert_allclose(first["value"], second["value"], **within)

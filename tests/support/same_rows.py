"""What was written comes back the same."""

import numpy as np

ROUTING = ("weights", "affinities", "margin", "group_margin", "bias_flips", "entropy")


HEADS = ("entropy", "first_weight", "previous_weight", "output_norm")


def assert_same(trace, record, run):
    """Every value of every table, bit for bit."""
    assert trace.text == record.text
    assert len(trace) == len(record.tokens.token_id)
    for name in ("prompt", "answer", "correct", "seed", "problem_id", "source_trace_id"):
        assert trace.summary[name] == getattr(record, name)
    tokens = trace.tokens()
    assert tokens["text"] == record.tokens.text
    assert tokens["phase"] == record.tokens.phase
    for name in ("token_id", "start", "end", "logprob", "entropy"):
        np.testing.assert_array_equal(tokens[name], getattr(record.tokens, name))
        assert tokens[name].dtype == getattr(record.tokens, name).dtype
    for index, layer in enumerate(run.sparse_layers):
        if record.routing is not None:
            assert_same_routing(trace.routing(layer), record.routing, index)
        if record.router_logits is not None:
            logits = trace.router_logits(layer)
            np.testing.assert_array_equal(logits, record.router_logits[index])
            assert logits.dtype == np.float32
    if record.heads is not None:
        for layer in range(run.layers):
            heads = trace.heads(layer)
            for name in HEADS:
                np.testing.assert_array_equal(heads[name], getattr(record.heads, name)[layer])


def assert_same_routing(found, routing, index):
    np.testing.assert_array_equal(found["expert_ids"], routing.expert_ids[index])
    for name in ROUTING:
        np.testing.assert_array_equal(found[name], getattr(routing, name)[index], name)
    flips = routing.group_flips[index]
    np.testing.assert_array_equal([len(ids) for ids in found["group_flips"]], flips.sum(axis=1))
    lost = np.concatenate(found["group_flips"])
    np.testing.assert_array_equal(lost, routing.unlimited_ids[index][flips])

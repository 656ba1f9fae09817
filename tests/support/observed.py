"""What a recorder sees of one forward, without a store."""

import torch

from ringlens.observe.pipeline.recorder import Recorder

EVERYTHING = ("logprobs", "routing", "router_logits", "heads")


def observe(lens, input_ids, pads=(), record=EVERYTHING, **options):
    """The opened block of one teacher-forced forward."""
    blocks = []
    with Recorder(lens, record, blocks.append, pads=pads), torch.inference_mode():
        lens.model(input_ids=input_ids, use_cache=False, logits_to_keep=1, **options)
    (block,) = blocks
    return block.open()

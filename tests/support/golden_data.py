"""The golden checkpoint and what the published code computes for it."""

import os
import shutil
from contextlib import contextmanager

import pytest
import torch
from paths import GOLDEN
from safetensors.torch import load_file

FOLDER = GOLDEN / "ring-tiny"
SPARSE_LAYERS = (1, 2, 3)


def expected():
    return load_file(FOLDER / "expected.safetensors")


def load(layout="fused", attention="sdpa"):
    if attention == "flex_attention" and not shutil.which("g++"):
        pytest.skip("flex attention compiles itself and needs g++ (apt-get install g++)")
    from transformers import AutoModelForCausalLM

    import ringlens  # noqa: F401 (registers Ring)

    return AutoModelForCausalLM.from_pretrained(
        FOLDER, attn_implementation=attention, experts_layout=layout
    ).eval()


@contextmanager
def interpreted():
    """Flex attention as plain operations: compiling it takes half a minute in each process.

    tests/observe/test_observe_golden.py compiles it, and with RINGLENS_EXTRA=1 all tests.
    """
    stance = "default" if os.environ.get("RINGLENS_EXTRA") else "force_eager"
    with torch.compiler.set_stance(stance):
        yield


def relative(actual, wanted):
    """Largest difference over the largest value."""
    return ((actual - wanted).abs().max() / wanted.abs().max()).item()

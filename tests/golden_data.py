"""The golden checkpoint and what the published code computes for it."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

FOLDER = Path(__file__).parent / "golden" / "ring-tiny"
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


def relative(actual, wanted):
    """Largest difference over the largest value."""
    return ((actual - wanted).abs().max() / wanted.abs().max()).item()

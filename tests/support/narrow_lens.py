"""A lens on a model of one narrow layer with ring-nano's tokenizer: long texts take seconds."""

import json

import torch
from paths import ROOT
from transformers import AutoTokenizer

from ringlens.lens import Lens
from ringlens.model.ring.configuration import BailingMoeV2Config
from ringlens.model.ring.modeling import BailingMoeV2ForCausalLM

NANO = ROOT / "data" / "ring-nano"
NARROW = {
    "num_hidden_layers": 1, "first_k_dense_replace": 0, "hidden_size": 32, "head_dim": 16,
    "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 32, "num_experts": 8,
    "moe_intermediate_size": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "max_position_embeddings": 131072,
}  # fmt: skip


def lens():
    torch.manual_seed(0)
    settings = {**json.loads((NANO / "config.json").read_text()), **NARROW, "dtype": "float32"}
    model = BailingMoeV2ForCausalLM(BailingMoeV2Config(**settings)).eval()
    return Lens(model, AutoTokenizer.from_pretrained(NANO), "ring-narrow")

"""A tiny random Ring, and everything an observer sees of it; shared by processes under torchrun."""

import tiny_lens
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM
from ringlens.model.loading import load_model
from ringlens.model.parallel import owned_layers, parallel_of
from ringlens.model.quantization import weight_bytes

NEW_TOKENS = 16
CONFIG = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 128,
    "partial_rotary_factor": 0.5,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def save(folder, seed=0, **changes):
    """A checkpoint of the tiny Ring, with biases that matter and a tokenizer."""
    torch.manual_seed(seed)
    model = BailingMoeV2ForCausalLM(BailingMoeV2Config(**{**CONFIG, **changes}))
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name.endswith("expert_bias"):
            tensor.data.normal_(std=0.1)
        elif tensor.dim() > 1:
            tensor.data.normal_(std=0.15)
        if not name.endswith("expert_bias"):
            tensor.data = tensor.data.to(getattr(torch, changes.get("dtype", "float32")))
    model.config.dtype = changes.get("dtype", "float32")
    model.save_pretrained(folder)
    tiny_lens.tokenizer().save_pretrained(folder)
    return folder


def batch():
    """Two rows of tokens, the first padded on the left."""
    ids = torch.randint(4, 384, (2, 12), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


HEADS = {}


def spy(module, query, key, value, attention_mask, **kwargs):
    """An attention kernel that keeps the queries and keys it is given."""
    HEADS[module.layer_idx] = query, key
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def many(model):
    """A forward over 605 tokens: its logits, choices, and the rows that this process computes."""
    ids = torch.randint(4, 384, (5, 121), generator=torch.Generator().manual_seed(8))
    routed, computed, choices, handles = {}, {}, {}, []
    for layer in set(owned_layers(model)) & set(model.config.sparse_layers):
        mlp = model.model.layers[layer].mlp
        route = mlp.gate.route

        def count(logits, layer=layer, route=route):
            routed[layer] = len(logits)
            return route(logits)

        mlp.gate.route = count
        hooks = {
            mlp.gate: lambda _, __, out, layer=layer: choices.__setitem__(layer, out[2]),
            mlp.experts.act_fn: lambda _, __, out, layer=layer: computed.__setitem__(
                layer, len(out)
            ),
        }
        handles += [module.register_forward_hook(hook) for module, hook in hooks.items()]
    with torch.inference_mode():
        logits = model(ids).logits
    for handle in handles:
        handle.remove()
    return {"logits": logits, "routed": routed, "computed": computed, "choices": choices}


def observe(folder, **options):
    """Load, run and generate: whatever a hook and a kernel see in this process."""
    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", sdpa_mask)
    HEADS.clear()
    model, _ = load_model(str(folder), attention="spy", **options)
    gates, handles = {}, []
    for layer in owned_layers(model):
        if layer in model.config.sparse_layers:
            gate = model.model.layers[layer].mlp.gate
            keep = lambda module, args, out, layer=layer: gates.__setitem__(layer, out)  # noqa: E731
            handles.append(gate.register_forward_hook(keep))
    with torch.inference_mode():
        logits = model(**batch()).logits
    for handle in handles:
        handle.remove()
    heads = dict(HEADS)
    tokens = model.generate(
        **batch(), max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None
    )
    return {
        "logits": logits,
        "many": many(model) if model.config.experts_layout == "fused" else None,
        "gates": gates,
        "heads": heads,
        "tokens": tokens,
        "parallel": parallel_of(model),
        "owned": owned_layers(model),
        "bytes": weight_bytes(model),
        "layout": model.config.experts_layout,
    }

"""Every observable point read by torch hooks written out here, independent of ringlens.observe."""

import torch


def first(args):
    return args[0]


def item(i):
    return lambda output: output[i]


def whole(output):
    return output


OUTSIDE = {
    "embed": ("model.word_embeddings", whole),
    "final_norm": ("model.norm", whole),
    "logits": ("lm_head", whole),
}
EVERYWHERE = {
    "attn_out": ("attention", item(0)),
    "mlp_out": ("mlp", whole),
    "resid_post": ("", whole),
}
SPARSE = {
    "router_logits": ("mlp.gate", item(0)),
    "router_weights": ("mlp.gate", item(1)),
    "router_choice": ("mlp.gate", item(2)),
    "expert_out": ("mlp.experts", whole),
}
INPUTS = {"resid_pre": "", "head_out": "attention.dense"}


def plain_points(model, **inputs):
    """{(name, layer): tensor in the documented shape} of one forward, and its logits."""
    seen, handles, config = {}, [], model.config
    B, T = inputs["input_ids"].shape

    def keep(key, pick):
        def hook(module, args, output):
            tensor = pick(output)
            seen[key] = tensor.view(B, T, -1) if key[0] in SPARSE else tensor

        return hook

    def keep_input(key):
        def hook(module, args):
            x = args[0]
            seen[key] = x.view(B, T, -1, config.head_dim) if key[0] == "head_out" else x

        return hook

    def module_of(layer, path):
        return model.get_submodule(f"model.layers.{layer}" + (f".{path}" if path else ""))

    for name, (path, pick) in OUTSIDE.items():
        hook = keep((name, None), pick)
        handles.append(model.get_submodule(path).register_forward_hook(hook))
    for layer in range(config.num_hidden_layers):
        table = EVERYWHERE | (SPARSE if layer >= config.first_k_dense_replace else {})
        for name, (path, pick) in table.items():
            hook = keep((name, layer), pick)
            handles.append(module_of(layer, path).register_forward_hook(hook))
        for name, path in INPUTS.items():
            hook = keep_input((name, layer))
            handles.append(module_of(layer, path).register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return seen, logits

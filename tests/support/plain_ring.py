"""A slow, plain Ring in float64, and random checkpoints of the family for it.

Reads config.json as a dict and tensors by their published names; shares no code with ringlens.
One token at a time, one head at a time, one expert at a time.
"""

import json
import math

import torch
from safetensors.torch import save_file

BASE = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "model_type": "bailing_moe",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 16,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
    "hidden_act": "silu",
    "use_qkv_bias": False,
    "use_bias": False,
    "use_qk_norm": True,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "rope_scaling": None,
    "moe_router_enable_expert_bias": True,
    "num_nextn_predict_layers": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def make_tensors(c, seed=0):
    """Random tensors of a checkpoint, by published name."""
    g = torch.Generator().manual_seed(seed)
    hidden, dim = (
        c["hidden_size"],
        c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
    )
    heads = c["num_attention_heads"]
    kv = c.get("num_key_value_heads") or heads
    t = {}

    def add(name, *shape, scale=0.2, shift=0.0):
        t[name] = torch.randn(*shape, generator=g) * scale + shift

    def ffn(prefix, width):
        add(f"{prefix}.gate_proj.weight", width, hidden)
        add(f"{prefix}.up_proj.weight", width, hidden)
        add(f"{prefix}.down_proj.weight", hidden, width)

    add("model.word_embeddings.weight", c["vocab_size"], hidden, scale=1.0)
    add("model.norm.weight", hidden, scale=0.1, shift=1.0)
    if not c["tie_word_embeddings"]:
        add("lm_head.weight", c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"] + (c.get("num_nextn_predict_layers") or 0)):
        p = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(f"{p}.{norm}.weight", hidden, scale=0.1, shift=1.0)
        add(f"{p}.attention.query_key_value.weight", (heads + 2 * kv) * dim, hidden)
        add(f"{p}.attention.dense.weight", hidden, heads * dim)
        if c["use_qkv_bias"]:
            add(f"{p}.attention.query_key_value.bias", (heads + 2 * kv) * dim)
        if c["use_bias"]:
            add(f"{p}.attention.dense.bias", hidden)
        if c["use_qk_norm"]:
            for norm in ("query_layernorm", "key_layernorm"):
                add(f"{p}.attention.{norm}.weight", dim, scale=0.1, shift=1.0)
        if i < c["first_k_dense_replace"]:
            ffn(f"{p}.mlp", c["intermediate_size"])
            continue
        add(f"{p}.mlp.gate.weight", c["num_experts"], hidden)
        if c.get("moe_router_enable_expert_bias"):
            add(f"{p}.mlp.gate.expert_bias", c["num_experts"], scale=0.3)
        for e in range(c["num_experts"]):
            ffn(f"{p}.mlp.experts.{e}", c["moe_intermediate_size"])
        if c["num_shared_experts"]:
            ffn(f"{p}.mlp.shared_experts", c["moe_intermediate_size"] * c["num_shared_experts"])
        if i >= c["num_hidden_layers"]:  # what only a multi-token-prediction layer has
            add(f"{p}.eh_proj.weight", hidden, 2 * hidden)
            for norm in ("enorm", "hnorm", "final_layernorm"):
                add(f"{p}.{norm}.weight", hidden)
    return t


def write(folder, config, tensors):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def rms(x, weight, eps):
    return x / math.sqrt(float((x * x).mean()) + eps) * weight


def frequencies(c, dim):
    """Inverse frequencies of the rotated dimensions and the factor on cosines and sines."""
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or c.get("rope_theta")
    share = c.get("partial_rotary_factor", rope.get("partial_rotary_factor"))
    rotated = c["rotary_dim"] if share is None else int(dim * share)
    plain = [theta ** (-2 * i / rotated) for i in range(rotated // 2)]
    if (rope.get("rope_type") or rope.get("type") or "default") == "default":
        return plain, 1.0
    factor, original = rope["factor"], rope["original_max_position_embeddings"]

    def turning(rotations):  # dimension whose wave turns that often in the original context
        return rotated * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(turning(rope.get("beta_fast") or 32)), 0)
    high = min(math.ceil(turning(rope.get("beta_slow") or 1)), rotated - 1)
    high = high + 0.001 if low == high else high
    mixed = []
    for i, f in enumerate(plain):
        slow = min(max((i - low) / (high - low), 0.0), 1.0)
        mixed.append(f / factor * slow + f * (1 - slow))
    return mixed, rope.get("attention_factor") or 0.1 * math.log(factor) + 1.0


def rotate(x, position, freqs, scale):
    half = len(freqs)
    out = x.clone()
    for i, f in enumerate(freqs):
        cos, sin = math.cos(position * f) * scale, math.sin(position * f) * scale
        a, b = float(x[i]), float(x[half + i])
        out[i], out[half + i] = a * cos - b * sin, b * cos + a * sin
    return out


def ffn(t, prefix, x):
    gate, up = t[f"{prefix}.gate_proj.weight"] @ x, t[f"{prefix}.up_proj.weight"] @ x
    return t[f"{prefix}.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)


def route(c, t, prefix, x):
    """Expert id → weight."""
    s = torch.sigmoid(t[f"{prefix}.gate.weight"] @ x)
    score = (s + t.get(f"{prefix}.gate.expert_bias", torch.zeros_like(s))).tolist()
    size = c["num_experts"] // c["n_group"]
    groups = [score[i : i + size] for i in range(0, c["num_experts"], size)]
    ranked = sorted(range(c["n_group"]), key=lambda g: -sum(sorted(groups[g])[-2:]))
    allowed = [e for e in range(c["num_experts"]) if e // size in ranked[: c["topk_group"]]]
    chosen = sorted(allowed, key=lambda e: -score[e])[: c["num_experts_per_tok"]]
    total = sum(float(s[e]) for e in chosen) + 1e-20 if len(chosen) > 1 else 1.0
    return {e: float(s[e]) / total * c["routed_scaling_factor"] for e in chosen}


def moe(c, t, prefix, x):
    out = torch.zeros_like(x)
    for e, weight in route(c, t, prefix, x).items():
        out += weight * ffn(t, f"{prefix}.experts.{e}", x)
    if c["num_shared_experts"]:
        out += ffn(t, f"{prefix}.shared_experts", x)
    return out


def attend(c, t, prefix, xs, freqs, scale):
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    heads = c["num_attention_heads"]
    kv = c.get("num_key_value_heads") or heads
    q, k, v = [], [], []
    for position, x in enumerate(xs):
        flat = t[f"{prefix}.query_key_value.weight"] @ x
        flat = flat + t.get(f"{prefix}.query_key_value.bias", 0.0)
        parts = flat.view(-1, dim)
        turned = []
        for i, part in enumerate(parts[: heads + kv]):
            if c["use_qk_norm"]:
                norm = "query_layernorm" if i < heads else "key_layernorm"
                part = rms(part, t[f"{prefix}.{norm}.weight"], c["rms_norm_eps"])
            turned.append(rotate(part, position, freqs, scale))
        q.append(turned[:heads])
        k.append(turned[heads:])
        v.append(parts[heads + kv :])
    out = []
    for i in range(len(xs)):
        per_head = []
        for h in range(heads):
            g = h // (heads // kv)
            p = torch.stack([q[i][h] @ k[j][g] / math.sqrt(dim) for j in range(i + 1)]).softmax(0)
            per_head.append(sum(p[j] * v[j][g] for j in range(i + 1)))
        y = t[f"{prefix}.dense.weight"] @ torch.cat(per_head)
        out.append(y + t.get(f"{prefix}.dense.bias", 0.0))
    return out


def logits(config, tensors, token_ids):
    """Next-token logits [T, V] in float64."""
    c, t = config, {name: tensor.double() for name, tensor in tensors.items()}
    dim = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    freqs, scale = frequencies(c, dim)
    eps = c["rms_norm_eps"]
    xs = [t["model.word_embeddings.weight"][i] for i in token_ids]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}"
        normed = [rms(x, t[f"{p}.input_layernorm.weight"], eps) for x in xs]
        mixed = attend(c, t, f"{p}.attention", normed, freqs, scale)
        xs = [x + y for x, y in zip(xs, mixed, strict=True)]
        block = ffn if layer < c["first_k_dense_replace"] else lambda t, q, x: moe(c, t, q, x)
        normed = [rms(x, t[f"{p}.post_attention_layernorm.weight"], eps) for x in xs]
        xs = [x + block(t, f"{p}.mlp", n) for x, n in zip(xs, normed, strict=True)]
    head = "model.word_embeddings" if c["tie_word_embeddings"] else "lm_head"
    rows = [t[f"{head}.weight"] @ rms(x, t["model.norm.weight"], eps) for x in xs]
    return torch.stack(rows)

"""A checkpoint in FP8 as Ring-1T-FP8 is published, beside the same weights in float32."""

import json

import parallel_ring
import torch
from safetensors.torch import load_file, save_file

BLOCK = 16


def to_fp8(weight):
    """FP8 bits of a matrix and the scale of each 16 × 16 block: weight = bits · scale."""
    rows, columns = (size // BLOCK for size in weight.shape)
    blocks = weight.float().view(rows, BLOCK, columns, BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    bits = (blocks / scale[:, None, :, None]).view_as(weight).to(torch.float8_e4m3fn)
    whole = bits.float().view(rows, BLOCK, columns, BLOCK) * scale[:, None, :, None]
    return bits, scale, whole.view_as(weight)


def save(folder, plain):
    """Write both: a scale beside each projection; router, head and embeddings as they are."""
    parallel_ring.save(plain, seed=3)
    tensors = load_file(plain / "model.safetensors")
    packed, whole = dict(tensors), dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(("_proj.weight", "query_key_value.weight", "dense.weight")):
            packed[name], packed[f"{name}_scale_inv"], whole[name] = to_fp8(tensor)
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(whole, plain / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": [BLOCK, BLOCK],
    }
    (folder / "config.json").write_text(json.dumps(config))

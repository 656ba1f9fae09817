"""Models whose layers lie where a device map says."""

import golden_data
import torch


def placed_model(placed, folder):
    """The golden checkpoint, its layers (or everything) on disk, or quantised."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = {"experts_layout": "modules", "dtype": torch.float32}
    if placed in ("nf4", "int8"):
        bits = {"load_in_4bit": True} if placed == "nf4" else {"load_in_8bit": True}
        options["quantization_config"] = BitsAndBytesConfig(**bits)
    else:
        modules = ["model.word_embeddings", "model.norm", "lm_head"]
        modules += ["model.rotary_emb", *(f"model.layers.{i}" for i in range(4))]
        here = () if placed == "all on disk" else (*modules[:4], "model.layers.1")
        options["device_map"] = {name: "cpu" if name in here else "disk" for name in modules}
        options["offload_folder"] = str(folder)
    return AutoModelForCausalLM.from_pretrained(golden_data.FOLDER, **options).eval()

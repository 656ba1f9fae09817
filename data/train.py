"""Train ring-nano from scratch on one GPU, in minutes.

    python -m ringlens.data.train --out DIR
    python -m ringlens.data.train --out BETTER --init DIR --learning-rate 0.0012 --seed 2

Shape letters: B traces of a batch, T tokens of its longest, P positions that a loss is taken at,
N = B·T, V vocabulary, E experts, L sparse layers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig

from ringlens.data import corpus, tokenizer
from ringlens.data.forward import Forward, loads
from ringlens.distil.balance import balance
from ringlens.distil.optimizer import Copies, rate_at
from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM

R = TypeVar("R")

VOCABULARY_MULTIPLE = 64
"""The embedding is padded to a multiple of this, as Ring's own is."""


LOG_EVERY = 100
"""Steps between two rows of the log."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        tokens: Tokens to train on, padding not counted.
        minutes: Training stops by then: the schedule follows whichever budget is further spent.
        batch_tokens: Tokens of a step, padding counted.
        learning_rate: Peak of the cosine schedule.
        warmup_steps: Steps over which the learning rate rises.
        weight_decay: Of matrices; vectors have none.
        bias_step: Step of the expert bias (sign rule); it falls to 0 over the last third.
        seed: Of the weights and of the corpus.
        init: Folder of a model to go on from; empty to start from scratch.
        workers: Processes that draw traces.
        repeats: How often every trace is learnt from, for GPUs faster than the workers.
    """

    tokens: int = 400_000_000
    minutes: float = 60.0
    batch_tokens: int = 98_304
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    weight_decay: float = 0.1
    bias_step: float = 1e-3
    seed: int = 1
    init: str = ""
    workers: int = min(15, os.cpu_count() or 1)
    repeats: int = 1


def ring_nano(tok: Any) -> BailingMoeV2Config:
    """The configuration of ring-nano for its tokenizer."""
    return BailingMoeV2Config(
        architectures=["BailingMoeV2ForCausalLM"],
        vocab_size=math.ceil(tok.get_vocab_size() / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        first_k_dense_replace=1,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=32,
        n_group=4,
        topk_group=2,
        num_experts_per_tok=4,
        num_shared_experts=1,
        moe_intermediate_size=64,
        moe_router_enable_expert_bias=True,
        routed_scaling_factor=2.5,
        partial_rotary_factor=0.5,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        use_qk_norm=True,
        max_position_embeddings=2048,
        pad_token_id=tok.token_to_id(tokenizer.PAD),
        eos_token_id=tok.token_to_id(tokenizer.EOS),
    )


def float_copies(model: nn.Module, learning_rate: float, weight_decay: float) -> Copies:
    """Turn a model's weights into bfloat16, with float32 copies that learn in their place.

    So every forward of training computes exactly what the shipped bfloat16 weights compute.
    """
    weights = Copies(list(model.parameters()), learning_rate, weight_decay, fused=True)
    for parameter in weights.live:
        parameter.data = parameter.data.bfloat16()
    return weights


class LoadBalancer:
    """Balances the experts of a ring-nano; see `ringlens.distil.balance.balance`."""

    def __init__(self, model: BailingMoeV2ForCausalLM) -> None:
        layers: Any = model.model.layers
        self.biases: list[Tensor] = [
            layers[layer].mlp.gate.expert_bias for layer in model.config.sparse_layers
        ]

    @torch.no_grad()
    def step(self, load_LE: Tensor, size: float) -> None:
        """Move the biases by ``size``, given how many tokens chose each expert."""
        balance(self.biases, load_LE, size)


def logits_of(forward: Forward, batch: corpus.Batch, device: str) -> tuple[Tensor, Tensor]:
    """Logits [P, V] at the batch's learnt positions, and the load [L, E] of every expert."""
    hidden_BTD, chosen_LNk = forward.hidden(to(batch.input_ids_BT, device))
    hidden_PD = hidden_BTD.flatten(0, 1).index_select(0, to(batch.positions_P, device))
    inside_BT = np.arange(batch.input_ids_BT.shape[1]) < batch.lengths_B[:, None]
    load_LE = loads(chosen_LNk, to(inside_BT.ravel(), device), forward.config.num_experts)
    return forward.model.lm_head(hidden_PD).float(), load_LE


def train(
    config: BailingMoeV2Config, recipe: Recipe, device: str
) -> tuple[BailingMoeV2ForCausalLM, list[dict[str, float]]]:
    """Train a model from scratch, or go on with one.

    Returns:
        The model (bfloat16, expert biases float32) and a log: one row every ``LOG_EVERY`` steps.
    """
    torch.manual_seed(recipe.seed)
    shards = corpus.shards(recipe.seed, recipe.workers)
    if recipe.init:
        model = BailingMoeV2ForCausalLM.from_pretrained(recipe.init, dtype=torch.float32)
    else:
        model = BailingMoeV2ForCausalLM(config)
    model = model.to(device).train()
    weights = float_copies(model, recipe.learning_rate, recipe.weight_decay)
    balancer = LoadBalancer(model)
    forward = Forward(model, compiled=device == "cuda")
    rng = np.random.default_rng(recipe.seed)
    batches = (
        batch
        for shard in shards
        for _ in range(recipe.repeats)
        for batch in corpus.batches(shard, recipe.batch_tokens, config.pad_token_id or 0, rng)
    )
    log: list[dict[str, float]] = []
    tokens, start = 0, 0.0
    for step, batch in enumerate(batches):
        seconds = time.monotonic() - start if start else 0.0
        progress = max(tokens / recipe.tokens, seconds / 60 / recipe.minutes)
        if progress >= 1:
            break
        logits_PV, load_LE = logits_of(forward, batch, device)
        loss = F.cross_entropy(logits_PV, to(batch.targets_P, device))
        loss.backward()
        weights.step(rate_at(recipe.learning_rate, recipe.warmup_steps, step, progress))
        bias_step = recipe.bias_step * min(1.0, 3 * (1 - progress))
        balancer.step(load_LE, bias_step)
        tokens += int(batch.lengths_B.sum())
        if step % LOG_EVERY == 0:
            peak = load_LE.max(dim=1).values / load_LE.mean(dim=1)
            row = {"step": step, "tokens": tokens, "loss": loss.item(), "load": peak.mean().item()}
            log.append({**row, "seconds": seconds, "progress": progress})
            print(" ".join(f"{key} {value:,.5g}" for key, value in log[-1].items()), flush=True)
        start = start or time.monotonic()  # whatever is compiled has been: the clock runs
    shards.close()
    return model.eval(), log


def save(
    folder: Path, model: BailingMoeV2ForCausalLM, recipe: Any, log: list[dict[str, float]]
) -> None:
    """Write weights, config, generation config, tokenizer and the log of the training."""
    ids = {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.pad_token_id}
    model.generation_config = GenerationConfig(**ids)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(folder, max_shard_size="15MB")
    tokenizer.save(folder, tokenizer.build())
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    machine = torch.cuda.get_device_name() if model.device.type == "cuda" else "CPU"
    report = {"recipe": dataclasses.asdict(recipe), "machine": machine, **versions, "log": log}
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")


def asked(recipe: type[R], what: str) -> tuple[R, Path, str]:
    """Read a recipe, a folder and a device from the command line, an option for each setting."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    for setting in dataclasses.fields(recipe):  # type: ignore[arg-type]  # a dataclass
        kind = type(setting.default)
        name = "--" + setting.name.replace("_", "-")
        parser.add_argument(name, type=kind, default=setting.default, help=f"{setting.default}")
    options = vars(parser.parse_args())
    out, device = options.pop("out"), options.pop("device")
    return recipe(**options), out, device


def main() -> None:
    """Train and save."""
    recipe, out, device = asked(Recipe, "Train ring-nano from scratch.")
    tok = tokenizer.build()
    model, log = train(ring_nano(tok), recipe, device)
    save(out, model, recipe, log)


def to(array: np.ndarray, device: str) -> Tensor:
    """A tensor of an array, on a device."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device == "cuda" else tensor


if __name__ == "__main__":
    main()

"""What observing costs: ring-nano on the CPU, plain `generate` against what `capture` records.

python benchmarks/bench_observe.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from side_by_side import machine, medians
from transformers import GenerationConfig

import ringlens as rl
from ringlens.observe.batch import left_pad

TOKENS = 256


def main() -> None:
    """Print the ratio of each variant to plain `generate`, batch 1 and 16."""
    torch.set_num_threads(1)
    lens = rl.load("ring-nano")
    # No trace may end early: an id that no text holds ends a trace.
    lens.model.generation_config.eos_token_id = [lens.config.vocab_size - 1]
    print(f"{machine()}, torch {torch.__version__}; {TOKENS} new tokens, float32, one thread")
    for batch in (1, 16):
        problems = rl.problems("countdown", n=batch)
        prompts = [lens.encode_prompt(problem.prompt) for problem in problems]
        ids, mask = left_pad(prompts, lens.pad_token_id, lens.device)
        config = GenerationConfig(
            max_new_tokens=TOKENS, do_sample=False, pad_token_id=lens.pad_token_id
        )

        def plain(ids=ids, mask=mask, config=config):
            with torch.inference_mode():
                lens.model.generate(ids, attention_mask=mask, generation_config=config)

        def capture(*record, problems=problems):
            with tempfile.TemporaryDirectory() as folder:
                rl.capture(
                    lens, problems, Path(folder) / "s", max_new_tokens=TOKENS, record=record
                ).close()

        found = medians(
            {
                "plain generate": plain,
                "tokens": lambda: capture(),
                "tokens + logprobs": lambda: capture("logprobs"),
                "tokens + routing": lambda: capture("routing"),
                "everything": lambda: capture("logprobs", "routing", "router_logits", "heads"),
            }
        )
        for name, seconds in found.items():
            ratio = seconds / found["plain generate"]
            print(f"batch {batch:2d}  {name:18s} {seconds:6.2f} s  {ratio:5.2f}x")


if __name__ == "__main__":
    main()

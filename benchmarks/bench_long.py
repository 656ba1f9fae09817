"""Memory while a very long trace is recorded: it must not grow with what was recorded.

A tiny random Ring (its weights and its cache take next to nothing) replays or writes one trace;
everything is recorded. Printed is the process's resident memory as the trace grows, with the
cache that the model itself keeps beside it; --plain runs the same without recording.

python benchmarks/bench_long.py [--tokens 65536] [--generate] [--plain] [--store FOLDER]
python benchmarks/bench_long.py --model ring-mini --tokens 32768 --generate   # on a GPU
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from ring_sizes import SIZES, random_lens, size_line
from side_by_side import machine
from transformers import PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache

import ringlens as rl
from ringlens.data import tokenizer
from ringlens.lens import Lens
from ringlens.model import BailingMoeV2Config, BailingMoeV2ForCausalLM
from ringlens.observe.session import Progress
from ringlens.observe.tasks import Text

MB = 1e6


def tiny(tokens: int) -> Lens:
    """One dense and one sparse layer with random weights."""
    torch.manual_seed(0)
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer.build())
    config = BailingMoeV2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=64,
        n_group=8,
        topk_group=4,
        num_experts_per_tok=8,
        max_position_embeddings=tokens + 64,
        eos_token_id=len(words) - 1,
    )
    return Lens(BailingMoeV2ForCausalLM(config).eval(), words, "tiny")


def resident() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MB


def plain(lens: Lens, arguments: argparse.Namespace, watch: Callable[[Progress], None]) -> None:
    """The same forwards without recording."""
    done = Progress(0, 1)

    def count(module: object, args: tuple, kwargs: dict) -> None:
        nonlocal done
        done = replace(done, tokens=done.tokens + kwargs["input_ids"].shape[1])
        watch(done)

    ids = torch.randint(0, 20, (1, arguments.tokens), device=lens.model.device)
    handle = lens.model.register_forward_pre_hook(count, with_kwargs=True)
    with torch.inference_mode():
        if arguments.generate:
            new = arguments.tokens - 8
            lens.model.generate(ids[:, :8], max_new_tokens=new, do_sample=False)
        else:
            cache = DynamicCache(config=lens.config)
            for part in ids.split(arguments.prefill, dim=1):
                lens.model(input_ids=part, cache=cache, logits_to_keep=1)
    handle.remove()


def main() -> None:
    """Record one long trace and print how memory went."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = ("tiny", *(name for name in SIZES if name != "tiny"))
    parser.add_argument("--model", choices=sizes, default="tiny", help="others are put on a GPU")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--generate", action="store_true", help="write the trace, token by token")
    parser.add_argument("--plain", action="store_true", help="do not record")
    parser.add_argument("--prefill", type=int, default=1024, help="positions a forward")
    parser.add_argument("--store", help="folder of the store; a temporary one if left out")
    arguments = parser.parse_args()
    small = arguments.model == "tiny"
    lens = tiny(arguments.tokens) if small else random_lens(arguments.model, "cuda")
    start = time.perf_counter()
    config = lens.config
    cache = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim
    cache *= lens.model.dtype.itemsize / MB
    seen, mark = [], arguments.tokens // 8

    lens.model.generation_config.eos_token_id = 10**6  # never

    def watch(progress: Progress) -> None:
        if progress.tokens >= mark * (len(seen) + 1):
            seen.append((progress.tokens, resident()))
            seconds = time.perf_counter() - start
            print(
                f"{progress.tokens:7,} tokens  {seen[-1][1]:7.1f} MB resident  "
                f"{progress.tokens * cache:6.1f} MB cache  {progress.bytes_written / MB:7.1f} MB "
                f"written  {progress.waited:5.1f} s waited  {seconds:6.1f} s",
                flush=True,
            )

    print(f"{machine()}, torch {torch.__version__}; {size_line(lens)}")
    with tempfile.TemporaryDirectory() as temporary:
        store = arguments.store or Path(temporary) / "s"
        if arguments.plain:
            plain(lens, arguments, watch)
        elif arguments.generate:
            tokens = arguments.tokens - 8
            rl.capture(
                lens, ["1 2 3"], store, max_new_tokens=tokens, on_progress=watch, decode="auto"
            ).close()
        else:
            ids = torch.randint(0, 20, (arguments.tokens,)).tolist()
            text = Text(ids, 16)
            rl.replay(lens, [text], store, prefill=arguments.prefill, on_progress=watch).close()
        if not arguments.plain:
            with rl.Store(store) as opened:
                counts = opened.sql("select count(*), (select count(*) from tokens) from routing")
                print("routed rows and tokens in the store:", counts.fetchall()[0])
    if not small:
        print(f"most device memory: {torch.cuda.max_memory_reserved() / 1e9:.1f} GB")
    growth = seen[-1][1] - seen[1][1] - (seen[-1][0] - seen[1][0]) * cache
    print(f"growth from {seen[1][0]:,} tokens to the end, beside the cache: {growth:.1f} MB")


if __name__ == "__main__":
    main()

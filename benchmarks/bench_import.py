"""Import of saved responses at Ring-1T's sizes: tokens a second, beside reading them alone.

Each response is what vLLM sends: token ids and a ``.npy`` of uint8 for all 80 layers in base64,
here of random choices. Reading alone is json.loads and base64.b64decode of the same file; the two
are timed in turn, and the median of the rounds is printed.

    python benchmarks/bench_import.py [--tokens 4096] [--responses 8] [--rounds 3]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ringlens.model import BailingMoeV2Config
from ringlens.serving.importing import import_responses
from ringlens.serving.served_model import ServedModel


def response(model: ServedModel, tokens: int, seed: int) -> dict:
    """An answer of vLLM with random tokens and choices."""
    rng, config = np.random.default_rng(seed), model.config
    scores = rng.random((tokens - 1, config.num_hidden_layers, config.num_experts), np.float32)
    k = config.num_experts_per_tok
    experts = np.argpartition(scores, k, axis=2)[..., :k].astype(np.uint8)
    experts[:, : config.first_k_dense_replace] = 0
    file = io.BytesIO()
    np.save(file, experts)
    ids = rng.integers(100, 1000, tokens).tolist()
    choice = {"prompt_token_ids": ids[:50], "token_ids": ids[50:], "finish_reason": "length"}
    choice |= {"index": 0, "text": "", "routed_experts": base64.b64encode(file.getvalue()).decode()}
    return {"id": f"cmpl-{seed}", "choices": [choice]}


def read_alone(file: Path) -> None:
    for line in file.open():
        base64.b64decode(json.loads(line)["choices"][0]["routed_experts"])


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    nano = ServedModel.read("ring-nano")  # its tokenizer
    published = Path(__file__).parent.parent / "tests" / "configs" / "ring-1t.json"
    config = BailingMoeV2Config.from_dict(json.loads(published.read_text()))
    model = replace(nano, config=config)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "answers.jsonl"
        with file.open("w") as out:
            for seed in range(given.responses):
                print(json.dumps(response(model, given.tokens, seed)), file=out)
        alone, whole = [], []
        for round_ in range(given.rounds):
            store = Path(name) / f"store-{round_}"
            alone.append(timed(lambda: read_alone(file)))
            whole.append(
                timed(lambda: import_responses("vllm", [file], store, model=model).close())  # noqa: B023
            )
        size = sum(f.stat().st_size for f in store.rglob("routing/**/*.parquet"))
    tokens = given.tokens * given.responses
    seconds, ratio = (
        statistics.median(whole),
        statistics.median(w / a for w, a in zip(whole, alone, strict=True)),
    )
    print(f"{tokens:,} tokens of {file.name}, {model.config.num_hidden_layers} layers")
    print(f"import {seconds:.2f} s: {tokens / seconds:,.0f} tokens/s, {ratio:.1f} x reading alone")
    print(f"routing: {size / tokens:,.0f} bytes a token")


if __name__ == "__main__":
    main()

"""Held-out accuracy of ring-nano on every kind of problem, greedy, on one GPU or slowly on a CPU.

python -m ringlens.data.score [--model ring-nano] [--n 1000]
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ringlens.data import path, tokenizer
from ringlens.data.forward import Forward
from ringlens.data.reinforce import answer_of, ask
from ringlens.data.sampling import Sampler
from ringlens.data.tasks.mix import KINDS, Kind, distinct_problems
from ringlens.model import BailingMoeV2ForCausalLM


def score(
    sampler: Sampler, tok: Tokenizer, kind: Kind, n: int, batch: int
) -> Iterator[tuple[bool, bool]]:
    """For held-out problems of a kind: whether its answer is right, whether it ended."""
    rng = random.Random(f"prompts of {kind.name}")
    asked = [
        ask(tok, kind, fields, kind.prompt(rng, fields))
        for fields in islice(distinct_problems(kind, heldout=True, seed="heldout"), n)
    ]
    for first in range(0, len(asked), batch):
        some = asked[first : first + batch]
        samples = sampler([question.ids for question in some])
        lengths = samples.lengths_B.tolist()
        for question, ids, length in zip(some, samples.tokens_BT.tolist(), lengths, strict=True):
            answer = answer_of(tok, ids[len(question.ids) : length])
            right = answer is not None and question.kind.verify(question.fields, answer)
            yield right, answer is not None


def scores(folder: Path, n: int, batch: int, longest: int, device: str) -> dict[str, Any]:
    """Accuracy of a model on every kind, with standard errors."""
    model = BailingMoeV2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tok = tokenizer.build()
    forward = Forward(model.to(device).eval(), compiled=False)
    sampler = Sampler(forward, batch, longest, tok.get_vocab_size(), temperature=0.0)
    found = {}
    for kind in KINDS:
        told = list(score(sampler, tok, kind, n, batch))
        share = sum(right for right, _ in told) / len(told)
        found[kind.name] = {
            "problems": len(told),
            "accuracy": share,
            "standard_error": (share * (1 - share) / len(told)) ** 0.5,
            "unfinished": sum(not ended for _, ended in told),
        }
    return found


def main() -> None:
    """Print the held-out accuracy of every kind as JSON."""
    parser = argparse.ArgumentParser(description="Held-out accuracy of ring-nano, greedy.")
    parser.add_argument("--model", default="ring-nano", help="a bundled name or a folder")
    parser.add_argument("--n", type=int, default=1000, help="problems of each kind")
    parser.add_argument("--batch", type=int, default=500, help="problems at a time")
    parser.add_argument("--longest", type=int, default=768, help="tokens with the prompt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    folder = Path(options.model)
    folder = folder if folder.is_dir() else path(options.model)
    found = scores(folder, options.n, options.batch, options.longest, options.device)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

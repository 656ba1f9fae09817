"""Held-out accuracy of ring-nano, greedy, on three and on four numbers.

python -m ringlens.data.evaluate [--n 200] [--model ring-nano]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from ringlens.data import countdown, path, sets
from ringlens.errors import ModelNotFoundError
from ringlens.problem import Grade, Problem, grade
from ringlens.transcript import parse


@dataclass(frozen=True)
class Result:
    """A model's text for a problem: the completion, its tokens, and the grade."""

    problem: Problem
    completion: str
    tokens: int
    grade: Grade

    @property
    def dead_ends(self) -> int:
        """How often the model said that it went back."""
        return self.completion.count("Wait, that is a dead end.")


def load(name: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model (float32 on the CPU, else bfloat16) and tokenizer of "ring-nano" or of a folder."""
    folder = path(name) if name == "ring-nano" else Path(name)
    if not folder.is_dir():
        raise ModelNotFoundError(f"no model in {folder}: give ring-nano or a folder.")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: list[Problem],
    max_new_tokens: int,
) -> list[Result]:
    """Let the model answer a batch of problems greedily, and grade it."""
    chats = [[{"role": "user", "content": problem.prompt}] for problem in problems]
    texts = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    output_ids = model.generate(
        **inputs.to(model.device), max_new_tokens=max_new_tokens, do_sample=False
    )
    results = []
    new_ids = output_ids[:, inputs["input_ids"].shape[1] :]
    for problem, prompt, ids in zip(problems, texts, new_ids, strict=True):
        kept = ids[ids != tokenizer.pad_token_id]
        text = tokenizer.decode(kept, skip_special_tokens=False)
        whole = parse(prompt + text, prompt_end=len(prompt), written=True, question=problem.prompt)
        results.append(Result(problem, text, len(kept), grade(problem, whole)))
    return results


def report(results: list[Result]) -> str:
    """One line: accuracy, how often no answer came, tokens, dead ends walked into."""
    n = len(results)
    right = sum(result.grade.correct is True for result in results)
    silent = sum(result.grade.answer is None for result in results)
    tokens = sum(result.tokens for result in results)
    ends = Counter(min(result.dead_ends, 5) for result in results)
    shares = ", ".join(f"{'5+' if k == 5 else k}: {100 * ends[k] / n:.0f}%" for k in range(6))
    return (
        f"{right}/{n} right ({100 * right / n:.1f}%), {silent} unfinished, "
        f"{tokens / n:.0f} tokens on average; dead ends {shares}"
    )


def main() -> None:
    """Print the held-out accuracy."""
    parser = argparse.ArgumentParser(description="Held-out accuracy of ring-nano, greedy.")
    parser.add_argument("--n", type=int, default=sets.BUNDLED, help="problems of each size")
    parser.add_argument("--model", default="ring-nano", help="ring-nano or a folder")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=100, help="problems at a time")
    parser.add_argument("--max-new-tokens", type=int, default=640)
    options = parser.parse_args()
    model, tokenizer = load(options.model, options.device)
    for size in countdown.SIZES:
        drawn = islice(sets.draw("heldout", size), options.n)
        problems = [Problem(**row) for row in drawn]
        start = time.monotonic()
        results = [
            result
            for first in range(0, len(problems), options.batch)
            for result in answer(
                model, tokenizer, problems[first : first + options.batch], options.max_new_tokens
            )
        ]
        seconds = time.monotonic() - start
        print(f"{size} numbers: {report(results)} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

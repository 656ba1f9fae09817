"""Reinforcement learning of ring-nano with verifiable rewards (GRPO), on one GPU.

    python -m ringlens.data.reinforce --init BASE --out DIR

Every step asks problems that training may see, lets the model answer each a number of times, and
rewards answers that verify with 1, all others with 0. A trace's advantage is its reward minus the
mean of its problem (DeepSeekMath, arXiv 2402.03300; not divided by the standard deviation, arXiv
2503.20783); the policy gradient is clipped as in PPO, with more room above than below (DAPO, arXiv
2503.14476). There is no penalty towards the base, and the routers' biases stay as they are. What is
saved is the mean of the weights over the second half.

Shape letters: B traces, T tokens of the longest, P tokens that the model wrote, V vocabulary.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from ringlens.data import corpus, tokenizer
from ringlens.data.forward import Forward
from ringlens.data.sampling import Sampler, Samples
from ringlens.data.tasks.mix import KINDS, Kind, training_problem
from ringlens.data.train import asked, float_copies, logits_of, save, to
from ringlens.distil.optimizer import Copies
from ringlens.model import BailingMoeV2ForCausalLM

LOG_EVERY = 10
"""Steps between two rows of the log."""
SHARES = {
    "three numbers": 0.16,
    "four numbers": 0.52,
    "graphs": 0.06,
    "congruences": 0.08,
    "products": 0.18,
}
"""How often each kind of problem is asked."""


@dataclass(frozen=True)
class Recipe:
    """How to reinforce.

    Attributes:
        init: Folder of the model to go on from.
        steps: Batches of answers to learn from.
        minutes: Learning stops by then; the schedule follows whichever is further spent.
        problems: Problems of a batch.
        answers: Answers to each problem.
        longest: Tokens of a trace at most, its prompt counted.
        temperature: Of sampling.
        updates: Steps of the optimiser that one batch is divided into.
        clip_low: How far below 1 a ratio of probabilities may go before its gradient is cut.
        clip_high: How far above.
        batch_tokens: Tokens of one forward, padding counted.
        learning_rate: Peak; it falls to a tenth.
        warmup_steps: Batches over which the learning rate rises.
        weight_decay: Of matrices.
        seed: Of the problems and of the sampling.
    """

    init: str = ""
    steps: int = 600
    minutes: float = 60.0
    problems: int = 256
    answers: int = 16
    longest: int = 672
    temperature: float = 0.8
    updates: int = 2
    clip_low: float = 0.2
    clip_high: float = 0.28
    batch_tokens: int = 131_072
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    weight_decay: float = 0.0
    seed: int = 1


@dataclass(frozen=True)
class Question:
    """A problem that is asked: its kind, its fields, and its prompt as tokens."""

    kind: Kind
    fields: dict[str, Any]
    ids: list[int]


def questions(tok: Tokenizer, seed: int) -> Iterator[Question]:
    """Endless problems that training may see."""
    rng = random.Random(f"reinforce {seed}")
    while True:
        (kind,) = rng.choices(KINDS, [SHARES[kind.name] for kind in KINDS])
        fields = training_problem(rng, kind)
        yield ask(tok, kind, fields, kind.prompt(rng, fields))


def ask(tok: Tokenizer, kind: Kind, fields: dict[str, Any], prompt: str) -> Question:
    """A question whose thought is opened."""
    whole = tokenizer.render(prompt, "<think>\n").removesuffix(tokenizer.EOS)
    return Question(kind, fields, tok.encode(whole).ids)


def answer_of(tok: Tokenizer, ids: list[int]) -> str | None:
    """The answer of a trace that ended: what stands behind its one ``</think>``; else None."""
    closed: Any = tok.token_to_id("</think>")
    if ids.count(closed) != 1 or ids[-1] != tok.token_to_id(tokenizer.EOS):
        return None
    lines = tok.decode(ids[ids.index(closed) + 1 :]).strip().splitlines()
    return lines[-1] if lines else None


def rewards(tok: Tokenizer, asked: list[Question], samples: Samples) -> np.ndarray:
    """1 for every trace that ended with a right answer, else 0; [B]."""
    lengths = samples.lengths_B.tolist()
    found = np.zeros(len(asked), np.float32)
    for row, (question, ids) in enumerate(zip(asked, samples.tokens_BT.tolist(), strict=True)):
        answer = answer_of(tok, ids[len(question.ids) : lengths[row]])
        found[row] = answer is not None and question.kind.verify(question.fields, answer)
    return found


def reinforce(
    recipe: Recipe, device: str
) -> tuple[BailingMoeV2ForCausalLM, list[dict[str, float]]]:
    """Reinforce a model.

    Returns:
        The model (bfloat16) and a log: means of every ``LOG_EVERY`` steps.
    """
    torch.manual_seed(recipe.seed)
    tok = tokenizer.build()
    model = BailingMoeV2ForCausalLM.from_pretrained(recipe.init, dtype=torch.float32)
    model = model.to(device).train()
    weights = float_copies(model, recipe.learning_rate, recipe.weight_decay)
    forward = Forward(model, compiled=device == "cuda")
    size = recipe.problems * recipe.answers
    sampler = Sampler(forward, size, recipe.longest, tok.get_vocab_size(), recipe.temperature)
    source = questions(tok, recipe.seed)
    log: list[dict[str, float]] = []
    seen: list[dict[str, float]] = []
    average = Average()
    start = 0.0
    for step in range(recipe.steps):
        asked = [next(source) for _ in range(recipe.problems)]
        asked = [question for question in asked for _ in range(recipe.answers)]
        samples = sampler([question.ids for question in asked])
        reward_B = rewards(tok, asked, samples)
        seconds = time.monotonic() - start if start else 0.0
        progress = max((step + 1) / recipe.steps, seconds / 60 / recipe.minutes)
        rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps)
        told = learn(forward, weights, recipe, samples, reward_B, rate * (1 - 0.9 * progress))
        if progress > 0.5:
            average.add(weights.tensors)
        seen.append({**report(asked, samples, reward_B), **told})
        if step % LOG_EVERY == LOG_EVERY - 1 or progress >= 1:
            means = {key: mean_of([row[key] for row in seen]) for key in seen[0]}
            log.append({"step": step + 1, **means, "seconds": seconds})
            print(" ".join(f"{key} {value:.4g}" for key, value in log[-1].items()), flush=True)
            seen = []
        start = start or time.monotonic()  # whatever is compiled has been: the clock runs
        if progress >= 1:
            break
    average.give(weights.live)
    return model.eval(), log


def mean_of(values: list[float]) -> float:
    """The mean of those that are numbers; not a number if none is."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


class Average:
    """The mean of weights over steps, which holds less of their noise than the last ones."""

    def __init__(self) -> None:
        self.count, self.means = 0, list[Tensor]()

    @torch.no_grad()
    def add(self, weights: list[Tensor]) -> None:
        """Take the weights of one more step into the mean."""
        self.count += 1
        if self.count == 1:
            self.means = [each.clone() for each in weights]
        torch._foreach_lerp_(self.means, weights, 1 / self.count)

    @torch.no_grad()
    def give(self, weights: list[nn.Parameter]) -> None:
        """Set weights to the mean, if there is one."""
        for each, mean in zip(weights, self.means, strict=False):
            each.copy_(mean)


def learn(
    forward: Forward,
    weights: Copies,
    recipe: Recipe,
    samples: Samples,
    reward_B: np.ndarray,
    learning_rate: float,
) -> dict[str, float]:
    """Learn from a batch, problems that all answers agree on left out; how it went."""
    by_problem = reward_B.reshape(recipe.problems, recipe.answers)
    advantage_B = (by_problem - by_problem.mean(axis=1, keepdims=True)).ravel()
    split = np.repeat((by_problem.std(axis=1) > 0), recipe.answers)
    rows = np.flatnonzero(split).reshape(-1, recipe.answers)
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    ratios, cut, tokens = [], [], 0
    device = str(samples.tokens_BT.device.type)
    host = {
        "tokens": samples.tokens_BT.cpu().numpy(),
        "prompts": samples.prompts_B.cpu().numpy(),
        "lengths": samples.lengths_B.cpu().numpy(),
        "logp": samples.logp_BT.cpu().numpy(),
    }
    for part in np.array_split(order, recipe.updates):
        chosen = rows[part].ravel()
        if not len(chosen):
            continue
        total = int((host["lengths"] - host["prompts"])[chosen].sum())
        for group in groups(chosen, host["lengths"], recipe.batch_tokens):
            batch, row_P = written(host, group)
            logits_PV, _ = logits_of(forward, batch, device)
            target_P = to(batch.targets_P, device)
            logp_P = (logits_PV / recipe.temperature).log_softmax(-1)
            logp_P = logp_P.gather(1, target_P[:, None])[:, 0]
            width = batch.input_ids_BT.shape[1]
            old_P = to(host["logp"][group][row_P, batch.positions_P % width + 1], device)
            loss, ratio, clipped = clipped_loss(
                logp_P, old_P, to(advantage_B[group][row_P], device), recipe
            )
            (loss / total).backward()
            ratios.append(ratio)
            cut.append(clipped)
            tokens += len(row_P)
        weights.step(learning_rate)
    count = max(tokens, 1)
    return {
        "split": float(split.mean()),
        "drift": float(torch.stack(ratios).sum()) / count if ratios else 0.0,
        "clipped": float(torch.stack(cut).sum()) / count if cut else 0.0,
    }


def clipped_loss(
    logp_P: Tensor, old_P: Tensor, advantage_P: Tensor, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """The clipped objective, summed over tokens; the sum of |ratio - 1|; how many were clipped."""
    ratio_P = (logp_P - old_P).exp()
    near_P = ratio_P.clamp(1 - recipe.clip_low, 1 + recipe.clip_high)
    loss_P = -torch.minimum(ratio_P * advantage_P, near_P * advantage_P)
    drift = (ratio_P.detach() - 1).abs().sum()
    return loss_P.sum(), drift, (ratio_P != near_P).sum().float()


def groups(chosen: np.ndarray, lengths_B: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Traces of like length together, each group of ``batch_tokens`` at most."""
    order = chosen[np.argsort(-lengths_B[chosen], kind="stable")]
    at = 0
    while at < len(order):
        size = max(1, batch_tokens // int(lengths_B[order[at]]))
        yield order[at : at + size]
        at += size


def written(host: dict[str, np.ndarray], group: np.ndarray) -> tuple[corpus.Batch, np.ndarray]:
    """Traces as a batch whose learnt positions are the tokens written; the row [P] of each."""
    lengths, prompts = host["lengths"][group], host["prompts"][group]
    ids = np.ascontiguousarray(host["tokens"][group, : lengths.max()])
    column = np.arange(ids.shape[1])
    learnt = (column >= prompts[:, None]) & (column < lengths[:, None])
    row, at = np.nonzero(learnt)
    positions = row * ids.shape[1] + at - 1
    return corpus.Batch(ids, lengths, positions, ids[row, at]), row


def report(asked: list[Question], samples: Samples, reward_B: np.ndarray) -> dict[str, float]:
    """Mean reward of all and of each kind, tokens written, and the share that ended."""
    names = np.array([question.kind.name for question in asked])
    means = {
        kind.name: float(reward_B[names == kind.name].mean()) if kind.name in names else np.nan
        for kind in KINDS
    }
    wrote = (samples.lengths_B - samples.prompts_B).float().mean().item()
    ended = samples.ended_B.float().mean().item()
    return {"reward": float(reward_B.mean()), **means, "tokens": wrote, "ended": ended}


def main() -> None:
    """Reinforce and save."""
    recipe, out, device = asked(Recipe, "Reinforce ring-nano with verifiable rewards.")
    model, log = reinforce(recipe, device)
    save(out, model, recipe, log)


if __name__ == "__main__":
    main()

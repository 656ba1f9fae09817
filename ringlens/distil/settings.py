"""How a student learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ringlens.config import known_only, number, whole

PARTS = ("all", "routers")
"""What may learn: every weight, or the routers alone."""


@dataclass(frozen=True)
class Distillation:
    """How a student learns from a teacher.

    Attributes:
        tokens: Tokens to learn from; texts come again, in another order, until there are so many.
        batch_tokens: Tokens of a step, padding counted; a longer text is a step of its own.
        learning_rate: Peak of the learning rate, which falls to 0 as half a cosine.
        warmup_steps: Steps over which it rises.
        weight_decay: Of matrices; vectors have none.
        temperature: What both models' logits are divided by.
        bias_step: Step of the selection biases, which keeps experts evenly used; 0 leaves them.
        held_out: Share of the problems whose texts are not learnt from, but measured on.
        parts: What learns, one of `PARTS`.
        every: Steps between two rows of the curve; progress is kept as often.
        seed: Of the order of texts, and of which problems are held out.

    Raises:
        ConfigError: A value out of range.
    """

    tokens: int = 2_000_000
    batch_tokens: int = 8192
    learning_rate: float = 5e-4
    warmup_steps: int = 20
    weight_decay: float = 0.0
    temperature: float = 1.0
    bias_step: float = 1e-3
    held_out: float = 0.1
    parts: str = "all"
    every: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range, and turn the others into Python's own numbers."""
        known_only([self.parts], PARTS, "part that learns")
        fixed: dict[str, Any] = {
            "tokens": whole("tokens", self.tokens, 1, 10**15),
            "batch_tokens": whole("batch_tokens", self.batch_tokens, 1),
            "learning_rate": number("learning_rate", self.learning_rate, 1e-30, 1.0),
            "warmup_steps": whole("warmup_steps", self.warmup_steps, 0),
            "weight_decay": number("weight_decay", self.weight_decay, 0, 10.0),
            "temperature": number("temperature", self.temperature, 1e-3, 1e3),
            "bias_step": number("bias_step", self.bias_step, 0, 1.0),
            "held_out": number("held_out", self.held_out, 0, 0.9),
            "every": whole("every", self.every, 1),
            "seed": whole("seed", self.seed, 0),
        }
        for name, value in fixed.items():
            object.__setattr__(self, name, value)

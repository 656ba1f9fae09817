"""What a distillation did, step by step and in the end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ringlens.display import html_facts, lines

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One row of the curve.

    Attributes:
        step: Steps that were taken.
        tokens: Tokens that were learnt from.
        loss: Mean divergence of the steps since the row before, in nats a token; NaN at step 0.
        agreement: Share of their positions at which both models find the same token most likely.
        held_out: Divergence on the texts held out; NaN where there are none.
        held_out_agreement: Agreement on them.
        load: Load of the most used expert over the mean one, the mean of layers and steps.
        rate: Learning rate of the last step.
    """

    step: int
    tokens: int
    loss: float
    agreement: float
    held_out: float
    held_out_agreement: float
    load: float
    rate: float


@dataclass(frozen=True)
class Distilled:
    """A distilled model.

    Attributes:
        folder: Its checkpoint.
        teacher: The model that it learnt from.
        curve: What was measured, from before the first step to behind the last.
    """

    folder: Path
    teacher: str
    curve: tuple[Row, ...]

    @property
    def frame(self) -> pd.DataFrame:
        """The curve as a table, a row a `Row`."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.curve])

    def _facts(self) -> dict[str, str]:
        first, last = self.curve[0], self.curve[-1]
        facts = {
            "checkpoint": str(self.folder),
            "teacher": self.teacher,
            "steps": f"{last.step:,}, {last.tokens:,} tokens",
            "loss": f"{last.loss:.4g} nats a token, same token at {last.agreement:.1%}",
        }
        if first.held_out == first.held_out:  # not NaN
            facts["held out"] = (
                f"{first.held_out:.4g} → {last.held_out:.4g} nats a token, same token at "
                f"{first.held_out_agreement:.1%} → {last.held_out_agreement:.1%}"
            )
        return facts

    def __repr__(self) -> str:
        return lines("Distilled", *(f"{name}: {said}" for name, said in self._facts().items()))

    def _repr_html_(self) -> str:
        return html_facts("Distilled", self._facts())

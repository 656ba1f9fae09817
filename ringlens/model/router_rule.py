"""How a router chooses experts, as data: what kernels, stores and checks of any family read.

z router logits, s affinities, b selection bias, c selection scores. The router scores the experts,
may drop whole groups of them, chooses the k largest c that are left, and weighs the chosen experts
by their s.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ringlens.errors import ConfigError

Score = Literal["sigmoid", "softmax", "softmax_chosen", "sqrt_softplus"]
"""How s follows from z. With "softmax_chosen" the router compares logits, and weighs the chosen
experts by the softmax over them alone; s is then the softmax over all experts."""

Bias = Literal["none", "scores", "logits"]
"""What the selection bias is added to: c = s + b, or c = score(z + b). It never enters weights."""

GroupScore = Literal["none", "sum_of_two", "maximum"]
"""What ranks groups: nothing (there are none), the sum of a group's two best c, or its best c."""

WORDS: dict[str, tuple[str, ...]] = {
    "score": get_args(Score),
    "bias": get_args(Bias),
    "group_score": get_args(GroupScore),
}


@dataclass(frozen=True)
class RouterRule:
    """How the routers of a model choose.

    Attributes:
        experts: Routed experts of a layer, E.
        experts_per_token: Experts chosen for a token, k.
        groups: Groups that the experts are divided into, side by side; 1 where there are none.
        groups_kept: Groups whose experts may be chosen.
        routed_scaling_factor: Factor on the weights.
        score: How affinities follow from logits.
        bias: What the selection bias is added to.
        group_score: What ranks the groups.
        renormalised: Whether the weights of the chosen experts are divided by their sum.
        shared_experts: Experts that take every token, beside the routed ones.

    Raises:
        ConfigError: The values contradict each other.
    """

    experts: int
    experts_per_token: int
    groups: int
    groups_kept: int
    routed_scaling_factor: float
    score: Score
    bias: Bias
    group_score: GroupScore
    renormalised: bool
    shared_experts: int = 0

    def __post_init__(self) -> None:
        for name, known in WORDS.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"router rule: {name} = {getattr(self, name)!r}; it must be "
                    f"{' or '.join(map(repr, known))}."
                )
        size, rest = divmod(self.experts, max(self.groups, 1))
        fits = self.groups >= 1 and not rest and 1 <= self.groups_kept <= self.groups
        if not fits or not 1 <= self.experts_per_token <= self.groups_kept * size:
            raise ConfigError(
                f"router rule: {self.experts_per_token} of {self.experts} experts in "
                f"{self.groups_kept} of {self.groups} groups cannot be chosen. Groups must divide "
                "the experts, and those that stay must hold as many as are chosen."
            )
        if self.group_score == "none" and self.groups > 1:
            raise ConfigError(f"router rule: {self.groups} groups, but no score that ranks them.")
        if self.group_score == "sum_of_two" and size < 2:
            raise ConfigError("router rule: a group's two best scores, but groups of one expert.")

    @property
    def words(self) -> dict[str, Any]:
        """What the sizes do not tell, for the record of a run."""
        told = ("score", "bias", "group_score", "renormalised", "shared_experts")
        return {name: value for name, value in asdict(self).items() if name in told}

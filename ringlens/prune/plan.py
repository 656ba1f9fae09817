"""Plans of pruning: which experts of each layer stay.

A router that limits groups cuts the experts into groups of equal size by their position. So every
group of every layer keeps the same number m of experts, in their order. Two of a group are needed
to rank it, and the groups that are kept for a token must hold as many experts as it is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.display import lines, plural, spans
from ringlens.errors import ConfigError
from ringlens.model.router_rule import RouterRule
from ringlens.strict_json import parsed_object

if TYPE_CHECKING:
    from ringlens.model.sizes import Sizes

FORMAT = 1
LIMIT = 64 * 2**20


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """Which experts of each sparse layer stay.

    Attributes:
        model: Name of the model that it is about.
        criterion: What ranked the experts.
        experts: Experts of a layer before.
        groups: Groups that a layer's experts are divided into; 1 where there are none.
        kept: Ids of the experts that stay, ascending, by layer.
        protected: Super experts, which stay whatever their rank, by layer; None where nothing was
            recorded that would tell them.
        where: The tokens that the criterion looked at, a predicate over `token_context`.
        tokens: Tokens that it looked at, in the layer with most.
        seed: Seed of a random criterion; None for any other.
        carried: Share of the choices of those tokens that kept experts had, by layer.
        merged: For each dropped expert the kept one that it is merged into, and its share in the
            average, by layer; None where dropped experts are lost.
        unknown: Names of models whose runs ranked the experts, and that could not be told to be
            this one.

    Raises:
        ConfigError: Layers or groups keep different numbers, an id is no expert's, a super expert
            does not stay, an expert is merged into one that does not, or the experts do not divide
            into the groups.
    """

    model: str
    criterion: str
    experts: int
    groups: int
    kept: Mapping[int, tuple[int, ...]]
    protected: Mapping[int, tuple[int, ...]] | None
    where: str
    tokens: int
    seed: int | None
    carried: Mapping[int, float]
    merged: Mapping[int, Mapping[int, tuple[int, float]]] | None = None
    unknown: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if min(self.experts, self.groups) < 1 or self.experts % self.groups:
            raise ConfigError(
                f"a pruning plan is about {self.experts} experts in {self.groups} groups, which "
                "cannot be of equal size; write one with ringlens prune --save."
            )
        self._check_kept()
        self._check_named()
        self._check_merged()

    def _check_kept(self) -> None:
        size = self.experts // self.groups
        for layer, ids in self.kept.items():
            each = [sum(e // size == group for e in ids) for group in range(self.groups)]
            sound = list(ids) == sorted(set(ids)) and all(0 <= e < self.experts for e in ids)
            if not sound or each != [self.per_group] * self.groups:
                raise ConfigError(
                    f"layer {layer} of a pruning plan keeps {each} experts of its groups; it must "
                    f"keep {self.per_group} of each group, their ids ascending from 0 to "
                    f"{self.experts - 1}."
                )

    def _check_named(self) -> None:
        known = {"protected": self.protected, "carried": self.carried, "merged": self.merged}
        for what, by_layer in known.items():
            if strange := sorted(set(by_layer or {}) - set(self.kept)):
                raise ConfigError(
                    f"a pruning plan has layers {strange[:8]} in {what!r}, which it keeps no "
                    f"experts of; its layers are {spans(self.layers)}."
                )
        for layer, ids in (self.protected or {}).items():
            if gone := sorted(set(ids) - set(self.kept[layer])):
                raise ConfigError(
                    f"layer {layer} of a pruning plan protects experts {gone[:8]}, which are not "
                    "among those that stay."
                )

    def _check_merged(self) -> None:
        for layer, joins in (self.merged or {}).items():
            kept, dropped = self.kept[layer], self.dropped(layer)
            for expert, (to, share) in joins.items():
                if expert not in dropped or to not in kept or not 0 <= share <= 1:
                    raise ConfigError(
                        f"layer {layer} of a pruning plan merges expert {expert} into {to} with a "
                        f"share of {share:g}; dropped experts merge into kept ones, from 0 to 1."
                    )

    @property
    def layers(self) -> tuple[int, ...]:
        """The sparse layers."""
        return tuple(self.kept)

    @property
    def left(self) -> int:
        """Experts that stay in each layer."""
        return len(next(iter(self.kept.values()), ()))

    @property
    def per_group(self) -> int:
        """Experts that stay in each group of each layer, m."""
        return self.left // self.groups

    def fits(self, sizes: Sizes) -> bool:
        """Whether a model of these sizes has the layers, experts and groups that it names."""
        rule = sizes.router
        theirs = (rule.experts, rule.groups, tuple(sizes.sparse_layers))
        return (self.experts, self.groups, self.layers) == theirs

    def dropped(self, layer: int) -> tuple[int, ...]:
        """Ids of the experts that go, ascending."""
        kept = set(self.kept[layer])
        return tuple(expert for expert in range(self.experts) if expert not in kept)

    def members(self, layer: int, kept: int) -> dict[int, float]:
        """The experts that a kept one is the average of, itself first, each with its share."""
        joins = {} if self.merged is None else self.merged.get(layer, {})
        others = {e: share for e, (to, share) in joins.items() if to == kept and share > 0}
        return {kept: 1 - sum(others.values()), **others}

    def __repr__(self) -> str:
        size, count = self.experts // self.groups, len(self.layers)
        tried = "" if self.seed is None else f", seed {self.seed}"
        grouped = f" ({self.per_group} of {size} in each of {self.groups} groups)"
        return lines(
            f"PruningPlan({self.model!r}, {self.criterion}{tried}): {self.left} of {self.experts} "
            f"experts a layer stay{grouped if self.groups > 1 else ''}",
            f"layers {spans(self.layers)}: {count * self.left:,} of {count * self.experts:,} "
            "experts",
            f"looked at {plural(self.tokens, 'token')} where {self.where}",
            self._carrying(),
            self._protecting(),
            *self._merging(),
            *self._doubting(),
            most=8,
        )

    def _carrying(self) -> str:
        if not self.carried:
            return "what the kept experts carried is not known"
        least = min(self.carried, key=lambda layer: self.carried[layer])
        mean = sum(self.carried.values()) / len(self.carried)
        return (
            f"kept experts had {mean:.1%} of the choices, least in layer {least}: "
            f"{self.carried[least]:.1%}"
        )

    def _protecting(self) -> str:
        if self.protected is None:
            return "super experts were not looked for: no run has expert_outputs"
        named = [f"{layer}/{e}" for layer, ids in self.protected.items() for e in ids]
        return f"super experts that stay: {', '.join(named) or 'there are none'} (layer/expert)"

    def _merging(self) -> list[str]:
        if self.merged is None:
            return []
        shares = [share for joins in self.merged.values() for _, share in joins.values()]
        joined = sum(share > 0 for share in shares)
        mean = sum(shares) / max(len(shares), 1)
        return [f"{joined} dropped experts merge into kept ones, with a mean share of {mean:.1%}"]

    def _doubting(self) -> list[str]:
        if not self.unknown:
            return []
        named = ", ".join(map(repr, self.unknown))
        return [f"ranked by runs of {named}: whether that is this model cannot be told"]

    def to_json(self) -> str:
        """Write it as JSON, which `from_json` reads."""
        values = {
            "format": FORMAT,
            "model": self.model,
            "criterion": self.criterion,
            "experts": self.experts,
            "groups": self.groups,
            "experts_left": self.left,
            "where": self.where,
            "tokens": self.tokens,
            "seed": self.seed,
            "kept": _listed(self.kept),
            "protected": None if self.protected is None else _listed(self.protected),
            "carried": {str(layer): share for layer, share in self.carried.items()},
            "merged": None
            if self.merged is None
            else {
                str(layer): {str(expert): [*join] for expert, join in joins.items()}
                for layer, joins in self.merged.items()
            },
            "unknown": list(self.unknown),
        }
        return json.dumps(values, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, place: str = "a pruning plan") -> PruningPlan:
        """Read what `to_json` wrote.

        Args:
            text: The JSON.
            place: Where it stands, for messages.

        Raises:
            ConfigError: It is no plan.
        """
        values = parsed_object(text, place, ConfigError)
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']!r:.20}, where this ringlens reads 1")
            protected = values["protected"]
            return cls(
                model=str(values["model"]),
                criterion=str(values["criterion"]),
                experts=_whole(values["experts"]),
                groups=_whole(values["groups"]) or 1,
                kept=_by_layer(values["kept"]),
                protected=None if protected is None else _by_layer(protected),
                where=str(values["where"]),
                tokens=_whole(values["tokens"]),
                seed=None if values["seed"] is None else _whole(values["seed"]),
                carried={int(k): float(v) for k, v in values["carried"].items()},
                merged=_merges(values.get("merged")),
                unknown=_names(values.get("unknown", [])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{place} is no pruning plan ({type(error).__name__}: {error}); write one with "
                "ringlens prune --save."
            ) from error

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write it to a file.

        Raises:
            ConfigError: The file cannot be written.
        """
        try:
            Path(file).write_text(self.to_json(), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write the plan {str(file)!r}: {error.strerror}.") from error


def read_plan(file: str | os.PathLike[str]) -> PruningPlan:
    """Read a plan from a file.

    Raises:
        ConfigError: There is none, or it is no plan.
    """
    try:
        with Path(file).open(encoding="utf-8") as opened:
            text = opened.read(LIMIT)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the plan {str(file)!r}: {error}.") from error
    return PruningPlan.from_json(text, str(file))


def kept_per_group(keep: str | float, rule: RouterRule) -> int:
    """Read how many experts each group of each layer keeps, m.

    Args:
        keep: A share of the experts, such as 0.5 or "50%", or their number in a layer, such as 128.
        rule: The model's router.

    Raises:
        ConfigError: It is neither; the groups cannot keep equal numbers of so many; or a router
            could not choose among so few.
    """
    wanted, (size, groups) = _wanted(keep, rule), (rule.experts // rule.groups, rule.groups)
    least = fewest_per_group(rule)
    per_group = wanted / groups
    if per_group.denominator != 1:
        below = max(int(per_group), least) * groups
        above = min(max(int(per_group), least) + 1, size) * groups
        raise ConfigError(
            f"keep = {keep}: {float(wanted):g} experts a layer do not divide into {groups} groups "
            f"of equal size; keep {below} or {above} (a share of {below / rule.experts:.4g} or "
            f"{above / rule.experts:.4g})."
        )
    if not least <= per_group <= size:
        raise ConfigError(
            f"keep = {keep} leaves {int(wanted)} of {rule.experts} experts a layer, "
            f"{int(per_group)} in each of {groups} groups of {size}. {_why(rule, least)} Keep "
            f"{least * groups} to {rule.experts}."
        )
    return int(per_group)


def fewest_per_group(rule: RouterRule) -> int:
    """The fewest experts of a group that the router can work with."""
    enough = -(-rule.experts_per_token // rule.groups_kept)
    return max(2 if rule.group_score == "sum_of_two" else 1, enough)


def _why(rule: RouterRule, least: int) -> str:
    return (
        f"A token is given {rule.experts_per_token} experts of {rule.groups_kept} groups"
        + (", and two experts rank a group" if rule.group_score == "sum_of_two" else "")
        + f": each group must keep {least} or more."
    )


def _wanted(keep: str | float, rule: RouterRule) -> Fraction:
    """Experts of a layer that stay, as asked for."""
    text = str(keep).strip()
    try:
        value = Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    is_share = text.endswith("%") or "." in text or "/" in text
    if value <= 0 or (is_share and value > 1):
        raise ConfigError(
            f"keep = {str(keep)!r:.40}; give a share of the experts, such as 0.5, or their number "
            f"in a layer, such as {rule.experts // 2}."
        )
    return value * rule.experts if is_share else value


def _listed(ids: Mapping[int, tuple[int, ...]]) -> dict[str, list[int]]:
    return {str(layer): list(experts) for layer, experts in ids.items()}


def _by_layer(values: Mapping[str, Any]) -> dict[int, tuple[int, ...]]:
    found = {int(layer): tuple(map(_whole, ids)) for layer, ids in values.items()}
    return dict(sorted(found.items()))


def _merges(values: Any) -> dict[int, dict[int, tuple[int, float]]] | None:
    if values is None:
        return None
    return {
        int(layer): {int(e): (_whole(to), float(share)) for e, (to, share) in joins.items()}
        for layer, joins in values.items()
    }


def _names(values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise ValueError(f"{values!r:.40} is no list of names")
    return tuple(values)


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no whole number")
    return value

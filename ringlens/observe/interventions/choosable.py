"""Whether routers can still choose: what is refused before a model runs.

A router keeps some groups and chooses k experts in them. Where experts are taken away, groups may
be left that hold too few, and the router would choose experts that were taken away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ringlens.errors import ConfigError
from ringlens.interventions import Ablate, Boost, Force, Intervention, RouteAround
from ringlens.interventions.experts import EditsScores
from ringlens.interventions.place import PHASES
from ringlens.model.router_rule import RouterRule


def check_choosable(interventions: Sequence[Intervention], rule: RouterRule) -> None:
    """Refuse edits of scores after which some router may lack k experts to choose.

    Raises:
        ConfigError: It may; or more is forced than a router chooses, or the same expert is both
            taken away and boosted or forced.
    """
    edits = [each for each in interventions if isinstance(each, EditsScores)]
    for layer in sorted({layer for each in edits for layer in each.layers or ()}):
        here = [each for each in edits if layer in (each.layers or ())]
        for together in _together(here):
            _check(layer, together, rule)


def _together(edits: Sequence[EditsScores]) -> Iterator[list[EditsScores]]:
    """Which of them may act at one token: by phase, and by positions between two ends of spans."""
    ends = {0}
    for each in edits:
        ends.update(end for end in each.place.span if end is not None)
    last = max(ends)
    for start, _ in pairwise([*sorted(ends), last + 1]):
        for phase in PHASES:
            found = [each for each in edits if _acts(each, phase, start)]
            if found:
                yield found


def _acts(each: EditsScores, phase: str, pos: int) -> bool:
    place = each.place
    start, stop = place.span
    return phase in (place.phases or PHASES) and start <= pos and (stop is None or pos < stop)


def _check(layer: int, edits: Sequence[EditsScores], rule: RouterRule) -> None:
    gone = {e for each in edits if isinstance(each, Ablate) for e in each.ids}
    avoided = {e for each in edits if isinstance(each, RouteAround) for e in each.ids}
    forced = {e for each in edits if isinstance(each, Force) for e in each.ids}
    wanted = {e for each in edits if isinstance(each, Boost) for e in each.ids} | forced
    k, size = rule.experts_per_token, rule.experts // rule.groups
    if both := sorted(wanted & (gone | avoided)):
        raise ConfigError(
            f"layer {layer}: expert {both[0]} is to be taken away and to be chosen at the same "
            "token; give one of the two."
        )
    groups = {e // size for e in wanted}
    if len(forced) > k or len(groups) > rule.groups_kept:
        what = f"{len(forced)} experts" if len(forced) > k else f"experts of {len(groups)} groups"
        raise ConfigError(
            f"layer {layer}: {what} are to be chosen, where the router chooses {k} of "
            f"{rule.groups_kept} groups; give fewer."
        )
    left = [sum(g * size <= e < (g + 1) * size for e in range(rule.experts) if e not in gone)
            for g in range(rule.groups)]  # fmt: skip
    _check_left(layer, left, groups, gone, avoided, rule)


def _check_left(
    layer: int,
    left: list[int],
    sure: set[int],
    gone: set[int],
    avoided: set[int],
    rule: RouterRule,
) -> None:
    """Look at the smallest groups that the router may keep.

    Args:
        layer: The layer.
        left: Experts left in each group.
        sure: Groups that are kept in any case.
        gone: Experts taken away.
        avoided: Experts that tokens are sent around.
        rule: How the router chooses.
    """
    size, k = rule.experts // rule.groups, rule.experts_per_token
    ranked = 2 if rule.group_score == "sum_of_two" else 1
    may_stay = sorted(sure) + sorted(
        (g for g in range(rule.groups) if g not in sure and left[g] >= ranked),
        key=lambda g: left[g] - sum(e // size == g for e in avoided),
    )
    kept = may_stay[: rule.groups_kept]
    there = sum(left[g] - sum(e // size == g for e in avoided) for g in kept)
    if len(kept) == rule.groups_kept and there >= k:
        return
    named = sorted(gone | avoided)
    if not named:
        return
    raise ConfigError(
        f"layer {layer}: without {len(named)} experts ({', '.join(map(str, named[:6]))}"
        f"{', …' if len(named) > 6 else ''}) the groups that the router keeps may hold {there} "
        f"experts, and it chooses {k} of {rule.groups_kept} groups. Leave at least {k} in any "
        f"{rule.groups_kept} groups, and {ranked} in each of them."
    )

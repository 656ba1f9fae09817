"""What interventions did, and why one of them did nothing."""

from __future__ import annotations

import logging
from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ringlens.display import lines
from ringlens.interventions import (
    Ablate,
    AblateHead,
    Boost,
    Force,
    Intervention,
    RouteAround,
    ScaleHead,
    Steer,
    Swap,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """What one intervention did.

    Attributes:
        intervention: The intervention, every layer named.
        tokens: Tokens at which it acted, counted in each layer.
        changed: Those at which it changed something.
        barred: Those at which an expert that it names was among the k best of all, but outside the
            groups that the router keeps.
        seen: Tokens that ran, padding left out.
        rows: Rows of the batch that it was for; None: all.
    """

    intervention: Intervention
    tokens: int
    changed: int
    barred: int
    seen: int
    rows: tuple[int, ...] | None = None

    @property
    def why(self) -> str:
        """Why it changed nothing, in a sentence; "" where it changed something."""
        return "" if self.changed else _why(self)

    def __str__(self) -> str:
        rows = "" if self.rows is None else f", rows {', '.join(map(str, self.rows))}"
        said = self.why or f"changed {self.changed:,} of {self.tokens:,} tokens by layer"
        return f"{self.intervention!r}{rows}: {said}"


@dataclass(frozen=True)
class Numbers:
    """All counts, on the host.

    Attributes:
        counts: By place of an intervention and layer: tokens at which it acted, those at which it
            changed something, those at which the group limit kept its experts out, and those that
            the layer saw.
        displaced: By layer and expert, as in `Effect`.
        gained: By layer and expert, as in `Effect`.
        differ: By layer, as in `Effect`.
        repeated: As in `Effect`.
    """

    counts: Mapping[tuple[int, int], tuple[int, ...]]
    displaced: Mapping[tuple[int, int], int]
    gained: Mapping[tuple[int, int], int]
    differ: Mapping[int, int]
    repeated: int

    def of(self, place: int) -> tuple[int, int, int, int]:
        """The counts of one intervention: sums over its layers, and the tokens that ran."""
        mine = [counts for (number, _), counts in self.counts.items() if number == place]
        each = np.array([(0, 0, 0, 0), *mine])
        tokens, changed, barred, _ = each.sum(axis=0).tolist()
        return tokens, changed, barred, int(each[:, 3].max())


def of_shards(parts: Sequence[Numbers]) -> Numbers:
    """The numbers of processes that run the same tokens, each with layers that it holds."""
    return Numbers(
        dict(ChainMap(*(dict(part.counts) for part in parts))),
        dict(ChainMap(*(dict(part.displaced) for part in parts))),
        dict(ChainMap(*(dict(part.gained) for part in parts))),
        dict(ChainMap(*(dict(part.differ) for part in parts))),
        max(part.repeated for part in parts),
    )


def of_shares(parts: Sequence[Numbers]) -> Numbers:
    """The numbers of processes that run other tokens each."""
    counts: dict[tuple[int, int], tuple[int, ...]] = {}
    for part in parts:
        for key, each in part.counts.items():
            counts[key] = tuple(map(sum, zip(each, counts.get(key, (0,) * 4), strict=True)))
    return Numbers(
        counts,
        sum((Counter(part.displaced) for part in parts), Counter()),
        sum((Counter(part.gained) for part in parts), Counter()),
        sum((Counter(part.differ) for part in parts), Counter()),
        sum(part.repeated for part in parts),
    )


class Effect:
    """What interventions do, while they are attached and afterwards.

    The counts are read from the device when they are asked for.

    Attributes:
        interventions: The interventions, every layer named; by row those of each row in turn.
    """

    def __init__(
        self,
        interventions: Sequence[Intervention],
        rows: Sequence[tuple[int, ...] | None],
        read: Callable[[], Numbers],
    ) -> None:
        self.interventions = tuple(interventions)
        self._rows, self._read = rows, read
        self._final: Numbers | None = None

    @property
    def _numbers(self) -> Numbers:
        return self._read() if self._final is None else self._final

    @property
    def changes(self) -> tuple[Change, ...]:
        """What each intervention did."""
        numbers = self._numbers
        return tuple(
            Change(act, *numbers.of(place), rows)
            for place, (act, rows) in enumerate(zip(self.interventions, self._rows, strict=True))
        )

    @property
    def displaced(self) -> Mapping[tuple[int, int], int]:
        """By layer and expert: tokens for which the router had chosen it and it did not run."""
        return self._numbers.displaced

    @property
    def gained(self) -> Mapping[tuple[int, int], int]:
        """By layer and expert: tokens for which it ran though the router had not chosen it."""
        return self._numbers.gained

    @property
    def differ(self) -> Mapping[int, int]:
        """By layer: tokens for which other experts ran than the router had chosen."""
        return self._numbers.differ

    @property
    def repeated(self) -> int:
        """Tokens that ran at positions of a cache where others had run before, padding counted.

        A cache is cropped where drafts turn out wrong. The counts are of all that ran.
        """
        return self._numbers.repeated

    @property
    def without_effect(self) -> tuple[Change, ...]:
        """Those that changed nothing."""
        return tuple(change for change in self.changes if not change.changed)

    def close(self, join: Callable[[Numbers], Numbers] = lambda numbers: numbers) -> None:
        """Keep the counts.

        Args:
            join: Given those of this process, gives those of all.
        """
        self._final = join(self._read())

    def __str__(self) -> str:
        return lines("Effect", *map(str, self.changes), *_moved(self._numbers))

    __repr__ = __str__


def warn(changes: Sequence[Change]) -> None:
    """Log the interventions that changed nothing, and why."""
    for change in changes:
        if not change.changed:
            log.warning("%r changed nothing: %s", change.intervention, change.why)


def _moved(numbers: Numbers) -> list[str]:
    """Experts that lost and gained most, in short."""
    found = []
    for word, counts in (("displaced", numbers.displaced), ("ran instead", numbers.gained)):
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
        if most:
            said = ", ".join(f"{layer}/{expert} at {n:,}" for (layer, expert), n in most)
            found.append(f"{word} (layer/expert, tokens): {said}{', …' * (len(counts) > 5)}")
    if numbers.repeated:
        found.append(
            f"counted with drafts that were thrown away: at {numbers.repeated:,} places of the "
            "text a token ran again"
        )
    return found


def _why(change: Change) -> str:
    if not change.seen:
        return "no forward ran."
    each, place = change.intervention, change.intervention.place
    if not change.tokens:
        start, stop = place.span
        what = [f"in the phases {', '.join(place.phases)}"] if place.phases else []
        if place.span != (0, None):
            what.append(f"at positions {start} to {'the end' if stop is None else stop - 1}")
        if place.words:
            what.append(f"within reach of {', '.join(map(repr, place.words))}")
        return f"no token of {change.seen:,} stands {' and '.join(what) or 'in its rows'}."
    if isinstance(each, AblateHead | ScaleHead):
        same = isinstance(each, ScaleHead) and each.factor == 1
        return "its factor is 1." if same else "what the heads give was zero already."
    if isinstance(each, Steer):
        return "the direction is lost in rounding."
    return _why_router(change)


def _why_router(change: Change) -> str:
    each = change.intervention
    if isinstance(each, Force | Boost):
        if isinstance(each, Force):
            return f"the router had chosen them itself at each of {change.tokens:,} tokens."
        return (
            f"the boost does not bring them among the chosen at any of {change.tokens:,} tokens, "
            "or they were chosen already; boost by more, or force them."
        )
    if not isinstance(each, Ablate | RouteAround | Swap) and getattr(each, "factor", 0) == 1:
        return "its factor is 1."
    never = f"never chosen at {change.tokens:,} tokens"
    if change.barred:
        return (
            f"{never}: the group limit kept them out at {change.barred:,} of these, where they "
            "were among the best of all."
        )
    return f"{never}."

"""A model's thought on a terminal: text as it comes, above a few live lines of numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence, Set
from colorsys import hls_to_rgb
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.color import Color
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.style import Style
from rich.text import Text

from ringlens.cli.ask.meters import FULL, Meters, sparkline
from ringlens.cli.console import harmless
from ringlens.observe.pipeline.step import LiveToken, TokenRouting, TraceEnd, TraceStep

RGB = tuple[int, int, int]

TITLES = {"prompt": "prompt", "think": "thought", "answer": "answer"}
# Legible on dark and on light terminals; hues as in the dashboard.
COLOURS: dict[str, RGB] = {
    "prompt": (128, 136, 150),
    "think": (146, 128, 232),
    "answer": (30, 160, 112),
}
CALM: RGB = (96, 140, 200)
UNSURE: RGB = (240, 110, 30)
"""Colour of a token that was drawn from a wide distribution."""

DIM = Style(color=Color.from_rgb(128, 136, 150))
LABEL = 10
PAUSE = 1 / 15
"""Seconds between two drawings at least."""


class Screen:
    """Shows a running trace.

    Args:
        console: The terminal.
        special: Ids of special tokens and marks, which are shown faintly.
        experts: Experts of a layer, for their colours.
        phases: Phases whose text is shown.

    Attributes:
        meters: The numbers of the trace.
        end: Its end, once it has come.
    """

    def __init__(
        self,
        console: Console,
        special: Set[int] = frozenset(),
        experts: int = 256,
        phases: Sequence[str] = tuple(TITLES),
    ) -> None:
        self.console, self.special, self.experts = console, special, experts
        self.phases = phases
        self.meters = Meters()
        self.end: TraceEnd | None = None
        self._stopping = False
        self._line, self._rows = Text(), list[RenderableType]()
        self._heading: str | None = None
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._live.start()
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the text, and take the numbers away."""
        self._break()
        self._draw()
        self._live.update(Text(), refresh=True)
        self._live.stop()

    def take(self, steps: Sequence[TraceStep]) -> None:
        """Show what is new."""
        for step in steps:
            if step.reread:
                self._reread(len(step.reread), next(iter(step.reread.values())))
            for token in step.tokens:
                self._show(token)
            self.end = step.end or self.end
        if self.end is not None or time.monotonic() - self._drawn >= PAUSE:
            self._draw()

    def stopping(self) -> None:
        """Say that the trace ends with the next token."""
        self._stopping = True

    def _reread(self, count: int, phase: str) -> None:
        self._break()
        tokens = "token" if count == 1 else f"{count} tokens"
        self._rows.append(Text(f"(the {tokens} before read as {TITLES[phase]} now)", DIM))

    def _show(self, token: LiveToken) -> None:
        self.meters.add(token)
        if token.phase not in self.phases:
            return
        if token.phase != self._heading:
            self._break()
            self._heading = token.phase
            style = Style(color=Color.from_rgb(*COLOURS[token.phase]), bold=True)
            title = Text(TITLES[token.phase], style)
            self._rows.append(Rule(title, align="left", style=DIM, characters="─"))
        style = self._style(token)
        first, *others = harmless(token.text).expandtabs(4).split("\n")
        self._append(first, style)
        for line in others:
            self._rows.append(self._line)
            self._line = Text()
            self._append(line, style)

    def _style(self, token: LiveToken) -> Style:
        if token.token_id in self.special:
            return DIM
        unsure = 0.0 if token.phase == "prompt" else min(max(token.entropy, 0.0) / 1.5, 1.0)
        mixed = [
            round(plain + (hot - plain) * (unsure if unsure == unsure else 0.0))
            for plain, hot in zip(COLOURS[token.phase], UNSURE, strict=True)
        ]
        return Style(color=Color.from_rgb(*mixed), bold=unsure > 0.5)

    def _append(self, text: str, style: Style) -> None:
        self._line.append(text, style)
        while (end := row_end(self._line.plain, self.console.width)) is not None:
            row, self._line = self._line.divide([end])
            row.rstrip()
            self._rows.append(row)

    def _break(self) -> None:
        if self._line.plain:
            self._rows.append(self._line)
            self._line = Text()

    def _draw(self) -> None:
        """Move complete rows up for good, and draw the last row and the numbers anew."""
        if self._rows:
            self.console.print(*self._rows, sep="\n")
            self._rows = []
        self._live.update(Group(self._line, *self._beneath()), refresh=True)
        self._drawn = time.monotonic()

    def _beneath(self) -> list[RenderableType]:
        width, meters = self.console.width, self.meters
        if not meters.prompt:
            return [Text("reading the prompt …", DIM)]
        rows: list[Text] = [self._counts()]
        if self.console.height >= 12:
            if meters.entropy:
                rows.append(self._entropy(width))
            if meters.routing is not None:
                rows += [self._margins(meters.routing), self._experts(meters.routing, width)]
        for row in rows:
            row.truncate(width, overflow="ellipsis")
            row.no_wrap = True
        return [Rule(style=DIM, characters="─"), *rows]

    def _counts(self) -> Text:
        meters = self.meters
        row = _label(TITLES[meters.phase], Style(color=Color.from_rgb(*COLOURS[meters.phase])))
        row.append(f"{meters.tokens:,} tokens")
        if meters.speed == meters.speed:
            row.append(f" · {meters.speed:,.{0 if meters.speed >= 10 else 1}f} a second")
        hint = "stopping …" if self._stopping else "Ctrl-C stops and keeps it"
        row.append(f" · {hint}", DIM)
        return row

    def _entropy(self, width: int) -> Text:
        entropy = self.meters.entropy
        row = _label("entropy")
        room = min(max(width - LABEL - 30, 8), 80)
        for value in list(entropy)[-room:]:
            row.append(sparkline([value]), _mixed(CALM, UNSURE, value / FULL))
        row.append(f" {entropy[-1]:.2f} nats", Style(bold=True))
        return row.append(f" · mean {self.meters.mean_entropy:.2f}", DIM)

    def _margins(self, routing: TokenRouting) -> Text:
        row = _label("routing").append("margin ")
        top = max((value for value in routing.margin.tolist() if math.isfinite(value)), default=1.0)
        finite = [value if math.isfinite(value) else top for value in routing.margin.tolist()]
        row.append(sparkline(finite, top or 1.0), _mixed(CALM, UNSURE, 0.0))
        row.append(f" layers {routing.layers[0]}–{routing.layers[-1]}", DIM)
        row.append(f" · mean {self.meters.mean_margin:.3f} · ")
        row.append(f"{self.meters.by_bias:.0%}", Style(bold=True))
        return row.append(" by the bias")

    def _experts(self, routing: TokenRouting, width: int) -> Text:
        middle = len(routing.layers) // 2
        row = _label(f"layer {routing.layers[middle]}")
        ids, weights = routing.expert_ids[middle].tolist(), routing.weights[middle].tolist()
        names = [f"E{expert} " for expert in ids]
        total = sum(weights) or 1.0
        room = min(width - LABEL - sum(len(name) + 6 for name in names), 40)
        for name, expert, weight in zip(names, ids, weights, strict=True):
            colour = Style(color=_expert_colour(expert, self.experts))
            row.append(name, colour + Style(bold=True))
            row.append("━" * round(room * weight / total), colour)
            row.append(f" {weight / total:.0%}  ", DIM)
        return row


def row_end(text: str, width: int) -> int | None:
    """Characters of the first row of a text that is too long for one; None while all of it fits.

    Rows end behind blanks, which may stand out at the right, or behind marks such as ``<think>``;
    a word longer than a row is cut.
    """
    used, behind_word = 0, 0
    for index, character in enumerate(text):
        used += cell_len(character)
        if used > width and index and character != " ":
            return behind_word or index
        if character in " >":
            behind_word = index + 1
    return None


def _label(name: str, style: Style = DIM) -> Text:
    return Text().append(f"{name:<{LABEL}}", style)


def _mixed(low: RGB, high: RGB, share: float) -> Style:
    share = min(max(share, 0.0), 1.0)
    mixed = [round(a + (b - a) * share) for a, b in zip(low, high, strict=True)]
    return Style(color=Color.from_rgb(*mixed))


def _expert_colour(expert: int, experts: int) -> Color:
    red, green, blue = hls_to_rgb((expert / max(experts, 1) + 0.06) % 1.0, 0.58, 0.55)
    return Color.from_rgb(red * 255, green * 255, blue * 255)

"""Records `ringlens ask` for the README: the frames of a real run, as an animated SVG.

``python docs/record_ask.py`` writes docs/images/ask.svg anew. Nothing is drawn by hand: each frame
is what `Screen` shows of ring-nano's answer at that moment.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.text import Text

import ringlens as rl
from ringlens.cli.ask.screen import Screen
from ringlens.cli.ask.thinking import link, told

QUESTION = "Make 24 from 4, 6, 1, using each number once."
STORE = "runs/ask"
WIDTH = 88
SECONDS, HOLD = 0.2, 5.0  # of a frame, and of the last one
TARGET = Path(__file__).parent / "images" / "ask.svg"

INK, PAPER, BAR = "#d8dce4", "#15181d", "#1d2127"
LETTER, ROW, EDGE, TOP = 8.4, 19.0, 18.0, 44.0
FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"

Rows = list[RenderableType]


class Recorder(Screen):
    """A screen that keeps what it shows, drawing by drawing."""

    def __init__(self, special: frozenset[int], experts: int) -> None:
        super().__init__(console(), special, experts)
        self.kept: Rows = []
        self.frames: list[Rows] = []

    def _draw(self) -> None:
        self.kept += self._rows
        self._rows = []
        self.frames.append([*self.kept, self._line.copy(), *self._beneath()])


def console() -> Console:
    """A console of a fixed size that writes nowhere."""
    return Console(
        file=io.StringIO(), width=WIDTH, height=40, color_system="truecolor", force_terminal=True
    )


def record() -> list[Rows]:
    """Frames of a run: command, text, live numbers; the last with the summary."""
    lens = rl.load("ring-nano")
    screen = Recorder(frozenset(lens.tokenizer.added_tokens_decoder), lens.sizes.router.experts)
    with tempfile.TemporaryDirectory() as folder:
        rl.capture(lens, [QUESTION], f"{folder}/store", on_tokens=screen.take).close()
    typed = Text.assemble(("$ ", "bold green"), (f'ringlens ask ring-nano "{QUESTION}"', "bold"))
    assert screen.end is not None
    summary = [told(screen, STORE), link(STORE, screen.end.trace_id, 8050)]
    last = [*screen.kept, screen._line, Text(), *(Text(part) for part in summary)]
    return [[typed, *frame] for frame in (*screen.frames, last)]


def drawing(rows: Rows) -> tuple[str, int]:
    """The text of a frame as SVG, and how many rows it has."""
    parts: list[str] = []
    lines = console().render_lines(Group(*rows), pad=False)
    for y, line in enumerate(lines):
        x = 0
        for text, style, _ in line:
            if text.strip():
                colour = INK
                if style and style.color:
                    colour = style.color.get_truecolor().hex
                bold = ' font-weight="700"' if style and style.bold else ""
                width = Text(text).cell_len * LETTER
                escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(" ", "\u00a0")
                parts.append(
                    f'<text x="{EDGE + x * LETTER:.1f}" y="{TOP + (y + 1) * ROW:.0f}" '
                    f'fill="{colour}" textLength="{width:.1f}"{bold}>{escaped}</text>'
                )
            x += Text(text).cell_len
    return "".join(parts), len(lines)


def animated(frames: list[Rows]) -> str:
    """All frames in one picture, shown one after the other; the last alone where nothing moves."""
    drawn = [drawing(frame) for frame in frames]
    total = SECONDS * (len(drawn) - 1) + HOLD
    width, height = WIDTH * LETTER + 2 * EDGE, TOP + (max(n for _, n in drawn) + 1.4) * ROW
    shown = SECONDS / total * 100 - 0.002  # never two at a time
    style = (
        f".f{{visibility:hidden;animation:f {total:.2f}s step-end infinite}}"
        f".l{{animation:l {total:.2f}s step-end infinite}}"
        f"@keyframes f{{0%{{visibility:visible}}{shown:.3f}%{{visibility:hidden}}}}"
        f"@keyframes l{{0%{{visibility:hidden}}{100 - HOLD / total * 100:.3f}%"
        "{visibility:visible}}"
        "@media (prefers-reduced-motion:reduce){.f,.l{animation:none}}"
    )
    body = "".join(
        f'<g class="f" style="animation-delay:{SECONDS * i:.2f}s">{text}</g>\n'
        for i, (text, _) in enumerate(drawn[:-1])
    )
    dots = "".join(
        f'<circle cx="{EDGE + 4 + i * 18}" cy="20" r="5.5" fill="{colour}"/>'
        for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="{FONT}" font-size="14" role="img">\n'
        f"<title>ringlens ask: a model thinks aloud, above live entropy and routing</title>\n"
        f"<style>{style}</style>\n"
        f'<rect width="100%" height="100%" rx="10" fill="{PAPER}"/>'
        f'<path d="M0 40V10a10 10 0 0 1 10-10H{width - 10:.0f}a10 10 0 0 1 10 10v30z" '
        f'fill="{BAR}"/>{dots}\n{body}<g class="l">{drawn[-1][0]}</g>\n</svg>\n'
    )


if __name__ == "__main__":
    found = record()
    thinned = [*found[:-1][::2], found[-1]]
    TARGET.write_text(animated(thinned), encoding="utf-8")
    print(f"{TARGET}: {len(thinned)} frames, {TARGET.stat().st_size / 1e3:.0f} kB")

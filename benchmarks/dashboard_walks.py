"""What a person does on each page of the dashboard: one input each, at random places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from dashboard_store import PROBED
from playwright.sync_api import Locator, Page

LONG_TRACE, PROBED_TRACE = PROBED + 1, 1
"""The trace of 65,536 tokens; one whose heads were recorded and probed."""

SIZE = {"width": 1280, "height": 720}
"""The window."""

LOOKED = 300
"""Milliseconds for which a person looks at a place before the click."""

Act = Callable[[], object]
Prepare = Callable[[Page, np.random.Generator], Act]


@dataclass(frozen=True)
class Interaction:
    """An input whose effect is timed.

    Attributes:
        name: What is done.
        prepare: Finds where; returns what does it.
    """

    name: str
    prepare: Prepare


@dataclass(frozen=True)
class Walk:
    """A page and what is done on it, in turn.

    Attributes:
        name: Name of the page.
        path: Its address.
        ready: Selector of what is there when it is.
        interactions: What is done.
    """

    name: str
    path: str
    ready: str
    interactions: tuple[Interaction, ...] = ()


def key(name: str, pressed: str) -> Interaction:
    """A key that acts on the page."""
    return Interaction(name, lambda tab, rng: lambda: tab.keyboard.press(pressed))


def alternating(name: str, *selectors: str) -> Interaction:
    """Clicks on one thing after the other."""
    turn = {"at": 0}

    def prepare(tab: Page, rng: np.random.Generator) -> Act:
        turn["at"] += 1
        return tab.locator(selectors[turn["at"] % len(selectors)]).first.click

    return Interaction(name, prepare)


def anywhere(
    name: str,
    selector: str,
    across: tuple[float, float] = (0, 1),
    down: tuple[float, float] = (0, 1),
    looked: int = 0,
) -> Interaction:
    """A click at a random place of something, between parts of its width and height.

    So many milliseconds after the pointer came there: what it rests on may be read ahead.
    """

    def prepare(tab: Page, rng: np.random.Generator) -> Act:
        box = _box(tab.locator(selector).first)
        x = box["x"] + box["width"] * rng.uniform(*across)
        y = min(SIZE["height"] - 20, box["y"] + box["height"] * rng.uniform(*down))
        tab.mouse.move(x, y)
        tab.wait_for_timeout(looked)
        return lambda: (tab.mouse.down(), tab.mouse.up())

    return Interaction(name, prepare)


def one_of(name: str, selector: str, first: int = 0, most: int = 40) -> Interaction:
    """A click on one of many things."""

    def prepare(tab: Page, rng: np.random.Generator) -> Act:
        found = tab.locator(selector)
        last = min(found.count(), first + most)
        return found.nth(int(rng.integers(min(first, last - 1), last))).click

    return Interaction(name, prepare)


def typed(name: str, selector: str, *texts: str, enter: bool = False) -> Interaction:
    """A text put into a field, with Enter where it only then acts."""
    turn = {"at": 0}

    def prepare(tab: Page, rng: np.random.Generator) -> Act:
        turn["at"] += 1
        text = texts[turn["at"] % len(texts)]
        field = tab.locator(selector)
        if not enter:
            return lambda: field.fill(text)
        field.fill(text)
        return lambda: field.press("Enter")

    return Interaction(name, prepare)


def ran(name: str, query: str) -> Interaction:
    """A query that is run, another each time, so that no answer is one that was kept."""
    turn = {"at": 0}

    def prepare(tab: Page, rng: np.random.Generator) -> Act:
        turn["at"] += 1
        field = tab.locator("#sql-text")
        field.fill(f"{query} -- {turn['at']}")
        return lambda: field.press("Control+Enter")

    return Interaction(name, prepare)


def _box(found: Locator) -> dict[str, float]:
    box = found.bounding_box()
    if box is None:
        raise SystemExit(f"{found} is not on the page")
    return dict(box)


def _choices(name: str, control: str, *values: str) -> Interaction:
    return alternating(name, *(f"#{control} input[value='{value}'] + label" for value in values))


def _pressed(name: str, *choices: str) -> Interaction:
    return alternating(name, *(f"[data-choice='{choice}']" for choice in choices))


_ORDERS = tuple(f".expert-evidence .segments button:nth-child({n})" for n in (2, 1))


def _visible_token(tab: Page, rng: np.random.Generator) -> Act:
    """A token on screen."""
    box = _box(tab.locator(".trace-text").first)
    for _ in range(40):
        x = box["x"] + box["width"] * rng.uniform(0.1, 0.8)
        y = box["y"] + box["height"] * rng.uniform(0.1, 0.9)
        hit = "([x, y]) => document.elementFromPoint(x, y)?.classList.contains('t')"
        if tab.evaluate(hit, [x, y]):
            tab.mouse.move(x, y)
            return lambda: (tab.mouse.down(), tab.mouse.up())
    raise SystemExit("no token is on screen")


WALKS = (
    Walk(
        "store",
        "/",
        "#traces .ag-row",
        (
            alternating(
                "sort",
                "#traces .ag-header-cell[col-id=tokens]",
                "#traces .ag-header-cell[col-id=n_think]",
            ),
            _choices("filter: verdict", "verdict", "correct", "wrong", "all"),
            typed("search", "#search", "24", "logic", ""),
        ),
    ),
    Walk(
        "routing",
        "/routing",
        "#usage-app[data-ready=true]",
        (
            _pressed("phase", "prompt", "think", "answer", "difference", "all"),
            _pressed("metric", "weight", "lift", "flips", "share"),
            anywhere("cell", ".usage-map canvas", (0.06, 0.7), (0.25, 0.9)),
            key("next expert", "ArrowRight"),
            key("next layer", "]"),
            alternating("top tokens: order", *_ORDERS),
            key("zoom in", "+"),
            key("whole map", "0"),
        ),
    ),
    Walk(
        "trace of 65,536",
        f"/trace/{LONG_TRACE}",
        "#trace-app[data-ready=true]",
        (
            Interaction("token", _visible_token),
            key("next token", "ArrowRight"),
            key("next step", "j"),
            key("next layer", "]"),
            anywhere("ribbon", ".ribbon .lane canvas.profile"),
            anywhere("ribbon, looked at", ".ribbon .lane canvas.profile", looked=LOOKED),
            key("colour: surprise", "2"),
            key("colour: margin", "3"),
            key("colour: expert", "4"),
            key("next layer, by expert", "]"),
            key("colour: entropy", "1"),
            key("next peak", "."),
            typed("find", ".find-box", "Wait", "w7"),
        ),
    ),
    Walk(
        "expert",
        "/expert/40/7",
        "#expert-app[data-ready=true]",
        (
            key("next expert", "ArrowRight"),
            key("next layer", "]"),
        ),
    ),
    Walk(
        "heads",
        f"/heads/{PROBED_TRACE}",
        "#heads-app[data-ready=true]",
        (
            key("next head", "ArrowRight"),
            key("next layer", "]"),
            key("next measure", "m"),
            key("next step", "j"),
            anywhere("cell", ".heads-left canvas", (0.2, 0.9), (0.1, 0.8)),
        ),
    ),
    Walk(
        "compare",
        "/compare",
        "#compare-app[data-ready=true]",
        (
            anywhere("cell", "#compare-app canvas", (0.2, 0.9), (0.1, 0.8)),
            key("next layer", "]"),
            alternating("q of 0.05", "button:text-is('q ≤ 0.05')"),
        ),
    ),
    Walk("probes", "/probes", ".probe-link", (one_of("other results", ".probe-link"),)),
    Walk("run", "/runs/{run}", "#runs-app table"),
    Walk(
        "sql",
        "/sql",
        "#sql-text",
        (
            ran(
                "query of sums", "select layer, sum(tokens) as tokens from usage_traces group by 1"
            ),
            ran("query of tokens", "select phase, avg(entropy) as entropy from tokens group by 1"),
            _choices("table and chart", "sql-view", "chart", "table"),
            typed("find a column", "#sql-find", "entropy", "expert", ""),
        ),
    ),
)

PAGES = ("store", "routing", "compare", "probes", "sql")


def navigations() -> Iterator[Interaction]:
    """From page to page by the links of the frame."""
    for name in PAGES:
        selector = f"#nav-{name}"

        def prepare(tab: Page, rng: np.random.Generator, selector: str = selector) -> Act:
            return tab.locator(selector).click

        yield Interaction(f"to {name}", prepare)

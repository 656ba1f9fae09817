"""Small pieces of layout that pages share."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.development.base_component import Component

from ringlens.display import plural
from ringlens.store.schema.glossary import GLOSSARY

BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
NOTHING = "∅"
"""How blanks and an empty token are shown."""

OFF = {"aria-disabled": "true"}
"""Attributes of what stands in place of a link that leads nowhere."""

# The style sheet has no hold on AG Grid; its theme takes the same custom properties.
GRID_THEME = {
    "function": "themeQuartz.withParams({"
    "backgroundColor: 'transparent', foregroundColor: 'var(--text)', accentColor: 'var(--accent)',"
    "headerBackgroundColor: 'transparent', headerTextColor: 'var(--text-3)',"
    "headerFontSize: 11.5, headerFontWeight: 500, headerHeight: 34, rowHeight: 36,"
    "borderColor: 'var(--line)', rowHoverColor: 'var(--hover)', fontSize: 13,"
    "fontFamily: 'inherit', wrapperBorder: false, wrapperBorderRadius: 0, spacing: 6,"
    "headerColumnResizeHandleColor: 'transparent', cellHorizontalPadding: 12,"
    "chromeBackgroundColor: 'var(--raised)', menuBackgroundColor: 'var(--raised)',"
    "inputBackgroundColor: 'var(--surface)', inputTextColor: 'var(--text)',"
    "iconColor: 'var(--text-3)'})"
}


def run_script(app: Dash, page: str) -> None:
    """Have a page's script fill each new frame from what the page's Store holds."""
    app.clientside_callback(
        ClientsideFunction(page, "mount"),
        Output(f"{page}-boot", "modified_timestamp"),
        Input(f"{page}-boot", "data"),
    )


def state_page(title: str, text: str, command: str | None = None) -> Component:
    """Make a page that has nothing to show: what is wrong, and what to do."""
    children: list[Component] = [html.H1(title), html.P(text)]
    if command is not None:
        children.append(command_box(command))
    children.append(dcc.Link("All traces", href="/", className="button"))
    return html.Div(html.Div(children, className="state"), className="page")


def command_box(command: str) -> Component:
    """Make a shell command with a copy button."""
    return html.Div(
        [
            html.Code(command),
            html.Button("Copy", className="copy", **{"data-copy": command, "type": "button"}),
        ],
        className="command",
    )


def copy_button(label: str, text: str) -> Component:
    """Make a button that copies a text; the text is its tooltip."""
    return html.Button(
        label, className="button", title=text, **{"data-copy": text, "type": "button"}
    )


def term(label: str, name: str, className: str = "", focusable: bool = True) -> Component:
    """Make a label that tells the definition of a quantity when it is pointed at.

    Args:
        label: The text.
        name: Of the quantity in the glossary.
        className: Further classes.
        focusable: Whether Tab reaches it; not where it stands in a button, which has the focus.

    Raises:
        KeyError: The glossary has no such quantity.
    """
    GLOSSARY[name]
    attributes = {"data-term": name, **({"tabIndex": 0} if focusable else {})}
    return html.Span(label, className=f"term {className}".strip(), **attributes)


def address_of_proof(of: str, layer: int, expert: int) -> str:
    """Address of the comparison of thoughts with answers, at an expert.

    There the difference stands beside chance, the false discovery rate and equal tokens.

    Args:
        of: Predicate of the run.
        layer: Layer of the expert.
        expert: Its number.
    """
    query = {
        "a": f"{of} and phase = 'think'",
        "b": f"{of} and phase = 'answer'",
        "L": layer,
        "E": expert,
    }
    return f"/compare?{urlencode(query)}"


def is_it_real(of: str, layer: int, expert: int) -> Component:
    """Make a link to `address_of_proof`."""
    said = "thought against answer in the whole run, beside chance: intervals, false discovery rate"
    href = address_of_proof(of, layer, expert)
    return dcc.Link("Is it real?", href=href, className="button", title=said)


def segments(id: str, data: Any, value: str) -> Component:
    """One choice of a few, side by side; drawn at once, as what it changes is."""
    return dmc.SegmentedControl(id=id, data=data, value=value, size="xs", transitionDuration=0)


def stat(label: Any, value: str, note: Any = None) -> Component:
    """Make one number of a header."""
    return html.Div(
        [
            html.Span(label, className="label"),
            html.Span(value, className="value"),
            html.Span(note, className="note"),
        ],
        className="stat",
    )


def percent(part: int, whole: int) -> str:
    """Format a share as a whole percentage; a dash if there is nothing."""
    return f"{100 * part / whole:.0f}%" if whole else "–"


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Say how long ago a UTC time was, in its largest unit."""
    now = now or datetime.now(UTC)
    seconds = (now - moment.replace(tzinfo=UTC)).total_seconds()
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{plural(int(seconds // size), unit)} ago"
    return "just now"


def visible(text: str) -> str:
    """Return a token's text with visible blanks."""
    return "".join(BLANKS.get(each, each) for each in text) or NOTHING

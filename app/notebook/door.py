"""Makes widgets of objects, and shows objects as widgets in a notebook that asks for it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError, RinglensError
from ringlens.store import Trace
from ringlens.store.read.whole_run import Routing

if TYPE_CHECKING:
    from ringlens.app.notebook.view import RoutingWidget, TraceWidget

NEEDED = 'widgets need anywidget: pip install "ringlens[notebook]"'


@refuse_unknown
def widget(shown: Trace | Routing, *, height: int | None = None) -> TraceWidget | RoutingWidget:
    """Show a trace, or how often experts were chosen, in a cell of a notebook.

    What is selected there comes back by ``selection()`` as a pandas frame, and ``select(…)`` or
    ``selected`` select from here.

    Args:
        shown: A trace, or ``store.routing()``.
        height: Of the cell, in pixels; None for what suits it.

    Raises:
        ConfigError: It is neither, or anywidget is not installed.
        NotInStoreError: No token with routing is selected.
    """
    try:
        from ringlens.app.notebook import view
    except ModuleNotFoundError as error:
        raise ConfigError(NEEDED) from error
    more = {} if height is None else {"height": height}
    if isinstance(shown, Trace):
        return view.TraceWidget(shown, **more)
    if isinstance(shown, Routing):
        return view.RoutingWidget(shown, **more)
    raise ConfigError(
        f"there is no widget of {type(shown).__name__}: give a trace, such as store[1], or "
        f"store.routing()"
    )


def register(ipython: Any) -> None:
    """Have a notebook show traces and routing as widgets, beside their tables.

    Args:
        ipython: The shell, as ``%load_ext`` gives it.
    """

    def bundle(shown: Trace | Routing, **options: Any) -> Any:
        del options
        try:
            return widget(shown)._repr_mimebundle_()
        except RinglensError as error:  # said below the table
            html = f"{shown._repr_html_()}<p>{escape(str(error))}</p>"
            return {"text/plain": f"{shown!r}\n{error}", "text/html": html}

    for kind in (Trace, Routing):
        ipython.display_formatter.mimebundle_formatter.for_type(kind, bundle)

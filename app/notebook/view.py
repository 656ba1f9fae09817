"""The widgets: what a notebook shows of a trace and of routing, and what is selected there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import pandas as pd
import traitlets

from ringlens.analysis.load.usage_count import usage as count
from ringlens.app.notebook.answers import Answers
from ringlens.app.notebook.assets import assets
from ringlens.app.routing.usage_payload import usage_payload
from ringlens.app.shared.made import made
from ringlens.app.trace import page as page_trace
from ringlens.errors import ConfigError
from ringlens.store import Trace

if TYPE_CHECKING:
    from ringlens.store.read.whole_run import Routing

HERE = Path(__file__).parent
USAGE = "/data/usage"
"""Path of the usage that a widget shows."""


class View(anywidget.AnyWidget):
    """A page of the dashboard in a cell.

    Attributes:
        selected: What is selected: a click changes it here and a new value changes it there.
        height: Of the cell, in pixels.
    """

    _esm = (HERE / "widget.js").read_text(encoding="utf-8")
    kind = traitlets.Unicode().tag(sync=True)
    boot = traitlets.Dict().tag(sync=True)
    selected = traitlets.List(traitlets.Int()).tag(sync=True)
    height = traitlets.Int(620, min=120, max=4000).tag(sync=True)

    def __init__(self, answers: Answers, **state: Any) -> None:
        super().__init__(**state)
        self._answers = answers
        self.on_msg(self._asked)

    def _asked(self, widget: View, message: Any, buffers: Any) -> None:
        """Answer the cell: its scripts, or a path of the dashboard, which may be sent something."""
        del widget, buffers
        if not isinstance(message, dict) or not isinstance(message.get("path"), str):
            return
        path, sent = message["path"], message.get("sent")
        if path == "assets":
            body: dict[str, Any] = assets()
        elif sent is None:
            body = self._answers.get(path)
        else:
            body = self._answers.post(path, sent)
        self.send({"id": message.get("id"), "body": body})


class TraceWidget(View):
    """A thought on one axis: text, steps, entropy, routing of the token in focus.

    A click selects a token, a click with Shift all from the one before.

    Args:
        trace: The trace.
        height: Of the cell, in pixels.
    """

    def __init__(self, trace: Trace, height: int = 620) -> None:
        store = trace.store
        head = {**trace.summary, "previous": None, "next": None}
        boot = page_trace.boot(store, head, trace.run)
        super().__init__(Answers(store), kind="trace", boot=boot, height=height)
        self.trace = trace

    @traitlets.validate("selected")
    def _in_the_trace(self, proposal: Any) -> list[int]:
        wanted: list[int] = list(proposal["value"])
        count = len(self.trace) if hasattr(self, "trace") else 0
        if wrong := [pos for pos in wanted if not 0 <= pos < count]:
            raise ConfigError(
                f"trace {self.trace.trace_id} has no token {wrong[0]}: it has 0 to {count - 1}"
            )
        return wanted

    def select(self, positions: Sequence[int]) -> None:
        """Select tokens by their positions; the first comes into focus.

        Raises:
            ConfigError: The trace has no such token.
        """
        self.selected = [int(pos) for pos in positions]

    def selection(self) -> pd.DataFrame:
        """Return what is selected.

        Returns:
            A row a token, in the order of the trace: ``trace_id``, ``pos``, and the columns of
            ``tokens``, such as ``text``, ``phase``, ``logprob`` and ``entropy`` (nats).
        """
        positions = np.array(sorted(set(self.selected)), np.int64)
        columns = {
            name: np.asarray(column, object if isinstance(column, list) else None)[positions]
            for name, column in self.trace.tokens().items()
        }
        columns.pop("pos", None)
        return pd.DataFrame({"trace_id": self.trace.trace_id, "pos": positions, **columns})


class RoutingWidget(View):
    """How often each expert was chosen, by layer, in every metric and phase.

    A click selects an expert.

    Args:
        routing: What :meth:`ringlens.Store.routing` gives for all layers.
        height: Of the cell, in pixels.
    """

    def __init__(self, routing: Routing, height: int = 520) -> None:
        found, _ = count(routing.store, routing.where)
        python = f"found = analysis.expert_load(store, where={routing.where!r})"
        how = made(routing.store, None, python, "ringlens.analysis")

        def usage() -> dict[str, Any]:
            return usage_payload(found, "", lambda metric, phase: how)

        boot = {"usage": USAGE, "layers": list(found.layers), "experts": found.experts}
        answers = Answers(routing.store, {USAGE: usage})
        super().__init__(answers, kind="routing", boot=boot, height=height)
        self.routing = routing

    @traitlets.validate("selected")
    def _on_the_map(self, proposal: Any) -> list[int]:
        wanted: list[int] = list(proposal["value"])
        shape = self.boot
        if wanted and (
            len(wanted) != 2
            or wanted[0] not in shape["layers"]
            or not 0 <= wanted[1] < shape["experts"]
        ):
            raise ConfigError(
                f"{wanted!r:.60} is no layer and expert: layers are {shape['layers']}, experts 0 "
                f"to {shape['experts'] - 1}"
            )
        return wanted

    def select(self, layer: int, expert: int) -> None:
        """Select an expert.

        Raises:
            ConfigError: There is no such layer or expert.
        """
        self.selected = [int(layer), int(expert)]

    def selection(self) -> pd.DataFrame:
        """Return the tokens that chose the selected expert.

        Returns:
            A row a token: ``trace_id``, ``pos``, ``layer``, ``expert``, ``weight``, ``phase`` and
            ``text``; no rows where no expert is selected.
        """
        names = ("trace_id", "pos", "layer", "expert", "weight", "phase", "text")
        if not self.selected:
            return pd.DataFrame({name: [] for name in names})
        layer, expert = self.selected
        rows = self.routing.store.routing(layer, self.routing.where, context=["phase", "text"])
        here, rank = np.nonzero(rows["expert_ids"] == expert)
        values = (
            rows["trace_id"][here],
            rows["pos"][here],
            layer,
            expert,
            rows["weights"][here, rank],
            np.asarray(rows["phase"])[here],
            np.asarray(rows["text"])[here],
        )
        return pd.DataFrame(dict(zip(names, values, strict=True)))

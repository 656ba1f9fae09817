"""What probes have stored: which there are, and for each its table and its figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pandas as pd
from plotly.graph_objects import Figure

from ringlens.analysis.importance.belief import belief
from ringlens.analysis.importance.suppression import suppression_matrix
from ringlens.app.shared import queries
from ringlens.app.shared.made import Made, made
from ringlens.plot import importance as figures
from ringlens.store import Store
from ringlens.store.schema.views import literal

Row = dict[str, Any]

READERS = {
    "belief": "convergence",
    "linear": "foresight",
    "logit_lens": "settling",
    "monitor": "alarms",
    "receivers": "receiver_heads",
    "resampling": "resampling",
    "steering": "steering",
    "suppression": "suppression",
}
"""Functions of ``ringlens.analysis.importance``, each in the module of its name, by probe."""

OWN: dict[str, tuple[str, Callable[..., pd.DataFrame]]] = {
    "belief": ("belief", belief),
    "suppression": ("suppression", suppression_matrix),
}
"""Where the figure is of another table than that of the page: its module, and what reads it."""

FIGURES: dict[str, Callable[..., Figure]] = {
    "belief": figures.belief,
    "suppression": figures.suppression_matrix,
    "receivers": figures.receiver_heads,
    "ablation": figures.ablation_effects,
    "linear": figures.foresight,
    "steering": figures.steering,
}
"""What draws the results, by probe."""

PUBLISHED = 4
"""Gap between steps that the score of receiver heads was published with."""


@dataclass(frozen=True)
class Read:
    """The results of a probe on a run.

    Attributes:
        frame: Its table.
        made: How that was made.
        said: A sentence that sums it up; "" if none does.
    """

    frame: pd.DataFrame
    made: Made
    said: str = ""


def listed(store: Store) -> list[Row]:
    """List probes and runs with results: their traces, results, and settings as JSON."""
    query = """
        select probe, run_id, count(distinct trace_id) as traces,
               count(*) filter (key <> 'settings') as results,
               max(json) filter (key = 'settings') as settings
        from probes group by all order by probe, run_id desc"""
    return queries.rows(store, query)


def traces(store: Store, probe: str, run_id: str) -> list[int]:
    """List the traces with results of a probe."""
    query = """
        select distinct trace_id from probes
        where probe = $probe and run_id = $run_id and trace_id is not null order by trace_id"""
    found = queries.rows(store, query, {"probe": probe, "run_id": run_id})
    return [int(row["trace_id"]) for row in found]


def read(store: Store, probe: str, run_id: str) -> Read:
    """Read the table of a probe's results on a run.

    Raises:
        RinglensError: The analysis of this probe finds nothing to say.
    """
    if probe not in READERS:
        sql = _ablation(run_id) if probe == "ablation" else _plain(probe, run_id)
        frame = store.sql(sql).df()
        return Read(frame, made(store, sql, f'found = store.sql("""{sql}""").df()'))
    name = READERS[probe]
    reader: Callable[..., pd.DataFrame] = getattr(
        import_module(f"ringlens.analysis.importance.{name}"), name
    )
    more = {"gap": _gap(store, run_id)} if probe == "receivers" else {}
    frame = reader(store, run_id, **more)
    said = "".join(f", {key}={value}" for key, value in more.items())
    program = f"found = {name}.{name}(store, {run_id!r}{said})"
    how = made(store, None, program, f"ringlens.analysis.importance.{name}")
    return Read(frame, how, str(frame.attrs.get("said", "")))


def drawn(store: Store, probe: str, run_id: str, found: Read) -> Read | None:
    """Read what the figure of a probe's results is drawn from; None where the probe has none."""
    if probe in OWN:
        name, reader = OWN[probe]
        program = f"found = {name}.{reader.__name__}(store, {run_id!r})"
        how = made(store, None, program, f"ringlens.analysis.importance.{name}")
        return Read(reader(store, run_id), how)
    return found if probe in FIGURES else None


def figure(probe: str, shown: Read, theme: str) -> Figure:
    """Draw what `drawn` has read."""
    return FIGURES[probe](shown.frame, theme=theme)


def _gap(store: Store, run_id: str) -> int:
    """The published gap if it was measured, else the smallest that was."""
    query = """
        select distinct split_part(key, ':', 2)::int as gap from probes
        where probe = 'receivers' and run_id = $run_id and key like 'kurtosis:%' order by gap"""
    gaps = [int(row["gap"]) for row in queries.rows(store, query, {"run_id": run_id})]
    return PUBLISHED if PUBLISHED in gaps or not gaps else gaps[0]


def _ablation(run_id: str) -> str:
    return f"""select layer, unit as expert, key, count(value) as traces, avg(value) as mean,
       min(value) as least, max(value) as most
from probes where probe = 'ablation' and run_id = {literal(run_id)}
group by all order by key desc, mean desc"""


def _plain(probe: str, run_id: str) -> str:
    return f"""select key, layer, count(distinct trace_id) as traces, count(value) as results,
       avg(value) as mean, min(value) as least, max(value) as most
from probes where probe = {literal(probe)} and run_id = {literal(run_id)} and key <> 'settings'
group by all order by key, layer"""

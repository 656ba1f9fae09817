"""What the dashboard asks of a store, timed: p50 and p95 over random parameters.

Warm: one open store, each query once before, then `ROUNDS` times with parameters of its own. Cold:
the store opened anew and the operating system's copies of its files dropped before each time. On a
machine that others use too, the time of all cores says more than the clock: with nothing else to
run, the clock shows no more than that.

python benchmarks/synthetic_store.py STORE --routed 1e8
python benchmarks/bench_queries.py STORE [STORE …] [--cold]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flask.testing import FlaskClient
from side_by_side import machine

from ringlens.analysis.load.usage import Usage
from ringlens.app import make_app
from ringlens.app.listing import conditions as grid
from ringlens.app.listing.rows import traces_page
from ringlens.app.routing import page as page_routing
from ringlens.app.routing.evidence import EvidenceCache
from ringlens.app.routing.routes import CONTEXTS, ORDERS, TOKENS
from ringlens.app.routing.usage_payload import usage_payload
from ringlens.app.server import settle
from ringlens.app.shared import queries
from ringlens.app.shared.scope import Scope
from ringlens.app.shared.sources import Sources
from ringlens.app.shared.usage_cache import UsageCache
from ringlens.app.store import page as page_store
from ringlens.app.store import queries as store_queries
from ringlens.app.trace import page as page_trace
from ringlens.store import Store
from ringlens.store.maintain.cube import CubeCache

ROUNDS = 40
COLD_ROUNDS = 12
BRUSH = 512
GOAL_MS, OPEN_MS, START_MS, SQL_MS = 200, 500, 2_000, 10_000
"""Goals: a view, opening a store, starting the dashboard, SQL over the whole store."""

PAGE = 100
HOST = {"Host": "127.0.0.1:8050"}
SEEN = 4
"""Layers between which the browser goes back and forth."""

Query = Callable[[Sources, "Ask"], object]
Times = list[tuple[float, float]]
"""Seconds of the clock and of all cores, of each turn."""


class Ask:
    """Random parameters that a browser could send for a store, and a client of its server."""

    def __init__(self, store: Store, client: FlaskClient, seed: int = 0) -> None:
        self.client = client
        self._rng = np.random.default_rng(seed)
        found = store.sql("select trace_id, run_id, n_prompt + n_think + n_answer from traces")
        self.traces = found.fetchall()
        (self.run,) = store.runs().to_arrow_table().to_pylist()
        self.new_layers = iter(self._rng.permutation(self.run["sparse_layers"][SEEN:]).tolist())

    def one_of(self, values: Any) -> Any:
        """One of some values."""
        return values[int(self._rng.integers(len(values)))]

    @property
    def trace_id(self) -> int:
        """A trace; long ones as often as they have tokens."""
        lengths = np.array([n for _, _, n in self.traces], float)
        return int(self.traces[self._rng.choice(len(lengths), p=lengths / lengths.sum())][0])

    def token(self, trace_id: int) -> int:
        """A position in a trace."""
        (tokens,) = (n for found, _, n in self.traces if found == trace_id)
        return int(self._rng.integers(tokens))

    @property
    def layer(self) -> int:
        """A sparse layer."""
        return int(self.one_of(self.run["sparse_layers"]))

    @property
    def expert(self) -> int:
        """An expert."""
        return int(self._rng.integers(self.run["experts"]))

    @property
    def phase(self) -> str:
        """Phase of the expert panel."""
        return str(self.one_of(("all", "prompt", "think", "answer")))

    def scope(self, trace: bool) -> Scope:
        """A trace, or the whole run."""
        return Scope(self.run["run_id"], self.trace_id if trace else None)


def grid_page(sources: Sources, ask: Ask) -> object:
    """A page of the grid by any order, filter and search."""
    column = ask.one_of(grid.COLUMNS)
    sort = [{"colId": column, "sort": ask.one_of(("asc", "desc"))}]
    model = {"n_think": {"filterType": "number", "type": "greaterThan", "filter": 100}}
    search, verdict = ask.one_of((None, "24", "logic")), ask.one_of(tuple(grid.VERDICTS))
    wanted = grid.condition(ask.one_of((None, model)), verdict, search)
    order = grid.order_sql(sort)
    start = PAGE * int(ask.one_of(range(max(1, len(ask.traces) // PAGE))))
    return traces_page(sources.catalogue, wanted.sql, order, wanted.params, start, start + PAGE)


def heatmap(sources: Sources, ask: Ask) -> object:
    """What the page draws of the run, in every metric and phase."""
    return _drawn(sources.usage.get(ask.scope(trace=False)))


def heatmap_of_trace(sources: Sources, ask: Ask) -> object:
    """The same of a trace that was not asked for before."""
    return _drawn(UsageCache(sources.store).get(ask.scope(trace=True)))


def heatmap_from_files(sources: Sources, ask: Ask) -> object:
    """The same of the run, its usage summed up from the files."""
    return _drawn(UsageCache(sources.store).get(ask.scope(trace=False)))


def _drawn(usage: Usage) -> str:
    return json.dumps(usage_payload(usage, ""))


def expert_of_run(sources: Sources, ask: Ask) -> object:
    """An expert of a layer that was asked for before: tokens and contexts, as its panel shows."""
    layer = ask.run["sparse_layers"][ask.one_of(range(SEEN))]
    return _evidence(sources.one(EvidenceCache), ask, layer, trace=False)


def expert_of_new_layer(sources: Sources, ask: Ask) -> object:
    """An expert of the run, of a layer that was not asked for before."""
    return _evidence(sources.one(EvidenceCache), ask, next(ask.new_layers), trace=False)


def expert_of_trace(sources: Sources, ask: Ask) -> object:
    """An expert in a trace, of a trace and layer that were not asked for before."""
    return _evidence(EvidenceCache(sources.store), ask, ask.layer, trace=True)


def _evidence(cache: EvidenceCache, ask: Ask, layer: int, trace: bool) -> object:
    phase = "all" if ask.phase == "difference" else ask.phase
    chosen = cache.chosen(ask.scope(trace), layer, ask.expert, phase)
    return chosen.top(ask.one_of(ORDERS), TOKENS), chosen.contexts(CONTEXTS)


def brush(sources: Sources, ask: Ask) -> object:
    """Usage of 512 tokens anywhere in a trace, from its cube, which is read first."""
    trace_id = ask.trace_id
    start = ask.token(trace_id)
    cube = CubeCache(sources.store).get(trace_id)
    return cube.counts_SE(sources.store, start, start + BRUSH)


def data(address: str) -> Query:
    """What the trace page's script fetches, as the server answers: with its JSON."""

    def query(sources: Sources, ask: Ask) -> object:
        trace_id = ask.trace_id
        place = address.format(pos=ask.token(trace_id), layer=ask.layer)
        response = ask.client.get(f"/data/trace/{trace_id}/{place}", headers=HOST)
        assert response.status_code == 200, response.text
        return response

    return query


QUERIES: dict[str, Query] = {
    "any page: has the store grown": lambda s, ask: queries.version(s.store),
    "store: whole page": lambda s, ask: page_store.layout(s, {}),
    "store: totals": lambda s, ask: store_queries.totals(s.catalogue),
    "store: runs": lambda s, ask: queries.runs(s.catalogue),
    "store: tops of the grid": lambda s, ask: store_queries.grid_tops(s.catalogue),
    "store: page of the grid": grid_page,
    "trace: whole page": lambda s, ask: page_trace.layout(s, {"trace_id": str(ask.trace_id)}),
    "trace: head and neighbours": lambda s, ask: queries.trace_head(s.catalogue, ask.trace_id),
    "trace: text and tokens": data("tokens"),
    "trace: margins": data("margin"),
    "trace: experts of a layer": data("layer/{layer}"),
    "trace: map of experts": data("experts"),
    "trace: click on a token": data("routing/{pos}"),
    "trace: heads at a token": data("statistics/heads/{pos}"),
    "routing: whole page": lambda s, ask: page_routing.layout(s, {"run": ask.run["run_id"]}),
    "routing: heatmap of the run": heatmap,
    "routing: the same, from the files": heatmap_from_files,
    "routing: heatmap of a trace": heatmap_of_trace,
    "a brush of 512 tokens, cube and edges": brush,
    "routing: expert, layer seen before": expert_of_run,
    "routing: expert, another layer": expert_of_new_layer,
    "routing: expert in a trace": expert_of_trace,
    "routing: facts of an expert": lambda s, ask: queries.expert_facts(
        s.store, ask.run["run_id"], ask.layer, ask.expert
    ),
}

WHOLE_STORE = {
    "SQL: choices by layer and expert": """
        select layer, expert, count(*) as n from router_choices group by all""",
    "SQL: the same from the rollup": """
        select layer, expert, sum(n) as n from expert_usage group by all""",
    "SQL: mean margin by layer": "select layer, avg(margin) from routing group by layer",
    "SQL: bias flips by layer and phase": """
        select layer, phase, sum(len(bias_flips)) from routing
        join tokens using (trace_id, pos) group by all""",
}


def main() -> None:
    """Print a table of each store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", type=Path, nargs="+")
    parser.add_argument("--cold", action="store_true", help="measure without caches too")
    parser.add_argument("--only", default="", help="queries whose name holds this")
    given = parser.parse_args()
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}")
    print("milliseconds: p50, p95 of the clock (and of all cores' time); * beyond the goal")
    for path in given.stores:
        describe(path)
        opening(path)
        for name, query in QUERIES.items():
            if given.only in name:
                show(name, warm(path, query), cold(path, query) if given.cold else None)
        whole_store(path, given.only)


def describe(path: Path) -> None:
    """Say what a store holds."""
    with Store(path) as store:
        rows = sum(file.rows for file in store.files("routing"))
        traces, tokens = store.sql(
            "select count(*), sum(n_prompt + n_think + n_answer) from traces"
        ).fetchall()[0]
        files = len(store.files("routing"))
    print(
        f"\n{path}: {rows * 8:,} routed rows in {files:,} files,"
        f" {traces:,} traces, {tokens:,} tokens"
    )


def opening(path: Path) -> None:
    """Time to open the store, to the first answer, and to the dashboard's first page."""

    def first() -> None:
        with Store(path) as store:
            store.sql("select count(*) from traces").fetchall()

    show("open, first query", [timed(first) for _ in range(5)], [fresh(path, first)], OPEN_MS)
    code = (
        "import sys; from ringlens.app import make_app; app = make_app(sys.argv[1]);"
        "app.server.test_client().get('/', headers={'Host': '127.0.0.1:8050'});"
        "from ringlens.app.store import page as page_store;"
        "page_store.layout(app.server.extensions['ringlens.sources'], {})"
    )

    def process() -> None:
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)

    show("dashboard process, first page", [timed(process) for _ in range(3)], None, START_MS)


def warm(path: Path, query: Query) -> Times:
    """A query in an open store, after some to fill what is kept."""
    server = make_app(path).server
    settle()
    sources = server.extensions["ringlens.sources"]
    with sources.store:
        ask = Ask(sources.store, server.test_client())
        return [timed(query, sources, ask) for _ in range(2 * SEEN + ROUNDS)][2 * SEEN :]


def cold(path: Path, query: Query) -> Times:
    """A query in a store just opened, whose files are not in memory."""
    found = []
    for seed in range(COLD_ROUNDS):
        server = make_app(path).server
        sources = server.extensions["ringlens.sources"]
        with Store(path) as other:  # the one that is timed has read nothing yet
            ask = Ask(other, server.test_client(), seed)
        with sources.store:
            drop(path)
            found.append(timed(query, sources, ask))
    return found


def fresh(path: Path, run: Callable[[], object]) -> tuple[float, float]:
    """Time of something on files that are not in memory."""
    drop(path)
    return timed(run)


def drop(path: Path) -> None:
    """Have the operating system forget the files' bytes."""
    for file in path.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def whole_store(path: Path, only: str) -> None:
    """SQL over all raw rows: seconds, median of three."""
    for name, query in WHOLE_STORE.items():
        if only in name:
            with Store(path) as store:
                show(name, [timed(fetch, store, query) for _ in range(4)][1:], None, SQL_MS)


def fetch(store: Store, query: str) -> None:
    """All rows of a query."""
    store.sql(query).fetchall()


def timed(run: Callable[..., object], *given: object) -> tuple[float, float]:
    """Seconds of the clock, and of all cores, that a call takes."""
    start, cpu = time.perf_counter(), _of_cores()
    run(*given)
    return time.perf_counter() - start, _of_cores() - cpu


def _of_cores() -> float:
    """Seconds of all cores that this process and its children have had."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def show(name: str, warm: Times, cold: Times | None = None, goal_ms: float = GOAL_MS) -> None:
    """One line: p50 and p95 of the clock, and of all cores' time, in milliseconds."""
    late = " " if 1000 * np.percentile([clock for clock, _ in warm], 95) <= goal_ms else "*"
    line = f"  {name:38s} {spread(warm)} {late}"
    print(line + (f"  cold {spread(cold)}" if cold else ""), flush=True)


def spread(times: Times) -> str:
    """Median and 95th percentile of the clock and of the cores' time, in milliseconds."""
    (a, b), (c, d) = (np.percentile(1000 * column, [50, 95]) for column in np.array(times).T)
    return f"{a:8.1f} {b:8.1f} ({c:7.1f} {d:7.1f})"


if __name__ == "__main__":
    main()

"""Table of instruments: everything that a capture can record, one row each.

A row gives the name by which a statistic is requested, the table that holds it, and what observes
it. All parts of ringlens that name statistics read them from here: the recorder, the trace buffer,
the writer's encoder, the check, the export, the documentation and the trace page. A new statistic
is a row here and a file in `ringlens.observe.instruments` (which defines what an instrument is).

This module does not import torch: observers are named by their modules, which are imported only to
observe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ringlens.config import OnLayers, Recorded, TopAttention, Vectors, read_request
from ringlens.errors import ConfigError
from ringlens.store.schema import recorded_tables
from ringlens.store.schema.table import Column, Table

OBSERVED_BY = "ringlens.observe.instruments"

ORDER = ("attention", "router", "experts", "point", "logits")
"""What instruments attach to, in the order in which a layer computes it."""

SIZES = {"H": "heads", "E": "experts", "k": "experts_per_token"}
"""Fields of a run's shape that the letters of a column's shape stand for."""


@dataclass(frozen=True)
class Declaration:
    """One thing that a capture can record.

    Attributes:
        name: Name in ``record=[…]``; for a `request`, the name of its table.
        table: Table that holds the rows.
        kind: Observer, a `ringlens.observe.instruments.base.Kind`, or the name of the module
            below `OBSERVED_BY` that defines it as KIND.
        attaches_to: Part of the model that is observed, one of `ORDER`.
        instrument: Name of the numbers before they are stored, if it is not ``name``; several
            declarations may share an instrument.
        words: Name of a number in messages; ``{}`` stands for the column.
        columns: Columns of the table that are filled; all except the key if empty.
        brings: Name of a declaration that is recorded automatically with this one.
        default: Whether it is recorded by default.
        always: Whether it is observed even if it is not recorded.
        waiting: Bytes per token and layer that wait to be stored, by letter of a column's shape,
            if that is not 4 per column.
        request: Type of object that requests chosen layers, heads and positions.
        most_heads: Most heads of a model, those of all layers together, for which it is recorded by
            default; None: any number.
        stored: Bytes in files of a token and layer, by letter of a column's shape; of a request, of
            a number that it asks for. As measured (docs/recording.md), to say what a run will take.
    """

    name: str
    table: Table
    kind: object
    attaches_to: str
    instrument: str = ""
    words: str = ""
    columns: tuple[str, ...] = ()
    brings: str = ""
    default: bool = False
    always: bool = False
    waiting: Mapping[str, int] | None = None
    request: type | None = None
    most_heads: int | None = None
    stored: Mapping[str, float] = field(default_factory=dict)

    @property
    def observed_as(self) -> str:
        """Name of the numbers before they are stored."""
        return self.instrument or self.name

    @property
    def values(self) -> tuple[Column, ...]:
        """Columns that are filled."""
        return tuple(c for c in self.table.values if not self.columns or c.name in self.columns)


INSTRUMENTS: tuple[Declaration, ...] = (
    Declaration(
        "logprobs",
        recorded_tables.TOKENS,
        kind="logprobs",
        attaches_to="logits",
        words="the {} of the next token",
        columns=("logprob", "entropy"),
        default=True,
        always=True,  # a token drawn from logits that are not finite must not go unnoticed
    ),
    Declaration(
        "routing",
        recorded_tables.ROUTING,
        kind="routing",
        attaches_to="router",
        words="the router's {}",
        default=True,
        waiting={"k": 12},  # an int64 id and a float32 weight; the rest is computed from these
        stored={"": 38, "k": 2.1},  # with the rows of usage
    ),
    Declaration(
        "router_logits",
        recorded_tables.ROUTER_LOGITS,
        kind="routing",
        attaches_to="router",
        instrument="routing",
        words="the router's {}",
        default=True,
        stored={"E": 2.07},
    ),
    Declaration(
        "expert_outputs",
        recorded_tables.EXPERT_OUTPUTS,
        kind="expert_outputs",
        attaches_to="experts",
        words="the experts' {}",
        waiting={"k": 9, "": 4},
        stored={"k": 8.3, "": 4},
    ),
    Declaration(
        "heads",
        recorded_tables.HEADS,
        kind="heads",
        attaches_to="attention",
        words="the heads' {}",
        brings="head_blocks",
        default=True,
        most_heads=512,  # 3.6 kB a token; Ring-mini has 320 heads, Ring-1T 5,120
        stored={"H": 7},
    ),
    Declaration(
        "head_blocks",
        recorded_tables.HEAD_BLOCKS,
        kind="heads",
        attaches_to="attention",
        instrument="heads",
        words="the heads' {}",
        default=True,
        waiting={"H": 16},  # the statistics of each token, from which head blocks are computed
        stored={"H": 0.3},
    ),
    Declaration(
        "monitor_scores",
        recorded_tables.MONITOR_SCORES,
        kind="monitor",
        attaches_to="point",
        words="a monitor's {}",
        stored={"": 8},
    ),
    Declaration(
        "activations",
        recorded_tables.ACTIVATIONS,
        kind="vectors",
        attaches_to="point",
        request=Vectors,
        stored={"C": 1.8},
    ),
    Declaration(
        "attention",
        recorded_tables.ATTENTION,
        kind="top_attention",
        attaches_to="attention",
        words="an attention weight",
        request=TopAttention,
        stored={"P": 2.8},
    ),
)


def tables() -> tuple[Table, ...]:
    """Tables that instruments fill, except for ``tokens``, which every capture has."""
    found = {d.table.name: d.table for d in INSTRUMENTS if d.table != recorded_tables.TOKENS}
    return tuple(found.values())


def named() -> dict[str, Declaration]:
    """Declarations that are requested by name."""
    return {d.name: d for d in INSTRUMENTS if d.request is None}


def default_names(heads: int = 0) -> tuple[str, ...]:
    """Names of what is recorded by default.

    Args:
        heads: Heads of the model, those of all layers together.
    """
    return tuple(
        d.name for d in INSTRUMENTS if d.default and (d.most_heads is None or heads <= d.most_heads)
    )


def declaration_of(item: Recorded) -> Declaration:
    """Find the declaration that a name or object requests.

    Raises:
        ConfigError: There is none.
    """
    item = item.name if isinstance(item, OnLayers) else item
    for each in INSTRUMENTS:
        if each.name == item if each.request is None else isinstance(item, each.request):
            return each
    raise ConfigError(f"cannot record {item!s:.60}: known are {', '.join(named())}.")


def observed_as(instrument: str) -> tuple[Declaration, ...]:
    """Declarations whose numbers have a name before they are stored."""
    return tuple(d for d in INSTRUMENTS if d.observed_as == instrument)


def column_of(instrument: str, field: str) -> Column | None:
    """Column in which a number is stored; None if it has none of its own."""
    columns = (d.table.column(field) for d in observed_as(instrument))
    return next((column for column in columns if column is not None), None)


def by_kind(record: Iterable[Recorded]) -> Mapping[object, list[Recorded]]:
    """Group requests by the kind of instrument that observes them."""
    found: dict[object, list[Recorded]] = {d.kind: [] for d in INSTRUMENTS if d.always}
    for item in record:
        found.setdefault(declaration_of(item).kind, []).append(item)
    return found


def waiting_bytes(names: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Bytes per token that wait to be stored, by letter of the columns' shapes.

    Returns:
        Bytes of every layer, and additional bytes of sparse layers. Requests for chosen layers, or
        outside the layers, are not counted.
    """
    every, sparse = Counter[str](), Counter[str]()
    recorded = [named()[name] for name in names]
    brought = {each.brings for each in recorded}
    for each in recorded:
        if each.name in brought or not each.table.has("layer"):
            continue
        waiting = each.waiting
        if waiting is None:
            waiting = Counter(column.shape for column in each.values for _ in range(4))
        (sparse if each.table.is_sparse else every).update(waiting)
    return every, sparse


def recordable(wanted: Iterable[Recorded]) -> tuple[Recorded, ...]:
    """Check what is to be recorded, and parse requests that are given as text.

    Returns:
        Names in the order of `INSTRUMENTS`, each alone or with its layers, then objects in the
        given order. Heads bring their head blocks.

    Raises:
        ConfigError: An unknown name, layers of what has none, or the same thing twice.
    """
    known = named()
    items = [wanted] if isinstance(wanted, REQUESTS) else _listed(wanted)
    read = [read_request(item, tuple(known)) for item in items]
    names: dict[str, Recorded] = {}
    for item in read:
        if isinstance(item, str | OnLayers):
            _add(names, item, known)
    for name in list(names):
        if brought := known[name].brings:
            names[brought] = _with_layers(names[name], names.get(brought), brought)
    objects = [item for item in read if isinstance(item, Vectors | TopAttention)]
    asked = [item.observed_as for item in objects]
    for each in asked:
        if asked.count(each) > 1:
            raise ConfigError(f"{each} is requested twice; put its layers into one request.")
    return (*(names[name] for name in known if name in names), *objects)


REQUESTS = (str, OnLayers, Vectors, TopAttention)


def _add(
    names: dict[str, Recorded], item: str | OnLayers, known: Mapping[str, Declaration]
) -> None:
    """Add a name to those that were asked for; the same name alone may come again."""
    name = item if isinstance(item, str) else item.name
    if name not in known:
        raise ConfigError(f"cannot record {name!r:.60}: known are {', '.join(known)}.")
    if isinstance(item, OnLayers) and not known[name].table.has("layer"):
        raise ConfigError(f"{name} stands outside the layers; record {name!r} without any.")
    if names.get(name, item) != item:
        raise ConfigError(f"{name} is requested twice; put its layers into one request.")
    names[name] = item


def _with_layers(bringing: Recorded, brought: Recorded | None, name: str) -> Recorded:
    """What is brought: on the layers of what brings it, and on those it was asked for itself."""
    if brought is None and isinstance(bringing, OnLayers):
        return OnLayers(name, bringing.layers)
    if isinstance(brought, OnLayers) and isinstance(bringing, OnLayers):
        return OnLayers(name, tuple(sorted({*brought.layers, *bringing.layers})))
    return name


def layers_asked(name: str, record: Iterable[Recorded], layers: tuple[int, ...]) -> tuple[int, ...]:
    """Those of some layers on which a name is to be recorded; none if it is not asked for."""
    for item in record:
        if item == name:
            return layers
        if isinstance(item, OnLayers) and item.name == name:
            return tuple(layer for layer in layers if layer in item.layers)
    return ()


def _listed(wanted: object) -> Iterator[Recorded]:
    """Yield names and objects to record, one by one."""
    for item in wanted if isinstance(wanted, Iterable) else [wanted]:
        if not isinstance(item, REQUESTS):
            raise ConfigError(
                f"cannot record {item!r:.60}; give a list of names ({', '.join(named())}), "
                "OnLayers, Vectors and TopAttention."
            )
        yield item

"""The table of instruments: all that a capture can record, each a row.

A row says by which name something is asked for, which table holds it, and what observes it. The
parts of ringlens that name a statistic read it from here: the recorder, the trace buffer, the
writer's encoder, the check, the export, the documentation and the trace page. A new statistic is a
row here and a file in `ringlens.observe.instruments` (which says what an instrument is).

This side has no torch: what observes is named by its module, and imported by who observes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ringlens.config import Recorded, TopAttention, Vectors, read_request
from ringlens.errors import ConfigError
from ringlens.store.schema import recorded_tables
from ringlens.store.schema.table import Column, Table

OBSERVED_BY = "ringlens.observe.instruments"

ORDER = ("attention", "router", "point", "logits")
"""What instruments attach to, in the order in which it comes about within a layer."""

SIZES = {"H": "heads", "E": "experts", "k": "experts_per_token"}
"""Letters of a column's shape: what of a run's shape they stand for."""


@dataclass(frozen=True)
class Declaration:
    """One thing that a capture can record.

    Attributes:
        name: As ``record=[…]`` has it. Of what is asked for as an object (`request`), its table's.
        table: Where its rows go.
        kind: What observes it, a `ringlens.observe.instruments.base.Kind`: the module below
            `OBSERVED_BY` whose KIND it is, or the kind itself.
        attaches_to: What of the model is observed, one of `ORDER`.
        instrument: Name of its numbers on their way, where it is not ``name``: several
            declarations may share an instrument.
        words: How a message calls a number of it; ``{}`` stands for the column.
        columns: The columns of the table that it fills; all beside the key if empty.
        needs: Another declaration without which this one cannot be recorded.
        brings: Another declaration that is recorded with this one.
        default: Whether it is recorded where nothing else is asked for.
        always: Whether it is observed even where it is not recorded.
        waiting: Bytes by letter of a column's shape that wait of a token and layer until they are
            stored, where that is not 4 for each column.
        request: The type of object that asks for chosen layers, heads and positions of it.
    """

    name: str
    table: Table
    kind: object
    attaches_to: str
    instrument: str = ""
    words: str = ""
    columns: tuple[str, ...] = ()
    needs: str = ""
    brings: str = ""
    default: bool = False
    always: bool = False
    waiting: Mapping[str, int] | None = None
    request: type | None = None

    @property
    def observed_as(self) -> str:
        """Name of its numbers on their way."""
        return self.instrument or self.name

    @property
    def values(self) -> tuple[Column, ...]:
        """The columns that it fills."""
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
        always=True,  # a token drawn from logits that are no numbers must not pass unseen
    ),
    Declaration(
        "routing",
        recorded_tables.ROUTING,
        kind="routing",
        attaches_to="router",
        words="the router's {}",
        default=True,
        waiting={"k": 12},  # an int64 id and a float32 weight, of which the rest is worked up
    ),
    Declaration(
        "router_logits",
        recorded_tables.ROUTER_LOGITS,
        kind="routing",
        attaches_to="router",
        instrument="routing",
        words="the router's {}",
        needs="routing",
        default=True,
    ),
    Declaration(
        "heads",
        recorded_tables.HEADS,
        kind="heads",
        attaches_to="attention",
        words="the heads' {}",
        brings="head_blocks",
        default=True,
    ),
    Declaration(
        "head_blocks",
        recorded_tables.HEAD_BLOCKS,
        kind="heads",
        attaches_to="attention",
        instrument="heads",
        words="the heads' {}",
        default=True,
        waiting={"H": 16},  # the statistics of each token, of which the blocks are made
    ),
    Declaration(
        "activations",
        recorded_tables.ACTIVATIONS,
        kind="vectors",
        attaches_to="point",
        request=Vectors,
    ),
    Declaration(
        "attention",
        recorded_tables.ATTENTION,
        kind="top_attention",
        attaches_to="attention",
        words="an attention weight",
        request=TopAttention,
    ),
)


def tables() -> tuple[Table, ...]:
    """The tables that instruments fill, but ``tokens``, which every capture has."""
    found = {d.table.name: d.table for d in INSTRUMENTS if d.table != recorded_tables.TOKENS}
    return tuple(found.values())


def named() -> dict[str, Declaration]:
    """What is asked for by its name alone."""
    return {d.name: d for d in INSTRUMENTS if d.request is None}


def default_names() -> tuple[str, ...]:
    """What is recorded where nothing else is asked for."""
    return tuple(d.name for d in INSTRUMENTS if d.default)


def declaration_of(item: Recorded) -> Declaration:
    """What a name or object asks for.

    Raises:
        ConfigError: Nothing that is known here.
    """
    for each in INSTRUMENTS:
        if each.name == item if each.request is None else isinstance(item, each.request):
            return each
    raise ConfigError(f"cannot record {item!s:.60}: known are {', '.join(named())}.")


def observed_as(instrument: str) -> tuple[Declaration, ...]:
    """The declarations of an instrument, by the name of its numbers on their way."""
    return tuple(d for d in INSTRUMENTS if d.observed_as == instrument)


def column_of(instrument: str, field: str) -> Column | None:
    """The column that a number on its way is stored in; None where it has none of its own."""
    columns = (d.table.column(field) for d in observed_as(instrument))
    return next((column for column in columns if column is not None), None)


def by_kind(record: Iterable[Recorded]) -> Mapping[object, list[Recorded]]:
    """What is asked for, by the kind of instrument that observes it."""
    found: dict[object, list[Recorded]] = {d.kind: [] for d in INSTRUMENTS if d.always}
    for item in record:
        found.setdefault(declaration_of(item).kind, []).append(item)
    return found


def waiting_bytes(names: Iterable[str]) -> tuple[Counter[str], Counter[str]]:
    """Bytes that wait of a token until they are stored, by letter of the columns' shapes.

    Returns:
        Those of every layer, and those of a layer that routes beside them. What is recorded of
        chosen layers, or outside the layers, is not counted.
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
    """Check what is to be recorded, and read what is given as text.

    Returns:
        Names in the order of `INSTRUMENTS`, then objects in the order given. Heads bring their
        blocks.

    Raises:
        ConfigError: An unknown name, router logits without the choices they explain, or the same
            thing twice.
    """
    known = named()
    items = [wanted] if isinstance(wanted, str | Vectors | TopAttention) else _listed(wanted)
    read = [read_request(item, tuple(known)) for item in items]
    names = {item for item in read if isinstance(item, str)}
    for name in sorted(names):
        if (other := known[name].needs) and other not in names:
            raise ConfigError(f"record {other!r} as well: {name} are stored with the choices.")
    names |= {known[name].brings for name in names}
    objects = [item for item in read if not isinstance(item, str)]
    asked = [item.observed_as for item in objects]
    for each in asked:
        if asked.count(each) > 1:
            raise ConfigError(f"{each} is requested twice; put its layers into one request.")
    return (*(name for name in known if name in names), *objects)


def _listed(wanted: object) -> Iterator[Recorded]:
    """What is to be recorded as names and objects, one by one."""
    for item in wanted if isinstance(wanted, Iterable) else [wanted]:
        if not isinstance(item, str | Vectors | TopAttention):
            raise ConfigError(
                f"cannot record {item!r:.60}; give a list of names ({', '.join(named())}), "
                "Vectors and TopAttention."
            )
        yield item

"""What encoding a token costs, before there is one: from the costs that were measured a value."""

from __future__ import annotations

from collections.abc import Sequence

from ringlens.config import Recorded
from ringlens.store.encode.encoders import ENCODERS, USAGE_NS
from ringlens.store.schema.instruments import SIZES, layers_asked, named
from ringlens.store.schema.recorded_tables import ROUTING
from ringlens.store.schema.records import RunRecord


def token_ns(record: Sequence[Recorded], layers: tuple[int, ...], run: RunRecord) -> float:
    """Nanoseconds that one core takes to encode a token, about.

    Vectors and top attention are not counted, nor are tokens themselves.

    Args:
        record: What is recorded.
        layers: Layers that this process records.
        run: The run, with its sizes.
    """
    total = 0.0
    for name, each in named().items():
        if not each.table.has("layer"):
            continue
        known = tuple(layer for layer in layers if layer in run.sparse_layers)
        asked = layers_asked(name, record, known if each.table.is_sparse else layers)
        letter = next(iter(each.waiting or {each.values[0].shape: 0}))
        width = getattr(run, SIZES[letter]) if letter else 1
        cost = ENCODERS[each.table.encoder].cost_ns + USAGE_NS * (each.table is ROUTING)
        total += cost * width * len(asked)
    return total

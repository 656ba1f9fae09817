"""Encodes the tokens of a trace as row groups of ``tokens``.

Shape letters: T tokens, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa

from ringlens.store.encode.columns import nullable
from ringlens.store.encode.grid import LayerShare
from ringlens.store.schema.records import TokenArrays, TraceRecord
from ringlens.store.schema.run_shape import RunShape
from ringlens.store.schema.table import Table

TOKEN_ROWS = 20_000


def row_groups(
    table: Table, trace_id: int, record: TraceRecord, run: RunShape, share: LayerShare
) -> Iterator[pa.RecordBatch] | None:
    """Make the row groups of a record's tokens, rewritten ones first; None if there are none."""
    if record.rewritten is not None:
        before = _groups(table, trace_id, 0, record.rewritten)
        return chain(before, _groups(table, trace_id, record.start, record.tokens))
    if not len(record.tokens.token_id):
        return None
    return _groups(table, trace_id, record.start, record.tokens)


def _groups(
    table: Table, trace_id: int, first_pos: int, tokens: TokenArrays
) -> Iterator[pa.RecordBatch]:
    total, turn_T = len(tokens.token_id), tokens.turn
    for start in range(0, total, TOKEN_ROWS):
        part = slice(start, min(start + TOKEN_ROWS, total))
        pos_R = np.arange(first_pos + part.start, first_pos + part.stop, dtype=np.int32)
        columns = [
            pa.array(np.full(len(pos_R), trace_id, np.int64)),
            pa.array(pos_R),
            pa.array(tokens.token_id[part].astype(np.int32, copy=False)),
            pa.array(tokens.text[part], pa.string()),
            pa.array(tokens.start[part].astype(np.int32, copy=False)),
            pa.array(tokens.end[part].astype(np.int32, copy=False)),
            pa.array(tokens.phase[part], pa.string()),
            nullable(tokens.logprob[part]),
            nullable(tokens.entropy[part]),
            pa.array(turn_T[part].astype(np.int32, copy=False), mask=turn_T[part] < 0),
            pa.array(tokens.nonfinite[part], mask=~tokens.nonfinite[part]),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=table.arrow)

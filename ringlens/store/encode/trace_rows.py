"""Encodes the rows of ``runs``, ``experts`` and ``traces``.

Shape letters: S sparse layers, E experts, R rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa

from ringlens.store.encode.columns import nullable
from ringlens.store.schema import captured
from ringlens.store.schema.records import RunRecord, TraceRecord


def trace_batch(
    run_id: str, trace_ids: Sequence[int], records: Sequence[TraceRecord]
) -> pa.RecordBatch:
    """Make the rows of ``traces``."""
    names = captured.TRACES.arrow.names
    rows = [
        {name: getattr(record, name, None) for name in names}
        | {"trace_id": trace_id, "run_id": run_id, "flags": record.flags or None}
        for trace_id, record in zip(trace_ids, records, strict=True)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=captured.TRACES.arrow)


def run_batch(run_id: str, run: RunRecord, started: datetime) -> pa.RecordBatch:
    """Make the row of ``runs`` for a run that has just started."""
    row = {name: getattr(run, name, None) for name in captured.RUNS.arrow.names}
    for name in ("parallel", "versions", "sampling"):
        row[name] = json.dumps(getattr(run, name), sort_keys=True)
    row["interventions"] = run.interventions or None
    row["router"] = json.dumps(run.router, sort_keys=True) if run.router else None
    row |= {"run_id": run_id, "started": started, "finished": None}
    return pa.RecordBatch.from_pylist([row], schema=captured.RUNS.arrow)


def expert_batch(run_id: str, run: RunRecord) -> pa.RecordBatch:
    """Make the rows of ``experts``, one per expert and sparse layer."""
    layers, experts = len(run.sparse_layers), run.experts
    expert_R = np.tile(np.arange(experts, dtype=np.uint16), layers)
    columns = [
        pa.repeat(run_id, len(expert_R)),
        pa.array(np.repeat(np.asarray(run.sparse_layers, np.uint16), experts)),
        pa.array(expert_R),
        pa.array((expert_R // (experts // run.groups)).astype(np.uint16)),
        nullable(run.expert_bias.reshape(-1)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=captured.EXPERTS.arrow)

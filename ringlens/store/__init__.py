"""From records to Parquet to SQL. Knows no torch.

Written by `StoreWriter`, read by `Store`; the tables are described in `ringlens.store.schema`.
"""

from ringlens.store.read.relation import Relation
from ringlens.store.read.store import Store
from ringlens.store.read.trace import Attention, Trace, Vectors
from ringlens.store.schema.records import (
    AttentionArrays,
    ChoiceArrays,
    HeadArrays,
    RoutingArrays,
    RunRecord,
    TokenArrays,
    TraceRecord,
    VectorArrays,
)
from ringlens.store.write.peers import Alone, Peers
from ringlens.store.write.writer import StoreWriter

__all__ = [
    "Alone",
    "Attention",
    "AttentionArrays",
    "ChoiceArrays",
    "HeadArrays",
    "Peers",
    "Relation",
    "RoutingArrays",
    "RunRecord",
    "Store",
    "StoreWriter",
    "TokenArrays",
    "Trace",
    "TraceRecord",
    "VectorArrays",
    "Vectors",
]

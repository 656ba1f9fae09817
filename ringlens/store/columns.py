"""Arrow columns of lists as numpy arrays. T rows."""

from __future__ import annotations

import pyarrow as pa
from numpy.typing import NDArray


def matrix(column: pa.ChunkedArray) -> NDArray:
    """Lists of one length as [T, length]."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)


def ragged(column: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
    """Lists of any length as their values end to end, and the T + 1 offsets into those."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    return lists.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0]

"""Converts Arrow columns of lists to numpy arrays and back. T rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def matrix(column: pa.ChunkedArray) -> NDArray:
    """Convert lists of equal length to [T, length]."""
    values = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1) if len(column) else values.reshape(0, 0)


def ragged(column: pa.ChunkedArray) -> tuple[NDArray, NDArray]:
    """Convert lists of any length to their values end to end, and T + 1 offsets into these."""
    lists = column.combine_chunks()
    # Offsets of a slice count from the start of the whole array, but `flatten` cuts the values.
    offsets = lists.offsets.to_numpy()
    return lists.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0]


def padded(column: pa.ChunkedArray, fill: float) -> NDArray:
    """Convert lists of any length to [T, longest], padded with ``fill``."""
    values, offsets = ragged(column)
    lengths_T = np.diff(offsets)
    inside_Tk = np.arange(lengths_T.max(initial=0)) < lengths_T[:, None]
    found_Tk = np.full(inside_Tk.shape, fill, values.dtype)
    found_Tk[inside_Tk] = values
    return found_Tk


def float32(array: NDArray) -> NDArray[np.float32]:
    """Convert an array to contiguous float32, without a copy if it already is."""
    return np.ascontiguousarray(array, np.float32)


def fixed_lists(values_Tw: NDArray, arrow: pa.DataType) -> pa.Array:
    """Make a list column whose row r is ``values_Tw[r]``, without copying the values."""
    rows, width = values_Tw.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    values = np.ascontiguousarray(values_Tw).reshape(-1)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=arrow)


def masked_lists(values_Tk: NDArray, mask_Tk: NDArray, arrow: pa.DataType) -> pa.Array:
    """Make a list column whose row r is ``values_Tk[r][mask_Tk[r]]``."""
    offsets = np.zeros(len(values_Tk) + 1, np.int32)
    np.cumsum(mask_Tk.sum(axis=1), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values_Tk[mask_Tk]), type=arrow)


def lists_or_null(values_Tw: NDArray, null_T: NDArray, arrow: pa.DataType) -> pa.Array:
    """Make a list column whose row r is ``values_Tw[r]``, or null."""
    rows, width = values_Tw.shape
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.where(null_T, 0, width), out=offsets[1:])
    values = pa.array(np.ascontiguousarray(values_Tw[~null_T]).reshape(-1))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=arrow, mask=pa.array(null_T))


def conformed(batch: pa.RecordBatch, arrow: pa.Schema) -> pa.RecordBatch:
    """Convert rows to a schema that differs in types, names of list items and nullability."""
    arrays = []
    for column, field in zip(batch.columns, arrow, strict=True):
        if pa.types.is_list(field.type):
            values = column.values.cast(field.type.value_type)
            offsets, mask = column.offsets, column.is_null() if column.null_count else None
            column = pa.ListArray.from_arrays(offsets, values, type=field.type, mask=mask)
        arrays.append(column.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=arrow)


def completed(batch: pa.RecordBatch, arrow: pa.Schema) -> pa.RecordBatch:
    """Convert rows to a schema by the names of its columns; those that are not there are null."""
    there = set(batch.schema.names)
    columns = [
        batch[field.name] if field.name in there else pa.nulls(len(batch), field.type)
        for field in arrow
    ]
    return conformed(pa.RecordBatch.from_arrays(columns, arrow.names), arrow)


def nullable(values_R: NDArray) -> pa.Array:
    """Convert floats to Arrow, with null for NaN."""
    return pa.array(float32(values_R), mask=np.isnan(values_R))

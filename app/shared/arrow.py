"""Converts columns of Arrow to numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Convert a float column, null to nan."""
    return column.to_numpy(zero_copy_only=False).astype(np.float32)


def warm() -> None:
    """Convert once ahead of the first request: pyarrow then imports pandas if it can."""
    floats(pa.chunked_array([[0.0]]))

"""Columns of Arrow as numpy arrays."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def floats(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """A float column as numpy, null as nan."""
    return column.to_numpy(zero_copy_only=False).astype(np.float32)


def warm() -> None:
    """Do pyarrow's first conversion ahead of the first request: it imports pandas if it can."""
    floats(pa.chunked_array([[0.0]]))

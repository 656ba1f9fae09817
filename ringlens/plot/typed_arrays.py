"""Encodes arrays for the browser: base64 of little-endian bytes, decoded without parsing."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(values: NDArray[Any], dtype: str) -> str:
    """Encode values as a little-endian array of ``dtype`` ('u1', 'u2', 'u4', 'f4')."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<" + dtype).tobytes()).decode()

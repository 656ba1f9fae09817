"""What all figures have in common: plotly's JSON, arrays as plotly takes them, numbers as text.

A figure is plotly's JSON as a plain dictionary with arrays in base64: building and checking
``plotly.graph_objects`` takes 40 to 70 ms, which a click would feel. The tests check it instead,
and so do notebooks, which get it as an object of plotly.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ringlens.plot.typed_arrays import encode

Figure = dict[str, Any]


def typed(values: NDArray[Any]) -> dict[str, str]:
    """Encode an array as plotly takes it."""
    return {
        "dtype": "f4",
        "bdata": encode(values, "f4"),
        "shape": ", ".join(str(size) for size in values.shape),
    }


def signed(value: float, form: str) -> str:
    """Format a number with a true minus sign."""
    return format(value, form).replace("-", "−")

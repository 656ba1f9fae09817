"""What all figures have in common: the graph's options, and arrays as plotly takes them.

A figure is plotly's JSON as a plain dictionary with arrays in base64: building and checking
``plotly.graph_objects`` takes 40 to 70 ms, which a click would feel. The tests check it instead.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ringlens.app.shared.typed_arrays import encode

Figure = dict[str, Any]

CONFIG = {"displayModeBar": False, "showSendToCloud": False, "doubleClick": "reset"}
"""Options of every graph."""


def typed(values: NDArray[Any]) -> dict[str, str]:
    """Encode an array as plotly takes it."""
    return {
        "dtype": "f4",
        "bdata": encode(values, "f4"),
        "shape": ", ".join(str(size) for size in values.shape),
    }

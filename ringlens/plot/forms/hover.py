"""What is said of a point under the pointer: numbers with their names, by plotly's templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringlens.plot.figure import Figure, typed


def said(template: str, values: Sequence[NDArray[Any]]) -> Figure:
    """A template and the numbers that it names.

    Args:
        template: Plotly's template; ``{0:.1%}`` stands for the first of the values in a form of d3.
        values: Arrays of one shape, a number per point.
    """
    for place in range(len(values)):
        template = template.replace(f"{{{place}:", f"%{{customdata[{place}]:")
    stacked = np.stack([np.asarray(value, np.float64) for value in values], axis=-1)
    return {"customdata": typed(stacked), "hovertemplate": f"{template}<extra></extra>"}

"""The numbers that a figure of plotly draws."""

import base64

import numpy as np


def numbers(typed):
    """The numbers of a figure's array."""
    if isinstance(typed, dict):
        flat = np.frombuffer(base64.b64decode(typed["bdata"]), typed["dtype"])
        return flat.reshape([int(size) for size in typed["shape"].split(",")])
    return np.asarray(typed)


def array(figure, index, name):
    """The numbers under a name of a figure's trace."""
    return numbers(figure.to_plotly_json()["data"][index][name])

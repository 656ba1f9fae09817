"""Runs the SQL and the Python that a page says its numbers were made by."""

import base64

import numpy as np


def by_sql(store, made):
    """The frame that the SQL gives."""
    return store.sql(made["sql"]).df()


def by_python(made):
    """What the Python leaves as ``found``."""
    space = {}
    exec(made["python"], space)
    try:
        return space["found"]
    finally:
        space["store"].close()


def decoded(text, dtype):
    """An array that a page was sent."""
    return np.frombuffer(base64.b64decode(text), "<" + dtype)

"""Captures whose steps are repeated as they stand: what a graph repeats, on the CPU."""

from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

from ringlens.observe import session
from ringlens.observe.decoding.generating import AsItStands, generate_repeating


@contextmanager
def repeated(make=AsItStands):
    """Have ``rl.capture`` decode by a step that is repeated."""
    with patch.object(session, "generating", lambda *_: partial(generate_repeating, make=make)):
        yield

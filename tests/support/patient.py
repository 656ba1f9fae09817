"""Lets queries of the dashboard take as long as a busy machine needs."""

from dataclasses import replace
from functools import partial

from ringlens.app.shared import confined
from ringlens.app.sql import console
from ringlens.sandbox import confined_store
from ringlens.sandbox.sandbox import Limits

SECONDS = 300


def be_patient():
    """Raise the limits of this process: of the console, of an analysis, and of all its queries."""
    console.Limits = partial(Limits, seconds=SECONDS)
    confined.LIMITS = replace(confined.LIMITS, seconds=SECONDS)
    confined_store.SECONDS = SECONDS

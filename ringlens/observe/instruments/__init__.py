"""Instruments: each records one kind of thing while the model runs."""

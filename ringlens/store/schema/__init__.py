"""The tables and views of a store as data, with the meaning of every column."""

from ringlens.store.schema.captured import tables

__all__ = ["tables"]

"""The cache under both its names: ``past_key_values`` up to transformers 5.23, then ``cache``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers.cache_utils import Cache
from transformers.modeling_outputs import MoeModelOutputWithPast

OLD, NEW = "past_key_values", "cache"

CACHE = NEW if NEW in {field.name for field in fields(MoeModelOutputWithPast)} else OLD
"""What the installed transformers calls it, in its arguments and in its outputs."""


def given(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """Take the cache that a caller gave under either name.

    Raises:
        ValueError: Two different ones were given.
    """
    if None not in (cache, past_key_values) and cache is not past_key_values:
        raise ValueError("give the cache once, as `cache` or as `past_key_values`, not twice")
    return past_key_values if cache is None else cache


def cache_of(output: Any) -> Cache:
    """Take the cache out of an output of the model or of ``generate``."""
    return output[CACHE]

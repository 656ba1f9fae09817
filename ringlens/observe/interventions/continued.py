"""Whether a forward goes on with the text that ran before it, by the cache that it continues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, ref

from ringlens.errors import ObservationError
from ringlens.model.caching import CACHE, NEW, OLD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers.cache_utils import Cache

    from ringlens.observe.interventions.whereabouts import Forward


class Continued:
    """Refuses a cache that is not the one of the forward before.

    What a text says is followed token by token, so of two texts that run in turn, each with its own
    cache, one would be read as the other.
    """

    def __init__(self) -> None:
        self._ran = False
        self._last: ReferenceType[Cache] | None = None

    def restart(self) -> None:
        """A batch begins."""
        self._ran, self._last = False, None

    def begin(self, kwargs: Mapping[str, Any]) -> None:
        """A forward begins.

        Raises:
            ObservationError: It continues another cache than the one before it filled.
        """
        cache = cache_given(kwargs)
        continues = cache is not None and cache.get_seq_length() > 0
        last = None if self._last is None else self._last()
        if self._ran and continues and cache is not last:
            raise ObservationError(
                "this forward continues another cache than the one before it in this block, and "
                "phases and words are read of one text at a time. Finish one text before the next "
                "begins, or give the intervention a span in place of phases and words."
            )

    def end(self, kwargs: Mapping[str, Any], output: Any) -> None:
        """It has run."""
        cache = cache_given(kwargs)
        if cache is None:
            cache = output.get(CACHE) if hasattr(output, "get") else None
        self._ran, self._last = True, None if cache is None else ref(cache)


class Repeated:
    """Counts the tokens that ran at positions of a cache where others had run before.

    A cache is cropped where drafts turn out wrong, as those of a prompt lookup.

    Attributes:
        tokens: Their number.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._last: ReferenceType[Cache] | None = None
        self._stop = 0

    def begin(self, cache: Cache | None, forward: Forward) -> None:
        """A forward begins, which continues a cache."""
        if cache is None:
            return
        if self._last is not None and self._last() is cache:
            self.tokens += forward.shape[0] * max(0, self._stop - forward.start)
        self._last, self._stop = ref(cache), forward.start + forward.shape[1]


def cache_given(kwargs: Mapping[str, Any]) -> Cache | None:
    """The cache that a forward is given, under either name."""
    cache: Cache | None = kwargs.get(NEW) if kwargs.get(NEW) is not None else kwargs.get(OLD)
    return cache

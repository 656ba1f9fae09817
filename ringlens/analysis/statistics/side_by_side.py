"""Threads that compute side by side, while numpy's products take one thread each.

BLAS divides a product over all cores by itself. Where several threads call it at once, the threads
of each call wait for those of the others, which takes longer than one thread does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController


@contextmanager
def side_by_side(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool of threads; BLAS takes one thread for as long as any such pool is open."""
    with _alone().held(), ThreadPoolExecutor(threads) as pool:
        yield pool


class _Alone:
    """BLAS with one thread: the first who enters sees to it, the last who leaves takes it back."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._controller, self._limit = ThreadpoolController(), ExitStack()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._limit.enter_context(self._controller.limit(limits=1, user_api="blas"))
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._limit.close()


@cache
def _alone() -> _Alone:
    return _Alone()

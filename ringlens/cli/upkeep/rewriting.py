"""Access to the files of an existing store, for the commands that replace them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringlens.store.commit.rewriter import Rewriter


@contextmanager
def rewriting(store: str) -> Iterator[Rewriter]:
    """Open a store for replacing its files.

    Raises:
        StoreError: There is none at this path; a writer alone would make one.
    """
    from ringlens.store import Store, StoreWriter

    Store(store).close()
    with StoreWriter(store) as writer:
        yield writer.rewriter()

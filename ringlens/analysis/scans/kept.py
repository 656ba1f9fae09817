"""What a store has found out about itself, and keeps until its next commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ringlens.store.maintain.rollup import missing, missing_roles
from ringlens.store.read.selection import Proxy
from ringlens.store.read.store import Store

if TYPE_CHECKING:
    from ringlens.store.read.selection import Source

R = TypeVar("R")


def once(store: Source, function: Callable[[Source], R]) -> R:
    """Apply a function to a store, or give what it gave if there was no commit since."""
    own = _own(store)
    return function(store) if own is None else own.once(function)


def has_sums(store: Source) -> bool:
    """Whether the sums by trace, layer and phase are of all routing of a store."""
    own = _own(store)
    return own is not None and not own.once(missing)


def has_role_sums(store: Source) -> bool:
    """Whether there are sums by step role as well, of all traces with steps."""
    own = _own(store)
    return own is not None and not own.once(missing) and not own.once(missing_roles)


def _own(store: Source) -> Store | None:
    """The store whose rows are asked for; what asks a store elsewhere has those of that store."""
    own = store.store if isinstance(store, Proxy) else store
    return own if isinstance(own, Store) else None

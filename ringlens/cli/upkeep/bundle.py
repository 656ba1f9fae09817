"""Writes a bundle: says its size first, and refuses one that is too large before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringlens.display import plural

if TYPE_CHECKING:
    from ringlens.store import Store

MAIL = 25.0
"""MB of one file that most mail servers carry."""


@dataclass(frozen=True)
class Wanted:
    """How a bundle is to be written.

    Attributes:
        single_file: As one HTML file, not as a folder.
        aggregate_only: Sums of usage only.
        max_mb: Most MB; None for what mail carries of one file, and no limit of a folder.
    """

    single_file: bool
    aggregate_only: bool
    max_mb: float | None

    @property
    def limit(self) -> int | None:
        """Most bytes; None for no limit."""
        most = MAIL if self.single_file and self.max_mb is None else self.max_mb
        return None if most is None else round(most * 1_000_000)


def write_bundle(
    store: Store,
    trace_ids: Sequence[int],
    out: Path,
    wanted: Wanted,
    on_progress: Callable[[int, int], None],
) -> str:
    """Write a bundle and return its size as text.

    Raises:
        StoreError: It is larger than the limit, ``out`` is there already, or could not be written;
            then nothing is left of it.
    """
    from ringlens.app import bundle

    if wanted.aggregate_only:
        sums = list(bundle.aggregates(store, trace_ids, on_progress))
        size = bundle.size_of(sums, wanted.single_file)
        entries: Iterable[bundle.Entry] = sums
    else:
        size = bundle.estimate(store, trace_ids, wanted.single_file)
        entries = bundle.traces(store, trace_ids, on_progress)
        _tell_authors(bundle.authors(store, trace_ids))
    click.echo(f"{out} will be about {bundle.megabytes(size)}", err=True)
    bundle.check_fits(size, len(trace_ids), wanted.limit)
    write = bundle.to_file if wanted.single_file else bundle.to_folder
    return bundle.megabytes(write(store, entries, out, wanted.limit))


def _tell_authors(authors: Mapping[str, int]) -> None:
    """Say whose annotations go with it."""
    if authors:
        many = plural(sum(authors.values()), "annotation")
        click.echo(f"it holds {many} by {', '.join(authors)}", err=True)

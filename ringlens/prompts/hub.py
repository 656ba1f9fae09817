"""Problem sets of the Hugging Face hub, or in a folder that its library reads."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ringlens.errors import ProblemError
from ringlens.prompts.columns import Columns
from ringlens.prompts.fields import Row
from ringlens.prompts.stream import LARGEST, too_large

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "hub:"
"""What the name of such a set begins with: "hub:openai/gsm8k:main", an id and a configuration."""


def hub_rows(source: str, split: str | None, columns: Columns, whole: bool) -> Iterator[Row]:
    """Rows of a set, read one by one: no more is fetched than is used.

    Args:
        source: Its name: ``hub:``, then an id or a folder, then perhaps ``:`` and a configuration.
        split: The split; None if it has one only.
        columns: The columns that are used.
        whole: Whether all rows are wanted, so that their size is bounded.

    Raises:
        ProblemError: The extra is missing, there is no such set, configuration, split or column, or
            a cell is of another type.
    """
    if find_spec("datasets") is None:
        raise ProblemError(f"{source} needs the library datasets: pip install 'ringlens[hub]'.")
    name, _, configuration = source.removeprefix(PREFIX).partition(":")
    if not name:
        raise ProblemError(f"{source!r} names no set; give it as {PREFIX}openai/gsm8k:main.")
    taken = 0
    for number, row in enumerate(_opened(source, name, configuration or None, split), start=1):
        place = f"{source}, row {number}"
        names = list(row)
        prompt, answer = columns.places(names, source)
        found = columns.row(
            row[names[prompt]], None if answer is None else row[names[answer]], place
        )
        taken += sum(len(value) for value in found.values())
        if whole and taken > LARGEST:
            raise too_large(source)
        yield place, found


def _opened(
    source: str, name: str, configuration: str | None, split: str | None
) -> Iterator[Mapping[str, Any]]:
    """The rows of a split."""
    import datasets
    import pyarrow as pa

    try:
        if split is None:
            splits = datasets.get_dataset_split_names(name, configuration)
            if len(splits) != 1:
                raise ProblemError(
                    f"{source} has the splits {', '.join(splits)}; name one (split=)."
                )
            split = splits[0]
        yield from datasets.load_dataset(name, configuration, split=split, streaming=True)
    except ProblemError:
        raise
    except (
        OSError, ValueError, TypeError, LookupError, NotImplementedError, pa.ArrowException,
        datasets.exceptions.DatasetsError,
    ) as error:  # fmt: skip
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProblemError(f"{source} cannot be read: {why:.300}") from error

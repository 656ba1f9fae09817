"""Takes in annotations that were exported from a copy of the store, each once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ringlens.config import known_only, whole
from ringlens.errors import ConfigError, NotInStoreError
from ringlens.store.annotations.adding import add
from ringlens.store.annotations.annotation import Annotation, Target
from ringlens.store.schema.annotation.table import ANNOTATIONS
from ringlens.strict_json import parsed_object

if TYPE_CHECKING:
    from ringlens.store.read.store import Store

_ID = re.compile(r"[0-9a-f]{16}")


def import_annotations(store: Store, path: str | Path) -> tuple[int, int]:
    """Add the annotations of a file to a store; those that it has already are left out.

    So what two people said in two copies of a store comes together.

    Args:
        store: The store: the one that they were exported from, or a copy with the same run ids.
        path: JSON lines, as ``ringlens annotate export`` writes them.

    Returns:
        Number of annotations that were added, and of those that were there.

    Raises:
        ConfigError: A line is no annotation; the message names it, and nothing was added.
        NotInStoreError: A line is about a trace, an expert or a run that the store does not hold.
        StoreError: The store cannot be written.
    """
    rows = store.sql("select annotation_id from annotations").fetchall()
    known = {annotation_id for (annotation_id,) in rows}
    found = {each.annotation_id: each for each in _read(store, path)}
    new = [each for name, each in found.items() if name not in known]
    if new:
        add(store.folder, new)
    return len(new), len(found) - len(new)


def _read(store: Store, path: str | Path) -> Iterator[Annotation]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the annotations {str(path)!r:.200}: {error}") from error
    places = _Places(store)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            place = f"{path}, line {number}"
            row = parsed_object(line, place, ConfigError)
            known_only(row, ANNOTATIONS.arrow.names, f"key ({place})")
            yield _annotation(row, place, places)


def _annotation(row: dict[str, Any], place: str, places: _Places) -> Annotation:
    """Check a row."""
    about: dict[str, Any] = {name: row.get(name) for name in Target.__dataclass_fields__}
    target = Target(**about)
    rest: dict[str, Any] = {name: row.get(name) for name in row if name not in about}
    for name in ("annotation_id", "supersedes"):
        value = rest.get(name)
        if (value or name == "annotation_id") and not _ID.fullmatch(str(value)):
            raise ConfigError(f"{place}: {name} is {value!r:.40}; it has 16 hex digits.")
    retracts = rest.get("is_retraction", False)
    if not isinstance(retracts, bool) or (retracts and not rest.get("supersedes")):
        raise ConfigError(f"{place}: is_retraction is {retracts!r:.40}, and supersedes nothing.")
    try:
        rest["created"] = _time(rest.get("created"))
        places.check(target)
        rest.setdefault("author", "")
        return Annotation(target, **rest)
    except NotInStoreError as error:
        raise NotInStoreError(f"{place}: {error}") from None
    except (ConfigError, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: {error}") from None


def _time(value: Any) -> datetime:
    found = datetime.fromisoformat(value)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


class _Places:
    """What there is in a store to be annotated."""

    def __init__(self, store: Store) -> None:
        self._store = store
        query = "select trace_id, run_id, n_prompt + n_think + n_answer from traces"
        self._traces = {i: (run, tokens) for i, run, tokens in store.sql(query).fetchall()}
        query = "select run_id, layer, expert from experts"
        self._experts = set(store.sql(query).fetchall())

    def check(self, target: Target) -> None:
        """Raise unless the store holds what an annotation is about."""
        if (target.trace_id is None) == (target.expert is None):
            raise ConfigError("it is about a trace or an expert: give one of them")
        if target.expert is not None:
            if (target.run_id, target.layer, target.expert) not in self._experts:
                raise NotInStoreError(f"there is no {target} in {self._store.folder}")
            return
        run, tokens = self._traces.get(target.trace_id, (None, 0))
        if run is None or run != target.run_id:
            raise NotInStoreError(
                f"run {target.run_id!r:.40} has no trace {target.trace_id} in {self._store.folder}"
            )
        if target.step is None:
            return
        end = whole("token_end", target.token_end, 1, tokens)
        whole("token_start", target.token_start, 0, end - 1)
        whole("step", target.step, 0)

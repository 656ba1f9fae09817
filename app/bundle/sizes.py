"""How large a bundle is: its bytes, a bound on them, an estimate before it is written."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ringlens.app.bundle.contents import Entry, trace_entries, usage_entries
from ringlens.errors import StoreError
from ringlens.store import Store

MB = 1_000_000
FRAME = 250_000  # bytes of scripts and style sheets

_SURROGATE = re.compile("[\ud800-\udfff]")


def encoded(payload: Any) -> bytes:
    """Encode an answer as JSON; halves of characters, which UTF-8 cannot hold, by their number."""
    text = json.dumps(
        payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str
    )
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()


class Bound:
    """Counts bytes, and refuses those above a limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.bytes = 0

    def add(self, n: int) -> None:
        """Count ``n`` bytes. Raises StoreError if that makes them too many."""
        self.bytes += n
        if self.limit is not None and self.bytes > self.limit:
            raise StoreError(
                f"the bundle is larger than {megabytes(self.limit)}: export fewer traces "
                f"(--traces, --where), or raise --max-size"
            )


def megabytes(size: int) -> str:
    """Write a size in MB."""
    return f"{size / MB:,.1f} MB"


def compressed(payload: Any) -> bytes:
    """Encode an answer as compressed JSON in base64."""
    return base64.b64encode(gzip.compress(encoded(payload), 6, mtime=0))


def size_of(entries: Iterable[Entry], single_file: bool) -> int:
    """Return the bytes of a bundle that holds these entries.

    Args:
        entries: Paths with what they answer.
        single_file: Whether it is one file, whose data are compressed.
    """
    encode = compressed if single_file else encoded
    return FRAME + sum(len(encode(payload)) for _, payload in entries)


def estimate(store: Store, trace_ids: Sequence[int], single_file: bool) -> int:
    """Estimate the bytes of a bundle of traces from its first one and the tokens of all."""
    first = store.trace(trace_ids[0])
    beside = {"previous": None, "next": None}
    size = size_of(trace_entries(store, first, beside), single_file) - FRAME
    usage = size_of(usage_entries(store, first), single_file) - FRAME
    tokens = sum(len(store.trace(each)) for each in trace_ids)
    return FRAME + round(size * tokens / max(1, len(first))) + usage * (len(trace_ids) + 1)


def check_fits(size: int, traces: int, limit: int | None) -> None:
    """Raise StoreError if a bundle of so many bytes is above the limit."""
    if limit is None or size <= limit:
        return
    some = max(0, limit - FRAME) * traces // max(1, size - FRAME)
    fewer = (
        f"about {some} of the {traces} traces fit (--traces {some})" if some else "no trace fits"
    )
    raise StoreError(
        f"the bundle would be about {megabytes(size)}, and at most {megabytes(limit)} are wanted: "
        f"{fewer}; raise --max-size, or leave out texts and routes with --aggregate-only"
    )

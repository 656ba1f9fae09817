"""Roles of tokens: each token has the role of the step that it belongs to.

Shape letter: T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

COLUMNS = ["trace_id", "token_start", "token_end", "role"]
"""Columns of ``steps`` that say which role a token has."""

# Agrees with `_digest`.
DIGESTS = """
select trace_id, bit_xor(md5_number_lower(concat(token_start, ' ', token_end, ' ', role))) as digest
from steps where role is not null and token_end > token_start group by trace_id
"""
"""SQL of the digest of each trace's steps, of those traces that have steps with roles."""

Span = tuple[int, int, str | None]
"""First token of a step, token after its last, and its role."""


@dataclass(frozen=True)
class StepRoles:
    """Roles of the tokens of some traces, each of which has steps with roles.

    Attributes:
        names: Roles in the order of rows of ``usage_roles``: by name, then None for none.
        spans: Steps with a role of each trace: first token, token after the last, index of the
            role in ``names``.
        digests: Digest of the steps of each trace, see `DIGESTS`.
    """

    names: tuple[str | None, ...]
    spans: Mapping[int, tuple[tuple[int, int, int], ...]]
    digests: Mapping[int, int]

    def of(self, trace_id: int, tokens: int) -> NDArray[np.uint16]:
        """Indices into ``names`` of the first ``tokens`` tokens of a trace, [T]."""
        role_T = np.full(tokens, len(self.names) - 1, np.uint16)
        for start, end, role in self.spans.get(trace_id, ()):
            role_T[start:end] = role
        return role_T


def of_steps(steps: pa.Table) -> StepRoles:
    """Read the roles of tokens from rows of ``steps``, all those of each trace.

    Traces without a role are left out. So are traces whose steps share tokens, as versions before
    2026-12 could write: which of the roles such a token has is not known.
    """
    known: dict[int, list[tuple[int, int, str]]] = {}
    for trace_id, spans in _by_trace(steps).items():
        labelled = [(start, end, role) for start, end, role in spans if role is not None]
        if labelled and not _overlap(spans):
            known[trace_id] = labelled
    roles = sorted({role for spans in known.values() for _, _, role in spans})
    index = {role: i for i, role in enumerate(roles)}
    return StepRoles(
        (*roles, None),
        {
            trace_id: tuple((start, end, index[role]) for start, end, role in spans)
            for trace_id, spans in known.items()
        },
        {trace_id: _digest(spans) for trace_id, spans in known.items()},
    )


def sharing_tokens(steps: pa.Table) -> list[int]:
    """Traces of which two steps share a token."""
    return [trace_id for trace_id, spans in _by_trace(steps).items() if _overlap(spans)]


def _by_trace(steps: pa.Table) -> dict[int, list[Span]]:
    """Steps that have tokens, of each trace."""
    found: dict[int, list[Span]] = {}
    columns = (steps[name].to_pylist() for name in COLUMNS)
    for trace_id, start, end, role in zip(*columns, strict=True):
        spans = found.setdefault(trace_id, [])
        if end > start:
            spans.append((start, end, role))
    return found


def _overlap(spans: Iterable[Span]) -> bool:
    last = 0
    for start, end in sorted(span[:2] for span in spans):
        if start < last:
            return True
        last = end
    return False


def _digest(spans: Iterable[Span]) -> int:
    found = 0
    for start, end, role in spans:
        text = f"{start} {end} {role}"
        md5 = hashlib.md5(text.encode(), usedforsecurity=False).digest()
        found ^= int.from_bytes(md5[8:], "little")
    return found

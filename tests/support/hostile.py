"""Texts that try to be markup."""

import dataclasses

import numpy as np

HOSTILE = (
    "<script>window.hit = 1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "[x](javascript:window.hit=1)",
    "{{7*7}}",
)


def with_text(trace, pieces, **changes):
    """The trace with other token texts."""
    end = np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
    start = (end - [len(piece) for piece in pieces]).astype(np.int32)
    tokens = dataclasses.replace(trace.tokens, text=pieces, start=start, end=end)
    return dataclasses.replace(trace, tokens=tokens, text="".join(pieces), **changes)

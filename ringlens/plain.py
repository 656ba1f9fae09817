"""What every text must be that goes into a store: encodable as UTF-8."""

from __future__ import annotations


def surrogate_at(text: str) -> int | None:
    """Index of the first half of a surrogate pair, which no UTF-8 has; None if there is none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def half_pair(text: str) -> str | None:
    """What is wrong with a text that holds half of a surrogate pair, in words; else None."""
    index = surrogate_at(text)
    if index is None:
        return None
    return (
        f"half of a surrogate pair (U+{ord(text[index]):04X} at character {index}), which is no "
        "text; write the whole character or leave it out"
    )

"""Text that a store can hold: what UTF-8 can encode."""

from __future__ import annotations

from ringlens.errors import ConfigError


def surrogate_at(text: str) -> int | None:
    """Index of the first half of a surrogate pair, which UTF-8 cannot encode; None without one."""
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


def check_text(text: str, place: str = "") -> None:
    """Refuse what is no text, and text that UTF-8 cannot encode.

    Raises:
        ConfigError: It is one of these.
    """
    if not isinstance(text, str):
        raise ConfigError(f"{place}expected a text, not {shown(text)}.")
    wrong = half_pair(text)
    if wrong is not None:
        raise ConfigError(f"{place}the text holds {wrong}.")


def shown(given: object) -> str:
    """The type and value of something for a message, cut; only the type of what may be long."""
    shown = f" {given!r:.60}" if isinstance(given, str | bytes | int | float | complex) else ""
    return f"{type(given).__name__}{shown}"

"""Messages of a chat, each with a role and a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ringlens.errors import ConfigError, RinglensError
from ringlens.plain import half_pair, shown

Message = Mapping[str, Any]

ROLES = ("system", "user", "assistant", "tool")


def checked_messages(
    given: Sequence[Any], place: str, error: type[RinglensError] = ConfigError
) -> tuple[Message, ...]:
    """Messages that hold a role and a text and nothing else.

    Args:
        given: The messages.
        place: Where they stand, as messages of errors begin; empty or with a colon and a space.
        error: What is raised.

    Raises:
        RinglensError: ``error``: one of them is something else.
    """
    for index, message in enumerate(given):
        here = f"{place}message {index}"
        if not isinstance(message, Mapping):
            raise error(f"{here} is {shown(message)}, and no object with role and content.")
        if set(message) != {"role", "content"}:
            raise error(
                f"{here} has {_keys(message)}; a message has role and content and nothing else."
            )
        if message["role"] not in ROLES:
            raise error(
                f"{here} is of the role {message['role']!r:.60}; there are {', '.join(ROLES)}."
            )
        if not isinstance(message["content"], str):
            raise error(f"{here}: its content is {shown(message['content'])}, not a text.")
        wrong = half_pair(message["content"])
        if wrong is not None:
            raise error(f"{here}: the text holds {wrong}.")
    return tuple({"role": m["role"], "content": str(m["content"])} for m in given)


def _keys(given: Mapping[Any, Any]) -> str:
    return f"{', '.join(map(repr, given)) or 'nothing':.80}"

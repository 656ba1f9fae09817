"""A chat message: its text, its thoughts and its tool calls.

A trace holds the text that the model wrote. Servers put audio, images and refusals into fields of
their own, without the tokens: such a message is refused, not shortened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ringlens.errors import ServingError
from ringlens.serving.fields import Json, field_of

LOST = ("refusal", "audio", "image", "images", "video", "thinking_blocks")
"""Fields that hold something that is not in the message's text."""

TEXTS = ("text", "output_text", "input_text")


@dataclass(frozen=True)
class Message:
    """What a model wrote, as far as a message says.

    Attributes:
        text: Its answer; None where the message has none.
        reasoning: Its thoughts, where the server separated them from the answer.
        tool_calls: Its tool calls, in OpenAI's form.
    """

    text: str | None
    reasoning: str = ""
    tool_calls: tuple[Json, ...] = ()


def read_message(message: Json, place: str, *, complete: bool) -> Message:
    """Read a message of a response.

    Args:
        message: The message.
        place: Where it stands, for errors.
        complete: Whether the tokens are known as well; then nothing is lost.

    Raises:
        ServingError: It holds something that is no text, or contradicts itself.
    """
    lost = next((name for name in LOST if message.get(name)), None)
    if lost is not None and not complete:
        raise ServingError(
            f"{place}: the answer has {lost}, which is not in its text, so the trace would not be "
            "what the model wrote: ask the server for token ids, or leave the answer out"
        )
    return Message(
        text_of(message.get("content"), f"{place}: content"),
        _reasoning(message, place, complete),
        _tool_calls(message, place),
    )


def text_of(content: Any, place: str, between: str = "") -> str | None:
    """The text of a message's content: a string, or a list of parts that are all text; or None.

    Raises:
        ServingError: It is something else, or holds a part that is no text.
    """
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ServingError(f"{place} is {content!r:.60}, neither text nor a list of parts")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in TEXTS or not isinstance(text, str):
            raise ServingError(
                f"{place} has a part that is no text ({part!r:.60}): only text can be kept"
            )
        texts.append(text)
    return between.join(texts)


def chat(messages: list[Any], place: str) -> list[dict[str, Any]]:
    """The messages of a prompt as chat templates take them: every content is text.

    Raises:
        ServingError: One is no message, or has content that is no text.
    """
    found = []
    for number, message in enumerate(messages):
        here = f"{place}: message {number}"
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ServingError(f"{here} has no role: it is {message!r:.60}")
        content = text_of(message.get("content"), f"{here}: content", between="\n")
        calls = _tool_calls(message, here)
        if content is None and not calls:
            raise ServingError(f"{here} has no content")
        plain = {**message, "content": content or ""}
        reasoning = _reasoning(message, here, complete=False)
        if reasoning:
            plain["reasoning_content"] = reasoning
        if calls:
            plain["tool_calls"] = [callable_form(call) for call in calls]
        found.append(plain)
    return found


def callable_form(call: Json) -> dict[str, Any]:
    """A tool call as chat templates take it: its arguments as an object if they are one."""
    function = dict(call["function"])
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        arguments = None
    if isinstance(arguments, dict):
        function["arguments"] = arguments
    return {**call, "function": function}


def _reasoning(message: Json, place: str, complete: bool) -> str:
    """The thoughts, for which servers have two names."""
    names = ("reasoning_content", "reasoning")
    found = {name: text_of(message.get(name), f"{place}: {name}") for name in names}
    texts = sorted({text for text in found.values() if text})
    if len(texts) > 1:
        raise ServingError(f"{place}: reasoning_content and reasoning differ")
    if not texts and message.get("reasoning_details") and not complete:
        raise ServingError(
            f"{place}: the thoughts are only in reasoning_details, which holds a summary or no text"
        )
    return texts[0] if texts else ""


def _tool_calls(message: Json, place: str) -> tuple[Json, ...]:
    calls = list(field_of(message, "tool_calls", list, place, []))
    if (legacy := field_of(message, "function_call", dict, place, None)) is not None:
        calls.append({"type": "function", "function": legacy})
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not all(
            isinstance(function.get(name), str) for name in ("name", "arguments")
        ):
            raise ServingError(
                f"{place}: a tool call needs a function's name and arguments as text: {call!r:.60}"
            )
    return tuple(calls)

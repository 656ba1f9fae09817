"""What a server answered: the JSON of each API, read into one form.

The APIs: OpenAI's completions and chat completions with what vLLM and SGLang add to them, and
SGLang's own ``/generate``. Fields are checked before they are used, as the JSON comes from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ringlens.errors import ServingError
from ringlens.observe.strict_json import STREAM
from ringlens.store.schema import RUNNING

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Exchange:
    """A request and its response.

    Attributes:
        response: The response's JSON.
        request: The request's JSON, empty where it was not kept.
        place: Where it stands, for messages: a file and line, or a problem.
        name: An id that it was given, empty for none.
    """

    response: Any
    request: Json
    place: str
    name: str = ""


@dataclass(frozen=True)
class Answer:
    """One choice of a response, as far as the response and its request tell.

    Attributes:
        place: Where it stands, for messages.
        name: The name of its exchange, or the response's own id.
        prompt: The prompt: token ids, text with the template, or chat messages; None if unknown.
        asked: What was asked, without a template; None if unknown.
        output: Token ids that were generated, None if only text came.
        text: Text that was generated, without special tokens.
        reasoning: Thoughts that the server parted from the text.
        finish_reason: Why it ended.
        routed_experts: The routing as it came, None if none came.
        start: Position of the first row of the routing.
        n_prompt: Prompt tokens that the server counted, None where it counts several prompts.
        n_output: Generated tokens that it counted, None where it counts several choices.
    """

    place: str
    name: str
    prompt: list[int] | str | list[Json] | None
    asked: str | None
    output: list[int] | None
    text: str
    reasoning: str
    finish_reason: str
    routed_experts: str | None
    start: int
    n_prompt: int | None
    n_output: int | None


def openai_answers(exchange: Exchange) -> list[Answer]:
    """The choices of a completion or chat completion, with what vLLM and SGLang add.

    vLLM puts ``routed_experts`` and, with ``return_token_ids``, ``token_ids`` on the choice, and
    ``prompt_token_ids`` on the choice of a completion and on the response of a chat completion.
    SGLang puts ``routed_experts`` (of the first choice), ``input_ids`` and ``output_ids`` into the
    response's ``sglext``; with ``return_meta_info`` into the ``meta_info`` of each choice.

    Raises:
        ServingError: It is a stream, an error, or something else.
    """
    place, request = exchange.place, exchange.request
    response = _response(exchange)
    choices = _get(response, "choices", list, place)
    if not choices:
        raise ServingError(f"{place}: the response has no choices")
    shared = _get(response, "sglext", dict, place, {})
    usage = _get(response, "usage", dict, place, {})
    alone = len(choices) == 1

    def answer(index: int, choice: Any) -> Answer:
        here = place if alone else f"{place}, choice {index}"
        if not isinstance(choice, Mapping):
            raise ServingError(f"{here}: it is no object")
        message = _get(choice, "message", dict, here, {})
        return Answer(
            place=here,
            name=exchange.name or str(response.get("id", "")),
            prompt=_ids(choice, "prompt_token_ids", here)
            or _ids(response, "prompt_token_ids", here)
            or _ids(shared, "input_ids", here)
            or _asked(request, index, len(choices), here),
            asked=_question(request),
            output=_ids(choice, "token_ids", here)
            or _ids(choice, "response_token_ids", here)
            or _nth(shared, index, here),
            text=_get(message or choice, "content" if message else "text", str, here, ""),
            reasoning=_get(message, "reasoning_content", str, here, "")
            or _get(message, "reasoning", str, here, ""),
            finish_reason=_reason(choice.get("finish_reason"), here),
            routed_experts=_routed(choice, shared if index == 0 else {}, here),
            start=_start(request, here),
            n_prompt=_get(usage, "prompt_tokens", int, here, None) if alone else None,
            n_output=_get(usage, "completion_tokens", int, here, None) if alone else None,
        )

    return [answer(index, choice) for index, choice in enumerate(choices)]


def sglang_answers(exchange: Exchange) -> list[Answer]:
    """The choices of a response of SGLang, of its own ``/generate`` or an OpenAI-compatible one.

    Raises:
        ServingError: It is a stream, an error, or something else.
    """
    given = exchange.response
    if isinstance(given, Mapping) and "choices" in given:
        return openai_answers(exchange)
    items = given if isinstance(given, list) else [_response(exchange)]
    answers = []
    for index, item in enumerate(items):
        here = exchange.place if len(items) == 1 else f"{exchange.place}, choice {index}"
        if not isinstance(item, Mapping) or "meta_info" not in item:
            raise ServingError(f"{here}: neither choices nor meta_info, so it is no response")
        if exchange.request.get("stream"):
            raise ServingError(f"{here}: {STREAM}")
        meta = _get(item, "meta_info", dict, here)
        answers.append(
            Answer(
                place=here,
                name=exchange.name or str(meta.get("id", "")),
                prompt=_ids(item, "prompt_token_ids", here)
                or _asked(exchange.request, index, len(items), here),
                asked=None,
                output=_ids(item, "output_ids", here),
                text=_get(item, "text", str, here, ""),
                reasoning="",
                finish_reason=_reason(meta.get("finish_reason"), here),
                routed_experts=_get(meta, "routed_experts", str, here, None),
                start=_start(exchange.request, here),
                n_prompt=_get(meta, "prompt_tokens", int, here, None),
                n_output=_get(meta, "completion_tokens", int, here, None),
            )
        )
    return answers


def _response(exchange: Exchange) -> Json:
    """The response, if it is a whole one and no error."""
    place, response = exchange.place, exchange.response
    if not isinstance(response, Mapping):
        raise ServingError(f"{place}: a response is an object, not {type(response).__name__}")
    chunk = str(response.get("object", "")).endswith(".chunk")
    if exchange.request.get("stream") or chunk:
        raise ServingError(f"{place}: {STREAM}")
    error = response.get("error") or (response if response.get("object") == "error" else None)
    if error:
        message = error.get("message", error) if isinstance(error, Mapping) else error
        raise ServingError(f"{place}: the server answered with an error: {str(message)[:300]}")
    return response


def _get(row: Json, name: str, kind: type, place: str, default: Any = ...) -> Any:
    """A field of a type; ``default`` (if there is one) where it is missing or null."""
    value = row.get(name)
    if value is None and default is not ...:
        return default
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ServingError(f"{place}: {name} is {value!r:.60}, not of type {kind.__name__}")
    return value


def _ids(row: Json, name: str, place: str) -> list[int] | None:
    """Token ids; None where there are none."""
    value = _get(row, name, list, place, None)
    if value is not None and not all(type(token) is int for token in value):
        raise ServingError(f"{place}: {name} holds something that is no token id")
    return value


def _nth(shared: Json, index: int, place: str) -> list[int] | None:
    """The token ids of a choice in ``sglext.output_ids``, a list for each choice."""
    lists = _get(shared, "output_ids", list, place, [])
    return _ids({"output_ids": lists[index]}, "output_ids", place) if index < len(lists) else None


def _asked(
    request: Json, index: int, count: int, place: str
) -> list[int] | str | list[Json] | None:
    """The prompt of a choice in its request: ids, text or messages."""
    if "messages" in request:
        return _get(request, "messages", list, place)
    given = next((request[n] for n in ("prompt", "input_ids", "text") if request.get(n)), None)
    if isinstance(given, list) and given and not isinstance(given[0], int):
        given = given[index * len(given) // count]  # several prompts, each with as many choices
    if isinstance(given, list):
        return _ids({"prompt": given}, "prompt", place)
    return given if isinstance(given, str) else None


def _start(request: Json, place: str) -> int:
    """Position of the first row that the request asked for."""
    inner = (request.get("sampling_params"), request.get("extra_body"))
    for holder in (request, *(each for each in inner if isinstance(each, Mapping))):
        for name in ("routed_experts_prompt_start", "routed_experts_start_len"):
            if (value := _get(holder, name, int, place, None)) is not None:
                if value < 0:
                    raise ServingError(f"{place}: {name} is {value}")
                return value
    return 0


def _routed(choice: Json, shared: Json, place: str) -> str | None:
    """The routing of a choice, wherever one of the servers puts it."""
    names = ("meta_info", "sglext", "sgl_ext")
    holders = [choice, *(_get(choice, name, dict, place, {}) for name in names), shared]
    found = (_get(holder, "routed_experts", str, place, None) for holder in holders)
    return next((value for value in found if value is not None), None)


def _reason(given: Any, place: str) -> str:
    """Why generation ended: a word, or SGLang's object with a ``type``."""
    reason = given.get("type") if isinstance(given, Mapping) else given
    if not isinstance(reason, str) or not reason or len(reason) > 40 or reason == RUNNING:
        raise ServingError(
            f"{place}: finish_reason is {given!r:.60}, so this is no finished response"
        )
    return reason


def _question(request: Json) -> str | None:
    """What was asked without a template: the user's last message; None where it is not known."""
    messages = request.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else None
    return None

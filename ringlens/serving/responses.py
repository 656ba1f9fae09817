"""What a server answered: the JSON of each API, read into one form.

The APIs: OpenAI's completions and chat completions with what vLLM and SGLang add to them, and
SGLang's own ``/generate``. Fields are checked before they are used, as the JSON comes from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ringlens.errors import ServingError
from ringlens.serving.fields import STREAM, Json, field_of, ids_of
from ringlens.serving.message import Message, chat, read_message, text_of
from ringlens.store.schema.captured import RUNNING


@dataclass(frozen=True)
class Exchange:
    """A request and its response.

    Attributes:
        response: The response's JSON.
        request: The request's JSON, empty where it was not kept.
        place: Where it stands, for errors: a file and line, or a problem.
        name: Its id; empty for none.
    """

    response: Any
    request: Json
    place: str
    name: str = ""


@dataclass(frozen=True)
class Answer:
    """One choice of a response, from what the response and its request say.

    Attributes:
        place: Where it stands, for errors.
        name: The name of its exchange, or the response's own id.
        prompt: The prompt: token ids, text with the template, or chat messages; None if unknown.
        asked: What was asked, without a template; None if unknown.
        output: Token ids that were generated; None if only text came.
        message: What was generated, without special tokens.
        finish_reason: Why generation ended.
        stop: The token that ended it, if the server names one.
        routed_experts: The routing as it came; None if none came.
        start: Position of the first row of the routing.
        n_prompt: Prompt tokens that the server counted; None if it counts several prompts together.
        n_output: Generated tokens that it counted; None if it counts several choices together.
        template: What the request gave the chat template beside messages: tools, variables.
    """

    place: str
    name: str
    prompt: list[int] | str | list[dict[str, Any]] | None
    asked: str | None
    output: list[int] | None
    message: Message
    finish_reason: str
    stop: int | None
    routed_experts: str | None
    start: int
    n_prompt: int | None
    n_output: int | None
    template: Json = field(default_factory=dict)


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
    choices = field_of(response, "choices", list, place)
    if not choices:
        raise ServingError(f"{place}: the response has no choices")
    shared = field_of(response, "sglext", dict, place, {})
    usage = field_of(response, "usage", dict, place, {})
    alone = len(choices) == 1

    def answer(place_of: int, choice: Any) -> Answer:
        here = place if alone else f"{place}, choice {place_of}"
        if not isinstance(choice, Mapping):
            raise ServingError(f"{here}: it is no object")
        index = _index(choice, place_of, len(choices), here)
        message = field_of(choice, "message", dict, here, {})
        output = (
            ids_of(choice, "token_ids", here)
            or ids_of(choice, "response_token_ids", here)
            or _nth(shared, index, here)
        )
        n_output = field_of(usage, "completion_tokens", int, here, None) if alone else None
        wrote = (
            read_message(message, here, complete=bool(output))
            if message
            else Message(field_of(choice, "text", str, here, None))
        )
        _check_whole(wrote, output, n_output, here)
        return Answer(
            place=here,
            name=exchange.name or str(response.get("id", "")),
            prompt=ids_of(choice, "prompt_token_ids", here)
            or ids_of(response, "prompt_token_ids", here)
            or ids_of(shared, "input_ids", here)
            or _asked(request, index, len(choices), here),
            asked=_question(request),
            output=output,
            message=wrote,
            finish_reason=_reason(choice.get("finish_reason"), here),
            stop=_stop(choice.get("stop_reason"), choice.get("matched_stop")),
            routed_experts=_routed(choice, shared if index == 0 else {}, here),
            start=_start(request, here),
            n_prompt=field_of(usage, "prompt_tokens", int, here, None) if alone else None,
            n_output=n_output,
            template=_template(request, here),
        )

    answers = [answer(place_of, choice) for place_of, choice in enumerate(choices)]
    indices = [
        _index(choice, place_of, len(choices), place) for place_of, choice in enumerate(choices)
    ]
    if len(set(indices)) < len(indices):
        raise ServingError(f"{place}: two choices have the same index")
    return answers


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
        meta = field_of(item, "meta_info", dict, here)
        output = ids_of(item, "output_ids", here)
        n_output = field_of(meta, "completion_tokens", int, here, None)
        wrote = Message(field_of(item, "text", str, here, None))
        _check_whole(wrote, output, n_output, here)
        ended = meta.get("finish_reason")
        answers.append(
            Answer(
                place=here,
                name=exchange.name or str(meta.get("id", "")),
                prompt=ids_of(item, "prompt_token_ids", here)
                or _asked(exchange.request, index, len(items), here),
                asked=None,
                output=output,
                message=wrote,
                finish_reason=_reason(ended, here),
                stop=_stop(ended.get("matched")) if isinstance(ended, Mapping) else None,
                routed_experts=field_of(meta, "routed_experts", str, here, None),
                start=_start(exchange.request, here),
                n_prompt=field_of(meta, "prompt_tokens", int, here, None),
                n_output=n_output,
            )
        )
    return answers


def _response(exchange: Exchange) -> Json:
    """The response, if it is complete and no error."""
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


def _index(choice: Json, place_of: int, count: int, place: str) -> int:
    """Which of the choices it is; servers may send them in any order."""
    index = field_of(choice, "index", int, place, place_of) if count > 1 else 0
    if not 0 <= index < count:
        raise ServingError(f"{place}: index is {index} among {count} choices")
    return int(index)


def _check_whole(
    wrote: Message, output: list[int] | None, n_output: int | None, place: str
) -> None:
    """Refuse an answer without anything that was generated."""
    if output or wrote.text or wrote.reasoning or wrote.tool_calls:
        return
    if wrote.text is None and output is None and n_output not in (0, 1):
        raise ServingError(f"{place}: it has no text, no tool call and no token ids")
    if (n_output or 0) > 1:
        raise ServingError(
            f"{place}: the server counted {n_output} generated tokens, and the answer holds none"
        )


def _stop(*given: Any) -> int | None:
    """The id of the token that ended the answer, if the server names one."""
    return next((token for token in given if type(token) is int), None)


def _template(request: Json, place: str) -> dict[str, Any]:
    """What the request gives the chat template beside messages."""
    found = dict(field_of(request, "chat_template_kwargs", dict, place, {}))
    if tools := field_of(request, "tools", list, place, None):
        found["tools"] = tools
    return found


def _messages(request: Json, place: str) -> list[dict[str, Any]]:
    """The messages of a request, if the model's own template makes the prompt of them alone."""
    for name in ("chat_template", "documents", "continue_final_message"):
        if request.get(name):
            raise ServingError(
                f"{place}: the request has {name}, so its prompt cannot be made again: ask the "
                "server for token ids"
            )
    return chat(field_of(request, "messages", list, place), place)


def _nth(shared: Json, index: int, place: str) -> list[int] | None:
    """The token ids of a choice in ``sglext.output_ids``, a list for each choice."""
    lists = field_of(shared, "output_ids", list, place, [])
    return ids_of({"output_ids": lists[index]}, "output_ids", place) if index < len(lists) else None


def _asked(
    request: Json, index: int, count: int, place: str
) -> list[int] | str | list[dict[str, Any]] | None:
    """The prompt of a choice in its request: ids, text or messages."""
    if "messages" in request:
        return _messages(request, place)
    given = next((request[n] for n in ("prompt", "input_ids", "text") if request.get(n)), None)
    if isinstance(given, list) and given and not isinstance(given[0], int):
        if count % len(given):
            raise ServingError(f"{place}: {len(given)} prompts have {count} choices")
        given = given[index * len(given) // count]  # several prompts, each with as many choices
    if isinstance(given, list):
        return ids_of({"prompt": given}, "prompt", place)
    return given if isinstance(given, str) else None


def _start(request: Json, place: str) -> int:
    """Position of the first row of routing that the request asked for."""
    inner = (request.get("sampling_params"), request.get("extra_body"))
    for holder in (request, *(each for each in inner if isinstance(each, Mapping))):
        for name in ("routed_experts_prompt_start", "routed_experts_start_len"):
            if (value := field_of(holder, name, int, place, None)) is not None:
                if value < 0:
                    raise ServingError(f"{place}: {name} is {value}")
                return value
    return 0


def _routed(choice: Json, shared: Json, place: str) -> str | None:
    """The routing of a choice, in any place where a server puts it."""
    names = ("meta_info", "sglext", "sgl_ext")
    holders = [choice, *(field_of(choice, name, dict, place, {}) for name in names), shared]
    found = (field_of(holder, "routed_experts", str, place, None) for holder in holders)
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
    """What was asked, without a template: the user's last message; None if unknown."""
    messages = request.get("messages")
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, Mapping) and message.get("role") == "user":
            try:
                return text_of(message.get("content"), "question", between="\n")
            except ServingError:  # not only text; reading the prompt decides whether that matters
                return None
    return None

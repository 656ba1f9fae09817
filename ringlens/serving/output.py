"""Tokens of an answer that came as text alone: thought, answer and tool calls joined again.

A thought that something follows is closed with its end mark. If nothing follows, the mark is added
only if the server's count of tokens includes it: a thought that was cut off has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from ringlens.errors import ServingError
from ringlens.observe.turns import markup
from ringlens.serving.fields import Json
from ringlens.serving.message import callable_form
from ringlens.serving.responses import Answer
from ringlens.serving.served_model import ServedModel
from ringlens.transcript import END_THINK, THINK, parse


def output_ids(model: ServedModel, answer: Answer, prompt: list[int]) -> list[int]:
    """Token ids of an answer that came as text.

    Args:
        model: The model.
        answer: The answer.
        prompt: Token ids of its prompt, which may open a thought.

    Raises:
        ServingError: Text cannot hold the whole answer.
    """
    message = answer.message
    behind = (message.text or "") + _calls(model, answer)
    begun = model.tokenizer.decode(prompt)
    start = "" if not message.reasoning or _opens(model, begun) else THINK
    closed = f"{start}{message.reasoning}{END_THINK}{behind}" if message.reasoning else behind
    if not message.reasoning or behind:
        _check_thought(model, answer, begun, closed, start)
        return _counted(model, answer, model.encode(closed))
    whole, cut = (model.encode(text) for text in (closed, f"{start}{message.reasoning}"))
    if answer.finish_reason == "stop" and answer.n_output in (len(whole), len(whole) + 1):
        return _counted(model, answer, whole)
    return _counted(model, answer, cut)


def _opens(model: ServedModel, prompt: str) -> bool:
    """Whether the prompt opens a thought, so that what follows belongs to it."""
    marks = markup(model.tokenizer).marks
    *_, last = parse(f"{prompt}x", marks, prompt_end=len(prompt), written=True).segments()
    return last.phase == "think"


def _check_thought(model: ServedModel, answer: Answer, prompt: str, text: str, start: str) -> None:
    """Refuse if the marks in the text give another thought than the server separated."""
    reasoning = answer.message.reasoning
    if not reasoning:
        return
    marks = markup(model.tokenizer).marks
    turn = parse(f"{prompt}{text}", marks, prompt_end=len(prompt), written=True).turns[-1]
    ends = len(prompt) + len(start) + len(reasoning) + len(END_THINK)
    if turn.think != (len(prompt), ends):
        raise ServingError(
            f"the thought or the answer holds {END_THINK} as a word, so that text alone does not "
            "say where the thought ends: ask the server for token ids"
        )


def _counted(model: ServedModel, answer: Answer, output: list[int]) -> list[int]:
    """The tokens, with an end token if the server counted one more than the text has."""
    ends = model.eos_token_ids
    if len(output) + 1 != answer.n_output or answer.finish_reason not in ("stop", "tool_calls"):
        return output
    if answer.stop is not None and answer.stop in ends:
        return [*output, answer.stop]
    main = model.tokenizer.eos_token_id
    return [*output, main] if main in ends else [*output, *ends[:1]]


def _calls(model: ServedModel, answer: Answer) -> str:
    """The tool calls of an answer as the chat template writes them.

    Raises:
        ServingError: The template cannot write them, or leaves a part out.
    """
    calls = answer.message.tool_calls
    if not calls:
        return ""
    before = answer.prompt if isinstance(answer.prompt, list) else []
    history = [message for message in before if isinstance(message, dict)]
    history = history or [{"role": "user", "content": answer.asked or ""}]
    for found in (list(calls), [callable_form(call) for call in calls]):
        turn = {"role": "assistant", "content": "", "tool_calls": found}
        text = _turn_of(model, answer, history, turn)
        if text and all(_holds(text, call) for call in calls):
            return text
    raise ServingError(
        f"it calls {calls[0]['function']['name']!r}, and the chat template does not write tool "
        "calls: ask the server for token ids"
    )


def _turn_of(model: ServedModel, answer: Answer, history: Sequence[Json], turn: Json) -> str:
    """The content of a turn after others in the chat template; "" if it cannot be found."""
    marks = markup(model.tokenizer).marks
    try:
        before = model.chat_text(history, answer.template, begin=False)
        whole = model.chat_text([*history, turn], answer.template, begin=False)
    except ServingError:
        return ""
    if not whole.startswith(before):
        return ""
    text = whole[len(before) :]
    opening = next((mark for mark in marks.openings if text.lstrip().startswith(mark)), "")
    text = text.lstrip().removeprefix(opening).lstrip() if opening else text
    for end in marks.ends:
        text = text.rstrip().removesuffix(end)
    return text


def _holds(text: str, call: Json) -> bool:
    """Whether a text holds a call's name and all of its arguments."""
    function = call["function"]
    return function["name"] in text and any(form in text for form in _forms(function["arguments"]))


def _forms(arguments: str) -> Iterator[str]:
    """The ways in which templates write arguments as JSON."""
    yield arguments
    try:
        found = json.loads(arguments)
    except (ValueError, RecursionError):
        return
    for ascii_only in (False, True):
        for separators in ((", ", ": "), (",", ":")):
            yield json.dumps(found, ensure_ascii=ascii_only, separators=separators)
            yield json.dumps(found, ensure_ascii=ascii_only, separators=separators, sort_keys=True)

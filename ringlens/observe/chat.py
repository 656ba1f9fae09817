"""Prompts and chats in a checkpoint's own chat template, and texts that are in it already.

A text is in the template already if it begins with what the template writes before a user's, a
system's or an assistant's message (behind a leading BOS token and white space). The template
itself says what that is; see `turns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ringlens.errors import ConfigError, ObservationError
from ringlens.messages import Message
from ringlens.observe.turns import FAULTS, markup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = "system"


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """A prompt in the chat template, the answer about to begin.

    A prompt that is in the template already stays as it is, and so does any where there is no
    template.

    Raises:
        ConfigError: The template refuses the prompt or leaves it out; or special tokens that
            begin a turn stand in its midst, so that it is neither a prompt nor a whole chat.
    """
    if not tokenizer.chat_template:
        return prompt
    marks = turn_marks(tokenizer)
    if _bare(tokenizer, prompt).startswith(marks):
        return prompt
    added = tuple(tokenizer.get_added_vocab())
    for mark in marks:
        if mark in prompt and any(token in mark for token in added):
            raise ConfigError(
                f"the prompt {prompt!r:.60} holds the chat template's {mark!r} in its midst: give "
                "the whole chat, beginning with its first turn, or a list of messages."
            )
    return chat_text(tokenizer, [{"role": "user", "content": prompt}])


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """A chat's messages in the chat template; the answer about to begin unless it is the last.

    Raises:
        ConfigError: There is no template, it refuses the messages, or it leaves one out.
    """
    if not tokenizer.chat_template:
        raise ConfigError("the tokenizer has no chat template: give texts instead of messages.")
    marks = turn_marks(tokenizer)
    for index, message in enumerate(messages):
        if _bare(tokenizer, message["content"]).startswith(marks):
            raise ConfigError(
                f"message {index} ({message['content']!r:.60}) is in the chat template already: "
                "give the whole chat as one text, or its messages without the template's marks."
            )
    answer = messages[-1]["role"] != "assistant"
    try:
        text = render(tokenizer, messages, answer)
    except FAULTS as error:
        raise ConfigError(f"the chat template refuses the messages: {error!s:.200}.") from error
    _check_roles(tokenizer, messages, text)
    for index, message in enumerate(messages):
        # Templates leave out thoughts of earlier turns, and white space.
        if message["content"].rpartition("</think>")[2].strip() not in text:
            raise ConfigError(
                f"the chat template leaves out message {index} (of {message['role']!r}): leave it "
                "out yourself, or put it into another message."
            )
    return text


def with_system(messages: Sequence[Message], system: str, place: str) -> tuple[Message, ...]:
    """A chat behind a system prompt.

    Args:
        messages: The chat.
        system: The system prompt.
        place: What the chat is of, for errors.

    Raises:
        ConfigError: It has a system prompt already.
    """
    if any(message["role"] == SYSTEM for message in messages):
        raise ConfigError(
            f"{place} has a system message of its own; leave system out, or the message."
        )
    return ({"role": SYSTEM, "content": system}, *messages)


def _check_roles(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str
) -> None:
    """Refuse roles for which the template writes what it writes for a role that there is not."""
    for role in {message["role"] for message in messages} & {"system", "tool"}:
        other = [
            {**message, "role": "nobody"} if message["role"] == role else message
            for message in messages
        ]
        try:
            unknown = render(tokenizer, other, messages[-1]["role"] != "assistant") == text
        except FAULTS:
            continue
        if unknown:
            raise ConfigError(f"the chat template does not know the role {role!r}: use another.")


def messages_text(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Any],
    template: Mapping[str, Any],
    *,
    begin: bool,
) -> str:
    """Messages as a request or an answer held them in the chat template.

    Args:
        tokenizer: The tokenizer with its template.
        messages: The messages.
        template: Tools and variables for the template.
        begin: Whether an answer is about to begin.

    Raises:
        ObservationError: There is no template.
        Exception: One of `FAULTS`, where the template refuses them.
    """
    if not tokenizer.chat_template:
        raise ObservationError("the tokenizer has no chat template: give prompts instead of chats")
    return render(tokenizer, messages, begin, template)


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Any],
    answer: bool,
    template: Mapping[str, Any] | None = None,
) -> str:
    """What the template makes of messages, an answer about to begin or not."""
    listed = [dict(message) if isinstance(message, Mapping) else message for message in messages]
    return str(
        tokenizer.apply_chat_template(
            listed, add_generation_prompt=answer, tokenize=False, **(template or {})
        )
    )


def turn_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What the template writes right before a message's content, whoever's it is."""
    return tuple(markup(tokenizer).marks.openings)


def _bare(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """A text without leading white space and BOS token."""
    bos = tokenizer.bos_token
    return text.lstrip().removeprefix(bos).lstrip() if isinstance(bos, str) else text.lstrip()

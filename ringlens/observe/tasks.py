"""From problems, texts and stored traces to what a session has to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ringlens.config import Sampling
from ringlens.errors import ConfigError, ProblemError
from ringlens.observe.chat import chat_text, prompt_text
from ringlens.observe.given import Chat, Ids, Item, Text, TextOrIds, read
from ringlens.observe.inputs import Encoder, check_rows, item_ids, say_beyond_context
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.observe.sampling import trace_seed
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.problem import Grade, Problem, check_problem, from_row
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel


def problem_tasks(encoder: Encoder, given: TextOrIds, settings: Sampling) -> list[Task]:
    """One trace a row, each with a seed of its own.

    Args:
        encoder: What encodes prompts: a lens, or a served model.
        given: Problems, plain prompts, chats, token ids, or what else `read` takes.
        settings: How long a trace may get, and the run's seed.

    Raises:
        ConfigError: There is something else, or nothing; see :func:`ringlens.observe.inputs.read`.
        ProblemError: A problem that cannot be graded or stored.
    """
    rows = _listed(given, "capture takes a list of problems or prompts; wrap the prompt in a list.")
    prompts = [item_ids(encoder, row, prompts=True) for row in rows]
    check_rows(encoder, prompts)
    say_beyond_context(encoder, [len(prompt) for prompt in prompts], settings.max_new_tokens)
    return [
        Task(
            token_ids=prompt,
            n_prompt=len(prompt),
            limit=len(prompt) + settings.max_new_tokens,
            item=item,
            problem=_problem(encoder, row, prompt, item),
            seed=trace_seed(settings.seed, item),
        )
        for item, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]


def _problem(encoder: Encoder, row: Item, prompt: list[int], item: int) -> Problem:
    """The problem of a row; of one that is none, a problem without a task."""
    if isinstance(row, Problem):
        return row
    if isinstance(row, Chat):
        if row.messages[-1]["role"] == "assistant":
            raise ConfigError(
                f"chat {item} ends with the assistant's message, so there is nothing to answer: "
                "leave it out, or replay the chat."
            )
        asked = str(row.messages[-1]["content"])
    else:
        asked = row if isinstance(row, str) else token_text(encoder.tokenizer, prompt).text
    return Problem(f"prompt-{item}", "", asked)


def _listed(given: TextOrIds, alone: str) -> list[Item]:
    """The rows of a list; ``alone`` is said of a single text."""
    if isinstance(given, str):
        raise ConfigError(alone)
    return [] if isinstance(given, list | tuple) and not given else read(given)


def text_tasks(lens: LoadedModel, given: TextOrIds) -> list[Task]:
    """One trace a finished text.

    Raises:
        ConfigError: A single string instead of a list, an empty text, or something else.
    """
    rows = _listed(given, "replay takes a list of texts, or a Store; wrap the text in a list.")
    texts = [_finished(lens, row) for row in rows]
    if not all(text.token_ids for text in texts):
        raise ConfigError("an empty text cannot be replayed; leave it out.")
    check_rows(lens, [text.token_ids for text in texts])
    say_beyond_context(lens, [len(text.token_ids) for text in texts])
    return [
        Task(text.token_ids, text.n_prompt, len(text.token_ids), item, written=False)
        for item, text in enumerate(texts)
    ]


def stored_texts(store: Store) -> list[Task]:
    """One trace a finished trace of the store that is no replay itself."""
    rows = store.sql(
        "select t.trace_id, t.problem_id, t.task, t.prompt, t.expected, t.answer, t.correct, "
        "r.mode != 'replay' as written, "
        "coalesce(min(k.pos) filter (k.phase != 'prompt'), count(*)) as n_prompt, "
        "list(k.token_id order by k.pos) as token_ids "
        "from traces t join tokens k using (trace_id) join runs r using (run_id) "
        "where t.source_trace_id is null and t.finish_reason != 'running' "
        "group by all order by t.trace_id"
    ).to_arrow_table()
    return [
        Task(
            token_ids=row["token_ids"],
            n_prompt=row["n_prompt"],
            limit=len(row["token_ids"]),
            item=item,
            problem=from_row(row),
            source_trace_id=row["trace_id"],
            written=row["written"],
            graded=_grade_left(row),
        )
        for item, row in enumerate(rows.to_pylist())
    ]


def _grade_left(row: Mapping[str, Any]) -> Grade | None:
    """The stored grade of a trace whose problem lacks the fields, which no store keeps."""
    try:
        check_problem(from_row(row), f"trace {row['trace_id']}")
    except ProblemError:
        return Grade(row["answer"], row["correct"])
    return None


def _finished(lens: LoadedModel, row: Item) -> Text:
    """A row as a finished text; of token ids alone it is not known which are prompt."""
    if isinstance(row, Text):
        return row
    if isinstance(row, Ids):
        return Text(row.token_ids)
    if isinstance(row, Chat):
        return _tokens(lens, chat_text(lens.tokenizer, row.messages))
    return _tokens(lens, row if isinstance(row, str) else prompt_text(lens.tokenizer, row.prompt))


def _tokens(lens: LoadedModel, text: str) -> Text:
    begin = markup(lens.tokenizer).prompt_of(text)
    prompt = lens.encode(text[:begin])
    return Text(prompt + lens.encode(text[begin:]), len(prompt))

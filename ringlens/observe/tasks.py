"""From problems, texts and stored traces to what a session has to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from os.path import exists
from typing import TYPE_CHECKING, Any

from ringlens.config import Sampling, samples_of
from ringlens.errors import ConfigError, ProblemError
from ringlens.graders.ungraded import REASONS, UNGRADED
from ringlens.observe.chat import chat_text, with_system
from ringlens.observe.given import Chat, Ids, Item, Text, TextOrIds, read
from ringlens.observe.inputs import (
    Encoder,
    check_rows,
    completion_ids,
    item_ids,
    problem_text,
    say_beyond_context,
)
from ringlens.observe.pipeline.trace_buffer import Task
from ringlens.observe.sampling import trace_seed
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.plain import check_text
from ringlens.problem import GIVEN, Grade, Problem, check_problem, check_prompt, from_row
from ringlens.prompts.completions import Completion, sample_numbers
from ringlens.prompts.fields import ProblemIds
from ringlens.prompts.kinds import KINDS
from ringlens.prompts.problems import TASKS
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.model.loaded import LoadedModel


def problem_tasks(
    encoder: Encoder,
    given: TextOrIds,
    settings: Sampling,
    *,
    samples: int = 1,
    system: str | None = None,
) -> list[Task]:
    """One trace a sample of a row, each with a seed of its own; samples of a row side by side.

    Args:
        encoder: What encodes prompts: a lens, or a served model.
        given: Problems, plain prompts, chats, token ids, or what else `read` takes.
        settings: How long a trace may get, and the run's seed.
        samples: Traces of each row.
        system: System prompt of all rows.

    Raises:
        ConfigError: There is something else, or nothing; see :func:`ringlens.observe.inputs.read`.
            Or several samples are asked that would all be equal; or a row cannot take a system
            prompt.
        ProblemError: A problem that cannot be graded or stored.
    """
    samples = samples_of(samples, settings)
    rows = _prompts(given)
    if any(isinstance(row, Completion) for row in rows):
        raise ConfigError("a Completion is finished: replay it, or capture its problem.")
    told = rows if system is None else _under_system(rows, system)
    prompts = [item_ids(encoder, row, prompts=True) for row in told]
    check_rows(encoder, prompts)
    say_beyond_context(encoder, [len(prompt) for prompt in prompts], settings.max_new_tokens)
    ids = ProblemIds()  # of the rows as they were given: a system prompt changes no id
    asked = [
        _problem(encoder, row, prompt, index, ids)
        for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True))
    ]
    return [
        Task(
            token_ids=prompt,
            n_prompt=len(prompt),
            limit=len(prompt) + settings.max_new_tokens,
            item=item,
            problem=problem,
            seed=trace_seed(settings.seed, item),
            sample=item % samples,
        )
        for first, (problem, prompt) in enumerate(zip(asked, prompts, strict=True))
        for item in range(first * samples, (first + 1) * samples)
    ]


def _under_system(rows: list[Item], system: str) -> list[Item]:
    """Rows as chats behind a system prompt; problems keep what else they are."""
    check_text(system, "system: ")
    check_prompt(system, "the system prompt")
    found: list[Item] = []
    for index, row in enumerate(rows):
        place = f"item {index}"
        if isinstance(row, Ids | Text):
            raise ConfigError(
                f"{place} is token ids, which are used as they are, so system cannot be put "
                "before them; give a text or messages, or leave system out."
            )
        asked = row.prompt if isinstance(row, Problem) else row
        chat = row.messages if isinstance(row, Problem | Chat) else ()
        messages = with_system(chat or [{"role": "user", "content": asked}], system, place)
        if isinstance(row, Problem):
            found.append(replace(row, messages=messages))
        else:
            found.append(Chat(messages))
    return found


def _problem(
    encoder: Encoder, row: Item, prompt: list[int], index: int, ids: ProblemIds
) -> Problem:
    """The problem of a row; of one that is none, a problem without a task."""
    chat = row.messages if isinstance(row, Problem | Chat) else ()
    if chat and chat[-1]["role"] == "assistant":
        raise ConfigError(
            f"chat {index} ends with the assistant's message, so there is nothing to answer: "
            "leave it out, or replay the chat."
        )
    if isinstance(row, Problem):
        return row
    if isinstance(row, Chat):
        asked = str(row.messages[-1]["content"])
    else:
        asked = row if isinstance(row, str) else token_text(encoder.tokenizer, prompt).text
    return Problem(ids.made(asked, chat), "", asked, messages=chat)


def _prompts(given: TextOrIds) -> list[Item]:
    """The rows of what is to be thought about; a text alone is a prompt.

    Raises:
        ConfigError: A text alone that names problems, or a path.
    """
    if isinstance(given, PathLike) or (isinstance(given, str) and _names_problems(given)):
        raise ConfigError(
            f"{str(given)!r:.60} names problems: give ringlens.problems({str(given)!r:.60}); a "
            "prompt of these words is given in a list."
        )
    return [] if isinstance(given, list | tuple) and not given else read(given)


def _names_problems(text: str) -> bool:
    """Whether a text is the name of a bundled task, or looks like that of a file."""
    known = tuple(suffix for suffixes, _ in KINDS.values() for suffix in suffixes)
    return text in TASKS or (" " not in text and text.lower().endswith(known)) or exists(text)


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
    samples = sample_numbers(row for row in rows if isinstance(row, Completion))
    return [
        _text_task(row, text, item, next(samples) if isinstance(row, Completion) else None)
        for item, (row, text) in enumerate(zip(rows, texts, strict=True))
    ]


def _text_task(row: Item, text: Text, item: int, sample: int | None) -> Task:
    """The task of a finished text; of a completion the problem is known, and all else is its own.

    Its turns are not looked for: what an engine wrote is one turn, whatever marks it quotes.
    """
    task = Task(text.token_ids, text.n_prompt, len(text.token_ids), item, written=False)
    if not isinstance(row, Completion):
        return task
    return replace(task, problem=row.problem, sample=sample, written=True)


def stored_texts(store: Store) -> list[Task]:
    """One trace a finished trace of the store that is no replay itself."""
    rows = store.sql(
        "select t.trace_id, t.problem_id, t.task, t.prompt, t.expected, t.answer, t.correct, "
        "t.flags, t.sample, r.mode != 'replay' or t.sample is not null as written, "
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
            sample=row["sample"],
            graded=_grade_left(row),
        )
        for item, row in enumerate(rows.to_pylist())
    ]


def _grade_left(row: Mapping[str, Any]) -> Grade | None:
    """The stored grade of a trace that was graded elsewhere.

    So is one whose problem lacks the fields, which no store keeps.
    """
    try:
        check_problem(from_row(row), f"trace {row['trace_id']}")
        given = row["task"] == GIVEN
    except ProblemError:
        given = True
    if given:
        flags = tuple(flag for flag in row["flags"] or () if flag == UNGRADED or flag in REASONS)
        return Grade(row["answer"], row["correct"], flags)
    return None


def _finished(lens: LoadedModel, row: Item) -> Text:
    """A row as a finished text; of token ids alone it is not known which are prompt."""
    if isinstance(row, Text):
        return row
    if isinstance(row, Ids):
        return Text(row.token_ids)
    if isinstance(row, Completion):
        prompt, written = completion_ids(lens, row)
        return Text(prompt + written, len(prompt))
    if isinstance(row, Chat):
        return _tokens(lens, chat_text(lens.tokenizer, row.messages))
    return _tokens(lens, row if isinstance(row, str) else problem_text(lens.tokenizer, row))


def _tokens(lens: LoadedModel, text: str) -> Text:
    begin = markup(lens.tokenizer).prompt_of(text)
    prompt = lens.encode(text[:begin])
    return Text(prompt + lens.encode(text[begin:]), len(prompt))

"""From problems, texts and stored traces to what a session has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ringlens.config import Sampling
from ringlens.errors import ConfigError
from ringlens.observe.buffer import Task
from ringlens.observe.sampling import trace_seed
from ringlens.observe.turns import markup
from ringlens.problem import Problem, check_problem, from_row
from ringlens.store import Store

if TYPE_CHECKING:
    from ringlens.lens import Lens


@dataclass(frozen=True)
class Text:
    """A finished text as tokens.

    Attributes:
        token_ids: Its tokens.
        n_prompt: How many of them are prompt in any case. Turns behind them are told apart by the
            chat template's marks: those of users and systems are prompt too.
    """

    token_ids: list[int]
    n_prompt: int = 0


class Encoder(Protocol):
    """What turns a prompt into tokens: a lens, or a served model."""

    def encode_prompt(self, prompt: str) -> list[int]:
        """Token ids of a prompt in the chat template."""


def problem_tasks(
    encoder: Encoder, problems: Sequence[Problem | str], settings: Sampling
) -> list[Task]:
    """One trace a problem, each with a seed of its own."""
    tasks = []
    for item, given in enumerate(problems):
        problem = Problem(f"prompt-{item}", "", given) if isinstance(given, str) else given
        check_problem(problem, f"problem {item}")
        prompt = encoder.encode_prompt(problem.prompt)
        tasks.append(
            Task(
                token_ids=prompt,
                n_prompt=len(prompt),
                limit=len(prompt) + settings.max_new_tokens,
                item=item,
                problem=problem,
                seed=trace_seed(settings.seed, item),
            )
        )
    return tasks


def text_tasks(lens: Lens, texts: Sequence[str | Text]) -> list[Task]:
    """One trace a text.

    Raises:
        ConfigError: A single string instead of a list, or an empty text.
    """
    if isinstance(texts, str):
        raise ConfigError("replay takes a list of texts, or a Store; wrap the text in a list.")
    tasks = []
    for item, given in enumerate(texts):
        text = _tokens(lens, given) if isinstance(given, str) else given
        if not text.token_ids:
            raise ConfigError("an empty text cannot be replayed; leave it out.")
        tasks.append(Task(text.token_ids, text.n_prompt, len(text.token_ids), item, written=False))
    return tasks


def stored_texts(store: Store) -> list[Task]:
    """One trace a finished trace of the store that is no replay itself."""
    rows = store.sql(
        "select t.trace_id, t.problem_id, t.task, t.prompt, t.expected, "
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
        )
        for item, row in enumerate(rows.to_pylist())
    ]


def _tokens(lens: Lens, text: str) -> Text:
    begin = markup(lens.tokenizer).prompt_of(text)
    prompt = lens.encode(text[:begin])
    return Text(prompt + lens.encode(text[begin:]), len(prompt))

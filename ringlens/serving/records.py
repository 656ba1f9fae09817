"""Records of what a server answered: the run's, and a trace's with its tokens and choices.

Shape letters: R rows (tokens), N layers, S sparse layers, k experts a token.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ringlens.errors import RinglensError, ServingError
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.observe.pipeline.run_record import sizes as run_sizes
from ringlens.observe.text import TokenText, token_text
from ringlens.observe.turns import Reading, markup
from ringlens.problem import Problem, grade
from ringlens.serving.output import output_ids
from ringlens.serving.responses import Answer
from ringlens.serving.served_model import ServedModel
from ringlens.serving.wire import Decode, sparse_choices
from ringlens.store.schema.records import ChoiceArrays, RunRecord, TokenArrays, TraceRecord
from ringlens.store.write.validate import check_trace
from ringlens.versions import version_of

if TYPE_CHECKING:
    from ringlens.model.sizes import Sizes


def imported_run(
    model: ServedModel,
    server: str,
    *,
    routing: bool,
    seed: int,
    sampling: dict[str, Any],
    fingerprint: str,
    versions: dict[str, str] | None = None,
) -> RunRecord:
    """The record of an imported run; what only the server knows is "unknown" or NaN.

    Args:
        model: The model.
        server: Kind of server, for ``runs.versions``.
        routing: Whether it reports routing.
        seed: Seed of the run.
        sampling: Sampling settings that are known.
        fingerprint: Digest of what was asked for.
        versions: The server's own versions, if it gave them.
    """
    config = model.config
    quantization = getattr(config, "quantization_config", None)
    here = {
        "python": platform.python_version(),
        "ringlens": version_of("ringlens"),
        server: "unknown",
    }
    return RunRecord(
        mode="imported",
        model=model.name,
        revision=model.revision,
        **run_sizes(model.sizes),
        dtype="unknown",
        quantization=None
        if quantization is None
        else json.dumps(quantization, sort_keys=True, default=str),
        attention="unknown",
        experts_layout="unknown",
        seed=seed,
        record=("routing",) if routing else (),
        expert_bias=np.full(
            (len(model.sizes.sparse_layers), model.sizes.router.experts), np.nan, np.float32
        ),
        versions=here | (versions or {}),
        sampling=sampling,
        fingerprint=fingerprint,
        tokenizer=tokenizer_digest(model.tokenizer),
    )


def trace_record(
    model: ServedModel,
    answer: Answer,
    decode: Decode | None,
    item: int,
    problem: Problem | None = None,
    seed: int = 0,
) -> TraceRecord:
    """The record of a trace, made from an answer.

    Args:
        model: The model that was served.
        answer: What the server answered.
        decode: Decodes its routing, which must be there; None to import no routing.
        item: Place of the trace in its run.
        problem: What was asked; None to take that from the answer.
        seed: Seed of its sampler.

    Raises:
        ServingError: The answer contradicts itself or the model.
    """
    try:
        record = _record(model, answer, decode, item, problem, seed)
        check_trace(record, model.shape)
    except RinglensError as error:
        raise ServingError(f"{answer.place}: {error}") from error
    return record


def _record(
    model: ServedModel,
    answer: Answer,
    decode: Decode | None,
    item: int,
    problem: Problem | None,
    seed: int,
) -> TraceRecord:
    prompt, output = _token_ids(model, answer, exact=decode is not None)
    ids = prompt + output
    vocabulary = model.sizes.vocabulary
    wrong = [token for token in ids if not 0 <= token < vocabulary]
    if wrong:
        raise ServingError(f"token id {wrong[0]} in a vocabulary of {vocabulary}")
    if not ids:
        raise ServingError("there is neither a prompt nor an answer")
    text = token_text(model.tokenizer, ids)
    asked = answer.asked or "".join(text.pieces[: len(prompt)])
    problem = problem or Problem(answer.name, "", asked)
    reading = markup(model.tokenizer).read(text, len(prompt), question=problem.prompt)
    phase, graded = reading.phase, grade(problem, reading.transcript)
    return TraceRecord(
        prompt=problem.prompt,
        text=text.text,
        n_prompt=phase.count("prompt"),
        n_think=phase.count("think"),
        n_answer=phase.count("answer"),
        finish_reason=answer.finish_reason,
        seed=seed,
        tokens=unscored_tokens(ids, text, reading),
        routing=None if decode is None else _choices(model.sizes, answer, decode, len(ids)),
        problem_id=problem.id or None,
        task=problem.task or None,
        answer=graded.answer,
        expected=problem.answer,
        correct=graded.correct,
        flags=graded.flags,
        item=item,
    )


def _choices(sizes: Sizes, answer: Answer, decode: Decode, tokens: int) -> ChoiceArrays:
    """The routing of an answer of ``tokens`` tokens; servers never route the last one."""
    assert answer.routed_experts is not None
    rows = tokens - 1 - answer.start
    if rows < 0:
        raise ServingError(
            f"routing starts at position {answer.start} of {tokens} tokens: lower --prompt-start"
        )
    experts, sparse = sizes.router.experts, sizes.sparse_layers
    shape = (rows, sizes.layers, sizes.router.experts_per_token)
    ids_RNk = decode(answer.routed_experts, shape, experts)
    ids_SRk = sparse_choices(ids_RNk, sparse, experts)
    return ChoiceArrays(sparse, ids_SRk, answer.start)


def _token_ids(model: ServedModel, answer: Answer, exact: bool) -> tuple[list[int], list[int]]:
    """Tokens of the prompt and of the output, encoded here if only text came.

    Args:
        model: The model.
        answer: The answer.
        exact: Refuse another number of tokens than the server counted.
    """
    prompt = _prompt_ids(model, answer)
    output = answer.output or output_ids(model, answer, prompt)
    for name, ids, counted in (
        ("prompt", prompt, answer.n_prompt),
        ("generated", output, answer.n_output),
    ):
        if exact and counted is not None and counted != len(ids):
            raise ServingError(
                f"{len(ids)} {name} tokens, where the server counted {counted}. The same "
                f"text can be other tokens: ask the server for token ids"
            )
    return prompt, output


def _prompt_ids(model: ServedModel, answer: Answer) -> list[int]:
    given = answer.prompt
    if given is None or given == []:
        raise ServingError(
            "the prompt is not known: ask the server for token ids, or give "
            "objects with request and response"
        )
    if isinstance(given, str):
        return model.encode(given)
    if isinstance(given[0], int):
        return [token for token in given if isinstance(token, int)]
    text = model.chat_text(given, answer.template)
    for message in given:
        for call in message.get("tool_calls", ()):
            if (name := call["function"]["name"]) not in text:
                raise ServingError(
                    f"the chat template leaves out the prompt's call of {name!r}: ask the server "
                    "for token ids"
                )
    return model.encode(text)


def unscored_tokens(ids: Sequence[int], text: TokenText, reading: Reading) -> TokenArrays:
    """Tokens of a text whose log-probabilities nobody has told."""
    unknown = np.full(len(ids), np.nan, np.float32)
    return TokenArrays(
        token_id=np.array(ids, np.int32),
        text=text.pieces,
        start=np.array(text.starts, np.int32),
        end=np.array(text.ends, np.int32),
        phase=reading.phase,
        logprob=unknown,
        entropy=unknown,
        turn=reading.turn,
    )

"""Import of rollouts: the texts become traces, their labels steps."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from ringlens.analysis.roles.importing import ROLLOUTS, import_steps
from ringlens.analysis.roles.labelling import label_stored
from ringlens.config import refuse_unknown
from ringlens.errors import ConfigError
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.observe.session import OnProgress
from ringlens.observe.text import token_text
from ringlens.observe.turns import markup
from ringlens.problem import GIVEN
from ringlens.rollouts.layout import Rollout, problem_folders, rollouts
from ringlens.serving.records import imported_run, unscored_tokens
from ringlens.serving.served_model import ServedModel
from ringlens.serving.target import Target, fingerprint, open_target
from ringlens.store import Store
from ringlens.store.schema.records import TraceRecord
from ringlens.store.write.validate import check_trace


@refuse_unknown
def import_rollouts(
    path: str | PathLike[str],
    store: str | Path | Store,
    *,
    model: str | PathLike[str] | ServedModel,
    resampled: bool = False,
    on_progress: OnProgress | None = None,
) -> Store:
    """Import the base solutions of a folder of math-rollouts, with the labels of their steps.

    The texts are cut into the tokens of a model that is to observe them (`ringlens.replay`).
    Answers and grades are those of the folder. Steps that the folder does not label are labelled by
    rules. All is checked before anything is stored.

    Args:
        path: The folder of a problem, or one that holds such folders.
        store: Folder or address of the store; made if it is missing, else added to.
        model: What is to observe the texts: its configuration and tokenizer are read, never its
            weights.
        resampled: Import the rollouts of ``chunk_i/solutions.json`` as well, as problems of their
            own: "problem_N/chunk_i".
        on_progress: Called after each trace.

    Returns:
        The store, open for reading.

    Raises:
        ConfigError: The folder holds something else. Nothing is stored.
        StoreError: The store cannot be written.
    """
    served = model if isinstance(model, ServedModel) else ServedModel.read(model)
    folders = problem_folders(Path(path))
    digest = hashlib.sha256()
    total = 0
    for item, each in enumerate(_all(folders, resampled)):
        record = _record(served, each, item)
        digest.update(f"{each.name}\0{record.text}\0{each.steps}\0".encode())
        total += 1
    asked = [served.name, tokenizer_digest(served.tokenizer), digest.hexdigest()]
    run = imported_run(
        served,
        GIVEN,
        routing=False,
        seed=0,
        sampling={},
        fingerprint=fingerprint({"rollouts": asked}),
    )
    with open_target(store, run) as target:
        target.expect(total, on_progress)
        for item, each in enumerate(_all(folders, resampled)):
            if item not in target.done:
                target.add(_record(served, each, item))
        target.commit()
        _label(target, list(_all(folders, resampled)))
    return Store(target.folder)


def _all(folders: list[Path], resampled: bool) -> Iterator[Rollout]:
    for folder in folders:
        yield from rollouts(folder, resampled)


def _label(target: Target, given: list[Rollout]) -> None:
    """Store the steps: those of the folder, and rules' where it has none."""
    with Store(target.folder) as store:
        rows = store.sql("select item, trace_id from traces where run_id = ?", [target.run_id])
        ids = dict(rows.fetchall())
    labelled = {ids[i]: each.steps for i, each in enumerate(given) if each.steps is not None}
    if labelled:
        import_steps(target.writer, labelled, ROLLOUTS)
    rest = sorted(set(ids.values()) - set(labelled))
    if rest:
        label_stored(target.writer, target.run_id, rest)


def _record(model: ServedModel, given: Rollout, item: int) -> TraceRecord:
    """The record of a rollout; its prompt, and the steps that were given, are encoded apart."""
    begin, written = given.text[: given.prompt_end], given.text[given.prompt_end :]
    prompt = model.encode(begin)
    ids = prompt + model.encode(written)
    text = token_text(model.tokenizer, ids)
    if text.text != given.text:
        raise ConfigError(
            f"{given.name}: the tokenizer of {model.name} cannot write this text; import it for a "
            "model whose tokenizer can."
        )
    reading = markup(model.tokenizer).read(text, len(prompt), question=given.question)
    record = TraceRecord(
        prompt=given.question,
        text=text.text,
        n_prompt=reading.phase.count("prompt"),
        n_think=reading.phase.count("think"),
        n_answer=reading.phase.count("answer"),
        finish_reason="stop",
        seed=0,
        tokens=unscored_tokens(ids, text, reading),
        problem_id=given.name,
        task=GIVEN,
        answer=given.answer,
        expected=given.expected,
        correct=given.correct,
        item=item,
        sample=given.sample,
    )
    check_trace(record, model.shape)
    return record

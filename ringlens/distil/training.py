"""``rl.distil``: a smaller model learns from a larger one, over the larger one's own thoughts."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from ringlens.config import known_only, refuse_unknown
from ringlens.distil.checkpoint import write_checkpoint
from ringlens.distil.curve import Distilled, Row
from ringlens.distil.learner import Learner
from ringlens.distil.optimizer import rate_at
from ringlens.distil.progress import Progress
from ringlens.distil.settings import Distillation
from ringlens.distil.texts import Text, batches, digest, ordered, split, texts_of
from ringlens.errors import ConfigError
from ringlens.model.loaded import LoadedModel
from ringlens.model.loading import load_model, model_name
from ringlens.model.tokenizer import tokenizer_digest
from ringlens.observe.same_tokenizer import check_same_tokenizer

if TYPE_CHECKING:
    from ringlens.store import Store

OnRow = Callable[[Row], None]
"""Called with each new row of the curve."""

UNFINISHED, PROGRESS = ".unfinished", ".progress"


@refuse_unknown
def distil(
    student: str | os.PathLike[str],
    store: Store,
    out: str | os.PathLike[str],
    *,
    teacher: str | os.PathLike[str] | None = None,
    settings: Distillation | None = None,
    device: str | None = None,
    on_row: OnRow | None = None,
) -> Distilled:
    """Train a student on what its teacher says of every token of the teacher's own thoughts.

    The loss is KL(teacher ‖ student) over the whole vocabulary, at every position whose next token
    the teacher wrote. The same call takes up what was killed, and ends in the same weights, bit for
    bit in float32 on one machine. Under torchrun or ``accelerate launch`` the texts of each step
    are shared out.

    Args:
        student: A checkpoint, such as one that ``ringlens prune --export`` wrote.
        store: The teacher's thoughts over a problem set, as ``ringlens capture`` records them.
        out: Folder of the new checkpoint. Until it is whole it is called ``OUT.unfinished``, and
            ``OUT.progress`` keeps how far the student has come.
        teacher: The teacher; None for the model that the store's runs name.
        settings: How the student learns; None for the defaults.
        device: "cpu", "cuda" or None for a GPU where there is one. On a GPU the models compute in
            bfloat16, on a CPU in float32.
        on_row: Called with each new row of the curve.

    Returns:
        The folder and the curve.

    Raises:
        ConfigError: The models or the store do not fit together, or ``out`` is there already.
        ModelNotFoundError: There is no such model.
    """
    settings = settings or Distillation()
    folder = Path(out)
    if os.path.lexists(folder):
        raise ConfigError(f"{folder} is there already: name another folder, or remove it.")
    teacher = _teacher(store) if teacher is None else model_name(teacher)
    accelerator = _accelerator(device)
    learner = Learner(
        _loaded(model_name(student), accelerator),
        _loaded(teacher, accelerator),
        settings,
        accelerator,
    )
    _check(learner, store)
    texts = texts_of(store)
    asked = {"student": learner.student.name, "teacher": teacher, "texts": digest(texts)}
    progress = Progress(folder.with_name(folder.name + PROGRESS), asked | asdict(settings))
    curve = _train(learner, texts, settings, progress, accelerator, on_row)
    made = Distilled(folder, teacher, tuple(curve))
    if accelerator.is_main_process:
        unfinished = folder.with_name(folder.name + UNFINISHED)
        write_checkpoint(learner.student, made, settings, unfinished)
        progress.remove()
    accelerator.wait_for_everyone()
    return made


def _train(
    learner: Learner,
    texts: list[Text],
    settings: Distillation,
    progress: Progress,
    accelerator: Accelerator,
    on_row: OnRow | None,
) -> list[Row]:
    """Learn until the tokens are used up; the curve."""
    learnt, held_out = split(texts, settings.held_out, settings.seed)
    measured = list(ordered(held_out, settings.batch_tokens))
    found = progress.load()
    if found is None:
        nothing = Row(0, 0, math.nan, math.nan, *learner.measure(measured), math.nan, 0.0)
        curve = [nothing]
    else:
        curve = found[1]
        learner.restore(found[0])
    for row in curve:
        _say(row, on_row)
    step, tokens = curve[-1].step, curve[-1].tokens
    since: list[torch.Tensor] = []
    endless = batches(learnt, settings.batch_tokens, settings.seed)
    for batch in itertools.islice(endless, step, None):
        if tokens >= settings.tokens:
            break
        share = tokens / settings.tokens
        rate = rate_at(settings.learning_rate, settings.warmup_steps, step, share)
        since.append(learner.learn(batch, rate, settings.bias_step * min(1.0, 3 * (1 - share))))
        step, tokens = step + 1, tokens + batch.tokens
        if step % settings.every == 0 or tokens >= settings.tokens:
            loss, agreement, load = torch.stack(since).mean(dim=0).tolist()
            since.clear()
            _check_finite(loss, step)
            ahead = learner.measure(measured)
            curve.append(Row(step, tokens, loss, agreement, *ahead, load, rate))
            if accelerator.is_main_process:
                progress.save(learner.state(), curve)
            _say(curve[-1], on_row)
    return curve


def _say(row: Row, on_row: OnRow | None) -> None:
    if on_row is not None:
        on_row(row)


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss} at step {step}: lower the learning rate, and remove the file of "
            "progress to begin anew."
        )


def _accelerator(device: str | None) -> Accelerator:
    known_only([] if device is None else [device], ("cpu", "cuda"), "device")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = 'cuda', but torch sees no GPU; leave it out for the CPU.")
    return Accelerator(cpu=device == "cpu")


def _loaded(name: str, accelerator: Accelerator) -> LoadedModel:
    """A model on this process' device, its experts fused, in the dtype that it computes in."""
    dtype = torch.bfloat16 if accelerator.device.type == "cuda" else torch.float32
    model, tokenizer = load_model(name, dtype=dtype, device=accelerator.device)
    return LoadedModel(model, tokenizer, name)


def _teacher(store: Store) -> str:
    """The one model whose runs are in a store."""
    names = [name for (name,) in store.sql("select distinct model from runs order by 1").fetchall()]
    if len(names) != 1:
        raise ConfigError(
            f"{store.address} holds runs of {', '.join(map(repr, names)) or 'no model'}; name the "
            "teacher."
        )
    return str(names[0])


def _check(learner: Learner, store: Store) -> None:
    """Refuse models and a store whose token ids mean different texts.

    Raises:
        ConfigError: They do, or weights are quantised.
    """
    student, teacher = learner.student, learner.teacher
    check_same_tokenizer(teacher, store)
    if tokenizer_digest(student.tokenizer) != tokenizer_digest(teacher.tokenizer):
        raise ConfigError(
            f"{student.name} and {teacher.name} have different tokenizers, so their distributions "
            "are over different tokens. A student is a smaller form of its teacher, such as a "
            "pruned one."
        )
    if student.sizes.vocabulary != teacher.sizes.vocabulary:
        raise ConfigError(
            f"{student.name} has {student.sizes.vocabulary:,} token ids and {teacher.name} "
            f"{teacher.sizes.vocabulary:,}; they must be the same."
        )
    whole: list[Any] = [p for p in student.model.parameters() if not p.is_floating_point()]
    if whole or getattr(student.config, "quantization_config", None):
        raise ConfigError(
            f"{student.name} has quantised weights, which do not learn: distil the unquantised "
            "checkpoint."
        )

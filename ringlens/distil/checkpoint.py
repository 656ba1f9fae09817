"""Writes a distilled model as a checkpoint, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ringlens.model.gate.descriptions import copy_descriptions
from ringlens.model.gate.hub import described
from ringlens.model.loading import locate, read_config
from ringlens.observe.pipeline.run_record import VERSIONED
from ringlens.versions import version_of

if TYPE_CHECKING:
    from ringlens.distil.curve import Distilled
    from ringlens.distil.settings import Distillation
    from ringlens.model.loaded import LoadedModel

REPORT = "distillation.json"


def write_checkpoint(
    student: LoadedModel, made: Distilled, settings: Distillation, unfinished: Path
) -> None:
    """Write weights in the dtype that the student had, its tokenizer, and how it was made.

    Args:
        student: The student, which is cast to that dtype.
        made: What was done.
        settings: How it learnt.
        unfinished: Folder that becomes ``made.folder``.
    """
    source = described(locate(student.name))
    stated = read_config(str(source)).dtype
    dtype = stated if isinstance(stated, torch.dtype) else torch.bfloat16
    for parameter in student.model.parameters():  # buffers, such as selection biases, stay
        parameter.data = parameter.data.to(dtype)
    student.config.dtype = dtype
    # from_pretrained drops layers that ordinary generation does not run.
    for name, value in student.family.expert_names(student.config).without_unrun.items():
        setattr(student.config, name, value)
    shutil.rmtree(unfinished, ignore_errors=True)
    student.model.save_pretrained(unfinished)
    copy_descriptions(source, unfinished)
    report = {
        "teacher": made.teacher,
        "student": student.name,
        "settings": asdict(settings),
        "versions": {name: version_of(name) for name in VERSIONED},
        "curve": [_known(asdict(row)) for row in made.curve],
    }
    text = json.dumps(report, indent=1, allow_nan=False)
    (unfinished / REPORT).write_text(text + "\n", encoding="utf-8")
    os.replace(unfinished, made.folder)


def _known(row: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in row.items()}

"""The table of what people say of traces, steps and experts."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from ringlens.store.schema.table import LAYER, RUN, TRACE, Column, Table

PERSON = "person"
"""``source`` of an annotation that a person wrote here."""

ANNOTATIONS = Table(
    "annotations",
    "One row per thing that a person said of a trace, a step or an expert: a label, a note, or "
    "both. Rows are only ever added: one corrects or retracts another by its id.",
    ("annotation_id",),
    (
        Column("annotation_id", pa.string(), "random, unique in all stores"),
        replace(RUN, meaning="run that the trace is of, or whose expert it is about"),
        replace(TRACE, meaning="trace; null for an expert", nullable=True),
        Column(
            "step",
            pa.int32(),
            "step as it was numbered when this was said; null for a whole trace or an expert",
            nullable=True,
            unit="steps",
        ),
        Column(
            "token_start",
            pa.int32(),
            "position of the step's first token, by which it is found again after it was cut anew",
            nullable=True,
            unit="tokens",
        ),
        Column(
            "token_end",
            pa.int32(),
            "position after the step's last token",
            nullable=True,
            unit="tokens",
        ),
        replace(LAYER, meaning="layer of the expert; null for a trace or a step", nullable=True),
        Column("expert", pa.uint16(), "expert id; null for a trace or a step", nullable=True),
        Column("label", pa.string(), "short name; null if there is only a note", nullable=True),
        Column("note", pa.string(), "free text; null if there is only a label", nullable=True),
        Column("author", pa.string(), "who said it"),
        Column(
            "source",
            pa.string(),
            f"'{PERSON}' if it was written here, or what it was imported from",
        ),
        Column("created", pa.timestamp("us", tz="UTC"), "when it was said"),
        Column(
            "supersedes",
            pa.string(),
            "annotation that this one corrects or retracts; null for a new one",
            nullable=True,
        ),
        Column(
            "is_retraction", pa.bool_(), "whether it only retracts `supersedes`, and says nothing"
        ),
    ),
)

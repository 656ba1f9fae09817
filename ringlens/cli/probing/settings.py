"""Options of a probe, made from the fields of its class and what its docstring says of them."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from inspect import cleandoc
from typing import Any, get_args, get_origin, get_type_hints

import click

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8,}.+)*)", re.MULTILINE)


def options_of(kind: Any) -> list[click.Option]:
    """Options for the settings of a probe.

    Args:
        kind: Its class, a dataclass.
    """
    said = _said(kind.__doc__ or "")
    types = get_type_hints(kind)
    return [_option(field, types[field.name], said.get(field.name, "")) for field in fields(kind)]


def summary_of(kind: Any) -> str:
    """What its docstring says of it, without its attributes."""
    return cleandoc(kind.__doc__ or "").partition("\n\nAttributes:")[0]


def _option(field: Field[Any], annotation: Any, said: str) -> click.Option:
    name = "--" + field.name.replace("_", "-")
    several = get_origin(annotation) is tuple
    none = (type(None), ...)
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind not in none]
    given: dict[str, Any] = {"required": True}
    if field.default is not MISSING:
        given = {"default": field.default, "show_default": field.default is not None}
    names = [f"{name}/--no-{name[2:]}"] if kinds == [bool] else [name]
    return click.Option(
        [*names, field.name],
        type=kinds[0],
        multiple=several,
        help=said,
        **given,
    )


def _said(doc: str) -> dict[str, str]:
    """What a docstring says of each attribute."""
    _, _, listed = cleandoc(doc).partition("Attributes:\n")
    return {name: " ".join(text.split()) for name, text in _ATTRIBUTE.findall(listed)}

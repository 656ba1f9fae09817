"""What a predicate of a stranger may be: comparisons of the columns of ``token_context``.

A statement of a stranger may be any SELECT (`ringlens.sandbox.statement`), because they see its
answer and no more. A predicate becomes a part of other queries, so only what is listed here may
stand in it: no query of its own, and no function but those of numbers and texts that cannot grow,
sleep, read or change anything.
"""

from __future__ import annotations

from typing import Any

from ringlens.config import known_only
from ringlens.errors import ConfigError
from ringlens.sandbox.statement import nodes
from ringlens.store.read.selection import Source, tree
from ringlens.store.schema.views_context import TOKEN_CONTEXT_COLUMNS

MAX_LENGTH = 2_000
"""Most characters of a predicate."""

_CLASSES = {
    "BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION",
    "OPERATOR", "TYPE",
}  # fmt: skip

_OPERATORS = {
    "COMPARE_IN", "COMPARE_NOT_IN", "OPERATOR_CAST", "OPERATOR_COALESCE", "OPERATOR_IS_NOT_NULL",
    "OPERATOR_IS_NULL", "OPERATOR_NOT", "OPERATOR_NULLIF",
}  # fmt: skip

_TYPES = {"BIGINT", "BOOLEAN", "DOUBLE", "FLOAT", "INTEGER", "SMALLINT", "TINYINT", "VARCHAR"}

FUNCTIONS = {
    "%", "*", "+", "-", "/", "//", "~~", "!~~", "~~*", "!~~*", "abs", "ceil", "ceiling",
    "contains", "ends_with", "exp", "floor", "greatest", "ifnull", "ilike_escape", "least", "left",
    "length", "like_escape", "ln", "log", "lower", "ltrim", "mod", "nullif", "pow", "power",
    "prefix", "regexp_full_match", "regexp_matches", "right", "round", "rtrim", "sign", "sqrt",
    "starts_with", "strpos", "substr", "substring", "suffix", "trim", "trunc", "upper",
}  # fmt: skip
"""Functions and operators that a predicate of a stranger may use."""


def check(source: Source, predicate: str) -> str:
    """Check a predicate of a stranger.

    Args:
        source: Parses it; give one in the sandbox.
        predicate: The predicate.

    Returns:
        The predicate.

    Raises:
        ConfigError: It is too long or none, or holds what predicates of strangers may not.
    """
    if not isinstance(predicate, str) or not predicate.strip():
        raise ConfigError(f"{predicate!r:.60} is no predicate; write one such as phase = 'think'.")
    if len(predicate) > MAX_LENGTH:
        raise ConfigError(
            f"the predicate has {len(predicate):,} characters; {MAX_LENGTH:,} are the most."
        )
    if "\0" in predicate:
        raise ConfigError(f"the predicate {predicate!r:.60} holds a null character; remove it.")
    try:
        predicate.encode()
        for node in nodes(tree(source, predicate)):
            if "class" in node:
                _check_node(node)
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the predicate holds half a character at place {error.start + 1}; type it again."
        ) from error
    except RecursionError as error:
        raise ConfigError("the predicate is nested too deeply; write it flatter.") from error
    return predicate


def _check_node(node: dict[str, Any]) -> None:
    kind = node["class"]
    if kind not in _CLASSES or (kind in ("OPERATOR", "CAST") and node["type"] not in _OPERATORS):
        what = str(node["type"] if kind == "OPERATOR" else kind).lower().replace("_", " ")
        raise ConfigError(
            f"a predicate from outside compares columns and values, and this one holds a {what}; "
            "leave it out, or run the analysis in Python."
        )
    if kind == "TYPE" and node["qualified_name"]["path"] not in [[name] for name in _TYPES]:
        raise ConfigError(
            f"a predicate from outside may not convert to {node['type_name'][:60]}; it may "
            f"convert to {', '.join(sorted(_TYPES))}."
        )
    if kind == "FUNCTION" and node["function_name"].lower() not in FUNCTIONS:
        raise ConfigError(
            f"a predicate from outside may not use {node['function_name'].lower()[:60]}; it may "
            f"use {', '.join(sorted(name for name in FUNCTIONS if name[0].isalpha()))}, and "
            "operators."
        )
    if kind == "COLUMN_REF":
        names = node["column_names"]
        known_only(names[-1:], TOKEN_CONTEXT_COLUMNS, "column of token_context")
        if names[:-1] not in ([], ["token_context"]):
            raise ConfigError(f"{'.'.join(names)[:60]!r} is no column of token_context; name one.")

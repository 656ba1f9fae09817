"""Renders a chat template once, in a process of its own with little memory and time.

Run as a script: reads {"template", "chats", "tokens", "memory", "seconds"} as JSON, and writes
{"error": null} or what went wrong with the first chat. Whether the others raise does not matter, as
long as they end. The environment is that of transformers' ``apply_chat_template``.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What a template may raise; running out of memory ends the process instead.
RAISED = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Generation(Extension):
    """The block ``{% generation %}``, which only marks a part of the text."""

    tags = {"generation"}  # noqa: RUF012 (jinja's own spelling)

    def parse(self, parser: Any) -> nodes.Node:
        """Keep what stands inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def environment() -> ImmutableSandboxedEnvironment:
    """As transformers makes it."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(x: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, **options)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def render(template: jinja2.Template, chat: list[dict[str, str]], tokens: dict[str, str]) -> None:
    """Render a chat, the answer about to begin."""
    template.render(
        messages=chat, tools=None, documents=None, add_generation_prompt=True, **tokens
    ).encode()


def main() -> None:
    """Answer one request."""
    asked = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (asked["memory"], asked["memory"]))
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"] + 1))
    first, *others = asked["chats"]
    error = None
    try:
        template = environment().from_string(asked["template"])
        render(template, first, asked["tokens"])
    except RAISED as raised:
        error = f"{type(raised).__name__}: {raised}"[:300]
    else:
        for chat in others:
            with contextlib.suppress(*RAISED):
                render(template, chat, asked["tokens"])
    print(json.dumps({"error": error}))


if __name__ == "__main__":
    main()

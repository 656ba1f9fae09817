"""``ringlens chat``: a conversation of several turns, each of which is a trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ringlens.cli.ask.command import STORE
from ringlens.cli.ask.conversation import Conversation, answer_of
from ringlens.cli.ask.thinking import ENDS, PHASES, processes, think, view_of
from ringlens.cli.options import (
    decode_option,
    loading_options,
    sampling_options,
    take_loading,
    take_record,
    trace_recording_options,
)
from ringlens.errors import ConfigError, RinglensError

if TYPE_CHECKING:
    from ringlens.lens import Lens

PROMPT = "you> "
HELP = """\
/new             forget what was said
/system [TEXT]   tell the model TEXT before the first question; without TEXT nothing
/quit            leave, as Ctrl-D does
Ctrl-C stops an answer; its trace and what was answered stay."""


@click.command()
@click.argument("model")
@click.option("--system", default="", help="System prompt, put through the chat template.")
@click.option(
    "--store",
    default=STORE,
    show_default=True,
    help="Folder or address of the store; made or added to.",
)
@sampling_options
@trace_recording_options
@decode_option
@loading_options
def chat(model: str, system: str, store: str, **options: Any) -> None:
    r"""Talk with MODEL over several turns, and record each while it thinks.

    Each answer is a trace, whose prompt is the conversation so far. /help lists what else can be
    typed. Ctrl-C ends an answer with the next token and keeps it, as trace and in the conversation.
    From standard input that is no terminal each line is a question.

    \b
    Examples:
      ringlens chat ring-nano
      ringlens chat inclusionAI/Ring-mini-2.0 --system "Answer briefly." --store runs/chat
    """
    import ringlens as rl

    if processes() > 1:
        raise ConfigError(
            f"chat runs in one process, not in {processes()}: use ringlens ask under torchrun."
        )
    loading = take_loading(options)
    take_record(options)
    lens = rl.load(model, **loading)
    click.echo(f"{lens.name} listens: /help for help, /quit or Ctrl-D to leave", err=True)
    talk = Talk(lens, store, Conversation(system), options)
    for line in _lines():
        if not talk.take(line.strip()):
            break


class Talk:
    """Takes lines and answers them.

    Args:
        lens: The model.
        store: Folder or address of the store.
        conversation: What was said.
        options: Options of :func:`ringlens.capture`.
    """

    def __init__(
        self, lens: Lens, store: str, conversation: Conversation, options: Mapping[str, Any]
    ) -> None:
        self.lens, self.store, self.options = lens, store, options
        self.conversation = conversation
        self._commands: dict[str, Callable[[str], bool]] = {
            "/new": self._new,
            "/system": self._system,
            "/help": self._help,
            "/quit": lambda rest: False,
            "/exit": lambda rest: False,
        }

    def take(self, line: str) -> bool:
        """Take a line; False if it was the last. Errors are printed and end nothing."""
        try:
            if line.startswith("/"):
                return self._command(line)
            if line:
                self._answer(line)
        except RinglensError as error:
            click.secho(f"error: {error}", fg="red", err=True)
        return True

    def _answer(self, question: str) -> None:
        import ringlens as rl

        view = view_of(self.lens, PHASES[1:])  # the prompt is what was said before
        think(self.lens, self.conversation.asked(question), self.store, view, self.options)
        end = view.end
        assert end is not None  # the only process has told the only trace
        with rl.Store(self.store) as store:
            answer = answer_of(self.lens, store.trace(end.trace_id))
        reason = ENDS.get(end.finish_reason, end.finish_reason)
        click.secho(f"trace {end.trace_id} in {self.store}: {reason}", dim=True, err=True)
        if answer:
            self.conversation.answered(question, answer)
        else:
            click.secho(
                "no answer was reached, so this question is left out of the conversation; its "
                "trace stays",
                fg="yellow",
                err=True,
            )

    def _command(self, line: str) -> bool:
        name, _, rest = line.partition(" ")
        if name not in self._commands:
            raise RinglensError(f"there is no {name}: {' '.join(self._commands)}")
        return self._commands[name](rest.strip())

    def _new(self, rest: str) -> bool:
        self.conversation = Conversation(self.conversation.system)
        click.secho("a new conversation", dim=True, err=True)
        return True

    def _system(self, rest: str) -> bool:
        self.conversation.system = rest
        click.secho(f"system: {rest or 'nothing'}", dim=True, err=True)
        return True

    def _help(self, rest: str) -> bool:
        click.echo(HELP, err=True)
        return True


def _lines() -> Iterator[str]:
    """What is typed, or the lines of standard input."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield from sys.stdin
        return
    from prompt_toolkit import PromptSession
    from prompt_toolkit.formatted_text import HTML

    session: PromptSession[str] = PromptSession()
    while True:
        try:
            yield session.prompt(HTML(f"<ansibrightblue>{PROMPT[:-2]}</ansibrightblue>&gt; "))
        except KeyboardInterrupt:  # the line is given up, as in a shell
            continue
        except EOFError:
            return

"""``ringlens ask`` and ``chat``: what is shown is what is stored, on any kind of output."""

import io
import re
import signal

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from terminal import on_screen, terminal

from ringlens.cli.ask.conversation import Conversation
from ringlens.cli.ask.screen import Screen, row_end
from ringlens.cli.ask.stream import Stream
from ringlens.cli.ask.thinking import on_first_ctrl_c
from ringlens.cli.console import harmless
from ringlens.cli.main import main
from ringlens.observe.pipeline.step import LiveToken, TraceEnd, TraceStep
from ringlens.store import Store
from ringlens.store.check.check import check

QUESTION = "Make 24 from 4, 6, 1, using each number once."
RECORD = ("--record", "logprobs,routing")


def ringlens(*words, stdin=None):
    return CliRunner().invoke(main, [str(word) for word in words], input=stdin)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A store, and what the command printed while it was made."""
    folder = tmp_path_factory.mktemp("ask") / "store"
    words = ("ask", "ring-nano", QUESTION, "--system", "Be brief.", "--max-new-tokens", 12)
    done = ringlens(*words, "--store", folder)
    assert done.exit_code == 0, done.stderr
    return folder, done


def written(trace):
    """The text that the model wrote."""
    tokens = trace.tokens()
    return "".join(tokens["text"][trace.summary["n_prompt"] :])


def test_without_a_terminal_the_output_is_what_the_model_writes(asked):
    folder, done = asked
    with Store(folder) as store:
        trace = store.trace(1)
        assert done.stdout == written(trace) + "\n"
        assert trace.text.startswith("<role>SYSTEM</role>Be brief.<|role_end|><role>HUMAN</role>")
        assert trace.summary["prompt"] == QUESTION
        assert trace.summary["finish_reason"] == "length"
    assert "\x1b" not in done.output
    assert f"trace 1 in {folder}: " in done.stderr
    assert "http://127.0.0.1:8050/trace/1" in done.stderr
    assert f"ringlens app {folder} --trace 1 --open" in done.stderr


def test_the_question_may_come_from_standard_input(asked):
    folder, _ = asked
    words = ("ask", "ring-nano", "-", "--store", folder, "--max-new-tokens", 3, *RECORD)
    done = ringlens(*words, stdin="\ufeffMake 10 from 2,\n3 and 4.\n")
    assert done.exit_code == 0, done.stderr
    with Store(folder) as store:
        trace_id = store.sql("select max(trace_id) from traces").fetchall()[0][0]
        assert trace_id > 1  # added to the store, not in place of what was there
        assert store.trace(trace_id).summary["prompt"] == "Make 10 from 2,\n3 and 4."


@pytest.mark.parametrize(("words", "stdin"), [(["-"], " \n"), (["  "], "")])
def test_an_empty_question_is_refused(tmp_path, words, stdin):
    done = ringlens("ask", "ring-nano", *words, "--store", tmp_path / "store", stdin=stdin)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the question is empty: write what is asked, or - for standard input" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.extra
def test_a_terminal_shows_it_live_and_ctrl_c_keeps_it(tmp_path):
    folder = tmp_path / "store"
    words = ("ask", "ring-nano", QUESTION, "--store", folder, "--max-new-tokens", 2000)
    words = (*words, "--temperature", 40, *RECORD)  # which finds no end
    with terminal(words, rows=40, columns=60, COLORTERM="truecolor") as opened:
        shown = opened.read("prompt ─", "thought ─", "entropy", "nats", "routing", "layer 4")
        opened.wait_for_signals()
        opened.type("\x03")
        end = opened.read("the part that it had thought is kept", "--trace 1")
        assert opened.ended() == 0
    assert "38;2;" in opened.raw
    assert "Traceback" not in shown + end
    with Store(folder) as store:
        trace = store.trace(1)
        assert trace.summary["finish_reason"] == "interrupted"
        assert f"{len(trace) - trace.summary['n_prompt']:,} new" in end
        assert check(store).findings == []
        escaped = harmless(trace.text).expandtabs(4)
    kept = re.sub("(prompt|thought|answer) ─+", "", "".join(on_screen(opened.raw)))
    assert "".join(escaped.split()) in "".join(kept.split())
    assert "nats" not in kept.partition("trace 1 in")[0]  # the live lines are gone


@pytest.mark.extra
def test_a_narrow_terminal_without_colours(asked):
    folder, _ = asked
    words = ("ask", "ring-nano", QUESTION, "--store", folder, "--max-new-tokens", 8, *RECORD)
    with terminal(words, rows=9, columns=24, NO_COLOR="1") as opened:
        shown = opened.read("thought ─", "The task", "8 new", "--open")
        assert opened.ended() == 0
    assert not re.search(r"\x1b\[[0-9;]*[345]8;", opened.raw)
    assert "routing " not in shown.partition("8 new")[0]  # too low for it


def test_a_conversation(tmp_path):
    folder = tmp_path / "store"
    words = ("chat", "ring-nano", "--store", folder, "--max-new-tokens", 240, *RECORD)
    with terminal(words) as opened:
        opened.read("ring-nano listens", end="you>")
        for typed, *wanted in (
            ("/nothing", "there is no /nothing: /new /system /help /quit"),
            (QUESTION, "thought ─", "answer ─", "trace 1 in"),
            ("/system Be brief.", "system: Be brief."),
        ):
            opened.type(f"{typed}\r")
            opened.read(*wanted, end="you>")
        opened.type("Make 8 from 2, 4.\r")
        assert "prompt ─" not in opened.read("thought ─", "a second")
        opened.wait_for_signals()
        opened.type("\x03")
        opened.read("stopped by Ctrl-C", "left out of the conversation", end="you>")
        opened.type("/quit\r")
        assert opened.ended() == 0
    with Store(folder) as store:
        first, second = store.trace(1), store.trace(2)
        answer = written(first).partition("</think>")[2].removesuffix("<|role_end|>").strip()
        assert answer
        asked, answered = f"<role>HUMAN</role>{QUESTION}<|role_end|>", "<role>ASSISTANT</role>"
        assert first.text.startswith(f"{asked}{answered}<think>\n")
        assert second.text.startswith(
            f"<role>SYSTEM</role>Be brief.<|role_end|>{asked}{answered}{answer}<|role_end|>"
            f"<role>HUMAN</role>Make 8 from 2, 4.<|role_end|>{answered}<think>\n"
        )
        assert second.summary["finish_reason"] == "interrupted"
        turns = [trace.tokens()["turn"].tolist() for trace in (first, second)]
        assert [sorted(set(turn)) for turn in turns] == [[0, 1], [0, 1, 2, 3, 4]]
        assert set(turns[1][second.summary["n_prompt"] :]) == {4}
        assert check(store).findings == []


def test_a_conversation_from_standard_input(asked):
    folder, _ = asked
    said = "one\n/help\n\n/quit\nnever asked\n"
    words = ("chat", "ring-nano", "--store", folder, "--max-new-tokens", 2, *RECORD)
    done = ringlens(*words, stdin=said)
    assert done.exit_code == 0, done.stderr
    assert "forget what was said" in done.stderr
    assert "this question is left out of the conversation" in done.stderr
    with Store(folder) as store:
        prompts = [p for (p,) in store.sql("select prompt from traces").fetchall()]
    assert "one" in prompts
    assert "never asked" not in prompts


def test_what_a_conversation_asks():
    talk = Conversation("Be brief.")
    talk.answered("one?", "1")
    assert [message["role"] for message in talk.asked("two?")] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    talk.system = ""
    assert talk.asked("two?")[0] == {"role": "user", "content": "one?"}


def test_the_first_ctrl_c_asks_and_the_second_leaves():
    asked = []
    before = signal.getsignal(signal.SIGINT)
    with on_first_ctrl_c(lambda: asked.append(1)):
        signal.raise_signal(signal.SIGINT)
        assert asked == [1]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert asked == [1]
    assert signal.getsignal(signal.SIGINT) == before


OBEYED = "\x1b]0;title\x07\x1b[2J\x9b31m\r\b\x7f\u202e"


def steps(text, phase="think"):
    return [TraceStep(0, (LiveToken(0, 1, "q", "prompt", 0.0), LiveToken(1, 2, text, phase, 0.5)))]


def test_what_a_terminal_would_obey_is_escaped():
    out = io.StringIO()
    with Stream(out) as stream:
        stream.take(steps(OBEYED + "a\tb\n"))
    assert out.getvalue() == harmless(OBEYED) + "a\tb\n"
    assert not set(harmless(OBEYED)) & set(OBEYED[:1] + "\x07\x9b\r\b\x7f\u202e")
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=200, color_system=None)
    with Screen(console) as screen:
        screen.take(steps(OBEYED))
        screen.take([TraceStep(0, end=TraceEnd(1, "stop"))])
    rest = re.sub(r"\x1b\[(2K|1A|\?25[lh])", "", drawn.getvalue()).replace("\r", "")
    assert r"\u001b]0;title\u0007\u001b[2J\u009b31m\u000d\u0008\u007f\u202e" in rest
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", rest)


def test_tokens_that_read_otherwise_later_are_told_of():
    drawn = io.StringIO()
    with Screen(Console(file=drawn, width=80)) as screen:
        screen.take(steps("so it is", "answer"))
        screen.take([TraceStep(0, (), {1: "think"})])
    assert "(the token before read as thought now)" in drawn.getvalue()


@given(text=st.text(st.sampled_from("ab >é漢🧮"), max_size=60), width=st.integers(2, 20))
def test_rows_hold_all_of_a_text(text, width):
    rest, rows = text, []
    while (end := row_end(rest, width)) is not None:
        assert 0 < end < len(rest)
        rows.append(rest[:end])
        rest = rest[end:]
    assert all(cell_len(row.rstrip()) <= width for row in [*rows, rest])
    assert "".join([*rows, rest]) == text

"""A terminal with a command of ringlens running in it."""

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from contextlib import contextmanager


class Terminal:
    """Reads what a command writes, and types."""

    def __init__(self, pid, descriptor):
        self.pid, self.descriptor = pid, descriptor
        self.raw = self.seen = ""

    def read(self, *wanted, end="", press="", seconds=300):
        """Read until all texts were seen since the last call; the text without its colours.

        While nothing comes, the keys of ``press`` are pressed again and again.
        """
        late = time.monotonic() + seconds
        while not (
            all(each in plain(self.seen) for each in wanted)
            and plain(self.seen).rstrip().endswith(end)
        ):
            assert time.monotonic() < late, plain(self.seen)[-3000:]
            if select.select([self.descriptor], [], [], 0.2)[0]:
                try:
                    self._take()
                except OSError as error:  # it has ended
                    raise AssertionError(plain(self.seen)[-3000:]) from error
            elif press:
                self.type(press)
        found, self.seen = plain(self.seen), ""
        return found

    def _take(self):
        part = os.read(self.descriptor, 65536).decode(errors="replace")
        self.raw += part
        self.seen += part

    def wait_for_signals(self):
        """Wait until the line is read: before that Ctrl-C is a key like any other."""
        while not termios.tcgetattr(self.descriptor)[3] & termios.ISIG:
            time.sleep(0.01)

    def type(self, text):
        os.write(self.descriptor, text.encode())

    def ended(self):
        """Read to the end; the command's exit code."""
        try:
            while True:
                self._take()
        except OSError:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def plain(text):
    return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[()=>].?|\][^\x07]*\x07)", "", text).replace("\r", "")


def on_screen(raw):
    """The rows that a terminal shows in the end, of what goes up, erases rows and writes."""
    rows, y, x = [""], 0, 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", raw):
        if part == "\r":
            x = 0
        elif part == "\n":
            y += 1
            rows += [""] * (y == len(rows))
        elif part == "\x1b[2K":
            rows[y] = ""
        elif part.startswith("\x1b[") and part.endswith("A"):
            y -= int(part[2:-1])
        elif not part.startswith("\x1b"):
            rows[y] = rows[y][:x].ljust(x) + part + rows[y][x + len(part) :]
            x += len(part)
    return rows


@contextmanager
def terminal(words, rows=100, columns=150, **environment):
    """Run ``ringlens`` with some words in a terminal of a size."""
    known = {
        **os.environ, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "PAGER": "cat",
        "COLUMNS": str(columns), "LINES": str(rows), **environment,
    }  # fmt: skip
    pid, descriptor = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.execve(
            sys.executable,
            [sys.executable, "-m", "ringlens.cli", *map(str, words)],
            known,
        )
    try:
        yield Terminal(pid, descriptor)
    finally:
        os.close(descriptor)

"""Python programs started quickly: as `subprocess`, forked from a process with the imports done.

For tests of what programs do. What importing takes, or which modules a program imports, is for
`subprocess` to show.
"""

import array
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path

PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL

SPENT = []
"""CPU seconds of each program that has ended."""


@cache
def _server():
    """The socket of this process's server, which ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for side in (ours, theirs):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with theirs:
        subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm_server.py")), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **threads},
            start_new_session=True,
        )
    return ours


class Process:
    """A running program, as ``subprocess.Popen`` of text has it.

    Args:
        arguments: What follows ``python``: ``-m`` and a module, ``-c`` and code, or a file; then
            the program's own.
        cwd: Folder to run in.
        env: Environment; this process's if left out.
        stdout: PIPE or DEVNULL.
        stderr: PIPE or DEVNULL.
    """

    def __init__(self, arguments, cwd=None, env=None, stdout=PIPE, stderr=PIPE):
        self.args, self.returncode = [str(word) for word in arguments], None
        self.seconds = 0.0  # of CPU time, once it has ended
        with open(os.devnull) as nothing:
            self.stdout, out = _pipe(stdout)
            self.stderr, err = _pipe(stderr)
            told, status = os.pipe()
            request = [self.args, str(cwd or os.getcwd()), dict(os.environ if env is None else env)]
            descriptors = array.array("i", [nothing.fileno(), out, err, status])
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
            _server().sendmsg([json.dumps(request).encode()], rights)
            for descriptor in (out, err, status):
                os.close(descriptor)
        self._told = os.fdopen(told)
        (self.pid,) = json.loads(self._told.readline())
        self._ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self):
        said = self._told.readline()
        self._told.close()
        self.returncode, self.seconds = json.loads(said) if said else (-signal.SIGKILL, 0.0)
        SPENT.append(self.seconds)
        self._ended.set()

    def poll(self):
        """Its exit status, or None."""
        return self.returncode

    def wait(self, timeout=None):
        """Its exit status, once it has ended."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout=None):
        """All that it said, once it has ended."""
        said, threads = {}, []
        for name in ("stdout", "stderr"):
            if (file := getattr(self, name)) is not None:
                reading = threading.Thread(target=_read, args=(file, said, name), daemon=True)
                reading.start()
                threads.append(reading)
        self.wait(timeout)
        for reading in threads:
            reading.join(timeout)
        return said.get("stdout"), said.get("stderr")

    def send_signal(self, number):
        """Send a signal, if it runs."""
        if not self._ended.is_set():
            os.kill(self.pid, number)

    def kill(self):
        """SIGKILL it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        """SIGTERM it."""
        self.send_signal(signal.SIGTERM)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()
        self.wait()


def _pipe(wanted):
    """This side of a stream as a file, or None where nobody reads; the other's descriptor."""
    if wanted == DEVNULL:
        return None, os.open(os.devnull, os.O_WRONLY)
    ours, theirs = os.pipe()
    return os.fdopen(ours), theirs


def _read(file, said, name):
    with file:
        said[name] = file.read()


def run(arguments, cwd=None, env=None, timeout=1800):
    """Run a program to its end; what it said and its exit status."""
    process = Process(arguments, cwd, env)
    try:
        out, err = process.communicate(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def ranks(arguments, processes, env=None, cwd=None):
    """A program's processes of one distributed job, as torchrun starts them, watched by nobody."""
    port = _free_port()
    job = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(processes):
        mine = job | {"RANK": rank, "LOCAL_RANK": rank}
        mine = {name: str(value) for name, value in mine.items()}
        started.append(Process(arguments, cwd, env={**os.environ, **(env or {}), **mine}))
    return started


def _free_port():
    """A port that nobody is given who asks the system for any, until the job listens there."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)  # below the range of those
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def run_ranks(arguments, processes, env=None, timeout=1800, cwd=None):
    """Run a job to its end; the first process that fails ends the others.

    Returns:
        What each wrote to standard output.
    """
    started = ranks(arguments, processes, env, cwd)
    with ThreadPoolExecutor(processes) as pool:
        said = {pool.submit(process.communicate, timeout): process for process in started}
        try:
            for done in as_completed(said):
                done.result()
                if said[done].returncode:
                    raise AssertionError(f"rank failed: {done.result()[1][-3000:]}")
        finally:
            for process in started:
                process.kill()
    return [done.result()[0] for done in said]

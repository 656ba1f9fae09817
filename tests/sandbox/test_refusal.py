"""Where a process cannot be confined there is no sandbox; what the filter of calls decides."""

import errno
import os
import subprocess
import sys

import pytest

from ringlens.errors import SandboxError
from ringlens.sandbox import confine, landlock, seccomp
from ringlens.sandbox.sandbox import Sandbox
from ringlens.store import StoreWriter

here = pytest.mark.skipif(confine.missing() is not None, reason=f"no sandbox: {confine.missing()}")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "store"
    with StoreWriter(path):
        pass
    return path


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("ENOSYS", r"has no Landlock: use Linux 5\.13 or later"),
        ("EOPNOTSUPP", "has Landlock switched off: add it to the kernel's parameter lsm="),
        ("EPERM", "seccomp profile"),
        ("EIO", "Input/output error"),
    ],
)
def test_refuses_without_landlock(store, monkeypatch, number, says):
    def failing(*call):
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(landlock, "_call", failing)
    assert landlock.abi() == 0
    with pytest.raises(SandboxError, match=f"cannot run safely here: this kernel .*{says}"):
        Sandbox(store)


def test_refuses_elsewhere(store, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("platform.system", lambda: "Darwin")
        with pytest.raises(SandboxError, match="this is Darwin: run it on Linux"):
            Sandbox(store)
    with monkeypatch.context() as patch:
        patch.setattr(landlock, "missing", lambda: None)
        patch.setattr("platform.machine", lambda: "riscv64")
        with pytest.raises(SandboxError, match="this machine is riscv64"):
            Sandbox(store)


@pytest.mark.skipif(seccomp.missing() is not None, reason="no system call filter here")
def test_refuses_where_a_container_forbids_landlock(path):
    """A real kernel that does not let the call through, as an old container runtime does."""
    code = """
import ctypes, errno, sys
from ringlens.sandbox import seccomp
from ringlens.store import Store
seccomp._REFUSED = {}
seccomp._ABSENT = {"landlock_create_ruleset": (444, 444)}
seccomp._WRITING = seccomp._CLONE_THREAD = 0
seccomp._OPEN = seccomp._OPENAT = seccomp._CLONE = (None, None)
seccomp._FCNTL = seccomp._PRLIMIT = seccomp._KILL = seccomp._TGKILL = (None, None)
ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)
seccomp.restrict()
from ringlens.sandbox.sandbox import Sandbox
try:
    Sandbox(Store(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("SandboxError untrusted queries cannot run safely here")
    assert "has no Landlock" in done.stdout


@here
def test_a_process_with_two_threads_is_not_confined(tmp_path):
    code = """
import os, pathlib, sys, threading
from ringlens.sandbox.confine import Bounds, confine
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    confine(Bounds([pathlib.Path(sys.argv[1])], 10**9, os.getppid()))
except Exception as error:
    print(error, flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "threads run before the sandbox is up: one was expected" in done.stdout


@here
def test_a_worker_that_cannot_be_confined_does_not_start(store, monkeypatch):
    monkeypatch.setattr(
        "ringlens.sandbox.sandbox.BOOT",
        "raise ImportError('no module named duckdb')",
    )
    with Sandbox(store) as box:
        for _ in range(2):
            with pytest.raises(SandboxError, match="did not start: ImportError: no module named"):
                box.sql("select 1")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_decides_as_its_table_says(machine):
    """The program is run by a small machine of its own, as the other processor's cannot be here."""
    column = ["x86_64", "aarch64"].index(machine)
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    code = seccomp.program(machine, pid=77)

    def run(number, *arguments, arch=arch):
        words = [number, arch, 0, 0]
        for value in (*arguments, *[0] * (6 - len(arguments))):
            words += [value & 0xFFFFFFFF, value >> 32]
        at, loaded = 0, 0
        while True:
            operation, yes, no, operand = code[at]
            at += 1
            if operation == 0x06:
                return {0x7FFF0000: "allow", 0x80000000: "kill"}.get(operand, operand & 0xFFFF)
            if operation == 0x20:
                loaded = words[operand // 4]
            else:
                test = {0x15: loaded == operand, 0x25: loaded > operand, 0x45: loaded & operand}
                at += yes if test[operation] else no

    def number(name, numbers):
        return numbers[name][column]

    assert all(
        run(number(name, seccomp._REFUSED)) == 1
        for name in seccomp._REFUSED
        if number(name, seccomp._REFUSED) is not None
    )
    assert run(437) == run(435) == run(467) == run(5000) == 38
    assert run(0, arch=1) == "kill"
    read, write, mmap = {"x86_64": (0, 1, 9), "aarch64": (63, 64, 222)}[machine]
    assert run(read) == run(write) == run(mmap) == "allow"
    openat = seccomp._OPENAT[column]
    assert run(openat, 0, 0, os.O_RDONLY | os.O_CLOEXEC) == "allow"
    for flag in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_TMPFILE | os.O_RDWR):
        assert run(openat, 0, 0, flag) == 1
    clone = seccomp._CLONE[column]
    assert run(clone, 0x3D0F00) == "allow"  # what glibc makes a thread with
    assert run(clone, 0x1200011) == 1  # what it forks with
    assert run(seccomp._TGKILL[column], 77) == run(seccomp._KILL[column], 77) == "allow"
    assert run(seccomp._TGKILL[column], 78) == run(seccomp._KILL[column], 2**32 - 1) == 1
    fcntl = seccomp._FCNTL[column]
    assert run(fcntl, 5, 1030) == run(fcntl, 5, 3) == "allow"
    assert all(run(fcntl, 5, lock) == 1 for lock in (6, 7, 37, 38, 1024))
    prlimit = seccomp._PRLIMIT[column]
    assert run(prlimit, 0, 1, 0, 123) == "allow"
    assert run(prlimit, 0, 1, 123, 0) == run(prlimit, 0, 1, 123 << 32, 0) == 1
    if machine == "x86_64":
        assert run(59 | 0x40000000) == 38  # the same calls by other numbers

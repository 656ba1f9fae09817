"""A process confines itself before it runs an untrusted query.

The order matters: privileges are dropped before Landlock and seccomp, which the kernel grants to a
process without privileges only once it has set no_new_privs; and seccomp comes last, because its
filter refuses the calls that the steps before it make.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ringlens.errors import SandboxError
from ringlens.sandbox import landlock, seccomp

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 1, 4, 38, 24
_CAPABILITY_VERSION = 0x20080522
_NICE = 10
_OPEN_FILES = 256


@dataclass(frozen=True)
class Bounds:
    """What a confined process may use.

    Attributes:
        readable: Folders that it may read.
        memory: Bytes of address space that it may take beyond what it has now.
        parent: Process with which it dies.
    """

    readable: Sequence[Path]
    memory: int
    parent: int


def missing() -> str | None:
    """Why no process can be confined here, and what to do about it; None if one can."""
    return landlock.missing() or seccomp.missing()


def confine(bounds: Bounds) -> int:
    """Confine this process for good; it must have a single thread.

    Afterwards it reads the given folders and nothing else, writes nothing, starts no program,
    reaches no network and no other process, has no environment, no privileges and bounded memory,
    and dies with its parent.

    Returns:
        The version of Landlock that holds.

    Raises:
        SandboxError: The system cannot confine it, or it has several threads, of which only the
            calling one would be confined.
        OSError: A folder is missing, or the kernel refused.
    """
    if reason := missing():
        raise SandboxError(reason)
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SandboxError(f"{threads} threads run before the sandbox is up: one was expected")
    _die_with(bounds.parent)
    os.environ.clear()
    os.nice(_NICE)
    Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go when memory is short
    _limit(bounds.memory)
    _drop_privileges()
    version = landlock.restrict(bounds.readable)
    seccomp.restrict()
    return version


def _die_with(parent: int) -> None:
    """Be killed when the thread that started this process ends.

    The signal is not sent if the parent ended before the call, so that is checked after it.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _limit(memory: int) -> None:
    """Limit memory, files and core dumps.

    The filter, not RLIMIT_NPROC, limits processes: that one counts every process and thread of the
    user, in this sandbox or not.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for what, value in limits.items():
        resource.setrlimit(what, (value, value))


def _drop_privileges() -> None:
    """Give up setuid programs, debuggers and capabilities."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails if there is nothing to drop
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(none)):
        code = ctypes.get_errno()
        raise OSError(code, f"capabilities were not dropped ({os.strerror(code)})")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

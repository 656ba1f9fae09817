"""Landlock: a Linux process gives up the file system and the network, for good.

Only the named paths stay readable; nothing stays writable. It needs no privilege, and no later
call gives anything back. Numbers and layouts are those of ``include/uapi/linux/landlock.h`` in the
kernel (see ``Documentation/userspace-api/landlock.rst``); they are the same on all processors.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from pathlib import Path

from ringlens.errors import SandboxError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # flag of CREATE_RULESET: return the ABI instead
_PATH_BENEATH = 1

_READ_FILE = 1 << 2
# How many rights on files each ABI knows: 13, then REFER, TRUNCATE, no new one, IOCTL_DEV. A
# ruleset that names a right unknown to the kernel is refused as a whole, so the mask follows the
# ABI. Where TRUNCATE is unknown, the seccomp filter refuses it.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_RIGHTS = 0b11  # bind and connect; from ABI 4
_SCOPES = 0b11  # abstract sockets and signals to processes outside; from ABI 6


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The ABI version of Landlock here; 0 if there is none."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return 0


def missing() -> str | None:
    """Why Landlock cannot be used here, and what to do about it; None if it can."""
    if platform.system() != "Linux":
        return (
            f"Landlock is a part of Linux, and this is {platform.system()}: run it on Linux, or in "
            f"a virtual machine with Linux"
        )
    try:
        _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError as error:
        return f"this kernel ({platform.release()}) {_ADVICE.get(error.errno or 0, error)}"
    return None


_ADVICE = {
    errno.ENOSYS: "has no Landlock: use Linux 5.13 or later with CONFIG_SECURITY_LANDLOCK, and in "
    "a container a runtime that lets its system calls through",
    errno.EOPNOTSUPP: "has Landlock switched off: add it to the kernel's parameter lsm=, as in "
    "lsm=landlock,…",
    errno.EPERM: "refuses Landlock's system calls: let the container's seccomp profile allow "
    "landlock_create_ruleset, landlock_add_rule and landlock_restrict_self",
}


def restrict(readable: Iterable[Path]) -> int:
    """Give up all files but some, and TCP, for the calling thread and all that it starts.

    Args:
        readable: Files, and folders with all below them, that stay readable. A link in them that
            leads elsewhere cannot be followed, as the rights of its target count.

    Returns:
        The ABI version of Landlock in force.

    Raises:
        SandboxError: There is no Landlock.
        OSError: A path is missing, or the kernel refused. PR_SET_NO_NEW_PRIVS must have been set.
    """
    if reason := missing():
        raise SandboxError(reason)
    version = abi()
    rules = _Ruleset((1 << _FILE_RIGHTS.get(version, 16)) - 1)
    rules.handled_access_net = _TCP_RIGHTS if version >= 4 else 0
    rules.scoped = _SCOPES if version >= 6 else 0
    # All handled rights are refused except where a rule grants them. An older kernel gets only the
    # fields that it knows: it refuses a longer structure unless the rest is zero.
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _call(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(ruleset, path)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)
    return version


def _allow(ruleset: int, path: Path) -> None:
    # O_PATH: the rule is tied to this folder, not to its name, and the folder need not be readable.
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = ctypes.byref(_PathBeneath(_READ_FILE, handle))
        _call(_ADD_RULE, ctypes.c_int(ruleset), _PATH_BENEATH, rule, ctypes.c_uint32(0))
    finally:
        os.close(handle)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)

"""A seccomp filter: a Linux process gives up system calls that reading data never needs.

It covers what Landlock leaves open: starting programs, sockets of all kinds, other processes,
changes of permissions and times, locks on files, raising limits again. A refused call fails with
EPERM; a call newer than this table fails with ENOSYS, as on a kernel that lacks it. So a table of
what is refused is enough: whatever a later kernel adds is refused as well, and libraries fall back
to older calls.

The numbers are those of the kernel's system call tables; the program is classic BPF over ``struct
seccomp_data`` (``Documentation/userspace-api/seccomp_filter.rst``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform

from ringlens.errors import SandboxError

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEWEST = 466

# Name → number on x86_64 and on aarch64 (None: it has no such call), by subject.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # programs and processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "process_madvise": (440, 440), "tkill": (200, 130),
    "process_mrelease": (448, 448), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "sched_setattr": (314, 274), "ioprio_set": (251, 30),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "setrlimit": (160, 164),
    # sockets and other ways to talk
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "shmget": (29, 194), "shmat": (30, 196),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "fanotify_init": (300, 262), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    # files: contents, names, permissions, times, locks
    "creat": (85, None), "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None),
    "unlinkat": (263, 35), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None),
    "fchown": (93, 55), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "flock": (73, 32), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # the system
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "bpf": (321, 280),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "userfaultfd": (323, 282), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "adjtimex": (159, 171), "sethostname": (170, 161), "setdomainname": (171, 162),
    "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "personality": (135, 92),
}  # fmt: skip

# A filter sees numbers, not what pointers lead to, and the flags of these calls lie in memory. With
# ENOSYS their callers fall back to openat and clone, whose flags it can check.
_ABSENT = {"openat2": (437, 437), "clone3": (435, 435)}

_OPEN, _OPENAT = (2, None), (257, 56)
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_CLONE, _CLONE_THREAD = (56, 220), 0x10000
_KILL, _TGKILL = (62, 129), (234, 131)
_FCNTL = (72, 25)
_LOCKS = (6, 7, 37, 38, 1024, 1026)  # F_SETLK, F_SETLKW, the two of OFD, F_SETLEASE, F_NOTIFY
_PRLIMIT = (302, 261)

_LOAD, _EQUAL, _ABOVE, _ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data; arguments follow from 16

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false, operand."""

_PERMIT: Instruction = (_RETURN, 0, 0, _ALLOW)
_REFUSE: Instruction = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
_UNKNOWN: Instruction = (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)


def missing() -> str | None:
    """Why the filter cannot be used here; None if it can."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        known = " and ".join(_ARCHITECTURES)
        return f"the system call filter is written for {known}, and this machine is {machine}"
    return None


def program(machine: str, pid: int) -> list[Instruction]:
    """The filter for a kind of processor and one process.

    Args:
        machine: "x86_64" or "aarch64".
        pid: The process, which may send signals to itself, as abort() does.
    """
    column = list(_ARCHITECTURES).index(machine)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        # The same number is another call on another architecture, such as 32-bit x86.
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
        (_ABOVE, 0, 1, _NEWEST),  # covers x32, whose numbers begin at 2^30
        _UNKNOWN,
    ]

    def rule(call: tuple[int | None, int | None], *then: Instruction) -> None:
        # Jumps count the instructions to skip: any other call skips all of ``then``. A rule that
        # loads an argument must end in returns, as the accumulator no longer holds the number.
        if (number := call[column]) is not None:
            code.extend([(_EQUAL, 0, len(then), number), *then])

    for call in _REFUSED.values():
        rule(call, _REFUSE)
    for call in _ABSENT.values():
        rule(call, _UNKNOWN)
    for call, flags in ((_OPEN, 1), (_OPENAT, 2)):
        rule(call, _argument(flags), (_ANY_BIT, 0, 1, _WRITING), _REFUSE, _PERMIT)
    # DuckDB needs threads; a clone that makes no thread makes a process.
    rule(_CLONE, _argument(0), (_ANY_BIT, 1, 0, _CLONE_THREAD), _REFUSE, _PERMIT)
    for call in (_KILL, _TGKILL):
        rule(call, _argument(0), (_EQUAL, 1, 0, pid), _REFUSE, _PERMIT)
    tests = [(_EQUAL, len(_LOCKS) - i, 0, lock) for i, lock in enumerate(_LOCKS)]
    rule(_FCNTL, _argument(1), *tests, _PERMIT, _REFUSE)
    # Who only reads a limit passes a null pointer for the new one; both halves must be zero.
    low, high = _argument(2), _argument(2, high=True)
    rule(_PRLIMIT, low, (_EQUAL, 0, 3, 0), high, (_EQUAL, 0, 1, 0), _PERMIT, _REFUSE)
    return [*code, _PERMIT]


def restrict() -> None:
    """Apply the filter to the calling thread and all that it starts, for good.

    Raises:
        SandboxError: The filter does not know this processor.
        OSError: The kernel refused. PR_SET_NO_NEW_PRIVS must have been set.
    """
    if reason := missing():
        raise SandboxError(reason)
    code = program(platform.machine(), os.getpid())
    filters = (_Filter * len(code))(*(_Filter(*each) for each in code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(_Program(len(code), filters)), 0, 0):  # PR_SET_SECCOMP
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel takes no seccomp filter ({os.strerror(number)})")


def _argument(index: int, high: bool = False) -> Instruction:
    """Load half of a call's argument: BPF has 32 bits; both processors store the low half first."""
    return (_LOAD, 0, 0, 16 + 8 * index + (4 if high else 0))


class _Filter(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_uint16), ("filter", ctypes.POINTER(_Filter)))

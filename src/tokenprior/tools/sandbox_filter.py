"""The filter of system calls for the levels `sandlock` and `bwrap`: what these leave open by themselves.

Name spaces and Landlock hide files, processes and the network. Left open are calls that take memory which no limit of
a process counts (memfd, System V shared memory, a tmpfs in a user name space of one's own); sockets that lead nowhere
but into the kernel (netlink), or where `sandlock` 0.9.0 alone answers MSG_FASTOPEN with EINPROGRESS; and parts of the
kernel that a calculation has no use for. They fail with EPERM; `clone3` fails with ENOSYS, for its flags cannot be read
by a filter and the C library then uses `clone`. `socketpair` stays, so asyncio works; what it
gives can take no name, under which others would find it. Known for x86-64 and arm64;
elsewhere both levels are refused.
"""

from __future__ import annotations

import platform
import struct
from typing import Final

_NAMES: Final = (
    "socket", "unshare", "setns", "mount", "umount2", "pivot_root", "chroot", "ptrace", "process_vm_readv",
    "process_vm_writev", "memfd_create", "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd",
    "open_by_handle_at", "name_to_handle_at", "kexec_load", "init_module", "finit_module", "delete_module", "mq_open",
    "swapon", "reboot", "shmget", "msgget", "semget", "bind",
)  # fmt: skip
_COMMON: Final = (425, 426, 427, 428, 429, 430, 431, 432, 433, 442, 447)  # io_uring, the new mount calls, memfd_secret
_MACHINES: Final = {
    "x86_64": (
        0xC000003E,
        56,
        (41, 272, 308, 165, 166, 155, 161, 101, 310, 311, 319, 250, 248, 249, 321, 298, 323, 304, 303, 246, 175, 313,
         176, 240, 167, 169, 29, 68, 64, 49),
    ),
    "aarch64": (
        0xC00000B7,
        220,
        (198, 97, 268, 40, 39, 41, 51, 117, 270, 271, 279, 219, 217, 218, 280, 241, 282, 265, 264, 104, 105, 273,
         106, 180, 224, 142, 194, 186, 190, 200),
    ),
}  # fmt: skip
_CLONE3: Final = 435
_NEW_NAMESPACES: Final = 0x7E020000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _EPERM, _ENOSYS, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000


def system_call_filter() -> bytes:
    """A program for seccomp; empty where the numbers of this machine are not known."""
    machine = _MACHINES.get(platform.machine())
    if machine is None or struct.calcsize("P") != 8:
        return b""
    architecture, clone, numbers = machine
    assert len(numbers) == len(_NAMES)
    denied = [*numbers, *_COMMON]
    # (operation, jump if true, jump if false, operand); jumps count from the next instruction.
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    tests = [(_AT_LEAST, 0x40000000), *((_EQUAL, number) for number in denied)]
    # After the tests: clone3 -> ENOSYS, clone with new name spaces -> EPERM, the rest is allowed.
    tail = [(_EQUAL, 5, 0, _CLONE3), (_EQUAL, 0, 2, clone), (_LOAD, 0, 0, 16), (_ANY_BIT, 1, 0, _NEW_NAMESPACES)]
    tail += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ENOSYS)]
    for place, (operation, operand) in enumerate(tests):
        program.append((operation, len(tests) - place - 1 + 5, 0, operand))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program + tail)

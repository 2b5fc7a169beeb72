"""The filter a sandboxed program's system calls pass: what a Python program needs is let through, the rest is refused.

Refused, since it is not listed: sockets, new processes, signals, tracing, mounts, namespaces, keys, io_uring, bpf and
all that came after this was written. Arguments that matter are looked at. A filter is a program of the kernel's classic
BPF (seccomp(2)); numbers are those of Linux on x86_64 and aarch64. Knows nothing of Python and of files.
"""

import errno
import struct

# name: number on x86_64, number on aarch64 (-1: it has none)
_ALLOWED = {
    # bytes and files
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "open": (2, -1), "openat": (257, 56), "close": (3, 57), "lseek": (8, 62), "ftruncate": (77, 46),
    "fsync": (74, 82), "fdatasync": (75, 83), "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1), "statx": (332, 291),
    "newfstatat": (262, 79), "access": (21, -1), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, -1), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "getdents64": (217, 61), "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "unlink": (87, -1),
    "unlinkat": (263, 35), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276), "umask": (95, 166),
    "pipe": (22, -1), "pipe2": (293, 59), "dup": (32, 23), "dup2": (33, -1), "dup3": (292, 24),
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, -1), "epoll_pwait": (281, 22),
    "sendto": (44, 206), "recvfrom": (45, 207), "getsockname": (51, 204), "getsockopt": (55, 209),  # of a socketpair
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214),
    # its own threads, signal handlers and end
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "gettid": (186, 178), "exit": (60, 93), "exit_group": (231, 94),
    "restart_syscall": (219, 128), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "rt_sigpending": (127, 136), "sigaltstack": (131, 132),
    "pause": (34, -1),
    # time and chance
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153), "alarm": (37, -1), "setitimer": (38, 103),
    "getitimer": (36, 102), "getrandom": (318, 278),
    # who and where it is
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163),
}  # fmt: skip

_NEW_THREAD = (0x3D0F00, 0x7D0F00)  # the flags of pthread_create in glibc and musl: a thread, never a process
_STREAM = (0x1, 0x801, 0x80001, 0x80801)  # SOCK_STREAM; a pair of datagram sockets could reach another's address
_DESCRIPTOR_FLAGS = (0x5421, 0x5450, 0x5451)  # FIONBIO, FIONCLEX, FIOCLEX
_DESCRIPTOR_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # not F_SETOWN and F_SETSIG, which aim signals at other processes

# name: numbers, the values each of these arguments may have, the error for any other
_ALLOWED_WITH: dict[str, tuple[tuple[int, int], dict[int, tuple[int, ...]], int]] = {
    "ioctl": ((16, 29), {1: _DESCRIPTOR_FLAGS}, errno.ENOTTY),
    "fcntl": ((72, 25), {1: _DESCRIPTOR_COMMANDS}, errno.EPERM),
    "clone": ((56, 220), {0: _NEW_THREAD}, errno.EPERM),
    "clone3": ((435, 435), {0: ()}, errno.ENOSYS),  # its flags lie in memory; without it the C library takes clone
    "prctl": ((157, 167), {0: (15,)}, errno.EPERM),  # PR_SET_NAME, of its own thread
    "prlimit64": ((302, 261), {0: (0,)}, errno.EPERM),
    "socketpair": ((53, 199), {0: (1,), 1: _STREAM}, errno.EPERM),
}

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH
MACHINES = tuple(_ARCHITECTURES)  # as platform.machine() names them
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16


def call_filter(machine: str) -> bytes:
    """The filter for `machine`, one of MACHINES: an array of struct sock_filter."""
    column, architecture = _ARCHITECTURES[machine]
    program = [
        *(_load(_ARCHITECTURE_OFFSET), _skip_one_if(architecture), _return(_KILL)),
        _load(_NUMBER_OFFSET),
    ]
    for numbers in _ALLOWED.values():
        if numbers[column] >= 0:
            program += [_skip_unless(numbers[column], 1), _return(_ALLOW)]
    for numbers, arguments, error in _ALLOWED_WITH.values():
        looked_at = [step for index, values in arguments.items() for step in _check(index, values, error)]
        program += [_skip_unless(numbers[column], len(looked_at) + 1), *looked_at, _return(_ALLOW)]
    return b"".join([*program, _return(_REFUSE | errno.EPERM)])


def _check(index: int, values: tuple[int, ...], error: int) -> list[bytes]:
    """Go on where the low half of argument `index` is one of `values`; else return the error."""
    found = [_step(_JUMP_IF_EQUAL, value, if_true=len(values) - place) for place, value in enumerate(values)]
    return [_load(_ARGUMENTS_OFFSET + 8 * index), *found, _return(_REFUSE | error)]


def _load(offset: int) -> bytes:
    return _step(_LOAD, offset)


def _return(value: int) -> bytes:
    return _step(_RETURN, value)


def _skip_one_if(value: int) -> bytes:
    return _step(_JUMP_IF_EQUAL, value, if_true=1)


def _skip_unless(value: int, num_steps: int) -> bytes:
    return _step(_JUMP_IF_EQUAL, value, if_false=num_steps)


def _step(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)

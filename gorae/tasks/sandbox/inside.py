"""What runs in the child: it shuts one door after another behind itself, then runs a stranger's program.

A script of its own, started by run.py without site packages, so it takes nothing from gorae; and few modules, for their
import is most of what a run costs. It reads an order and
writes a report, an empty one where all doors are shut and the program begins. Where a layer that was ordered cannot be
entered, the report says why, and nothing is run.
"""

import builtins
import ctypes
import errno
import marshal
import os
import resource
import struct
import sys

FOLDER = "/tmp"  # the one place to write, gone with the process
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo", "/etc/ld.so.cache")
_SITE_PACKAGES = ("site-packages", "dist-packages")  # they lie within the standard library and are no part of it
_NEW_ROOT = "/proc"  # any folder that nothing we show lies beneath
_NUM_FILES = 256  # in FOLDER

_NEW_NAMESPACES = 0x00020000 | 0x40000000 | 0x08000000 | 0x04000000  # mounts, network, interprocess, host name
_NEW_USER_NAMESPACE = 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x1000, 0x4000, 1 << 18, 2
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_READ_ONLY = struct.pack("=4Q", 1 | 2 | 4, 0, 0, 0)  # struct mount_attr: read-only, no set-user-ID, no devices
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446
_LANDLOCK_WRITE_FILE, _LANDLOCK_READ_FILE, _LANDLOCK_LIST = 1 << 1, 1 << 2, 1 << 3
_LANDLOCK_READ = _LANDLOCK_READ_FILE | _LANDLOCK_LIST
_LANDLOCK_CHANGE = sum(1 << bit for bit in (1, 4, 5, 7, 8, 13, 14))  # write, remove, make, rename, truncate: no links
_SIGKILL, _PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 9, 1, 22, 38

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    order_fd, report_fd = map(int, sys.argv[1:])
    with open(order_fd, "rb") as file:
        order = marshal.load(file)
    layer = ""
    try:
        for layer in ("namespaces", "limits", "landlock", "seccomp"):
            if layer in order["layers"]:
                _ENTER[layer](order)
    except OSError as error:
        os.write(report_fd, f"{layer}: {error}".encode())
        os._exit(1)
    os.write(report_fd, b"begun")
    os.close(report_fd)
    _run(order["source"])


def _run(source: str) -> None:
    """Run it as Python runs a script; our own frame is left out of what it prints on an error."""
    sys.argv = ["answer.py"]
    builtins.__dict__.update(exit=sys.exit, quit=sys.exit)  # scripts use them, and they come with the site packages
    program = sys.modules["__main__"] = type(sys)("__main__")
    try:
        exec(compile(source, "answer.py", "exec"), program.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__ and error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


def _enter_namespaces(order: dict) -> None:
    """A root of its own: the standard library, read-only, and a small folder in memory. No network interface.

    Root becomes a user nobody else is, which bounds the threads; another user gets a user namespace, which does too.
    """
    user, group = os.getuid(), os.getgid()
    is_root = user == 0 and _libc.unshare(_NEW_NAMESPACES) == 0
    if not is_root:
        _check(_libc.unshare(_NEW_NAMESPACES | _NEW_USER_NAMESPACE), "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {user} 1"), ("gid_map", f"65534 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(text)
    _build_root(order["folder_bytes"])
    if is_root:
        nobody = 30_000 + os.getpid() % 30_000
        os.setgroups([])
        os.setresgid(nobody, nobody, nobody)
        os.setresuid(nobody, nobody, nobody)


def _build_root(folder_bytes: int) -> None:
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", _NEW_ROOT, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=755,size=1m")
    shown: list[str] = []
    for path in sorted({*_library_folders(), *_LIBRARIES}):
        if not os.path.exists(path) or any(path.startswith(f"{above}/") for above in shown):
            continue
        os.makedirs(_NEW_ROOT + os.path.dirname(path), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), _NEW_ROOT + path)
            continue
        _bind(path)
        shown.append(path)
    for path in (f"{library}/{name}" for library in _standard_library() for name in _SITE_PACKAGES):
        if os.path.isdir(path):
            _mount("tmpfs", _NEW_ROOT + path, "tmpfs", 0, "size=4k")
    os.mkdir(_NEW_ROOT + FOLDER)
    os.mkdir(f"{_NEW_ROOT}/dev")
    with open(f"{_NEW_ROOT}/dev/null", "wb"):
        pass
    _call(_MOUNT_SETATTR, _AT_FDCWD, _NEW_ROOT.encode(), _AT_RECURSIVE, _READ_ONLY, len(_READ_ONLY))
    _bind("/dev/null")
    options = f"mode=777,size={folder_bytes},nr_inodes={_NUM_FILES}"
    _mount("tmpfs", _NEW_ROOT + FOLDER, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(_NEW_ROOT)
    _call(_PIVOT_ROOT[os.uname().machine], b".", b".")  # the old root now lies over the new one
    _check(_libc.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir(FOLDER)


def _bind(path: str) -> None:
    target = _NEW_ROOT + path
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        with open(target, "wb"):
            pass
    _mount(path, target, None, _MS_BIND | _MS_REC)


def _enter_landlock(order: dict) -> None:
    """Opens nothing but the standard library, and writes nothing but in the folder, if it has one."""
    version = _call(_LANDLOCK_CREATE, None, 0, 1)
    if version < 3:
        raise OSError(errno.ENOSYS, f"version {version} can not forbid truncation; version 3 (Linux 6.2) can")
    in_own_root = "namespaces" in order["layers"]
    every_access = (1 << (16 if version >= 5 else 15)) - 1
    files_tcp_scopes = struct.pack("=3Q", every_access, 0b11, 0b11)
    rights = files_tcp_scopes[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _call(_LANDLOCK_CREATE, rights, len(rights), 0)
    for path in (*(_library_folders() if in_own_root else _library_files()), *_LIBRARIES):
        if os.path.exists(path):
            _allow(rules, path, _LANDLOCK_READ if os.path.isdir(path) else _LANDLOCK_READ_FILE)
    for path in _standard_library():
        _allow(rules, path, _LANDLOCK_LIST)  # Python looks for a module by listing
    _allow(rules, "/dev/null", _LANDLOCK_READ_FILE | _LANDLOCK_WRITE_FILE)
    if in_own_root:
        _allow(rules, FOLDER, _LANDLOCK_READ | _LANDLOCK_CHANGE)
    _call(_LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    _call(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", access, place), 0)
    os.close(place)


def _enter_limits(order: dict) -> None:
    """Bounds on what it takes. It dies with the process that asked for it, and has no privilege and gains none."""
    for name, bound in order["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            bound = [min(value, hard) for value in bound]
        resource.setrlimit(kind, tuple(bound))
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != order["parent"]:
        raise OSError(errno.ESRCH, "the process that asked for this run is gone")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    myself, no_capabilities = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # in their third version
    _check(_libc.capset(myself, no_capabilities), "capset")


def _enter_seccomp(order: dict) -> None:
    steps = bytes.fromhex(order["filter"])
    kept = ctypes.create_string_buffer(steps, len(steps))
    program = struct.pack("@HP", len(steps) // 8, ctypes.addressof(kept))  # struct sock_fprog
    _check(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "prctl")


_ENTER = {
    "namespaces": _enter_namespaces,
    "limits": _enter_limits,
    "landlock": _enter_landlock,
    "seccomp": _enter_seccomp,
}


def _standard_library() -> list[str]:
    """Without site packages the interpreter's path is its standard library, and nothing else."""
    return [path for path in sys.path if os.path.isdir(path)]


def _library_folders() -> set[str]:
    """What holds the standard library, and beside it the shared libraries that came with this Python."""
    return {os.path.dirname(path) for path in sys.path}


def _library_files() -> list[str]:
    """The same one by one, for from a folder that is allowed there is no way to take the site packages out again."""
    folders = _standard_library()
    entries = [(folder, entry) for folder in {*folders, *_library_folders()} for entry in os.scandir(folder)]
    return [
        entry.path
        for folder, entry in entries
        if entry.is_file() or (folder in folders and entry.name not in _SITE_PACKAGES)
    ]


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [word and word.encode() for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options and options.encode()), f"mount on {target}")


def _call(number: int, *arguments: int | bytes | None) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *wide), f"system call {number}")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


if __name__ == "__main__":
    main()

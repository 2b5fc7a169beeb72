"""A stranger's program: what it can not do, what it may do, and that no trick passes for a right answer.

Every escape is tried without the sandbox too, where that is harmless: one that fails there would prove nothing here.
"""

import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gorae.tasks import Graders, Reply
from gorae.tasks.sandbox import (
    Protections,
    RunLimits,
    SandboxError,
    judge_by_output,
    judge_by_tests,
    protections,
    run_python,
    system_calls,
)
from gorae.tasks.sandbox import run as running

HERE = protections()
needs_sandbox = pytest.mark.skipif(not HERE.enough, reason=f"this machine has no sandbox: {HERE}")
needs_own_root = pytest.mark.skipif("namespaces" not in HERE.layers, reason=f"this machine: {HERE}")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code of x86_64")
SMALL = RunLimits(memory_bytes=256 * 2**20, output_bytes=2**16, folder_bytes=2**20)
SHORT = RunLimits(cpu_seconds=1, wall_seconds=0.5)

# Sets of layers that are enough: all of them, and without one of the two that hide files.
ENOUGH = [
    tuple(layer for layer in HERE.layers if layer != without)
    for without in ("", "landlock", "namespaces")
    if Protections(tuple(layer for layer in HERE.layers if layer != without)).enough
]
every_sandbox = pytest.mark.parametrize("layers", sorted(set(ENOUGH)), ids="+".join)


def run(source, layers=None, **kwargs):
    return run_python(source, **kwargs) if layers is None else running.start(source, layers, **kwargs).wait()


OPENING = """
import ctypes, fcntl, mmap, os, resource, signal, socket, subprocess, sys
secret, port, name = (input() for _ in range(3))
libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()
"""
HARMLESS = {
    "read the users": "open('/etc/passwd').read()",
    "read a file of another": "open(secret).read()",
    "read it through the root of a process": "open(f'/proc/self/root{secret}').read()",
    "read it from above": "open('/tmp/../' + secret).read()",
    "read it through a folder": "dir = os.open(os.path.dirname(secret), 0); os.open('secret', 0, dir_fd=dir)",
    "map it": "mmap.mmap(os.open(secret, os.O_RDONLY), 0, prot=mmap.PROT_READ)",
    "list a folder of another": "os.listdir(os.path.dirname(secret))",
    "list the root": "assert 'proc' in os.listdir('/')",
    "list the system's settings": "assert 'passwd' in os.listdir('/etc')",
    "list devices": "assert 'zero' in os.listdir('/dev')",
    "read the kernel's settings": "os.listdir('/sys')",
    "change a file": "open(secret, 'a')",
    "empty a file by reading it": "os.open(secret, os.O_RDONLY | os.O_TRUNC)",
    "empty a file by name": "os.truncate(secret, 0)",
    "change its mode": "os.chmod(secret, 0o666)",
    "change its times": "os.utime(secret)",
    "give it another name": "os.link(secret, secret + '.link')",
    "make a file beside it": "open(secret + '.new', 'w')",
    "make a folder beside it": "os.mkdir(secret + '.folder')",
    "make a link beside it": "os.symlink('/', secret + '.symlink')",
    "rename it": "os.rename(secret, secret + '.renamed'); os.rename(secret + '.renamed', secret)",
    "delete it": "os.remove(secret)",
    "list processes": "assert [name for name in os.listdir('/proc') if name.isdigit()]",
    "read the parent's command": "open(f'/proc/{parent}/cmdline').read()",
    "read the parent's environment": "open(f'/proc/{parent}/environ').read()",
    "read its own memory": "open('/proc/self/mem')",
    "list its descriptors": "os.listdir('/proc/self/fd')",
    "signal its parent": "os.kill(parent, 0)",
    "signal everybody": "os.kill(-1, 0)",
    "signal its group": "os.killpg(0, 0)",
    "aim the signals of a pipe at its parent": "fcntl.fcntl(1, fcntl.F_SETOWN, parent)",
    "hold its parent by a descriptor": "os.pidfd_open(parent)",
    "look at its parent's limits": "resource.prlimit(parent, resource.RLIMIT_CORE)",
    "look at its parent's priority": "os.getpriority(os.PRIO_PROCESS, parent)",
    "look at its parent's session": "os.getsid(parent)",
    "connect by TCP": "socket.create_connection(('127.0.0.1', int(port)))",
    "send by UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', int(port)))",
    "listen": "socket.create_server(('127.0.0.1', 0))",
    "connect to a socket with a path": "socket.socket(socket.AF_UNIX).connect(os.path.dirname(secret) + '/socket')",
    "connect to a socket without one": "socket.socket(socket.AF_UNIX).connect(chr(0) + name)",
    "make a pair that could send to others": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "ask the kernel about its networks": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "have a child": "pid = os.fork(); pid or os._exit(0); os.waitpid(pid, 0)",
    "have a child by vfork": "subprocess.run(['/bin/true'])",
    "have a child by spawn": "os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)",
    "have a pool of children": "import multiprocessing; multiprocessing.get_context('fork').Process().start()",
    "leave its session": "pid = os.fork(); pid or (os.setsid(), os._exit(0)); os.waitpid(pid, 0)",
    "become another program": "os.execv('/bin/echo', ['echo', 'escaped'])",
    "make a file in memory": "os.memfd_create('x')",
    "take shared memory": "from multiprocessing.shared_memory import *; SharedMemory(create=True, size=1).unlink()",
    "take a system's semaphore": "import multiprocessing; multiprocessing.Lock()",
    "take its limits away": "resource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
    "fill a pipe of a megabyte": "fcntl.fcntl(1, 1031, 2**20)",
}
PRIVILEGED = {
    "write into the standard library": "open(os.__file__, 'a')",
    "mount": "assert libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == 0",
    "unmount": "assert libc.umount2(b'/tmp', 2) == 0",
    "a new user namespace": "assert libc.unshare(0x10000000) == 0",
    "a new mount namespace": "assert libc.unshare(0x00020000) == 0",
    "enter a namespace": "assert libc.setns(0, 0) == 0",
    "a root elsewhere": "os.chroot('/tmp')",
    "another root": "assert libc.syscall({'x86_64': 155, 'aarch64': 41}[os.uname().machine], b'/tmp', b'/tmp') == 0",
    "trace its parent": "assert libc.ptrace(16, parent, 0, 0) == 0",
    "be root": "os.setuid(0); os.setgid(0)",
    "be root by another way": "os.setresuid(0, 0, 0)",
    "another host name": "socket.sethostname('gorae')",
    "a device": "os.mknod('/tmp/zero', 0o20666, os.makedev(1, 5)); open('/tmp/zero', 'rb').read(1)",
    "a link in its folder to what it must not read": "os.symlink(secret, '/tmp/link'); open('/tmp/link').read()",
    "a file by its handle": "assert libc.open_by_handle_at(-100, bytes(64), 0) >= 0",
    "kill its parent": "os.kill(parent, signal.SIGKILL)",
    "kill everybody": "os.kill(-1, signal.SIGKILL)",
}


def attempt(program: str) -> str:
    return f"{OPENING}{program}\nprint('escaped')"


@pytest.fixture
def outside(tmp_path):
    """What the programs want: a secret file, and servers of every kind. Yields the stdin that names them."""
    secret = tmp_path / "secret"
    secret.write_text("the answer is 42")
    secret.chmod(0o640)
    name = f"gorae-{os.getpid()}-{time.monotonic_ns()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as with_path,
        socket.socket(socket.AF_UNIX) as without_path,
    ):
        with_path.bind(str(tmp_path / "socket"))
        without_path.bind(f"\0{name}" if sys.platform == "linux" else str(tmp_path / "other"))
        with_path.listen()
        without_path.listen()
        yield f"{secret}\n{tcp.getsockname()[1]}\n{name}\n"


@needs_sandbox
@pytest.mark.parametrize("program", [*HARMLESS.values(), *PRIVILEGED.values()], ids=[*HARMLESS, *PRIVILEGED])
def test_it_can_not(program, outside):
    outcome = run(attempt(program), stdin=outside)
    assert "escaped" not in outcome.stdout
    assert outcome.exit_code != 0
    assert_untouched(outside)


@needs_sandbox
@every_sandbox
def test_it_can_nothing_of_this_where_one_layer_alone_hides_files(layers, outside):
    source = f"""{OPENING}
for name_of_attempt, program in {HARMLESS | PRIVILEGED}.items():
    try:
        exec(program)
        print("escaped:", name_of_attempt)
    except BaseException:
        pass
print("done")
"""
    outcome = run(source, layers, stdin=outside)
    assert (outcome.stdout, outcome.exit_code) == ("done\n", 0), outcome
    assert_untouched(outside)


def assert_untouched(outside):
    secret = Path(outside.partition("\n")[0])
    assert secret.read_text() == "the answer is 42"
    assert secret.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in secret.parent.iterdir()) == ["secret", "socket"]


@pytest.mark.skipif(sys.platform != "linux", reason="the programs are for Linux")
@pytest.mark.parametrize("program", HARMLESS.values(), ids=HARMLESS)
def test_without_a_sandbox_it_can(program, outside):
    outcome = run(attempt(program), (), stdin=outside)
    assert "escaped" in outcome.stdout, outcome.stderr


@needs_sandbox
@every_sandbox
def test_every_system_call_that_is_not_listed_is_refused(layers):
    column = 0 if platform.machine() == "x86_64" else 1
    tables = system_calls._ALLOWED | {name: rule[0] for name, rule in system_calls._ALLOWED_WITH.items()}
    listed = {numbers[column] for numbers in tables.values()}
    if column == 0:
        listed |= {335, 336}  # uretprobe, uprobe: no filter sees them, and who calls them by hand is killed
    source = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for number in range(700):
    if number not in {listed}:
        ctypes.set_errno(0)
        result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
        if (result, ctypes.get_errno()) != (-1, 1):
            print(number, result, ctypes.get_errno())
print("done")
"""
    outcome = run(source, layers)
    assert (outcome.stdout, outcome.exit_code) == ("done\n", 0), outcome


@needs_sandbox
@on_x86
def test_the_tables_of_other_bitnesses_are_no_way_around_the_filter():
    x32 = "import ctypes; print(ctypes.CDLL(None).syscall(0x40000000 + 39))"  # getpid
    assert run(x32).stdout == "-1\n"
    i386 = r"""
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, getpid; int 0x80; ret
print("escaped", ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    outcome = run(i386)
    assert (outcome.stdout, outcome.reason) == ("", "killed")


@needs_sandbox
@every_sandbox
def test_it_sees_no_environment_and_no_open_file_of_its_parents(layers, tmp_path, monkeypatch):
    monkeypatch.setenv("GORAE_SECRET", "42")
    with open(tmp_path / "secret", "w") as file:
        os.set_inheritable(file.fileno(), True)
        source = """
import os
print(dict(os.environ))
for descriptor in range(3, 5000):
    try:
        os.fstat(descriptor)
        print("escaped", descriptor)
    except OSError:
        pass
"""
        outcome = run(source, layers)
    assert "GORAE" not in outcome.stdout
    assert "escaped" not in outcome.stdout
    assert outcome.exit_code == 0


@needs_own_root
def test_in_a_root_of_its_own_nothing_outside_even_seems_to_exist(tmp_path):
    paths = [tmp_path, "/etc/passwd", "/proc/self", "/home", "/sys/class"]
    source = f"import os\nprint([os.path.lexists(path) for path in {list(map(str, paths))}])"
    outcome = run(source)
    assert outcome.stdout == "[False, False, False, False, False]\n", outcome


@needs_sandbox
@every_sandbox
def test_packages_of_the_site_are_not_part_of_the_standard_library(layers):
    source = """
import os
for folder, _, names in os.walk(os.path.join(os.path.dirname(os.__file__), "site-packages")):
    for name in names[:2]:
        try:
            print(open(os.path.join(folder, name), "rb").read(1))
        except PermissionError:
            pass
print("done")
"""
    assert run(source, layers).stdout == "done\n"


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("while True: pass", "time"),
        ("import time; time.sleep(60)", "time"),
        ("import signal; [signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]\nimport time; time.sleep(60)", "time"),
        ("import os; os.close(1); os.close(2)\nimport time; time.sleep(60)", "time"),
        ("import threading\nwhile True: threading.Thread(target=threading.Event().wait).start()", "time"),
        ("10 ** 10 ** 10", "time or memory"),
        ("bytearray(2 ** 40)", "memory"),
        ("items = []\nwhile True: items.append(bytearray(2 ** 20))", "memory"),
        ("import mmap\nmmap.mmap(-1, 2 ** 40)", "ended"),
        ("while True: print('x' * 4000)", "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 4000)", "output"),
        ("import os\nwhile True: os.fork()", "ended"),
        (
            "import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): return [f() for _ in 'x']\nf()",
            "ended or killed or memory or time",
        ),
        ("(" * 5000, "ended or memory"),
        ("import os; os.abort()", "killed"),
        ("import ctypes; ctypes.string_at(0)", "killed"),
    ],
)
def test_what_takes_too_much_is_ended_and_the_reason_told(source, reason):
    outcome = run(source, limits=SHORT if "time" in reason else SMALL)
    assert outcome.reason in reason.split(" or ")
    assert outcome.exit_code != 0
    assert max(len(outcome.stdout), len(outcome.stderr)) <= SMALL.output_bytes


@needs_sandbox
def test_whoever_ignores_the_signal_for_its_time_is_killed():
    source = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    outcome = run(source, limits=RunLimits(cpu_seconds=1, wall_seconds=60))
    assert (outcome.reason, outcome.exit_code) == ("killed", -signal.SIGKILL)


@needs_own_root
def test_threads_are_counted():
    source = """
import threading
wait = threading.Event()
threading.stack_size(2 ** 15)
started = 0
try:
    while True:
        threading.Thread(target=wait.wait, daemon=True).start()
        started += 1
except RuntimeError:
    print(started)
"""
    outcome = run(source, limits=RunLimits(threads=20))
    assert int(outcome.stdout) <= 20, outcome


@needs_own_root
@pytest.mark.parametrize(
    "write",
    ["open('one', 'ab').write(bytes(2 ** 16))", "open(str(count), 'wb').write(bytes(2 ** 16))", "os.mkdir(str(count))"],
    ids=["one file", "many files", "many folders"],
)
def test_its_folder_has_an_end(write):
    source = f"""
import os
count = 0
try:
    while True:
        {write}
        count += 1
except OSError as error:
    print(count)
"""
    outcome = run(source, limits=SMALL)
    assert 0 < int(outcome.stdout) <= 256, outcome


@needs_own_root
def test_what_it_writes_in_its_folder_is_there_for_it_and_for_nobody_else():
    source = """
import os, tempfile
print(os.getcwd(), os.listdir("."))
with tempfile.NamedTemporaryFile("w+") as file:
    file.write("고래"); file.seek(0); print(file.read())
os.mkdir("folder"); open("folder/a", "w").write("1"); os.rename("folder/a", "b"); print(sorted(os.listdir(".")))
"""
    for _ in range(2):
        assert run(source).stdout == "/tmp []\n고래\n['b', 'folder']\n"


@needs_sandbox
@every_sandbox
@pytest.mark.parametrize("source", ["print(1)", "import time; time.sleep(60)", "1 / 0"])
def test_nothing_is_left_behind(source, layers, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mounts = Path("/proc/self/mounts").read_text()
    descriptors = os.listdir("/proc/self/fd")
    program = running.start(source, layers, limits=RunLimits(wall_seconds=0.2))
    program.wait()
    assert not is_there(program.process.pid)
    assert os.listdir(tmp_path) == []
    assert Path("/proc/self/mounts").read_text() == mounts
    assert os.listdir("/proc/self/fd") == descriptors


@needs_sandbox
@every_sandbox
def test_it_dies_with_the_process_that_asked_for_it(layers):
    source = f"""
from gorae.tasks.sandbox import run
program = run.start("print(1, flush=True); import time; time.sleep(60)", {layers})
program.process.stdout.readline()
print(program.process.pid, flush=True)
program.wait()
"""
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as caller:
        pid = int(caller.stdout.readline())
        assert is_there(pid)
        caller.kill()
    deadline = time.monotonic() + 30
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_there(pid)


def is_there(pid: int) -> bool:
    """Whether a process of this number lives, or one of the session it leads."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, session = rest.split()[:4]
        if state not in "ZX" and pid in (int(name.split()[0]), int(session)):
            return True
    return False


@pytest.fixture
def unprotected(monkeypatch):
    monkeypatch.setattr(running, "protections", lambda: Protections((), ("the moon is in the wrong house",)))


def test_where_there_is_no_sandbox_it_refuses_and_says_why(unprotected):
    for refused in (
        lambda: run_python("print(1)"),
        lambda: judge_by_output("print(1)", [("", "1")]),
        lambda: judge_by_tests("def f(): return 1", "assert f() == 1"),
    ):
        with pytest.raises(SandboxError, match=r"wrong house.*allow_unprotected=True"):
            refused()


def test_whoever_allows_it_runs_without_a_sandbox_and_is_told_once(unprotected, capsys):
    running._say_once.cache_clear()
    assert run_python("print(1)", allow_unprotected=True).stdout == "1\n"
    assert judge_by_output("print(1)", [("", "1")], allow_unprotected=True).passed
    assert judge_by_tests("def f(): return 1", "assert f() == 1", allow_unprotected=True).passed
    assert capsys.readouterr().err.count("without enough protection; in force: nothing; the moon") == 1


def test_layers_are_enough_only_if_they_hide_files_filter_calls_and_limit():
    every = ("namespaces", "landlock", "seccomp", "limits")
    assert Protections(every).enough
    assert Protections(every[1:]).enough
    assert Protections(("namespaces", "seccomp", "limits")).enough
    for layers in (every[:3], ("namespaces", "landlock", "limits"), ("seccomp", "limits"), ()):
        assert not Protections(layers).enough


@pytest.mark.parametrize(("name", "value"), [("platform", "darwin"), ("machine", "riscv64")])
def test_elsewhere_than_on_linux_there_is_no_sandbox(name, value, monkeypatch):
    if name == "platform":
        monkeypatch.setattr(sys, "platform", value)
    else:
        monkeypatch.setattr(platform, "machine", lambda: value)
    found = running.protections.__wrapped__()
    assert not found.enough
    assert "Linux on x86_64 or aarch64" in str(found)


@needs_sandbox
def test_a_layer_that_the_kernel_refuses_is_found_missing_and_never_skipped_in_silence(monkeypatch):
    monkeypatch.setattr(running, "call_filter", lambda machine: bytes(8))
    found = running.protections.__wrapped__()
    assert not found.enough
    assert "seccomp" not in found.layers
    with pytest.raises(SandboxError, match="Invalid argument"):
        run_python("print(1)")


@needs_sandbox
def test_an_interpreter_that_does_not_start_is_an_error_and_no_outcome(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SandboxError, match="before the program began"):
        run_python("print(1)")


@pytest.mark.parametrize("name", ["cpu_seconds", "wall_seconds", "memory_bytes", "output_bytes", "threads"])
@pytest.mark.parametrize("value", [0, -1, float("inf")])
def test_a_limit_that_limits_nothing_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}="):
        RunLimits(**{name: value})


@needs_sandbox
@every_sandbox
def test_the_standard_library_is_there(layers):
    names = "json math re collections random itertools dataclasses typing heapq functools string datetime decimal"
    names += " fractions bisect operator statistics enum abc copy time io textwrap unicodedata hashlib base64 zlib"
    names += " struct array queue threading asyncio concurrent.futures contextlib inspect pickle csv cmath"
    source = f"""
import {", ".join(names.split())}
print(json.dumps({{"a": [1, 2.5, None]}}), math.comb(50, 25), re.findall(r"\\d+", "a1b22"))
print(collections.Counter("고래고").most_common(1), list(itertools.permutations([1, 2])), heapq.nsmallest(2, [3, 1, 2]))
print(decimal.Decimal("0.1") * 3, fractions.Fraction(1, 3) + 1, datetime.date(2024, 2, 29) + datetime.timedelta(366))
print(random.Random(7).randrange(10 ** 6), functools.reduce(operator.mul, range(1, 20)), string.ascii_lowercase)
async def double(n):
    await asyncio.sleep(0)
    return 2 * n
async def main():
    return await asyncio.gather(*map(double, range(3)))
print(asyncio.run(main()))
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(sum(pool.map(abs, range(-100, 0))))
open("/dev/null", "w").write("x")
"""
    outcome = run(source, layers)
    assert outcome.exit_code == 0, outcome.stderr
    environment = {**os.environ, "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", source]
    here = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=True)
    assert outcome.stdout == here.stdout


@needs_sandbox
def test_input_and_output_may_be_in_any_script():
    outcome = run_python(
        "import sys\nfor 줄 in sys.stdin: print(줄.strip()[::-1], file=sys.stderr); print(줄)",
        stdin="고래가 난다\n鲸鱼\n🐋",
    )
    assert outcome.stdout == "고래가 난다\n\n鲸鱼\n\n🐋\n"
    assert outcome.stderr == "다난 가래고\n鱼鲸\n🐋\n"


@needs_sandbox
def test_it_ends_as_a_script_does():
    assert run_python("import sys; sys.exit(3)").exit_code == 3
    failed = run_python("def f():\n    return 1 / 0\nf()")
    assert (failed.exit_code, failed.reason, failed.ended_well) == (1, "ended", False)
    assert "inside.py" not in failed.stderr
    assert [line.split(" in ")[-1] for line in failed.stderr.splitlines()[1:3]] == ["<module>", "f"]
    assert "SyntaxError" in run_python("def f(:").stderr
    assert run_python("if __name__ == '__main__': print(input())", stdin="1").stdout == "1\n"
    assert run_python("import sys; sys.exit('no')").stderr == "no\n"
    assert run_python("print(1); exit(); print(2)").stdout == "1\n"
    assert run_python("raise MemoryError").reason == "memory"
    assert run_python("\0").exit_code == 1


@needs_sandbox
def test_the_same_program_ends_the_same_each_time():
    source = "print(list({'고래', 'whale', '鲸'}), hash('고래'))"
    assert run_python(source).stdout == run_python(source).stdout


@needs_sandbox
def test_much_goes_in_and_much_comes_out():
    outcome = run_python("print(sum(map(int, input().split())))\nprint('x' * 900_000)", stdin="1 " * 300_000)
    assert outcome.stdout == "300000\n" + "x" * 900_000 + "\n"


@needs_sandbox
def test_a_thread_may_have_a_large_stack_to_recurse_on():
    source = """
import sys, threading
sys.setrecursionlimit(10 ** 6)
threading.stack_size(2 ** 27)
def depth(n): return 0 if n == 0 else 1 + max([depth(n - 1)])
thread = threading.Thread(target=lambda: print(depth(20_000)))
thread.start()
thread.join()
"""
    assert run_python(source).stdout == "20000\n"


@needs_sandbox
def test_many_run_at_once_and_each_is_alone():
    source = "import os, time\nnumber = input()\nopen(number, 'w')\ntime.sleep(0.05)\nprint(number, os.listdir('.'))"
    if "namespaces" not in HERE.layers:
        source = "print(input(), [])"
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda number: run_python(source, stdin=str(number)), range(24)))
    for number, outcome in enumerate(outcomes):
        listed = [str(number)] if "namespaces" in HERE.layers else []
        assert outcome.stdout == f"{number} {listed}\n", outcome


ADD = "a, b = map(int, input().split())\nprint(a + b)"


@needs_sandbox
def test_a_program_is_judged_by_what_it_prints():
    cases = [("1 2", "3"), ("2 2", "4\n")]
    assert judge_by_output(ADD, cases).passed
    assert judge_by_output(f"{ADD[:-1]}, '  ')\nprint()", cases).passed
    wrong = judge_by_output("print(3)", cases)
    assert (wrong.passed, wrong.why) == (False, "case 2: printed '3\\n', expected '4\\n'")
    assert "ZeroDivisionError" in judge_by_output("1 / 0", cases).why
    assert "too much time" in judge_by_output("while True: pass", cases, limits=SHORT).why
    assert not judge_by_output(f"{ADD}\nraise SystemExit(1)", cases).passed
    assert not judge_by_output("", cases).passed
    with pytest.raises(ValueError, match="without cases"):
        judge_by_output(ADD, [])


RIGHT = {
    "asserts": (
        "def square(x): return x * x",
        "assert square(3) == 9\nassert square(-1.5) == 2.25\nassert [square(x) for x in range(4)] == [0, 1, 4, 9]",
    ),
    "a check": (
        "from typing import List\ndef below(items: List[int], t: int) -> bool:\n    return all(i < t for i in items)",
        "METADATA = {'author': 'x'}\n\n\ndef check(candidate):\n    assert candidate([1, 2], 3) == True\n"
        "    assert candidate([1, 4], 3) == False\n\ncheck(below)",
    ),
    "a tolerance of a module nobody imports": (
        "import math\ndef area(r): return math.pi * r * r",
        "assert math.isclose(area(2), 12.566370614359172)\nassert abs(area(1) - 3.14159) < 1e-5",
    ),
    "a class": (
        "class Solution:\n    def twoSum(self, nums, target):\n"
        "        return next([i, j] for j in range(len(nums)) for i in range(j) if nums[i] + nums[j] == target)",
        "assert Solution().twoSum([2, 7, 11, 15], 9) == [0, 1]\nsolution = Solution()\n"
        "assert solution.twoSum(nums=[3, 3], target=6) == [0, 1]",
    ),
    "an object that remembers": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()",
        "stack = Stack()\nstack.push(1)\nstack.push('고래')\nassert stack.pop() == '고래'\nassert stack.items == [1]",
    ),
    "work in place": (
        "def order(items): items.sort()\ndef count(table): table['n'] = table.get('n', 0) + 1\ndef fill(s): s.add(1)",
        "items, table, s = [3, 1, 2], {}, set()\norder(items)\ncount(table)\nfill(s)\n"
        "assert (items, table, s) == ([1, 2, 3], {'n': 1}, {1})",
    ),
    "an exception": (
        "class Wrong(ValueError): pass\ndef root(x):\n    if x < 0: raise Wrong('negative')\n    return x ** 0.5",
        "try:\n    root(-1)\n    assert False\nexcept ValueError as error:\n    assert 'negative' in str(error)",
    ),
    "a generator": ("def up(n):\n    yield from range(n)", "assert list(up(3)) == [0, 1, 2]\nassert sum(up(4)) == 6"),
    "every kind of data": (
        "def same(x): return x",
        "from decimal import Decimal\nfrom fractions import Fraction\nfor value in (None, True, 2**20000, -0.5, "
        "float('inf'), 1j, 'ㄱ\\ud800', b'x', (1, (2,)), [[]], {1: {(1,): []}}, {1, 'a'}, frozenset([()]), "
        "Decimal('0.10'), Fraction(1, 3)):\n    assert same(value) == value and type(same(value)) is type(value)",
    ),
    "a function named as a module": ("def bisect(n): return n // 2", "assert bisect(9) == 4"),
    "unittest": (
        "def f(x): return x + 1",
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), 2)\n"
        "result = unittest.TestResult()\nT('test').run(result)\nassert result.wasSuccessful()",
    ),
    "a script that prints, asks for its name and has a thread": (
        "import threading\nprint('hello')\nthreading.Thread(target=threading.Event().wait).start()\n"
        "def f(): return 1\nif __name__ == '__main__': raise SystemExit(1)",
        "assert f() == 1",
    ),
}


@needs_sandbox
@pytest.mark.parametrize(("answer", "tests"), RIGHT.values(), ids=RIGHT)
def test_a_right_answer_passes_its_tests(answer, tests):
    verdict = judge_by_tests(answer, tests)
    assert verdict.passed, verdict.why


@needs_sandbox
def test_a_wrong_answer_fails_and_the_line_is_told():
    verdict = judge_by_tests("def f(x): return x", "assert f(1) == 1\nassert f(2) == 4, 'twice'")
    assert (verdict.passed, verdict.why) == (
        False,
        "AssertionError: twice at line 2 of the tests: assert f(2) == 4, 'twice'",
    )
    assert "SyntaxError" in judge_by_tests("def f(:", "assert f(1)").why
    assert "NameError" in judge_by_tests("def g(): pass", "assert f(1)").why
    assert "too much time" in judge_by_tests("def f(x):\n    while True: pass", "assert f(1)", limits=SHORT).why
    assert "exit code 7" in judge_by_tests("import os\ndef f(x): os._exit(7)", "assert f(1)").why
    assert "MemoryError" in judge_by_tests("def f(x): return bytes(2 ** 40)", "assert f(1)").why


# The tests want a number that the answer can not know and that stands nowhere as it is.
EXPECTED = """expected = sum(ord(letter) * 31 ** place for place, letter in enumerate("고래"))"""
TESTS = [
    f"""
def check(candidate):
    {EXPECTED}
    try:
        assert candidate(0) == expected
    except Exception:
        raise AssertionError("wrong") from None

check(f)
""",
    f"""
{EXPECTED}
assert all(map(lambda x: f(x) == expected + x, [2, 3]))
""",
]
FAKES = """
# end well
import sys
def f(x): sys.exit(0)

# end well at once
import os
os._exit(0)

# end well in the call
import os
def f(x): os._exit(0)

# raise the end of a program
def f(x): raise SystemExit

# raise the end of a loop
def f(x): raise StopIteration

# raise the end of a generator
def f(x): raise GeneratorExit

# raise what unittest takes for a test left out
import unittest
def f(x): raise unittest.SkipTest

# say that it passed
print("passed")
def f(x):
    print("passed")
    return True

# equal everything
class All:
    def __eq__(self, other): return True
def f(x): return All()

# be a number that equals everything
class All(int):
    def __eq__(self, other): return True
def f(x): return All(1)

# be a text that equals everything
class All(str):
    def __eq__(self, other): return True
def f(x): return All("")

# be a list that equals everything
class All(list):
    def __eq__(self, other): return True
def f(x): return All([1])

# be a Decimal that equals everything
class Decimal:
    def __eq__(self, other): return True
Decimal.__module__ = "decimal"
def f(x): return Decimal()

# change the AssertionError
import builtins
builtins.AssertionError = KeyError
def f(x): return 0

# change what the tests call
import builtins
for name in ("all", "map", "sum", "isinstance"):
    setattr(builtins, name, lambda *_: True)
def f(x): return 0

# bring a check
def check(candidate): pass
def f(x): return 0

# look at the frames
import sys
def f(x):
    frame = sys._getframe()
    while frame:
        if "expected" in frame.f_locals:
            return frame.f_locals["expected"] + x
        frame = frame.f_back

# look at every object
import gc
def f(x):
    for thing in gc.get_objects():
        if isinstance(thing, dict) and "expected" in thing:
            return thing["expected"] + x

# look at stdin
import sys
text = sys.stdin.read()
def f(x): return eval(text)["expected"]

# look at the main module
import sys
def f(x): return sys.modules["__main__"].side["tests"]

# reply before it is asked
import os
for descriptor in range(3, 200):
    try: os.write(descriptor, b'["value", true]\\n' * 9)
    except OSError: pass
def f(x): return 0

# reply with the end of a program
import os
for descriptor in range(3, 200):
    try: os.write(descriptor, b'["raised", "SystemExit", "0"]\\n' * 9)
    except OSError: pass
def f(x): return 0

# reply nonsense
import os
for descriptor in range(3, 200):
    try: os.write(descriptor, b"}" * 999 + b"\\n")
    except OSError: pass
def f(x): return 0

# reply with a deep list
import os
for descriptor in range(3, 200):
    try: os.write(descriptor, b"[" * 60_000 + b"\\n")
    except OSError: pass
def f(x): return 0

# hang up
import os
os.closerange(3, 200)
def f(x): return 0

# change json
import json
json.dumps = lambda *_: '["value", true, []]'
def f(x): return 0

# flood
def f(x): return "x" * 10**9

# give a number that takes long to write
def f(x): return 1 << 10**8

# crash
import ctypes
def f(x): ctypes.string_at(0)

# give itself
def f(x): return f

# be nothing
pass
"""
TRICKS = dict(re.findall(r"^# (.*)\n((?:(?!# ).*\n)+)", FAKES, re.MULTILINE))


@needs_sandbox
@pytest.mark.parametrize("answer", TRICKS.values(), ids=TRICKS)
def test_no_trick_passes(answer):
    for tests in TESTS:
        assert not judge_by_tests(answer, tests, limits=RunLimits(cpu_seconds=1, wall_seconds=3)).passed


@needs_sandbox
def test_those_tests_can_be_passed():
    right = "def f(x): return ord('고') + 31 * ord('래') + x"
    for tests in TESTS:
        assert judge_by_tests(right, tests).passed


@needs_sandbox
def test_to_die_is_not_to_raise():
    tests = "try:\n    f(-1)\nexcept Exception:\n    pass\nelse:\n    assert False"
    assert judge_by_tests("def f(x): raise KeyError(x)", tests).passed
    for ending in ("import os; os._exit(0)", "import os; os.abort()", "import os; os.closerange(3, 200)"):
        assert not judge_by_tests(f"def f(x): {ending}", tests).passed


@needs_sandbox
@pytest.mark.parametrize(
    ("tests", "fault"),
    [
        ("assert f(", "no Python"),
        ("", "no name of the answer"),
        ("def check(candidate):\n    assert candidate(1) == 2", "call check"),
        ("assert f(lambda x: x) == 2", "plain data"),
        ("class A: pass\nassert f([A()]) == 2", "plain data"),
    ],
)
def test_tests_that_can_not_judge_are_an_error_and_no_verdict(tests, fault):
    with pytest.raises(ValueError, match=fault):
        judge_by_tests("def f(x): return 2", tests)


@needs_sandbox
def test_the_modules_a_test_takes_for_granted_are_pythons_own():
    fake = "class math:\n    isclose = lambda *_: True\ndef f(x): return 0"
    assert not judge_by_tests(fake, "assert math.isclose(f(1), 2.5)").passed


@needs_sandbox
def test_it_is_a_reward_in_the_process_of_a_grader(tmp_path):
    task = tmp_path / "squares.py"
    task.write_text(
        """
from gorae.tasks import RunLimits, judge_by_tests

rows = [{"prompt": "Write f that squares.", "tests": "assert f(3) == 9", "answer": "f = lambda x: x * x"}] * 5

def reward(contents, tests):
    pairs = zip(contents, tests)
    return [float(judge_by_tests(code, test, limits=RunLimits(cpu_seconds=1)).passed) for code, test in pairs]
"""
    )
    answers = ["def f(x): return x * x", "def f(x): return x", "import os; os._exit(0)", "def f(x):\n    while 1: pass"]
    with Graders(str(task)) as graders:
        verdicts = graders.grade(graders.rows(0, 0, 1), [[Reply(text, text) for text in answers]])
    assert [verdict.reward for verdict in verdicts[0]] == [1.0, 0.0, 0.0, 0.0]

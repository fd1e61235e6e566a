"""
Count the system calls of a server while a test talks to it.

    with traced([sys.executable, "-u", "server.py"], count={"fsync", "fdatasync"}) as process:
        url = process.wait_for_line("http://")
        before = process.calls()
        httpx.post(...)
        assert process.calls_since(before)  # The answer came after a sync.

A seccomp filter, put in place before the command is executed, stops a thread at the counted calls alone; every
other call runs at full speed. The tracer is one thread of the test process, because the kernel takes ptrace
requests only from the thread that attached. It notes a call when the call returns and only then lets the thread
go on, so whatever the command does after a sync, such as answering a request, happens after the note.

Plain ctypes and not python-ptrace: that library polls with pauses of up to half a second once there are two
threads, and knows neither seccomp stops nor PTRACE_SEIZE.

Errors:

    SyscallsError
    ├── TracingRefused    the kernel will not trace a child here; says what to allow
    └── LineMissing       the command did not write the line that was waited for
"""

import ctypes
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition, Thread
from typing import NamedTuple

START_S_MAX = 30.0  # seconds for the launcher to reach the command, and for a line to appear; a busy CI machine
STOP_S_MAX = 10.0  # seconds between SIGTERM and SIGKILL

# AUDIT_ARCH_* of linux/audit.h, then the numbers of asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64).
MACHINES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {"fsync": 74, "fdatasync": 75, "msync": 26, "sync": 162, "syncfs": 306, "sync_file_range": 277},
    ),
    "aarch64": (
        0xC00000B7,
        {"fsync": 82, "fdatasync": 83, "msync": 227, "sync": 81, "syncfs": 267, "sync_file_range": 84},
    ),
}

# linux/ptrace.h
PTRACE_CONT = 7
PTRACE_SYSCALL = 24
PTRACE_SEIZE = 0x4206
PTRACE_LISTEN = 0x4208
PTRACE_GET_SYSCALL_INFO = 0x420E  # Linux 5.3
EVENT_SECCOMP = 7
EVENT_STOP = 128
OPTIONS = (
    1  # TRACESYSGOOD: the stop at the end of a call cannot be taken for a SIGTRAP.
    | 1 << 1  # TRACEFORK: a child has the filter too, and without a tracer its calls would fail with ENOSYS.
    | 1 << 2  # TRACEVFORK
    | 1 << 3  # TRACECLONE: a new thread is traced from birth.
    | 1 << EVENT_SECCOMP
    | 1 << 20  # EXITKILL: nothing outlives the tracer, not even when the test process is killed.
)
CALL_RETURNED = signal.SIGTRAP | 0x80
STOP_SIGNALS = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
# linux/wait.h: every kind of thread, but only those this thread started or traces. Other children of the test
# process, such as another test's server, are not ours to reap.
WAIT_OPTIONS = 0x40000000 | 0x20000000

# linux/prctl.h, linux/seccomp.h
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_TRACE = 0x7FF00000
SECCOMP_RET_ALLOW = 0x7FFF0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class SyscallsError(Exception):
    """A command could not be followed."""


class TracingRefused(SyscallsError):
    """The kernel, or the container around it, does not let this process trace its own child."""

    def __init__(self, step: str, reason: str) -> None:
        self.step = step
        self.reason = reason
        super().__init__(
            f"system calls cannot be counted here: {step}: {reason}; needed are Linux 5.3 or newer with seccomp "
            "filters, kernel.yama.ptrace_scope at most 1, in a container a profile that allows ptrace (or "
            "--cap-add=SYS_PTRACE), and no other tracer (strace, debugger) around the tests"
        )


class LineMissing(SyscallsError):
    """The command ended, or time ran out, before it wrote the line."""

    def __init__(self, text: str, why: str, output: str) -> None:
        self.text = text
        self.output = output
        super().__init__(f"no line with {text!r}: {why}; is the output flushed? Output so far:\n{output}")


class Call(NamedTuple):
    """A system call that has returned: its result is 0 or more, or minus the errno."""

    name: str
    result: int
    thread: int


class TracedProcess:
    """A running command whose counted system calls are noted. Made by `traced`."""

    def __init__(
        self, command: Sequence[str], numbers: Mapping[int, str], env: Mapping[str, str] | None, cwd: Path | None
    ) -> None:
        self._names = numbers
        self._calls: list[Call] = []
        self._entered: dict[int, str] = {}
        self._lines: list[str] = []
        self._lines_seen = 0
        self._output_ended = False
        self._output_changed = Condition()
        self._tracer = ThreadPoolExecutor(1, "tracer")  # One worker: every ptrace request comes from it.
        channel, launcher_end = socket.socketpair()
        with channel, launcher_end:
            try:
                spawned = self._tracer.submit(_spawn, command, numbers, launcher_end, env, cwd)
                self._popen, self._pidfd = spawned.result()
            except BaseException:
                self._tracer.shutdown()
                raise
            launcher_end.close()
            self._ended: Future[int] = self._tracer.submit(self._trace)
            self._reader = Thread(target=self._read, name="traced output")
            self._reader.start()
            try:
                _start(channel, command[0])
            except BaseException:
                self.stop()
                raise

    @property
    def pid(self) -> int:
        """Process id of the command, and thread id of its main thread."""
        return self._popen.pid

    def calls(self) -> list[Call]:
        """Counted calls that have returned so far, of all threads and child processes, in that order."""
        return self._calls.copy()

    def calls_since(self, before: Sequence[Call]) -> list[Call]:
        """Counted calls that have returned since *before* was read with `calls`."""
        return self._calls[len(before) :]

    def wait_for_line(self, text: str, *, deadline_s: float = START_S_MAX) -> str:
        """
        Return the next line of output, standard error included, that contains *text*.

        Lines before it are passed over: the next wait starts after the line returned.

        Raises:
            LineMissing: The output ended or the deadline passed first.
        """
        deadline = time.monotonic() + deadline_s
        with self._output_changed:
            while True:
                while self._lines_seen < len(self._lines):
                    line = self._lines[self._lines_seen]
                    self._lines_seen += 1
                    if text in line:
                        return line
                if self._output_ended:
                    raise LineMissing(text, "the output ended", "\n".join(self._lines))
                if not self._output_changed.wait(deadline - time.monotonic()):
                    raise LineMissing(text, f"{deadline_s:g} s have passed", "\n".join(self._lines))

    def output(self) -> list[str]:
        """All lines written so far, standard error included."""
        with self._output_changed:
            return self._lines.copy()

    def send_line(self, line: str) -> None:
        """Write *line* to the standard input of the command."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{line}\n")

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens when it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, *, deadline_s: float = START_S_MAX) -> int:
        """
        Exit code of the command once it has ended, minus the signal if a signal ended it.

        Raises:
            TimeoutError: It still runs at the deadline.
        """
        return self._ended.result(deadline_s)

    def stop(self) -> None:
        """
        End the command, its threads and its children, and give back every thread and file descriptor.

        Children that outlive the command stand still from its end until here, where they are killed.

        Raises:
            TracingRefused: The kernel refused a request while the command ran; the command was ended at once.
        """
        self.send_signal(signal.SIGTERM)
        try:
            self._ended.exception(STOP_S_MAX)
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
        self._tracer.shutdown()  # With its tracer gone, EXITKILL ends what children are left.
        self._reader.join()
        assert self._popen.stdin is not None
        # Closed this late, or a command that ends with its input would sometimes end before the signal arrives.
        with suppress(BrokenPipeError):
            self._popen.stdin.close()
        os.close(self._pidfd)
        self._ended.result()

    def _trace(self) -> int:
        """Serve the stops of all threads until the command has ended; return its exit code. Tracer's thread."""
        refused: OSError | None = None
        while True:
            thread, status = os.waitpid(-1, WAIT_OPTIONS)
            if os.WIFSTOPPED(status):
                try:
                    self._resume(thread, status)
                except ProcessLookupError:
                    pass  # A SIGKILL took it out of the stop; the next wait reports its end.
                except OSError as error:
                    refused = error
                    self.send_signal(signal.SIGKILL)
                continue
            self._entered.pop(thread, None)
            if thread == self._popen.pid:
                # Popen must learn what this thread reaped, or it would wait for the number's next owner.
                self._popen.returncode = os.waitstatus_to_exitcode(status)
                if refused is not None:
                    raise TracingRefused("PTRACE_GET_SYSCALL_INFO", os.strerror(refused.errno or 0)) from refused
                return self._popen.returncode

    def _resume(self, thread: int, status: int) -> None:
        """Note what a stopped thread did and let it go on, with its signal if it stopped for one."""
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == EVENT_SECCOMP:
            self._entered[thread] = self._names[_syscall_info(thread)]
            _ptrace(PTRACE_SYSCALL, thread)  # To the return of this call.
        elif event == EVENT_STOP and number in STOP_SIGNALS:
            _ptrace(PTRACE_LISTEN, thread)  # Stays stopped, as without a tracer, until SIGCONT.
        elif event:
            _ptrace(PTRACE_CONT, thread)  # A thread or process was born.
        elif number == CALL_RETURNED:
            self._calls.append(Call(self._entered.pop(thread), _syscall_info(thread), thread))
            _ptrace(PTRACE_CONT, thread)
        else:
            _ptrace(PTRACE_CONT, thread, number)

    def _read(self) -> None:
        """Keep every line of output, so that the pipe never fills. The reader's thread."""
        assert self._popen.stdout is not None
        with self._popen.stdout as lines:
            for line in lines:
                with self._output_changed:
                    self._lines.append(line.rstrip("\n"))
                    self._output_changed.notify_all()
        with self._output_changed:
            self._output_ended = True
            self._output_changed.notify_all()


@contextmanager
def traced(
    command: Sequence[str],
    *,
    count: Collection[str] = ("fsync", "fdatasync"),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[TracedProcess]:
    """
    Run *command* and note its *count* system calls; end it when the block ends.

    Args:
        command: Program and arguments; the program is looked up in PATH.
        count: Names of the calls, see `MACHINES`.
        env: Environment of the command, that of the test if None.
        cwd: Directory to start in, that of the test if None.

    Raises:
        TracingRefused: Tracing is not possible on this machine. Not to be turned into a skip: a durability test
            that does not run proves nothing.
        OSError: The command could not be executed.
        ValueError: A name in *count* is not known.
    """
    _, numbers = _machine()
    assert count
    if unknown := set(count) - set(numbers):
        raise ValueError(f"cannot count {sorted(unknown)}; known are {sorted(numbers)}")
    process = TracedProcess(command, {numbers[name]: name for name in count}, env, cwd)
    try:
        yield process
    finally:
        process.stop()


def _machine() -> tuple[int, Mapping[str, int]]:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        raise TracingRefused("system call numbers", f"not known for {sys.platform} on {machine}")
    return MACHINES[machine]


def _spawn(
    command: Sequence[str],
    numbers: Mapping[int, str],
    launcher_end: socket.socket,
    env: Mapping[str, str] | None,
    cwd: Path | None,
) -> tuple[subprocess.Popen[str], int]:
    """Start the launcher and attach to it while it waits for a byte, before it has the filter; with its pidfd."""
    channel = launcher_end.fileno()
    popen = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(channel), ",".join(map(str, numbers)), *command],
        bufsize=1,
        cwd=cwd,
        encoding="utf-8",
        env=env,
        errors="backslashreplace",
        pass_fds=[channel],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    step = "PTRACE_SEIZE"
    try:
        _ptrace(PTRACE_SEIZE, popen.pid, OPTIONS)
        step = "pidfd_open"
        return popen, os.pidfd_open(popen.pid)  # Unlike its number, safe to signal when it has just been reaped.
    except OSError as error:
        popen.kill()
        popen.communicate()
        raise TracingRefused(step, os.strerror(error.errno or 0)) from error


def _ptrace(request: int, thread: int, data: object = 0, address: int = 0) -> None:
    if _libc.ptrace(request, thread, address, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def _syscall_info(thread: int) -> int:
    """Number of the call a thread stopped in by the filter, result of the call a thread has returned from."""
    # struct ptrace_syscall_info: both are 64 bits at offset 24, after op, arch, instruction and stack pointer.
    info = ctypes.create_string_buffer(88)
    _ptrace(PTRACE_GET_SYSCALL_INFO, thread, info, len(info))
    value: int = struct.unpack_from("q", info, 24)[0]
    return value


def _start(channel: socket.socket, program: str) -> None:
    """Let the launcher go on, and wait until it has become the command or said why not."""
    channel.settimeout(START_S_MAX)
    channel.sendall(b"\0")
    report = channel.recv(200)  # Empty when the command was executed: the launcher's end closed with that.
    if report:
        step, error = report.decode().split()
        if step == "exec":
            raise OSError(int(error), os.strerror(int(error)), program)
        raise TracingRefused(step, os.strerror(int(error)))


def _launch(channel: int, numbers: Sequence[int], command: list[str]) -> None:
    """Become *command*, under the filter, once the tracer has attached."""
    os.set_inheritable(channel, False)
    if not os.read(channel, 1):
        return  # The test process is gone.
    step = "seccomp"
    try:
        _install_filter(numbers)
        step = "exec"
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python ignores these, and ignoring survives exec.
        os.execvp(command[0], command)
    except OSError as error:
        os.write(channel, f"{step} {error.errno}".encode())


def _install_filter(numbers: Sequence[int]) -> None:
    architecture, _ = _machine()
    load, jump_if_equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    last = len(numbers)
    program = [
        (load, 0, 0, 4),  # seccomp_data.arch
        (jump_if_equal, 0, last + 1, architecture),  # A 32-bit program has other numbers: not counted.
        (load, 0, 0, 0),  # seccomp_data.nr
        *((jump_if_equal, last - at, 0, number) for at, number in enumerate(numbers)),
        (answer, 0, 0, SECCOMP_RET_ALLOW),
        (answer, 0, 0, SECCOMP_RET_TRACE),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = struct.pack("HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    _libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong)
    for option, mode, data in ((PR_SET_NO_NEW_PRIVS, 1, None), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)):
        if _libc.prctl(option, mode, data, 0, 0) == -1:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))


if __name__ == "__main__":
    _launch(int(sys.argv[1]), [int(number) for number in sys.argv[2].split(",")], sys.argv[3:])

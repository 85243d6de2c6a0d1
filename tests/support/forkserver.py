"""Starts Python programs by a fork of a process that has imported the package, instead of a new interpreter.

A new interpreter spends 0.7 s of CPU on importing a node and 0.4 s on importing a command, which was half of what the
suite took. What is started here is as real: a process with its own pid, environment, working directory, streams and
exit code. Only the imports are done already. A test about imports, the locale or the interpreter's flags uses
`subprocess`, as do all tests that need what `spawn` does not take.

A request travels to the server as one message with four descriptors: the three streams, and a socket on which the
process's pid and later its exit code come back.
"""

from __future__ import annotations

import atexit

if __name__ == "__main__":
    # Before any module registers what is to happen at the end: called after all that.
    atexit.register(lambda: _leave())  # noqa: PLW0108  # it is defined below

import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Self

MAX_MESSAGE_BYTES = 1 << 17


def _of_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(("LANG", "LC_", "PYTHON"))}


_LATE = ("cryptography.hazmat.primitives.asymmetric.ed25519", "httpcore", "prometheus_client", "tomli_w")
# What an interpreter reads when it starts. Where a test wants it otherwise, it gets a new interpreter.
_OURS = _of_interpreter(os.environ)
_exit_codes: list[int] = []  # of this process: one, when its program has run to an end


class Forked:
    """What `subprocess.Popen` is for a new interpreter: the part of it that tests use."""

    def __init__(self, args: list[str], reply: socket.socket, pipes: dict[str, IO[Any]]) -> None:
        self.args = args
        self.returncode: int | None = None
        self.stdin = pipes.get("stdin")
        self.stdout = pipes.get("stdout")
        self.stderr = pipes.get("stderr")
        self._reply = reply
        self.pid = int(self._received(120))  # the first one waits for the imports, on a busy machine

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe:
                pipe.close()
        self.wait()

    def _received(self, timeout: float | None) -> bytes:
        self._reply.settimeout(timeout)
        try:
            message = self._reply.recv(64)
        except (TimeoutError, BlockingIOError):
            raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        if not message:
            raise ChildProcessError(f"the fork server lost {self.args}")
        return message

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self.returncode = int(self._received(timeout))
            self._reply.close()
        return self.returncode

    def poll(self) -> int | None:
        """Returns the exit code, or None while the process runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def communicate(self, input: Any = None, timeout: float = 60) -> tuple[Any, Any]:  # noqa: A002
        """Writes the input, reads both outputs to their end, and waits; kills a process that takes longer."""
        with ThreadPoolExecutor(2) as readers, ExitStack() as closing:
            outputs = [pipe and readers.submit(closing.enter_context(pipe).read) for pipe in (self.stdout, self.stderr)]
            try:
                if self.stdin:
                    with suppress(BrokenPipeError), self.stdin:
                        if input:
                            self.stdin.write(input)
                self.wait(timeout)
            finally:
                self.kill()
            return tuple(output and output.result() for output in outputs)  # type: ignore[return-value]

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process = Forked | subprocess.Popen  # what they share


def spawn(command, *, stdin=None, stdout=None, stderr=None, cwd=None, env=None, text=False) -> Process:
    """Starts `[sys.executable, "-m", module, ...]`, `[..., "-c", program, ...]` or `[..., file, ...]`.

    A stream is a file, a descriptor, `subprocess.DEVNULL`, `subprocess.PIPE`, or None for the caller's own.
    """
    assert command[0] == sys.executable
    if _of_interpreter(os.environ if env is None else env) != _OURS:
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return subprocess.Popen(command, **streams, cwd=cwd, env=env, text=text)
    request = {
        "arguments": [str(part) for part in command[1:]],
        "cwd": str(cwd or Path.cwd()),
        "environment": dict(os.environ if env is None else env),
    }
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipes: dict[str, IO[Any]] = {}
    with ExitStack() as closing:
        closing.enter_context(theirs)
        streams = []
        for number, (name, stream) in enumerate((("stdin", stdin), ("stdout", stdout), ("stderr", stderr))):
            if stream == subprocess.PIPE:
                reading, writing = os.pipe()
                stream, kept = (reading, writing) if number == 0 else (writing, reading)  # noqa: PLW2901
                closing.callback(os.close, stream)
                pipes[name] = os.fdopen(kept, ("r" if number else "w") + ("" if text else "b"))
            elif stream == subprocess.DEVNULL:
                stream = closing.enter_context(Path(os.devnull).open("r+b", buffering=0))  # noqa: PLW2901
            streams.append(number if stream is None else stream if isinstance(stream, int) else stream.fileno())
        socket.send_fds(_server(), [json.dumps(request).encode()], [*streams, theirs.fileno()])
    return Forked(command, ours, pipes)


def run(command, *, input=None, timeout=60, check=False, text=True, **named) -> subprocess.CompletedProcess:  # noqa: A002
    """Runs a program and captures what it prints, as `subprocess.run` does."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with spawn(command, **pipes, text=text, **named) as process:
        stdout, stderr = process.communicate(input, timeout)
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


@cache
def _server() -> socket.socket:
    """Starts the server when it is first needed; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def stop():
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


# --- in the server


def _serve(control: socket.socket) -> None:
    """Forks for each request; returns in the process that was asked for, as that program, and at the end."""
    _import_all()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some are started to crash
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close the socket
    with selectors.DefaultSelector() as waiting:
        waiting.register(control, selectors.EVENT_READ)
        while waiting.get_map():
            for key, _ in waiting.select():
                if key.fileobj is not control:
                    waiting.unregister(key.fileobj)
                    _tell_the_end(key.fd, *key.data)
                    continue
                message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 4)
                if not message:
                    waiting.unregister(control)
                    for left in waiting.get_map().values():
                        os.kill(left.data[0], signal.SIGKILL)  # no program outlives the tests that started it
                elif pid := os.fork():
                    for descriptor in descriptors[:3]:
                        os.close(descriptor)
                    waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, descriptors[3]))
                    _say(descriptors[3], pid)
                else:
                    waiting.close()
                    control.close()
                    _become(json.loads(message), descriptors)
                    return


def _tell_the_end(pidfd: int, pid: int, reply: int) -> None:
    """Reaps a process, whose CPU time then counts as ours, and sends its exit code."""
    os.close(pidfd)
    _say(reply, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.close(reply)


def _say(reply: int, number: int) -> None:
    with suppress(OSError):  # the test may have gone
        os.write(reply, str(number).encode())


def _import_all() -> None:
    """Imports what nodes and commands import, also what they import as late as they use it, and starts nothing."""
    import hearthnet
    from hearthnet.observability.redaction import rules

    for module in pkgutil.walk_packages(hearthnet.__path__, "hearthnet."):
        if not module.name.endswith("__main__"):
            _import(module.name)
    for name in _LATE:
        importlib.import_module(name)
    rules.compile_shapes(())  # `re` has these then
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page


def _import(name: str) -> None:
    """Imports a module; not one of an extra that is not installed, as where the lowest versions are."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hearthnet"):
            raise


def _become(request: dict, descriptors: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    os.closerange(3, 1 + max(int(path.name) for path in Path("/proc/self/fd").iterdir()))
    sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", 1 if os.isatty(1) else -1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    try:
        _execute(*request["arguments"])
        _exit_codes.append(0)
    except SystemExit as error:
        _exit_codes.append(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    except Exception:
        _exit_codes.append(1)
        raise


def _leave() -> None:
    """Ends a program whose exit code is known when all else is done that an interpreter does at its end.

    All but one: it would take every object of every module apart, and so touch, and copy, each page that was forked.
    That is most of the CPU time of a short command.
    """
    with suppress(OSError, ValueError, AttributeError):  # the interpreter then goes on, and tells of this
        for code in _exit_codes:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code & 0xFF)


def _execute(kind: str, *arguments: str) -> None:
    if kind == "-m":
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = [kind, *arguments]
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file is no place to import from
    with socket.socket(fileno=int(sys.argv[1])) as _control:
        _serve(_control)

"""`pacsnode` as a process of its own that starts at once: forked from one that has imported everything.

An interpreter that imports what a node needs is busy for one to two seconds, and the tests start some two
hundred. `start` and `pacsnode` ask a keeper, one for each process of tests; that forks a watcher for each
command, which forks the command and tells how it ended. tests/cli/test_serve.py and test_command_line.py
start real interpreters.
"""

import asyncio
import atexit
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from dataclasses import dataclass
from functools import cache

_REQUEST = 2**20  # bytes at most: arguments and environment
PRELOADED = (
    *("pacsnode.node", "pacsnode.cli.sending", "pacsnode.cli.querying", "pacsnode.cli.receiving"),
    *("pacsnode.archive.migrations", "pacsnode.archive.reconcile", "pynetdicom.sop_class", "uvloop"),
    *("uvicorn.protocols.http.httptools_impl", "uvicorn.lifespan.off", "rich.table", "rich.progress"),
)


class Process:
    """A running command: the part of asyncio.subprocess.Process that the tests use."""

    def __init__(self, pid: int, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._writer = writer
        self._ended = asyncio.create_task(self._end(answers))

    async def wait(self) -> int:
        """Wait for the end; the exit status, or minus the signal that ended it."""
        return await asyncio.shield(self._ended)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Everything it has written to its two outputs, once it has ended."""
        streams = (self.stdout, self.stderr)
        reads = [stream.read() if stream is not None else _nothing() for stream in streams]
        output, errors, _ = await asyncio.gather(*reads, self.wait())
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def _end(self, answers: asyncio.StreamReader) -> int:
        self.returncode = int(await answers.readline())
        self._writer.close()
        return self.returncode


async def start(
    *arguments: str,
    env: dict[str, str] | None = None,
    output: bool = True,
    joined: bool = False,
    code: str = "",
) -> Process:
    """Start `pacsnode` with arguments, and variables besides those of the tests.

    `output`: read standard output, else it goes where that of the tests goes. `joined`: standard error is
    the same stream. `code`: run this with the arguments, instead of the command line.
    """
    stdout, stderr = os.pipe() if output else None, os.pipe() if not joined else None
    given_out = stdout[1] if stdout else 1
    given = [given_out, stderr[1] if stderr else given_out]
    request = {
        "arguments": arguments,
        "environment": {**os.environ, **(env or {})},
        "folder": os.getcwd(),
        "code": code,
        "path": sys.path,
    }
    asking = socket.socket(socket.AF_UNIX)
    asking.connect(_keeper())
    socket.send_fds(asking, [json.dumps(request).encode()], given)
    asking.shutdown(socket.SHUT_WR)
    for pair in (stdout, stderr):
        if pair is not None:
            os.close(pair[1])
    answers, writer = await asyncio.open_connection(sock=asking)
    process = Process(int(await answers.readline()), answers, writer)
    process.stdout = await _reader(stdout[0]) if stdout else None
    process.stderr = await _reader(stderr[0]) if stderr else None
    return process


@dataclass(frozen=True)
class Ended:
    """A command that has ended. Without `errors` of their own they are in `output`."""

    status: int
    output: str
    errors: str


async def pacsnode(
    *arguments: object, env: dict[str, str] | None = None, joined: bool = True, limit: float = 60
) -> Ended:
    """Run `pacsnode` to its end."""
    process = await start(*map(str, arguments), env=env, joined=joined)
    try:
        async with asyncio.timeout(limit):
            output, errors = await process.communicate()
    except TimeoutError:
        process.kill()
        raise
    return Ended(await process.wait(), output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb"))
    return reader


async def _nothing() -> bytes:
    return b""


@cache
def _keeper() -> bytes:
    """Start the keeper of this process; where it listens. It ends with its standard input, thus with us."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # any name that is free
        listener.listen(64)
        number = listener.fileno()
        command = [sys.executable, "-P", __file__, str(number)]
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number])
        atexit.register(keeper.communicate)  # closes its standard input
        name: bytes = listener.getsockname()
    return name


# In the keeper


def keep(listener: socket.socket) -> None:
    """Fork what is asked for until standard input ends."""
    for name in PRELOADED:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watchers need not be waited for
    events = selectors.DefaultSelector()
    events.register(listener, selectors.EVENT_READ)
    events.register(sys.stdin, selectors.EVENT_READ)
    while sys.stdin not in [key.fileobj for key, _ in events.select()]:
        asked, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            watch(asked)
        asked.close()


def watch(asked: socket.socket) -> None:
    """Fork one command, tell its number, then how it ended. Does not return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, outputs, _, _ = socket.recv_fds(asked, _REQUEST, 2)
    while part := asked.recv(_REQUEST):
        data += part
    number = os.fork()
    if number == 0:
        asked.close()
        become(outputs, **json.loads(data))
    for output in outputs:
        os.close(output)
    asked.sendall(b"%d\n" % number)
    _, status = os.waitpid(number, 0)
    asked.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def become(
    outputs: list[int],
    arguments: list[str],
    environment: dict[str, str],
    folder: str,
    code: str,
    path: list[str],
) -> None:
    """Be the command, or run the code. Does not return."""
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *outputs]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["pacsnode", *arguments]
    sys.path[:] = path
    from pacsnode import cli

    status = 1
    try:
        if code:
            exec(code, {"__name__": "__main__"})
            status = 0
        else:
            status = cli.main()
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    keep(socket.socket(fileno=int(sys.argv[1])))

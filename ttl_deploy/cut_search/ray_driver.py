"""Ray's driver in a process of its own: what is connected to a cluster, and told by it.

Ray ends the process that it is connected in, without an exception, once the cluster has gone, and leaves it handlers
for seven signals on an alternate stack. Here that process is a child, whose end is an error in one line.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import pickle
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import IO, Any, NoReturn, TypeVar

from ttl_deploy.closing import Closing
from ttl_deploy.errors import BadInputError, MissingDependencyError, TtlDeployError
from ttl_deploy.latency.isolate import last_words

Item = TypeVar("Item")

_SHUTDOWN_S = 30.0
"""Seconds that the driver has to leave its cluster."""

_CONNECT_S = 10.0
"""Seconds that an address has to answer; Ray itself tries for minutes."""

_WATCH_S = 2.0
"""Seconds between two looks at the nodes and the parent."""


class RayDriver(Closing):
    """A process that is connected to a cluster and runs generator functions there.

    Args:
        address: Of a running cluster; None: one is started here for as long as this is open.
        cores: Of the one that is started here.

    Attributes:
        cores: Cores of the cluster.

    Raises:
        MissingDependencyError: Ray is not installed.
        BadInputError: No cluster at the address.
    """

    def __init__(self, address: str | None, *, cores: int) -> None:
        if importlib.util.find_spec("ray") is None:
            raise MissingDependencyError("Ray is not installed", fix="pip install 'ttl-deploy[cluster]'")
        _refuse_silence(address)
        self._address = address
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = _start(theirs, self._errors)
        self._busy = True
        try:
            self.cores: int = next(self._answers((address, cores)))
        except BaseException:
            self.close()
            raise
        self._busy = False

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def stream(self, function: Callable[..., Iterator[Item]], *arguments: Any) -> Generator[Item, None, None]:
        """What a generator function of a module yields in the driver, as it comes.

        Left before its end, it closes the driver, for what the function began could not be called back.

        Raises:
            TtlDeployError: The cluster has gone.
            Exception: What the function raised.
        """
        self._busy = True
        try:
            yield from self._answers((function, arguments))
        except GeneratorExit:
            self.close()
            raise
        self._busy = False

    def close(self) -> None:
        """Leaves the cluster, and ends the one that was started here."""
        self._connection.close()
        if self._busy:
            self._process.terminate()
        try:
            self._process.wait(_SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _answers(self, question: tuple[Any, ...]) -> Iterator[Any]:
        try:
            self._connection.send(question)
            kind, value = self._connection.recv()
            while kind == "item":
                yield value
                kind, value = self._connection.recv()
        except (EOFError, OSError):
            self._tell_end()
        if kind == "error":
            self._busy = False
            raise value

    def _tell_end(self) -> NoReturn:
        code = self._process.wait()
        self._errors.seek(0)
        if not hasattr(self, "cores"):
            words = last_words(code, self._errors.read())
            raise _unreachable(self._address, words) if self._address else _unusable(words)
        raise _gone(f"Ray's own process ended with exit code {code}", self._address) from None


def _gone(why: str, address: str | None = None) -> TtlDeployError:
    return TtlDeployError(
        f"the Ray cluster has gone: {why}",
        where=address,
        fix="start the cluster again, then the same command: what is finished is kept",
    )


def _refuse_silence(address: str | None) -> None:
    """Tries an address that names a port."""
    named = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d+)", address or "")
    if named is None:
        return
    try:
        socket.create_connection((named[1], int(named[2])), timeout=_CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unusable(words: str) -> TtlDeployError:
    return TtlDeployError(f"Ray cannot start a cluster here: {words}", fix="pass --engine local")


def _unreachable(address: str | None, error: Exception | str) -> BadInputError:
    return BadInputError(
        f"no Ray cluster can be reached: {error}", where=address, fix="start one with `ray start --head`"
    )


def _start(theirs: Connection, errors: IO[str]) -> subprocess.Popen[bytes]:
    # -P: without it, a file beside the user named like a library would be imported in its place.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ttl_deploy.cut_search.ray_driver", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        # Ctrl-C reaches the parent alone, which then ends this one in order.
        start_new_session=True,
    )


def _main(arguments: list[str]) -> None:
    """The child: connects, then answers questions until the parent has no more."""
    number = int(arguments[0])
    os.set_inheritable(number, False)
    with Connection(number) as connection:
        address, cores = connection.recv()
        try:
            with _connected(address, cores) as ray:
                connection.send(("item", int(ray.cluster_resources().get("CPU", 1))))
                _serve(connection)
        except TtlDeployError as error:
            connection.send(("error", error))


def _serve(connection: Connection) -> None:
    while True:
        try:
            question = connection.recv_bytes()
        except EOFError:
            return
        try:
            function, arguments = pickle.loads(question)
            for item in function(*arguments):
                connection.send(("item", item))
            answer: tuple[str, Exception | None] = ("end", None)
        except Exception as error:
            answer = ("error", _portable(error))
        connection.send(answer)


@contextmanager
def _connected(address: str | None, cores: int) -> Iterator[Any]:
    import ray

    try:
        ray.init(
            address=address,
            num_cpus=None if address else cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address, error) from error
    left = threading.Event()
    threading.Thread(target=_watch, args=[ray, os.getppid(), left], daemon=True).start()
    try:
        yield ray
    finally:
        left.set()
        ray.shutdown()


def _watch(ray: Any, parent: int, left: threading.Event) -> None:
    """Ends this process with its parent, or with the last node: Ray would wait for another for ever."""
    while not left.wait(_WATCH_S):
        if os.getppid() != parent or not _any_node(ray):
            os._exit(1)


def _any_node(ray: Any) -> bool:
    try:
        return any(node["Alive"] for node in ray.nodes())
    except Exception:
        # The head does not answer; if it stays so, Ray ends this process itself.
        time.sleep(_WATCH_S)
        return True


def _portable(error: Exception) -> Exception:
    """An error that the parent can unpickle without Ray: the user's own, else its kind and words."""
    foreign = [cause for cause in _causes(error) if type(cause).__module__.partition(".")[0] != "ray"]
    known = [cause for cause in foreign if isinstance(cause, TtlDeployError)]
    if any(type(cause).__name__ == "LocalRayletDiedError" for cause in _causes(error)):
        return _gone("its node on this machine ended")
    for cause in [*known, *foreign]:
        with suppress(Exception):
            pickle.loads(pickle.dumps(cause))
            cause.add_note(str(error))
            return cause
    return TtlDeployError(f"the cluster failed: {type(error).__name__}: {last_words(1, str(error))}")


def _causes(error: Exception) -> Iterator[Exception]:
    """An error, and what it was raised from; Ray keeps a worker's as `cause`, in a class that is both of them."""
    cause: Any = error
    while isinstance(cause, Exception):
        yield cause
        cause = getattr(cause, "cause", None) or cause.__cause__


if __name__ == "__main__":
    _main(sys.argv[1:])

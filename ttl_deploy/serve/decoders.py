"""Images of strangers are decoded in processes of their own, which can be ended whatever a decoder does.

Each process is `python -m ttl_deploy.serve.decoders SPEC`: it reads images from its stdin and writes pixels or an error
to its stdout. A kernel timer ends one that takes too long, a limit bounds its memory, and another takes its place. The
image goes through a pipe once, the pixels, which have the network's size or are the slices of one study, once back.
"""

from __future__ import annotations

import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.closing import Closing
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.inputs.image import image_size
from ttl_deploy.inputs.reading import load_input
from ttl_deploy.serve.request_error import RequestError
from ttl_deploy.spec import PreprocessSpec

MEMORY_BYTES = 3 * 2**30
"""What one process may hold: the largest image that is allowed, in float64 and three copies, is 2.2 GiB."""

_QUESTION = struct.Struct("<dIQ?")
"""Seconds allowed, bytes of the image's name, bytes of the image, whether its own size is asked for."""
_ANSWER = struct.Struct("<?III")
"""Whether pixels follow, or an error; bytes of it; the image's own width and height where asked for, or 0."""
_NO_SIZE = (0, 0)
_MOST_ERROR = 2**12
_MOST_SLICES = 2**12
"""Of a study read in windows."""
_READY = b"+"
"""What a process says first."""


class Decoders(Closing):
    """Processes that decode, taken in turns by any number of threads.

    Args:
        spec: How images are preprocessed.
        processes: How many there are.
        seconds: Time for one image.
    """

    def __init__(self, spec: PreprocessSpec, processes: int, seconds: float) -> None:
        self._spec = spec
        self._seconds = seconds
        self._all = [_Decoder(spec) for _ in range(processes)]
        self._free: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        for decoder in self._all:
            self._free.put(decoder)

    def wait(self) -> None:
        """Returns when all can decode.

        Raises:
            TtlDeployError: One cannot.
        """
        try:
            for decoder in self._all:
                decoder.wait()
        except (OSError, EOFError) as error:
            raise TtlDeployError("the processes that decode images do not start", fix="see the system's log") from error

    def pixels(self, content: bytes, where: str) -> NDArray[np.uint8]:
        """Decodes one image and brings it to the network's size.

        Args:
            content: Content of an image file.
            where: What an error calls the image.

        Returns:
            As `ttl_deploy.inputs.reading.load_input`.

        Raises:
            RequestError: The image cannot be read, or its decoder crashed, took too long or was interrupted.
        """
        return self._read(content, where, sized=False)[0]

    def sized(self, content: bytes, where: str) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """The same, and the (width, height) of the image as it is shown."""
        return self._read(content, where, sized=True)

    def _read(self, content: bytes, where: str, *, sized: bool) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        decoder = self._free.get()
        try:
            return decoder.read(content, where, self._seconds, sized)
        except _EndedError as error:
            decoder.restart()
            raise RequestError(f"{where}: {error}") from error
        finally:
            self._free.put(decoder)

    def interrupt(self) -> None:
        """Ends the processes that are in the middle of an image; others take their places."""
        for decoder in self._all:
            decoder.interrupt()

    def close(self) -> None:
        """Ends the processes, in the middle of an image if need be; calling it twice does nothing more."""
        for decoder in self._all:
            decoder.end()


class _EndedError(Exception):
    """A process ended in the middle of an image."""


class _Decoder:
    """One process; one thread at a time uses it."""

    def __init__(self, spec: PreprocessSpec) -> None:
        self._spec = spec
        self._lock = threading.Lock()
        self._ended = False
        self._ready = False
        self._busy = False
        self._process = _start(spec)

    def wait(self) -> None:
        """Returns when the process has started."""
        if not self._ready:
            self._receive(len(_READY))
            self._ready = True

    def read(
        self, content: bytes, where: str, seconds: float, sized: bool
    ) -> tuple[NDArray[np.uint8], tuple[int, int]]:
        """See `Decoders.sized`; the size is (0, 0) where it is not asked for."""
        name = where.encode("utf-8", "replace")
        self._busy = True
        try:
            self.wait()
            self._send(_QUESTION.pack(seconds, len(name), len(content), sized) + name, content)
            good, length, *size = _ANSWER.unpack(self._receive(_ANSWER.size))
            shape = self._spec.input.array_shape
            if self._spec.windows is not None:
                shape = (_MOST_SLICES, *shape[1:])
            if length > (int(np.prod(shape)) if good else _MOST_ERROR):
                raise _EndedError("its decoder gave no valid answer")
            answer = self._receive(length)
        except (OSError, EOFError, ValueError) as error:  # ValueError: the pipe was closed by `end`
            raise self._reason(seconds) from error
        finally:
            self._busy = False
        if not good:
            raise RequestError(answer.decode("utf-8", "replace"))
        read = shape if self._spec.windows is None else (-1, *shape[1:])
        return np.frombuffer(answer, dtype=np.uint8).reshape(read), (size[0], size[1])

    def interrupt(self) -> None:
        """Ends the process if it has an image."""
        if self._busy:
            self._process.kill()

    def restart(self) -> None:
        """A new process takes the place of this one, unless `end` was called."""
        with self._lock:
            if not self._ended:
                self._kill()
                self._ready = False
                self._process = _start(self._spec)

    def end(self) -> None:
        """Ends the process for good; a thread that waits for it gets an error."""
        with self._lock:
            self._ended = True
            self._kill()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not sent is lost with the process
                _stream(stream).close()

    def _send(self, *parts: bytes) -> None:
        stream = _stream(self._process.stdin)
        for part in parts:
            stream.write(part)
        stream.flush()

    def _receive(self, length: int) -> bytes:
        answer = _stream(self._process.stdout).read(length)
        if len(answer) != length:
            raise EOFError
        return answer

    def _reason(self, seconds: float) -> _EndedError:
        self._process.kill()
        if self._process.wait() == -signal.SIGALRM:
            return _EndedError(f"was not decoded within {seconds:g} s")
        return _EndedError("its decoder crashed; the image is damaged or needs too much memory")


def _start(spec: PreprocessSpec) -> subprocess.Popen[bytes]:
    """A process of its own session, so that Ctrl-C in a terminal does not end it before its image is done."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "ttl_deploy.serve.decoders", spec.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    """This package where it lies, nothing from the working folder; NumPy's threads would only take memory."""
    package = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    return {**os.environ, "PYTHONPATH": paths, **threads}


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _serve(spec: PreprocessSpec, incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    """Answers until stdin ends, which it also does when the server is killed."""
    outgoing.write(_READY)
    outgoing.flush()
    while head := incoming.read(_QUESTION.size):
        seconds, name_length, length, sized = _QUESTION.unpack(head)
        where, content = incoming.read(name_length).decode(), incoming.read(length)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        good, answer, size = _answer(content, spec, where, sized)
        signal.setitimer(signal.ITIMER_REAL, 0)
        outgoing.write(_ANSWER.pack(good, len(answer), *size) + answer)
        outgoing.flush()


def _answer(content: bytes, spec: PreprocessSpec, where: str, sized: bool) -> tuple[bool, bytes, tuple[int, int]]:
    try:
        pixels = load_input(content, spec, where=where).tobytes()
        return True, pixels, image_size(content, where) if sized else _NO_SIZE
    except TtlDeployError as error:
        return False, str(error).encode("utf-8", "replace")[:_MOST_ERROR], _NO_SIZE
    except MemoryError:
        what = f"{where}: needs more memory than the limit of {MEMORY_BYTES:,} bytes"
        return False, what.encode(), _NO_SIZE


def _limit_memory() -> None:
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """The process; whoever stops a service's processes all at once shall not take the images under way with them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _limit_memory()
    # Whatever a library prints must not end up between the answers.
    outgoing = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    _serve(PreprocessSpec.model_validate_json(sys.argv[1]), sys.stdin.buffer, outgoing)


if __name__ == "__main__":
    main()

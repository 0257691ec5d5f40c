"""Where trials run: one after the other in this process, or as tasks of a Ray cluster.

An engine knows nothing of what it runs; whatever a task needs is in the task, so both give the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ttl_deploy import hardware
from ttl_deploy.errors import BadInputError, MissingDependencyError, TtlDeployError

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
"""How often a task is started again after its worker was lost."""


class Engine(Protocol):
    """Runs independent tasks."""

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Result], None]
    ) -> list[Result]:
        """Runs a function of a module on every task.

        Args:
            function: Takes one task.
            tasks: Independent of each other.
            done: Told of each result as it comes.

        Returns:
            The results in the order of the tasks.
        """


class LocalEngine:
    """One task after the other, here."""

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Result], None]
    ) -> list[Result]:
        """See `Engine.map`."""
        results = []
        for task in tasks:
            results.append(function(task))
            done(results[-1])
        return results


class RayEngine:
    """Tasks of a Ray cluster, as many at once as its cores and GPUs allow; Ray schedules.

    The folders of the search must be on a file system that every node sees.

    Args:
        threads: Cores that a task takes.
        gpus: GPUs that a task takes; fractions share one.
        memory_gib: Memory that a task takes; None: not counted.
    """

    def __init__(self, threads: int, gpus: float = 0.0, memory_gib: float | None = None) -> None:
        self._resources: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus, "max_retries": RETRIES}
        if memory_gib is not None:
            self._resources["memory"] = int(memory_gib * 2**30)

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Result], None]
    ) -> list[Result]:
        """See `Engine.map`."""
        import ray

        remote = ray.remote(**self._resources)(function)
        references = [remote.remote(task) for task in tasks]
        waiting = list(references)
        try:
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1)
                done(ray.get(ready[0]))
            return list(ray.get(references))
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, TtlDeployError) else error) from error
        except ray.exceptions.RayError as error:
            raise TtlDeployError(
                f"the cluster lost a trial {RETRIES + 1} times: {type(error).__name__}",
                fix="look for lack of memory on its nodes, then start the same command again",
            ) from error
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)


@contextmanager
def open_engine(
    name: str,
    *,
    threads: int,
    gpus: float = 0.0,
    address: str | None = None,
    workers: int | None = None,
) -> Iterator[Engine]:
    """An engine by name, closed afterwards.

    Args:
        name: `local` or `ray`.
        threads: Cores per task.
        gpus: GPUs per task (Ray).
        address: Of a running Ray cluster; None: one is started on this machine for as long as the engine is open.
        workers: Tasks at once on the cluster that is started here; None: one per `threads` cores.

    Raises:
        BadInputError: Unknown engine, or no cluster at the address.
        MissingDependencyError: Ray is not installed.
    """
    if name == "local":
        yield LocalEngine()
        return
    if name != "ray":
        raise BadInputError(f"unknown engine {name!r}", fix="valid: local, ray")
    with ray_cluster(address, cores=(workers or max(1, hardware.usable_cores() // threads)) * threads):
        yield RayEngine(threads, gpus)


@contextmanager
def ray_cluster(address: str | None, *, cores: int) -> Iterator[Any]:
    """A connection to a Ray cluster; the module `ray`.

    Args:
        address: Of a running cluster; None: start one here.
        cores: Of the one started here.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("Ray is not installed", fix="pip install 'ttl-deploy[cluster]'") from error
    # Without a handler of its own, Ray's log goes to stderr among our lines.
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    try:
        ray.init(address=address, num_cpus=None if address else cores, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInputError(
            f"no Ray cluster can be reached: {error}", where=address, fix="start one with `ray start --head`"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()

"""Where trials run: one after the other in this process, or as tasks of a Ray cluster.

An engine knows nothing of what it runs; whatever a task needs is in the task, so both give the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar

from ttl_deploy.cores import usable_cores
from ttl_deploy.cut_search.ray_driver import RayDriver
from ttl_deploy.errors import BadInputError, TtlDeployError

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
"""How often a task is started again after its worker was lost."""


class TrialEngine(Protocol):
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
        """See `TrialEngine.map`."""
        results = []
        for task in tasks:
            results.append(function(task))
            done(results[-1])
        return results


class RayEngine:
    """Tasks of a Ray cluster, as many at once as its cores and GPUs allow; Ray schedules.

    The folders of the search must be on a file system that every node sees.

    Args:
        driver: Connected to the cluster.
        threads: Cores that a task takes.
        gpus: GPUs that a task takes; fractions share one.
        memory_gib: Memory that a task takes; None: not counted.
    """

    def __init__(self, driver: RayDriver, threads: int, gpus: float = 0.0, memory_gib: float | None = None) -> None:
        self._driver = driver
        self._resources: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus, "max_retries": RETRIES}
        if memory_gib is not None:
            self._resources["memory"] = int(memory_gib * 2**30)

    def map(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], done: Callable[[Result], None]
    ) -> list[Result]:
        """See `TrialEngine.map`."""
        results: dict[int, Result] = {}
        with closing(self._driver.stream(_run_on_ray, function, tasks, self._resources)) as stream:
            for place, result in stream:
                results[place] = result
                done(result)
        return [results[place] for place in range(len(tasks))]


def _run_on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], resources: dict[str, Any]
) -> Iterator[tuple[int, Result]]:
    """Runs in the driver: each result with the place of its task, as they come."""
    import ray

    remote = ray.remote(**resources)(function)
    waiting = {remote.remote(task): place for place, task in enumerate(tasks)}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1)
            result = ray.get(ready[0])
            yield waiting.pop(ready[0]), result
    except (ray.exceptions.RayTaskError, ray.exceptions.LocalRayletDiedError):
        raise
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
) -> Iterator[TrialEngine]:
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
    with ray_cluster(address, cores=(workers or max(1, usable_cores() // threads)) * threads) as driver:
        yield RayEngine(driver, threads, gpus)


def ray_cluster(address: str | None, *, cores: int) -> RayDriver:
    """A connection to a Ray cluster, for a `with` block.

    Args:
        address: Of a running cluster; None: start one here.
        cores: Of the one started here.
    """
    return RayDriver(address, cores=cores)

"""Which of two things is faster, by how much, and how sure that is: measured in turns, each in its own processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_deploy import files
from ttl_deploy.artifact import MANIFEST, open_artifact
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.latency import Job, Measurement
from ttl_deploy.latency.duel import LEAST_BLOCKS, MOST_UNCERTAIN, Ratio, compare_blocks, measure_in_turns
from ttl_deploy.latency.persistent import Block
from ttl_deploy.parity.verify import source_folder
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import RUNTIMES, refuse_unbound, runtime_for, torch_variants
from ttl_deploy.spec import Placement, Trust
from ttl_deploy.training.run import CONFIG, finished_run
from ttl_deploy.verbs.bench import describe, opened_again, provenance, torch_jobs

BLOCKS = 12
_LEAST_PER_BLOCK = 5


@dataclass(frozen=True)
class Duel:
    """Two things measured in turns.

    Attributes:
        ratio: What their times say of each other.
        a: The one, with every sample.
        b: The other.
    """

    ratio: Ratio
    a: Measurement
    b: Measurement

    @property
    def sure(self) -> bool:
        """Whether there is a ratio."""
        return self.ratio.ratio is not None

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON, with where and when they were measured."""
        return {
            **provenance(),
            "comparison": self.ratio.model_dump(mode="json"),
            "a": self.a.model_dump(mode="json"),
            "b": self.b.model_dump(mode="json"),
        }


def compare(
    a: str,
    b: str,
    *,
    batch: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    blocks: int = BLOCKS,
    min_samples: int = 60,
    min_seconds: float = 3.0,
    most_uncertain: float = MOST_UNCERTAIN,
    trust: Trust = Trust(),
    out: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Duel:
    """Measures two things in turns, A B B A, and gives the ratio of their times with an interval.

    Args:
        a: An artifact or a run, and after an `@` its engine: `PATH@openvino`, `RUN@pytorch`, `RUN@compile`. Without
            one, an artifact runs in its default engine and a run in PyTorch eager.
        b: Likewise.
        batch: Images per call.
        threads: Threads per call; None: one per core.
        device: `cpu` or `cuda`.
        blocks: Blocks of each, at least 6.
        min_samples: Least samples of each, all blocks together, and at least 5 a block.
        min_seconds: Least seconds of each, all blocks together.
        most_uncertain: Half the interval's width, as a share of the ratio, above which the ratio is withheld.
        trust: Whose artifacts they may be.
        out: JSON file for the result with every raw sample.
        reporter: Told what happens.

    Raises:
        BadInputError: A path or an engine is unknown, or the blocks are too few.
        IntegrityError: An artifact is not signed by the key, or holds native code that nobody answers for.
        TtlDeployError: A measurement failed.
    """
    if blocks < LEAST_BLOCKS:
        raise BadInputError(f"{blocks} blocks give no interval of 95 %", fix=f"pass --rounds {LEAST_BLOCKS} or more")
    where = Placement(device=device, threads=threads)
    jobs = [job_of(text, where, batch=batch, trust=trust) for text in (a, b)]
    if jobs[0].label == jobs[1].label:
        jobs = [job.model_copy(update={"label": f"{job.label} ({side})"}) for job, side in zip(jobs, "AB", strict=True)]
    block = Block(
        min_samples=max(_LEAST_PER_BLOCK, -(-min_samples // blocks)),
        min_seconds=min_seconds / blocks,
        max_seconds=max(20.0, 4 * min_seconds / blocks),
    )
    one, other = measure_in_turns(jobs, blocks=blocks, block=block, reporter=reporter)
    duel = Duel(compare_blocks(one, other, most_uncertain=most_uncertain), one, other)
    if out is not None:
        files.write_json(Path(out), duel.as_dict())
    return duel


def job_of(text: str, placement: Placement = Placement(), *, batch: int = 1, trust: Trust = Trust()) -> Job:
    """The job that a name such as `PATH@openvino` means.

    Args:
        text: Path, and after an `@` the engine.
        placement: Device and threads.
        batch: Images per call.
        trust: Whose artifact it may be.

    Raises:
        BadInputError: There is neither artifact nor run, or it has no such engine.
        IntegrityError: The artifact is not signed by the key, or holds native code that nobody answers for.
    """
    path, engine = _split(text)
    if (path / MANIFEST).exists() or not (path / CONFIG).exists():
        artifact = open_artifact(path, trust=trust)
        refuse_unbound(artifact)
        words = describe(artifact.manifest.model)
        source = source_folder(artifact)
        if not (_variant(engine) and source):
            where = placement.replace(runtime=RUNTIMES.get(engine).name if engine else None)
            runtime_for(artifact, where)
            label = f"{words} {artifact.manifest.precision} {where.runtime or 'default engine'}"
            return Job(label=label, **opened_again(artifact), placement=where, batch=batch)
        path = source
    variant = _variant(engine or "pytorch")
    if variant is None:
        known = ["pytorch", *torch_variants.VARIANTS]
        raise BadInputError(f"a run has no engine {engine!r}", where=path, fix=near(engine or "", known))
    torch_variants.check(variant, placement.device)
    words = describe(finished_run(path).config.model)
    (job,) = torch_jobs(words, {"run": str(path.resolve())}, (variant,), {"placement": placement, "batch": batch})
    return job


def _split(text: str) -> tuple[Path, str | None]:
    """Path and engine; an `@` in a path that exists is the path's own."""
    path, at, engine = text.rpartition("@")
    if not at or Path(text).exists():
        return Path(text), None
    return Path(path), engine


def _variant(engine: str | None) -> str | None:
    """The PyTorch variant that an engine's name means; None where it is none."""
    name = (engine or "").removeprefix("pytorch-")
    return "eager" if name == "pytorch" else name if name in torch_variants.VARIANTS else None

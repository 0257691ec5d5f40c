"""Where an artifact stops being the validated model: in its records, in a step of the export, or in the engine.

Preprocessing and classes are compared first; then PyTorch, ONNX in fp32, ONNX in the artifact's precision and the
engine, each with the one before; then the tensors inside the step that moved the logits. Against a run the fp32 graph
is exported again, which needs torch; against another artifact nothing does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.data.prepared import Prepared
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.inputs.image import normalise
from ttl_deploy.parity import graphs
from ttl_deploy.parity.graphs import ENGINES, GraphComparison
from ttl_deploy.parity.location import Location, Stage, first_exceeding, permutation, steps_of
from ttl_deploy.parity.run_session import logits_of
from ttl_deploy.parity.verify import (
    Pictures,
    Source,
    open_pictures,
    open_source,
    preprocess_notes,
    refuse_other_classes,
)
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Placement, PreprocessSpec, Reading, Trust
from ttl_deploy.tasks import Task, task_of
from ttl_deploy.training.run import Run, read_predictions

if TYPE_CHECKING:
    import onnx

IMAGES = 16
INSIDE = 2
"""How many images look inside a graph: every tensor of each is held at once."""
TOLERANCE = 1e-4
LOW_PRECISION_TOLERANCE = 0.25


@dataclass(frozen=True)
class _Link:
    """A stage of the chain, with its graph where it has one and the engine that ran it."""

    stage: Stage
    graph: onnx.ModelProto | None = None
    engine: str = "as written"


@dataclass(frozen=True)
class _Shown:
    """What every stage is shown: the reference's preprocessing on both sides; of a study in windows all of them."""

    ids: tuple[str, ...]
    pixels: NDArray[np.uint8]
    preprocess: PreprocessSpec
    inputs: NDArray[np.float32]
    counts: NDArray[np.int64]

    def gathered(self, link: _Link, task: Task) -> _Link:
        """A stage that saw the inputs, with what it says of each image."""
        return replace(link, stage=replace(link.stage, logits=task.gather(link.stage.logits, self.counts)))


def locate(
    artifact: str | Path,
    *,
    against: str | Path | None = None,
    data: str | Path | None = None,
    reading: Reading = Reading(),
    ids: Sequence[str] = (),
    placement: Placement = Placement(),
    max_logit_difference: float | None = None,
    trust: Trust = Trust(),
    cache: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> Location:
    """Finds where an artifact and its reference part.

    Args:
        artifact: Folder of the artifact.
        against: Folder of the run or of another artifact; None: the run around the artifact.
        data: Images, as for `verify`; None: the run's test split.
        reading: As for `verify`.
        ids: Which images, such as those on which the two differ most; empty: the first. At most 16 are used.
        placement: Where the artifact runs.
        max_logit_difference: What a step may change a logit by, in units of the logits' spread; None: 0.0002
            between fp32 and fp32, a quarter where a lower precision is involved.
        trust: As for `verify`.
        cache: Folder of the pixel cache.
        reporter: Told what happens.

    Raises:
        BadInputError: The reference or the images cannot be found.
        IntegrityError: A file is not the recorded one.
    """
    opened = open_artifact(Path(artifact), trust=trust)
    source = open_source(opened, against, trust=trust)
    if source.task.DENSE:
        what = f"is a {source.task.KIND} model: where masks part is not located"
        raise BadInputError(what, where=opened.folder, fix="leave --locate out")
    other = of_classes(opened, source)
    if other is not None:
        return other
    notes = preprocess_notes(opened, source)
    if opened.manifest.model.input != source.preprocess.input:
        return Location(kind="preprocessing", sentence="; ".join(notes) or "the inputs have different shapes")
    pictures = open_pictures(opened, source, data, reading)
    shown = _shown(pictures, source, ids, files.as_path(cache), reporter)
    with reporter.task("running the chain", None):
        recorded = _recorded(source, shown.ids) if pictures.run is not None else None
        task = task_of(opened.manifest.model, opened.manifest.operating_point)
        links = [*_reference_links(source, shown, placement.threads)]
        links += _artifact_links(opened, shown, placement, "artifact")
        links = [shown.gathered(link, task) for link in links]
        if recorded is not None:
            links.insert(0, _Link(Stage("PyTorch when the run was evaluated", "fp32", recorded)))
        if getattr(opened.manifest, "activation", "none") == "softmax":
            links = [_centred(link) for link in links]
        steps = steps_of([link.stage for link in links], task, max_logit_difference)
        position = first_exceeding(steps)
        found = Location(kind="nowhere", sentence=_unmoved(len(steps)), images=len(shown.ids), steps=steps)
        if position is not None:
            found = _inside(found, position, links, opened.manifest.model.classes, shown.inputs)
    if notes:
        return found.model_copy(update={"kind": "preprocessing", "sentence": f"{'; '.join(notes)}. {_beyond(found)}"})
    return found


def of_classes(artifact: Artifact, source: Source) -> Location | None:
    """The finding where the records name other classes, or the same in another order; else None."""
    try:
        refuse_other_classes(artifact, source)
    except IntegrityError as error:
        return Location(kind="classes", sentence=f"the records differ before any number: {error.what}")
    return None


def _unmoved(steps: int) -> str:
    return f"all {steps} steps are within their bounds"


def _beyond(found: Location) -> str:
    if found.kind == "nowhere":
        return f"With the reference's preprocessing on both sides, {found.sentence}"
    return f"Besides, {found.sentence}"


def _shown(pictures: Pictures, source: Source, ids: Sequence[str], cache: Path | None, reporter: Reporter) -> _Shown:
    prepared: Prepared = pictures.prepared(source.preprocess, cache=cache, reporter=reporter)
    places = {prepared.ids[i]: int(i) for i in prepared.indices("test")}
    wanted = (tuple(image for image in ids if image in places) or tuple(places))[:IMAGES]
    indices = np.array([places[image] for image in wanted], dtype=np.int64)
    # As many studies as have few enough windows together, and one whatever it has.
    kept = max(1, int((np.cumsum(prepared.counts(indices)) <= IMAGES).sum()))
    chosen, indices = wanted[:kept], indices[:kept]
    pixels = prepared.input_pixels(prepared.inputs(indices))
    inputs = normalise(pixels, source.preprocess)
    return _Shown(chosen, pixels, source.preprocess, inputs, prepared.counts(indices))


def _centred(link: _Link) -> _Link:
    """Softmax forgets what is added to all logits of an image, so behind one nothing else can be compared."""
    logits = link.stage.logits
    return replace(link, stage=replace(link.stage, logits=logits - logits.mean(axis=1, keepdims=True)))


def _recorded(source: Source, ids: Sequence[str]) -> NDArray[np.float32] | None:
    """What PyTorch said of the images when the run was evaluated."""
    if source.artifact is not None or source.run is None:
        return None
    said = read_predictions(source.run).side("test")
    place = {image: i for i, image in enumerate(said.ids)}
    return said.logits[[place[image] for image in ids]]


def _reference_links(source: Source, shown: _Shown, threads: int | None) -> Iterator[_Link]:
    if source.artifact is not None:
        yield from _artifact_links(source.artifact, shown, Placement(threads=threads), "reference")[::-1]
    elif source.run is not None:
        yield from _run_links(source.run, shown, threads)


def _run_links(run: Run, shown: _Shown, threads: int | None) -> Iterator[_Link]:
    from ttl_deploy.formats.onnx_graph import to_onnx
    from ttl_deploy.runtime.eager import EagerSession
    from ttl_deploy.training.train import load_model

    model = load_model(run)
    with EagerSession(model, threads=threads) as session:
        yield _Link(Stage("PyTorch", "fp32", logits_of(session, _one_by_one(shown), shown.preprocess)))
    graph = to_onnx(model)
    yield _Link(Stage("ONNX fp32, exported now", "fp32", graphs.logits(graph, shown.inputs)), graph)


def _artifact_links(artifact: Artifact, shown: _Shown, placement: Placement, role: str) -> list[_Link]:
    """The artifact's graph as written, where it has one, and in its engine."""
    precision = artifact.manifest.precision
    graph = _graph(artifact)
    with runtimes.load(artifact, placement) as session:
        logits = logits_of(session, _one_by_one(shown), shown.preprocess)
        engine = _Link(Stage(f"{role} in {session.runtime}", precision, logits), graph, session.runtime)
    if graph is None:
        return [engine]
    return [
        _Link(Stage(f"ONNX {precision} of the {role}", precision, graphs.logits(graph, shown.inputs)), graph),
        engine,
    ]


def _one_by_one(shown: _Shown) -> Iterator[NDArray[np.uint8]]:
    """An engine may be built for a batch of one."""
    return (shown.pixels[i : i + 1] for i in range(len(shown.pixels)))


def _graph(artifact: Artifact) -> onnx.ModelProto | None:
    """The artifact's ONNX graph: its model, or the file beside an engine that was built from it."""
    import onnx

    names = [artifact.manifest.model_file, *artifact.manifest.files]
    found = next((name for name in names if name.endswith(".onnx")), None)
    graph = onnx.load(artifact.folder / found) if found else None
    return graph if graph is not None and graphs.takes_images(graph) else None


def _inside(
    found: Location, position: int, links: Sequence[_Link], classes: tuple[str, ...], inputs: NDArray[np.float32]
) -> Location:
    """Looks into the step that moved the logits."""
    step, before, after = found.steps[position], links[position], links[position + 1]
    size = "not finite" if step.difference is None else f"{step.difference:.2g}"
    between = f"between {step.start} and {step.end} (largest logit difference {size}, at most {step.bound:.2g})"
    order = permutation(before.stage.logits, after.stage.logits, step.bound)
    if order is not None:
        words = ", ".join(f"what is called {classes[own]} is {classes[k]}" for k, own in enumerate(order) if own != k)
        sentence = f"the outputs are swapped {between}: {words}"
        return found.model_copy(update={"kind": "swapped", "sentence": sentence})
    graph = _compare(before, after, inputs[:INSIDE])
    inside = f"; {graph.sentence}" if graph else "; the inside of this step cannot be compared"
    return found.model_copy(update={"kind": "step", "sentence": f"{between}{inside}", "graph": graph})


def _compare(before: _Link, after: _Link, inputs: NDArray[np.float32]) -> GraphComparison | None:
    engine = after.engine if after.engine != "as written" else before.engine
    if before.graph is None or after.graph is None or engine not in ENGINES:
        return None
    low = {before.stage.precision, after.stage.precision} != {"fp32"}
    tolerance = LOW_PRECISION_TOLERANCE if low else TOLERANCE
    return graphs.compare_graphs(before.graph, after.graph, inputs, tolerance=tolerance, engine=engine)

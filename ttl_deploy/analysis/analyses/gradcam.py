"""Where each run looks: Grad-CAM of the same test images side by side (paper, appendix D; Selvaraju 2017).

The class that is explained is the image's own, and the layer the topmost cut on whose places the answer depends: under
a head that reads a class token alone, the one below its block. How local a run looks is a number: the share of a map
in the tenth of the picture that has most of it, on the picture's pixels, and on the grid of the coarsest run, so that
none looks local for the small cells of its map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, ANSWERS, IMAGES, SAME_SIDE, Need, of_all_runs
from ttl_deploy.analysis.finding import Curves, Finding, Series, Sheet, Table, Tile
from ttl_deploy.analysis.gradcam import Above, Floats, concentration, enlarged, pooled, weighed
from ttl_deploy.analysis.subject import Indices, Subject
from ttl_deploy.data.torch_data import ImageBatches, evaluation_loader
from ttl_deploy.errors import BadInputError, needing
from ttl_deploy.tasks import Labels

SHOWN = 4
"""Images on the sheet."""
AREAS = tuple(k / 50 for k in range(51))
"""Parts of the picture at which the concentration of a map is written down."""
TENTH = 5
"""Place of 0.1 among them."""

_GREY_OR_COLOUR = (1, 3)
_COLUMNS = ("image", "class", "run", "cut", "probability", "tenth", "tenth_same_grid")


def _captum(_subjects: Sequence[Subject]) -> None:
    with needing("captum", "Grad-CAM needs", "explain"):
        import captum.attr  # noqa: F401


CAPTUM = Need(_captum, 1)
"""The package that computes it."""


@dataclass(frozen=True, eq=False)
class Looked:
    """Where a run looks.

    Attributes:
        subject: The run.
        rows: (N,) the images, by their places in its data.
        cut: The layer.
        maps: (N, *positions) float32, not below 0.
        held: (N, areas) their concentration on the pictures' pixels, see `AREAS`; NaN of an empty map.
        probabilities: (N,) what the run says of the class that is explained.
    """

    subject: Subject
    rows: Indices
    cut: str
    maps: Tensor
    held: Floats
    probabilities: Floats

    @property
    def grid(self) -> tuple[int, ...]:
        """The maps' positions."""
        return tuple(self.maps.shape[1:])

    def tenths(self, grid: Sequence[int]) -> Floats:
        """(N, 2) shares of the maps in the tenth with most of them: on pixels, and on a grid."""
        coarse = concentration(pooled(self.maps, grid).numpy(), [AREAS[TENTH]])
        return np.column_stack((self.held[:, TENTH], coarse))


@dataclass(frozen=True)
class Named:
    """The images that are explained.

    Attributes:
        ids: Theirs.
        classes: (N,) number of the class that is explained of each.
        words: Its name.
        shown: Which of them are on the sheet.
    """

    ids: tuple[str, ...]
    classes: Labels
    words: tuple[str, ...]
    shown: tuple[int, ...]


def explained(subject: Subject) -> Named:
    """The images of the test side that have a class, and which: their own, of several the rarest.

    Raises:
        BadInputError: None has.
    """
    rows, task = subject.side("test"), subject.run.task
    labels = subject.prepared.labels[rows]
    own = task.members(labels).any(axis=1)
    if not own.any():
        raise BadInputError(
            "no image of the test side has a class", where=subject.run.folder, fix="pass a run with more images"
        )
    classes = task.strata(labels)[own]
    ids = tuple(subject.prepared.ids[i] for i in rows[own])
    return Named(ids, classes, tuple(task.classes[k] for k in classes), drawn(classes, subject.asked.seed))


def drawn(classes: Labels, seed: int, count: int = SHOWN) -> tuple[int, ...]:
    """Places of some images drawn at random, one of each class in turn."""
    met: Counter[int] = Counter()
    turns = []
    for place in np.random.default_rng(seed).permutation(len(classes)).tolist():
        turns.append((met[int(classes[place])], place))
        met[int(classes[place])] += 1
    return tuple(place for _turn, place in sorted(turns, key=lambda pair: pair[0])[:count])


def look(subjects: Sequence[Subject]) -> Finding:
    """Every image of the test side that has a class; `SHOWN` of them on the sheet."""
    named = explained(subjects[0])
    found = [_looked(subject, named) for subject in subjects]
    coarsest = tuple(min(sides) for sides in zip(*(one.grid for one in found), strict=True))
    tenths = [one.tenths(coarsest) for one in found]
    return Finding(
        _sentence(found, tenths, named),
        {
            "": Table.of(_COLUMNS, _rows(named, named.shown, found, tenths)),
            "runs": _summary(found, tenths),
            "images": Table.of(_COLUMNS, _rows(named, range(len(named.ids)), found, tenths)),
            "area": _areas(found),
        },
        {"": _sheet(found, named), "area": _curves(found)},
        {"images": len(named.ids), "same_grid": "x".join(map(str, coarsest))},
        {"": "Where the models look (Grad-CAM)", "area": "How local it is where they look"},
    )


def _looked(subject: Subject, named: Named) -> Looked:
    rows = subject.prepared.positions(named.ids)
    images = ImageBatches(subject.prepared, subject.prepared.shown(rows), subject.config.preprocess)
    device, classes = torch.device(subject.config.accelerator), torch.from_numpy(named.classes)
    cut, above, maps = "", None, []
    held: list[list[float]] = []
    with subject.reporter.task(f"where {subject.name} looks", len(images)) as advance:
        for batch, _labels in evaluation_loader(images, subject.config.batch_size):
            batch, wanted = batch.to(device), classes[len(held) :][: len(batch)].to(device)
            if above is None:
                cut, above = layer_of(subject, batch, wanted)
            found = weighed(above, batch, wanted).cpu()
            maps.append(found)
            held += concentration(enlarged(found, batch.shape[2:]).numpy(), AREAS).tolist()
            advance(len(batch), "")
    return Looked(subject, rows, cut, torch.cat(maps), np.array(held), _probabilities(subject, named))


def layer_of(subject: Subject, images: Tensor, classes: Tensor) -> tuple[str, Above]:
    """The topmost cut with places on which the answer depends, and what follows it.

    Raises:
        BadInputError: There is none.
    """
    model = subject.trained.to(images.device).eval()
    for cut in reversed(subject.cuts):
        above = Above(model, cut).eval()
        maps = weighed(above, images, classes, signed=True)
        if maps[0].numel() > 1 and bool(maps.any()):
            return cut, above
    what = "has no layer on whose places its answer depends"
    raise BadInputError(what, where=subject.run.folder, fix="pass a run of larger images")


def _probabilities(subject: Subject, named: Named) -> Floats:
    said = subject.predictions
    place = {image: i for i, image in enumerate(said.ids)}
    of = subject.run.task.probabilities(said.logits[[place[image] for image in named.ids]])
    return np.asarray(of[np.arange(len(of)), named.classes], dtype=np.float64)


def _rows(
    named: Named, places: Sequence[int], found: Sequence[Looked], tenths: Sequence[Floats]
) -> Iterator[tuple[object, ...]]:
    for i in places:
        for one, shares in zip(found, tenths, strict=True):
            yield named.ids[i], named.words[i], one.subject.name, one.cut, one.probabilities[i], *shares[i]


def _summary(found: Sequence[Looked], tenths: Sequence[Floats]) -> Table:
    """Medians over the images; of an empty map there is no share."""
    columns = ("run", "cut", "grid", "images", "empty", "tenth", "tenth_same_grid", "more_local_than_first")
    rows = []
    for one, shares in zip(found, tenths, strict=True):
        both = np.isfinite(shares[:, 1]) & np.isfinite(tenths[0][:, 1])
        more = (shares > tenths[0])[both, 1].mean() if one is not found[0] and both.any() else None
        empty = int(np.isnan(shares[:, 0]).sum())
        grid = "x".join(map(str, one.grid))
        rows.append((one.subject.name, one.cut, grid, len(shares), empty, *_medians(shares), more))
    return Table.of(columns, rows)


def _medians(shares: Floats) -> list[float]:
    """Of each column, of the rows that have numbers; NaN where none has."""
    whole = shares[np.isfinite(shares).all(axis=1)]
    return [float(value) for value in np.median(whole, axis=0)] if len(whole) else [float("nan")] * shares.shape[1]


def _areas(found: Sequence[Looked]) -> Table:
    rows = [(one.subject.name, area, s) for one in found for area, s in zip(AREAS, _medians(one.held), strict=True)]
    return Table.of(("run", "area", "share"), rows)


def _curves(found: Sequence[Looked]) -> Curves:
    percent = tuple(100 * area for area in AREAS)
    series = [(Series.of(_called(one), _medians(one.held)), percent) for one in found]
    even = (Series.of("a map that is the same everywhere", AREAS), percent)
    return Curves(
        (*series, even), "per cent of the picture, most weighted first", "median share of the map", marked=False
    )


def _called(one: Looked) -> str:
    return f"{one.subject.name}, after {one.cut}"


def _sentence(found: Sequence[Looked], tenths: Sequence[Floats], named: Named) -> str:
    told = []
    for one, shares in zip(found, tenths, strict=True):
        fine, coarse = _medians(shares)
        told.append(f"{fine:.0%} in {_called(one)} ({coarse:.0%} on the coarsest run's grid)")
    empty = sum(int(np.isnan(one.held[:, 0]).sum()) for one in found)
    left = f" {empty} maps are empty: nothing there speaks for the class." if empty else ""
    return (
        f"The tenth of the picture with most of the map holds a median of {'; '.join(told)}; {len(named.ids)} test "
        f"images; {len(named.shown)} are shown, drawn with seed {found[0].subject.asked.seed}, a class in turn.{left}"
    )


def _sheet(found: Sequence[Looked], named: Named) -> Sheet:
    rows = tuple(f"{named.words[i]}\n{_short(named.ids[i])}" for i in named.shown)
    tiles = tuple(_tiles(found, i) for i in named.shown)
    note = (
        "below: probability of the image's class, and the share of the map in the tenth of the picture with most of it"
    )
    columns = ("test image", *(f"{one.subject.name}\nafter {one.cut}" for one in found))
    return Sheet(columns, rows, tiles, "weight, as part of each map's largest", note)


def _short(name: str, letters: int = 26) -> str:
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def _tiles(found: Sequence[Looked], i: int) -> tuple[Tile, ...]:
    """The image, and it again under each run's map; of volumes the slice in which the runs together look most."""
    pixels = [one.subject.prepared.pixels(one.rows[i : i + 1])[0] for one in found]
    heats = [_heat(one.maps[i : i + 1], whole.shape[:-1]) for one, whole in zip(found, pixels, strict=True)]
    words = [f"{one.probabilities[i]:.2f}; {_percent(one.held[i, TENTH])}" for one in found]
    if pixels[0].ndim == 3:
        pictures, first = [_picture(whole) for whole in pixels], ""
    else:
        depth = np.mean([_profile(heat) for heat in heats], axis=0).argmax() / (_PROFILE - 1)
        slices = [round(depth * (len(whole) - 1)) for whole in pixels]
        pictures = [_picture(whole[at]) for whole, at in zip(pixels, slices, strict=True)]
        heats = [heat[at] for heat, at in zip(heats, slices, strict=True)]
        first = f"slice {slices[0] + 1} of {len(pixels[0])}"
    laid = [Tile(*one) for one in zip(pictures, heats, words, strict=True)]
    return (Tile(pictures[0], None, first), *laid)


_PROFILE = 101


def _profile(heat: Floats) -> Floats:
    """(`_PROFILE`,) how much of a map (D, H, W) lies at each depth, from its first slice to its last."""
    per = heat.sum(axis=(1, 2)) / max(float(heat.sum()), 1e-12)
    return np.asarray(np.interp(np.linspace(0, 1, _PROFILE), np.linspace(0, 1, len(per)), per))


def _heat(maps: Tensor, size: Sequence[int]) -> Floats:
    """One map as large as its picture, its largest value 1; an empty one stays empty."""
    whole = enlarged(maps, size)[0].double().numpy()
    return np.asarray(whole / max(float(whole.max()), 1e-12), dtype=np.float64)


def _picture(pixels: NDArray[np.uint8]) -> Floats:
    shown = pixels.astype(np.float64) / 255
    return shown if shown.shape[-1] in _GREY_OR_COLOUR else np.asarray(shown.mean(axis=-1, keepdims=True))


def _percent(share: float) -> str:
    return "an empty map" if np.isnan(share) else f"{share:.0%} in a tenth"


ANALYSES.register("gradcam", of_all_runs(look, ANSWERS, SAME_SIDE, CAPTUM, IMAGES))

"""The answer of a report: which model, how accurate, how small, how fast, and is its exported file still it."""

from __future__ import annotations

from collections.abc import Iterator

from ttl_deploy.pages.document import Card
from ttl_deploy.pages.speeds import Speed
from ttl_deploy.pages.subject import Export, Subject
from ttl_deploy.pages.words import METRICS, between, megabytes, millions, number, of_patients, title_of

_YES = {"pass": "yes", "fail": "no", "inconclusive": "too few images to tell", "not checked": "not checked"}


def headline(subject: Subject) -> str | None:
    """The metric that comes first of those that its test side has; None without a test side."""
    return next((name for name in subject.task.METRICS if subject.test.get(name) is not None), None)


def lead(subject: Subject) -> str:
    """The answer in sentences."""
    return " ".join((_accuracy(subject), _cost(subject), _speed(subject), _exported(subject)))


def cards(subject: Subject) -> Iterator[Card]:
    """The answer in numbers."""
    test = subject.test
    for name in (*subject.task.METRICS, "accuracy"):
        if test.get(name) is not None:
            interval = test.get(f"{name}_interval")
            sure = "95 % interval " + between(interval) if interval else METRICS[name][1]
            yield Card(METRICS[name][0], number(test[name]), sure)
    yield Card("Parameters", f"{millions(subject.parameters)} M", f"{millions(subject.macs)} M multiply-adds an image")
    export = best_export(subject)
    if export is not None:
        yield Card("File", megabytes(export.size), f"{export.manifest.format} {export.manifest.precision}")
        yield Card("Exported = validated", export.verdict, export_note(export))
    speed = fastest(subject)
    if speed is not None:
        yield Card("Latency, median", f"{speed.measurement.typical_ms:.2f} ms", speed_note(speed))


def best_export(subject: Subject) -> Export | None:
    """The export that the answer names: the smallest that is the validated model, else the first."""
    passed = [export for export in subject.exports if export.verdict == "pass"]
    return min(passed, key=lambda export: export.size) if passed else next(iter(subject.exports), None)


def fastest(subject: Subject) -> Speed | None:
    """Its own row of one image a call with the least median, one that is sure before one that is not."""
    own = [row for row in subject.speeds if row.role == "own"]
    alone = [row for row in own if row.measurement.batch == 1] or own
    return min(alone, key=lambda row: (row.measurement.inconclusive, row.measurement.typical_ms), default=None)


def speed_note(speed: Speed) -> str:
    """In which engine, where, and whether that is sure."""
    m = speed.measurement
    rough = "; rough, the machine was disturbed" if m.inconclusive else ""
    return f"{m.runtime} {m.precision}, {m.threads} threads, {m.hardware.get('cpu') or m.device}{rough}"


def export_note(export: Export) -> str:
    """Against what, on how many images."""
    parity = export.manifest.parity
    if export.foreign is not None or parity is None:
        return export.foreign or "run ttl-deploy verify"
    return f"{parity.images} images, against {parity.reference}"


def _accuracy(subject: Subject) -> str:
    name, test = headline(subject), subject.test
    who = f"{subject.words} ({_some(subject.task.classes)})"
    if name is None:
        return f"{who} comes without its run. {_recorded(best_export(subject))}"
    interval = test.get(f"{name}_interval")
    sure = f" (95 % interval {between(interval)})" if interval else ""
    title = title_of(name)
    article = "an" if title[0] in "AEIOU" else "a"
    where = of_patients(test["images"], test["patients"])
    return f"{who} reaches {article} {title} of {number(test[name])}{sure} on {where} that it was not trained on."


def _recorded(export: Export | None) -> str:
    """How accurate the exported file is, by the record of its check."""
    parity = None if export is None else export.manifest.parity
    found = {} if parity is None else {name: getattr(parity, name) for name in METRICS if hasattr(parity, name)}
    known = {name: pair[1] for name, pair in found.items() if pair is not None and pair[1] is not None}
    if parity is None or not known:
        return "How accurate it is was not recorded with it."
    name = next(iter(known))
    images = f"{parity.images:,} images ({parity.split})"
    return f"By the record of its check the exported file reaches {title_of(name)} {number(known[name])} on {images}."


def _cost(subject: Subject) -> str:
    parameters, macs = millions(subject.parameters), millions(subject.macs)
    return f"It has {parameters} million parameters and takes {macs} million multiply-adds for an image."


def _speed(subject: Subject) -> str:
    speed = fastest(subject)
    if speed is None:
        return "How fast it is was not given: pass the file of ttl-deploy bench --out too."
    return f"An answer takes {speed.measurement.typical_ms:.2f} ms, median ({speed_note(speed)})."


def _exported(subject: Subject) -> str:
    export = best_export(subject)
    if export is None:
        return "It is not exported yet."
    words = f"{export.manifest.format} {export.manifest.precision}, {megabytes(export.size)}"
    return f"Is the exported file ({words}) the validated model? {_YES[export.verdict].capitalize()}."


def _some(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:4])
    return shown if len(classes) <= 4 else f"{shown} and {len(classes) - 4} more"

"""A logistic regression on the features at every cut: fitted to the training side, scored on the test side."""

from __future__ import annotations

from ttl_deploy.analysis.analyses import ANALYSES, ANSWERS, IMAGES, of_a_run
from ttl_deploy.analysis.features import Floats, pooled_features
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table
from ttl_deploy.analysis.probe import probe, probing
from ttl_deploy.analysis.scoring import refuse_untellable, scores, title_of
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.errors import BadInputError


def look(subject: Subject) -> Finding:
    """The probe of `ttl_deploy.analysis.probe`, which a search ranks cuts by on the validation side."""
    fitted, judged = subject.side("train"), subject.side("test")
    refuse_untellable(subject, judged)
    images = subject.prepared
    groups = [images.patients[i] or images.ids[i] for i in fitted]
    if not probing(images.labels[fitted], groups):
        what = "has too few patients of a class to fit a probe"
        raise BadInputError(what, where=subject.run.folder, fix="pass a run with more images")
    known, asked = (
        pooled_features(subject.trained, subject.cuts, images, rows, subject.config, reporter=subject.reporter)
        for rows in (fitted, judged)
    )

    def scored(train: Floats, test: Floats) -> dict[str, float]:
        found = probe(train, images.labels[fitted], groups, test, subject.run.task, seed=subject.asked.seed)
        return scores(subject, judged, found)

    found = {}
    with subject.reporter.task("linear probes", len(subject.cuts)) as advance:
        for cut in subject.cuts:
            found[cut] = scored(known[cut], asked[cut])
            advance(1, cut)
    metric, metrics = subject.run.task.SELECTS, subject.run.task.METRICS
    values = {cut: one[metric] for cut, one in found.items()}
    best, top = max(values, key=lambda cut: values[cut]), subject.cuts[-1]
    return Finding(
        f"{title_of(metric)} of a linear probe: best {values[best]:.3f} at {best}, "
        f"{values[top]:.3f} at the top ({top}).",
        {"": Table.of(("cut", *metrics), [(cut, *(one[name] for name in metrics)) for cut, one in found.items()])},
        {
            "": Lines(
                subject.cuts, (Series.of("linear probe", values.values()),), f"{title_of(metric)} of a linear probe"
            )
        },
        {"fitted": len(fitted), "judged": len(judged)},
        {"": "What a linear probe gets out of each cut"},
    )


ANALYSES.register("probe", of_a_run(look, ANSWERS, IMAGES))

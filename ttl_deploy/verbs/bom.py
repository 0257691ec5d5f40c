"""A model's bill of materials in CycloneDX's JSON (ML-BOM, version 1.6): what it is, its files, what made it.

The library, which is the extra `dossier`, has no model card in its classes (11.12), so the card is put into its JSON as
the schema describes it. The same model in the same environment gives the same bytes but for the time.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ttl_deploy.errors import needing
from ttl_deploy.pages.subject import Subject
from ttl_deploy.pages.words import METRICS
from ttl_deploy.spec import ArtifactManifest
from ttl_deploy.tasks import task_of

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

PROJECT = "ttl-deploy"
_MODEL = "model"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, PROJECT)


def refuse_missing() -> None:
    """Raises `MissingDependencyError` where the extra `dossier` is not installed."""
    with needing("cyclonedx-python-lib", "a bill of materials needs", "dossier"):
        import cyclonedx.model.bom  # noqa: F401
        import packageurl  # noqa: F401


def model_bom(subject: Subject, facts: Mapping[str, str], *, now: datetime | None = None) -> str:
    """The bill of materials of the first export of a model.

    Args:
        subject: The model, with its export.
        facts: Further properties of the model by name.
        now: Time that the file says; None: the present.

    Raises:
        MissingDependencyError: The extra `dossier` is not installed.
    """
    with needing("cyclonedx-python-lib", "a bill of materials needs", "dossier"):
        from cyclonedx.model.bom import Bom
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    bom = Bom()
    model = _model(subject, facts)
    bom.metadata.component = model
    bom.metadata.timestamp = now or datetime.now(UTC).replace(microsecond=0)
    _depend(bom, model)
    manifest = subject.exports[0].manifest
    told = [*sorted(f"{name} {record.sha256}" for name, record in manifest.files.items()), *sorted(facts.values())]
    bom.serial_number = uuid.uuid5(_NAMESPACE, "\n".join([*told, *(str(each.purl) for each in bom.components)]))
    content = json.loads(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    content["metadata"]["component"]["modelCard"] = _card(subject, manifest)
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _model(subject: Subject, facts: Mapping[str, str]) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    manifest = subject.exports[0].manifest

    def sha256(name: str) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=manifest.files[name].sha256)]

    inside = [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=sha256(name))
        for name in sorted(manifest.files)
    ]
    return Component(
        name=subject.name,
        version=manifest.files[manifest.model_file].sha256[:12],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=_MODEL,
        description=f"{subject.words}, {manifest.format} {manifest.precision}",
        hashes=sha256(manifest.model_file),
        components=inside,
        properties=[Property(name=f"{PROJECT}:{name}", value=value) for name, value in sorted(facts.items())],
    )


def _depend(bom: Bom, model: Component) -> None:
    """What made it, as installed here, and what that needs."""
    needs = closure(PROJECT) if _here(PROJECT) else {}
    found = {name: _package(name) for name in sorted(needs)}
    for name, component in found.items():
        bom.components.add(component)
        bom.register_dependency(component, [found[other] for other in sorted(needs[name])])
    bom.register_dependency(model, [found[PROJECT]] if PROJECT in found else [])


def closure(root: str, extras: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """Every package that one needs, with those that it needs itself, by normalised name; what is not here is left out.

    Args:
        root: An installed package.
        extras: Of that one.

    Raises:
        PackageNotFoundError: The root is not installed.
    """
    needs: dict[str, set[str]] = {}
    asked = {root: set(extras)}
    metadata.distribution(root)
    frontier = [root]
    while frontier:
        name = frontier.pop()
        direct = list(_direct(name, asked[name]))
        needs[name] = {requirement_name for requirement_name, _ in direct} - {name}
        for other, more in direct:
            if other not in asked or more - asked[other]:
                asked[other] = asked.get(other, set()) | more
                frontier.append(other)
    return needs


def _direct(name: str, extras: set[str]) -> Iterator[tuple[str, set[str]]]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        wanted = [{"extra": extra} for extra in sorted(extras | {""})]
        if requirement.marker is not None and not any(requirement.marker.evaluate(extra) for extra in wanted):
            continue
        other = canonicalize_name(requirement.name)
        if _here(other):
            yield other, set(requirement.extras)


def _here(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _package(name: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense
    from packageurl import PackageURL

    package = metadata.distribution(name)
    return Component(
        name=name,
        version=package.version,
        type=ComponentType.APPLICATION if name == PROJECT else ComponentType.LIBRARY,
        bom_ref=f"{name}@{package.version}",
        purl=PackageURL("pypi", name=name, version=package.version),
        licenses=[DisjunctiveLicense(name=_licence(package.metadata))],
    )


def _licence(said: metadata.PackageMetadata) -> str:
    """As the package declares it, in one line."""
    rows = [row.rpartition(" :: ")[2] for row in said.get_all("Classifier") or [] if row.startswith("License :: ")]
    declared = (said.json.get("license_expression"), " AND ".join(sorted(rows)), said.json.get("license"))
    words = next((str(words) for words in declared if words and str(words).strip()), "not declared")
    return words.strip().splitlines()[0][:200]


def _card(subject: Subject, manifest: ArtifactManifest) -> dict[str, Any]:
    spec = manifest.model
    shape = " x ".join(map(str, manifest.input_shape))
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image segmentation" if task_of(spec).DENSE else "image classification",
            "architectureFamily": spec.backbone,
            "modelArchitecture": subject.words,
            "inputs": [{"format": f"{manifest.input_type} batch x {shape}"}],
            "outputs": [{"format": f"float32, {manifest.activation}: {', '.join(spec.classes)}"}],
        }
    }
    metrics = list(_performance(subject.test))
    return card | ({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {})


def _performance(test: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of the validated model on the test side; the exported file's own are in the report of the check."""
    for name in METRICS:
        if test.get(name) is not None:
            row: dict[str, Any] = {"type": name, "value": f"{test[name]:.6g}", "slice": "test side of the run"}
            interval = test.get(f"{name}_interval")
            if interval is not None:
                row["confidenceInterval"] = dict(
                    zip(("lowerBound", "upperBound"), (f"{end:.6g}" for end in interval), strict=True)
                )
            yield row

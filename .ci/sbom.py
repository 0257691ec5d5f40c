"""Writes the bill of materials of the release in CycloneDX's JSON, validated against its schema.

It holds ttl-deploy with the extras of `EXTRAS` and everything that these need, as installed here and as locked: name,
version, package URL, licence, and what depends on what. The same environment gives the same file; a time is in it only
where SOURCE_DATE_EPOCH says which.
"""

from __future__ import annotations

import argparse
import os
import sys
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from licences import UNKNOWN, Policy
from lock import LOCK, ROOT, Locked, read_lock
from packageurl import PackageURL

from ttl_deploy.verbs.bom import closure

PROJECT = "ttl-deploy"
EXTRAS = frozenset(
    {"medical", "cluster", "quantise", "rtx", "serve", "dossier", "explain", "tensorboard", "mlflow", "signing"}
)
"""All that the release offers but `trt`, whose packages depend on the GPU's driver and are not locked."""

_SCHEMA = SchemaVersion.V1_6
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, PROJECT)


def bill(needs: Mapping[str, set[str]], lock: Mapping[str, Locked], policy: Policy) -> Bom:
    """The bill of materials of a closure of `PROJECT`.

    Raises:
        ValueError: A package is not installed as locked.
    """
    refuse_unlocked({name: metadata.version(name) for name in needs if name != PROJECT}, lock)
    components = {name: component(name, policy) for name in sorted(needs)}
    main = components[PROJECT]
    bom = Bom(components=[each for name, each in components.items() if name != PROJECT])
    bom.metadata.component = main
    bom.metadata.properties.add(Property(name=f"{PROJECT}:extras", value=",".join(sorted(EXTRAS))))
    bom.metadata.properties.add(Property(name=f"{PROJECT}:python", value="{}.{}".format(*sys.version_info)))
    for name, each in components.items():
        bom.register_dependency(each, [components[other] for other in sorted(needs[name])])
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    # Left alone it is the present moment, and no two files would be the same.
    bom.metadata.timestamp = datetime.fromtimestamp(int(epoch), UTC) if epoch else None  # type: ignore[assignment]
    content = "\n".join(str(each.purl) for each in components.values())
    bom.serial_number = uuid.uuid5(_NAMESPACE, content)
    return bom


def component(name: str, policy: Policy) -> Component:
    """One installed package."""
    package = metadata.distribution(name)
    licence = policy.licence_of(package.metadata)
    named = DisjunctiveLicense(name="not declared") if licence == UNKNOWN else LicenseExpression(licence)
    return Component(
        name=name,
        version=package.version,
        type=ComponentType.APPLICATION if name == PROJECT else ComponentType.LIBRARY,
        bom_ref=f"{name}@{package.version}",
        purl=PackageURL("pypi", name=name, version=package.version),
        licenses=[named],
    )


def refuse_unlocked(versions: Mapping[str, str], lock: Mapping[str, Locked]) -> None:
    """An environment that differs from the lock is not the release's.

    Raises:
        ValueError: So it is.
    """
    other = [f"{n} {v}" for n, v in versions.items() if n not in lock or lock[n].version != v]
    if other:
        raise ValueError(f"not as in {LOCK}: {', '.join(other)}; install with `-c constraints.txt`")


def text_of(bom: Bom) -> str:
    """The file's content.

    Raises:
        ValueError: It breaks CycloneDX's schema.
    """
    text = make_outputter(bom, OutputFormat.JSON, _SCHEMA).output_as_string(indent=2)
    wrong = JsonStrictValidator(_SCHEMA).validate_str(text)
    if wrong is not None:
        raise ValueError(f"breaks the schema of CycloneDX {_SCHEMA.to_version()}: {wrong!r:.500}")
    return text + "\n"


def main() -> int:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sbom.cdx.json"))
    out = parser.parse_args().out
    lock = read_lock((ROOT / LOCK).read_text(encoding="utf-8"))
    needs = closure(PROJECT, EXTRAS)
    out.write_text(text_of(bill(needs, lock, Policy.read())), encoding="utf-8")
    sys.stdout.write(f"{out}: ttl-deploy and {len(needs) - 1} packages, valid by CycloneDX {_SCHEMA.to_version()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Lists the licence of every package of the lock that is installed here, and refuses one that nobody judged.

`licences.toml` beside this file names the licences that pass and, package by package with a reason, those that were
judged. Exit code 1: a package with another licence, with none that is understood, or with another than was judged.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from license_expression import ExpressionError, LicenseExpression, LicenseSymbol, LicenseWithExceptionSymbol, Licensing
from lock import LOCK, ROOT, Locked, read_lock
from packaging.utils import canonicalize_name as canonical

POLICY = Path(__file__).with_suffix(".toml")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judgement:
    """Why a licence passes for some packages although it is not among those that always do."""

    licence: str
    packages: Sequence[str]
    reason: str


@dataclass(frozen=True)
class Policy:
    """The content of `licences.toml`.

    Attributes:
        allowed: SPDX identifiers.
        spelled: SPDX expression of what packages write.
        judged: The exceptions.
    """

    allowed: frozenset[str]
    spelled: Mapping[str, str]
    judged: Sequence[Judgement]

    @classmethod
    def read(cls, path: Path = POLICY) -> Policy:
        """The policy of a file."""
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        judged = tuple(Judgement(**entry) for entry in content["judged"])
        return cls(frozenset(content["allowed"]), content["spelled"], judged)

    def licence_of(self, package: metadata.PackageMetadata) -> str:
        """An SPDX expression, or, where the package says nothing that is understood, its own words or `unknown`."""
        expression, words = (str(package.json.get(field, "")) for field in ("license_expression", "license"))
        if expression:
            return expression
        if words in self.spelled or _is_expression(words):
            return self.spelled.get(words, words)
        rows = [row for row in package.get_all("Classifier") or [] if row.startswith("License :: ")]
        known = {self.spelled[name] for row in rows if (name := row.rpartition(" :: ")[2]) in self.spelled}
        return " AND ".join(sorted(known)) or words or UNKNOWN

    def passes(self, licence: str) -> bool:
        """Whether it needs no judgement: all parts of an `AND` and one of an `OR` are allowed."""
        expression = _parsed(licence)
        return expression is not None and self._holds(expression)

    def judgement(self, name: str, licence: str) -> Judgement | None:
        """The one made of this package with this licence."""
        return next((entry for entry in self.judged if name in entry.packages and licence == entry.licence), None)

    def _holds(self, expression: LicenseExpression) -> bool:
        if isinstance(expression, (LicenseSymbol, LicenseWithExceptionSymbol)):
            return expression.render() in self.allowed
        parts = [self._holds(part) for part in expression.args]
        return any(parts) if expression.operator.strip() == "OR" else all(parts)


def _parsed(words: str) -> LicenseExpression | None:
    try:
        return Licensing().parse(words, validate=False, strict=False, simple=True)
    except (ExpressionError, ValueError):
        return None


def _is_expression(words: str) -> bool:
    """Whether it can be an SPDX expression; a sentence is none."""
    return bool(words) and _parsed(words) is not None


def installed(lock: Iterable[str]) -> list[metadata.Distribution]:
    """Those of the locked packages that are here, by name."""
    names = set(lock)
    found = {canonical(each.name): each for each in metadata.distributions()}
    return [found[name] for name in sorted(found) if name in names]


def rows(policy: Policy, packages: Iterable[metadata.Distribution]) -> list[tuple[str, str, str, str | None]]:
    """Name, version, licence and why it passes (empty: allowed; None: it does not) of each."""
    table: list[tuple[str, str, str, str | None]] = []
    for package in packages:
        name, licence = canonical(package.name), policy.licence_of(package.metadata)
        judgement = policy.judgement(name, licence)
        why = judgement.reason if judgement else "" if policy.passes(licence) else None
        table.append((name, package.version, licence, why))
    return table


def stale(policy: Policy, lock: Mapping[str, Locked]) -> list[str]:
    """Judged packages that the lock no longer has."""
    return sorted({name for entry in policy.judged for name in entry.packages} - set(lock))


def main() -> int:
    """Prints the table and what does not pass."""
    policy, lock = Policy.read(), read_lock((ROOT / LOCK).read_text(encoding="utf-8"))
    table = rows(policy, installed(lock))
    for name, version, licence, why in table:
        sys.stdout.write(f"{name:<40} {version:<20} {licence[:60]}{f'  ({why})' if why else ''}\n")
    refused = [f"{name} {version}: {licence}" for name, version, licence, why in table if why is None]
    sys.stderr.writelines(f"not allowed and not judged in .ci/licences.toml: {line}\n" for line in refused)
    sys.stderr.writelines(f"judged in .ci/licences.toml and not in {LOCK}: {name}\n" for name in stale(policy, lock))
    sys.stdout.write(f"{len(table)} packages, {len(refused)} refused\n")
    return 1 if refused or stale(policy, lock) else 0


if __name__ == "__main__":
    sys.exit(main())

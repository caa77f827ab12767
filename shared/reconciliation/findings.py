"""What a check finds: classified, with what to do about it; kept as JSON between chunks."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_SEVERITIES = ("info", "warn", "error")
_KEPT = 20


@dataclass(frozen=True)
class Finding:
    """One difference.

    ``proposal`` is what mends it: a command, or what the system will do or has done by itself.
    """

    kind: str
    severity: str
    place: str
    message: str
    proposal: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Report:
    """What one check has found so far: counts, and its first findings (all are counted).

    ``not_checked`` says why it could not look; ``is_away`` that a dependency was away, which is
    mended by itself, unlike one that is not configured. ``error`` is why the check itself failed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    by_severity: Counter[str] = field(default_factory=Counter)
    not_checked: str | None = None
    is_away: bool = False
    error: str | None = None

    def add(self, finding: Finding) -> None:
        """Count *finding*, and keep it if it is one of the first."""
        self.by_severity[finding.severity] += 1
        if len(self.findings) < _KEPT:
            self.findings.append(finding)

    @property
    def severity(self) -> str:
        """The worst that was found."""
        if self.error is not None:
            return "error"
        return max(self.by_severity, key=_SEVERITIES.index, default="info")

    @property
    def passed(self) -> bool | None:
        """True if nothing is wrong; None if that could not be seen."""
        if self.severity != "info":
            return False
        return None if self.not_checked else True

    @property
    def count(self) -> int:
        """How many findings there are."""
        return self.by_severity.total()


def to_json(report: Report) -> dict[str, Any]:
    """Write *report* so that :func:`from_json` reads the same."""
    return {**vars(report), "findings": [vars(finding) for finding in report.findings]}


def from_json(value: dict[str, Any]) -> Report:
    """Read what :func:`to_json` wrote."""
    return Report(
        **{
            **value,
            "counts": Counter(value["counts"]),
            "by_severity": Counter(value["by_severity"]),
            "findings": [Finding(**one) for one in value["findings"]],
        }
    )


def describe(name: str, report: Report) -> dict[str, Any]:
    """Write the result of the check *name* as operators and callers read it."""
    return {
        "name": name,
        "passed": report.passed,
        "severity": report.severity,
        "details": _details(report),
        "count": report.count,
        "counts": dict(report.counts),
        "isAway": report.is_away,
        "findings": [vars(finding) for finding in report.findings],
    }


def _details(report: Report) -> str:
    if report.error is not None:
        return f"The check failed: {report.error}"
    words = []
    if report.not_checked is not None:
        words.append(f"Not checked: {report.not_checked}")
    if report.findings:
        words.append(f"{report.count} found, first: {report.findings[0].message}")
    elif report.not_checked is None:
        words.append("Nothing found.")
    return " ".join(words)

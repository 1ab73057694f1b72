"""What the gate found, as it stands in evidence.json, and as a page for people."""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

from lorecast.config import PromotionConfig, Side
from lorecast.evaluation.tables import ends, markdown, metric_name, number


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rows(_Record):
    """The frozen slice."""

    dataset: str
    """Fingerprint."""
    split: str
    fingerprint: str
    rows: int
    users: int
    clicks: int


class Compared(_Record):
    """A metric of both on the same rows, and the challenger's minus the champion's."""

    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    """Ends of the interval when users are drawn anew."""


class Cold(_Record):
    """Rows about which little is known; not compared where they are too few."""

    rows: int
    users: int
    auc: Compared | None


class Latency(_Record):
    """One request of some candidates, both scorers in turns in one process, medians."""

    champion_ms: float
    challenger_ms: float
    ratio: float
    """Median of the turns' own ratios."""


class Evidence(_Record):
    """All that the policy decides on."""

    champion: str
    challenger: str
    """NAME/NUMBER."""
    rows: Rows
    figures: Mapping[str, Compared]
    """Of auc, gauc, log_loss, ece."""
    cold: Mapping[Side, Cold]
    coverage: Mapping[Side, float | None]
    """Share of the slice's entities with vectors, of sides the challenger has knowledge of; none if
    its bundle does not say."""
    latency: Latency
    parity: float | None
    """Largest difference to the challenger's stored scores; none if its bundle has none."""
    leaks: tuple[str, ...]
    champion_leaks: tuple[str, ...]
    auc_without: Mapping[str, float]
    """The challenger's AUC with one input hidden; looked at only where its AUC is implausible."""


class Finding(_Record):
    """One check."""

    check: str
    outcome: Literal["pass", "fail", "note"]
    text: str


class Decision(_Record):
    """Whether the challenger becomes the champion, and why."""

    promote: bool
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The checks that speak against it."""
        return tuple(each for each in self.findings if each.outcome == "fail")

    @property
    def reason(self) -> str:
        """In a sentence."""
        if self.promote:
            return "all checks pass"
        return "; ".join(each.text for each in self.failed)


def page(evidence: Evidence, decision: Decision, policy: PromotionConfig) -> str:
    """Markdown of an evidence and its decision."""
    return "\n\n".join(_told(evidence, decision, policy)) + "\n"


def figure_lines(evidence: Evidence) -> list[Mapping[str, str]]:
    """A table of the metrics."""
    return [
        {
            "metric": metric_name(name),
            "champion": number(each.champion),
            "challenger": number(each.challenger),
            "difference": f"{each.difference:+.4f}",
            "interval": ends(each.low, each.high),
        }
        for name, each in evidence.figures.items()
    ]


def finding_lines(decision: Decision) -> list[Mapping[str, str]]:
    """A table of the checks."""
    return [
        {"check": each.check, "outcome": each.outcome, "what was found": each.text}
        for each in decision.findings
    ]


def _told(evidence: Evidence, decision: Decision, policy: PromotionConfig) -> Iterator[str]:
    rows, latency = evidence.rows, evidence.latency
    verdict = "promote" if decision.promote else "keep the champion"
    yield f"# {evidence.challenger} against {evidence.champion}: {verdict}"
    yield decision.reason
    yield markdown(finding_lines(decision))
    yield "## Figures"
    yield (
        f"{rows.rows:,} rows of the {rows.split} part, {rows.users:,} users, "
        f"{rows.clicks / rows.rows:.1%} clicks; slice {rows.fingerprint[:8]} of dataset "
        f"{rows.dataset[:8]}. Intervals: {policy.confidence:.0%}, users drawn anew "
        f"{policy.resamples:,} times, seed {policy.seed}."
    )
    yield markdown(figure_lines(evidence))
    yield (
        f"A request of {policy.latency_items} candidates: champion {latency.champion_ms:.2f} ms, "
        f"challenger {latency.challenger_ms:.2f} ms, ratio {latency.ratio:.2f}."
    )

"""What stands out in an audit, as sentences with the culprit; the worst kind first."""

from collections.abc import Iterator
from math import isnan
from typing import Final

from lorecast.knowledge.audit import Audit, FactorFigures, Redundancy

_SAME: Final = 0.5
_NOTHING: Final = 0.9
_FAILED: Final = 0.05
_TOLD: Final = 0.7
_OVERLAP: Final = 0.6
_TEMPLATE: Final = 0.3
_WRONG: Final = 0.7
_POPULARITY_GAP: Final = 0.2
_BROUGHT: Final = 0.5
_NAMES: Final = 0.3
_CURES: Final = {
    "truncated": "a larger knowledge.llm.max_tokens lets the model finish",
    "refused": "another wording of the question or another model may answer",
    "failed": "run generate again; it asks these anew",
}


def findings(audit: Audit) -> tuple[str, ...]:
    """Sentences; none if nothing stands out."""
    told = [
        *(sentence for figures in audit.factors for sentence in _unusable(figures)),
        *(sentence for figures in audit.factors for sentence in _sameness(figures)),
        *(sentence for each in audit.redundancy for sentence in _redundant(each)),
        *_untrue(audit),
        *(sentence for figures in audit.factors for sentence in _names(figures)),
    ]
    return tuple(told)


def _unusable(figures: FactorFigures) -> Iterator[str]:
    for status, share in figures.status.items():
        if status != "ok" and share >= _FAILED:
            cure = f"; {_CURES[status]}" if status in _CURES else ""
            yield f"{figures.label}: {share:.0%} of the answers are {status}{cure}."


def _sameness(figures: FactorFigures) -> Iterator[str]:
    if figures.top_share >= _SAME:
        worth = "carries nothing" if figures.top_share >= _NOTHING else "carries little"
        yield (
            f"{figures.label}: {figures.top_share:.0%} of the answers are the same "
            f"(“{_short(figures.top_answer)}”); it {worth}."
        )
    elif figures.near_copied - figures.copied >= _TEMPLATE:
        yield (
            f"{figures.label}: {figures.near_copied:.0%} of the answers are near copies of other "
            "entities'; they are one template with a few words changed."
        )


def _redundant(redundancy: Redundancy) -> Iterator[str]:
    side, names = redundancy.side, redundancy.factors
    for second in range(len(names)):
        for first in range(second):
            overlap = redundancy.overlap[first, second]
            told = max(
                (
                    t
                    for t in (redundancy.told[first, second], redundancy.told[second, first])
                    if not isnan(t)
                ),
                default=0.0,
            )
            if overlap >= _OVERLAP:
                yield (
                    f"{side} factor `{names[second]}` repeats `{names[first]}` (mean overlap "
                    f"{overlap:.2f}); ask one of them only."
                )
            elif told >= _TOLD:
                yield (
                    f"{side} factor `{names[second]}` repeats `{names[first]}` in other words: "
                    f"knowing one answer avoids {told:.0%} of the wrong guesses about the other; "
                    "ask one of them only."
                )


def _untrue(audit: Audit) -> Iterator[str]:
    """One sentence a field: its factors mostly fail together, on the same entities."""
    by_field: dict[tuple[str, str], list[FactorFigures]] = {}
    for figures in audit.factors:
        right = figures.accuracy
        gap = right["popular"] - right["rare"] if {"popular", "rare"} <= right.keys() else 0.0
        is_untrue = bool(right) and (right["all"] < _WRONG or gap >= _POPULARITY_GAP)
        if is_untrue and figures.top_share < _NOTHING:
            by_field.setdefault((figures.side, figures.field), []).append(figures)
    for (side, field), group in by_field.items():
        names = ", ".join(f"`{figures.factor}`" for figures in group)
        shares = {
            part: sum(figures.accuracy[part] for figures in group) / len(group)
            for part in ("all", "popular", "rare")
            if all(part in figures.accuracy for figures in group)
        }
        told = f"{shares['all']:.0%} of the answers are true"
        if "rare" in shares:
            told += (
                f", {shares['popular']:.0%} about the most popular quarter and "
                f"{shares['rare']:.0%} about the least"
            )
            if shares["popular"] - shares["rare"] >= _POPULARITY_GAP:
                told += "; the model invents what it has read little about"
        yield f"{side} knowledge `{field}`, {names}: {told}."


def _names(figures: FactorFigures) -> Iterator[str]:
    share = figures.names_from_prompt
    if share is not None and (figures.names or 0.0) >= _NAMES and 1 - share >= _BROUGHT:
        yield (
            f"{figures.label}: {1 - share:.0%} of the names it mentions are not in the prompt; "
            "the model knows them or invents them."
        )


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"

"""What a search has found: its trials, the best first."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Ending = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting that was tried."""

    number: int
    """From 1, in the order in which they were chosen."""
    values: Mapping[str, Any]
    """By the key of the space."""
    valid_auc: tuple[float, ...]
    """By epoch, from the first."""
    ending: Ending
    """stopped: others were better after as many epochs."""
    error: str | None = None

    @property
    def best_auc(self) -> float:
        """The best epoch's validation AUC; NaN if no epoch was finished."""
        return max(self.valid_auc, default=float("nan"))

    @property
    def best_epoch(self) -> int:
        """From 1; 0 if no epoch was finished."""
        return self.valid_auc.index(self.best_auc) + 1 if self.valid_auc else 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Trial":
        """The trial that `dataclasses.asdict` gave, through JSON, too."""
        return cls(**{**values, "valid_auc": tuple(values["valid_auc"])})


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The best first by validation AUC, of equal ones the earlier; failed ones last."""
    return sorted(
        trials,
        key=lambda t: (t.ending == "failed", -t.best_auc if t.valid_auc else 0.0, t.number),
    )


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The best trial that did not fail."""
    first = next(iter(ranked(trials)), None)
    return first if first is not None and first.ending != "failed" else None


def lines(trials: Sequence[Trial], *, most: int | None = None) -> list[dict[str, str]]:
    """A table of the trials as text, the best first; `most` of them."""
    return [
        {
            "valid AUC": f"{trial.best_auc:.4f}" if trial.valid_auc else "–",
            "trial": str(trial.number),
            "epochs": str(len(trial.valid_auc)),
            "end": trial.ending,
            **{key: show(value) for key, value in trial.values.items()},
        }
        for trial in ranked(trials)[:most]
    ]


def as_override(value: Any) -> str:
    """A value as `key=value` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def show(value: Any) -> str:
    """A value as a person writes it; numbers to four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)

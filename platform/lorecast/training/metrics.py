"""The figures of a split that training records; `lorecast.evaluation` defines them."""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from lorecast.evaluation.metrics import auc, gauc, log_loss


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """The figures of one split."""

    auc: float
    log_loss: float
    gauc: float

    @classmethod
    def of(cls, user: ArrayLike, label: ArrayLike, probability: ArrayLike) -> "Metrics":
        """All figures of scores that are probabilities."""
        return cls(
            auc=auc(label, probability),
            log_loss=log_loss(label, probability),
            gauc=gauc(user, label, probability),
        )

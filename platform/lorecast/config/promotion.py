"""What a challenger must show before it becomes the champion."""

from typing import Literal

from pydantic import Field

from lorecast.config.section import Fraction, Positive, Section


class PromotionConfig(Section):
    """The promotion gate: rows, tests and limits. A margin says how much worse is still equal."""

    split: Literal["valid", "test"] = Field(
        "valid", description="part whose rows both are compared on; test then decides something"
    )
    rows: Positive = Field(20_000, description="at most so many rows, of whole users")
    resamples: int = Field(1000, ge=100, description="how often users are drawn anew")
    seed: int = Field(0, ge=0, description="of these draws; the rows do not depend on it")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="of the intervals")
    requires: Literal["better", "not_worse"] = Field(
        "better", description="not_worse: a challenger that is as good is promoted, e.g. a fresher"
    )
    min_gain: float = Field(
        0.001, ge=0.0, description="better: AUC gains so much, and surely more than 0"
    )
    auc_margin: float = Field(0.002, ge=0.0, description="of AUC")
    gauc_margin: float = Field(0.005, ge=0.0, description="of GAUC")
    log_loss_margin: float = Field(0.005, ge=0.0, description="of LogLoss")
    max_ece_loss: float = Field(
        0.02, ge=0.0, description="calibration error that may be added, where the loss is sure"
    )
    cold_items: int = Field(5, ge=0, description="cold items have at most so many training samples")
    cold_users: int = Field(5, ge=0, description="cold users' histories hold at most so many items")
    max_cold_loss: float = Field(
        0.01, ge=0.0, description="AUC that cold rows may lose, where the loss is sure"
    )
    min_coverage: Fraction = Field(
        0.5, description="share of the rows' users and items with vectors, if it reads them"
    )
    max_latency_ratio: float = Field(
        3.0,
        gt=0.0,
        description="time of a request, over the champion's in the same process, without HTTP; "
        "KSER takes twice as long as its bare backbone",
    )
    latency_items: Positive = Field(100, description="candidates of such a request")
    latency_rounds: int = Field(40, ge=5, description="such requests, both in turns")
    parity: float = Field(
        1e-4, gt=0.0, description="largest difference to the scores that training wrote"
    )
    max_gain: float = Field(
        0.1, gt=0.0, description="AUC over the champion from which a leak is more likely than luck"
    )
    max_auc: float = Field(0.98, gt=0.5, le=1.0, description="the same of the AUC itself")
    trusted_inputs: tuple[str, ...] = Field(
        (),
        description="inputs known to precede the click, which may explain such a gain, named as "
        "the gate does, e.g. [context device]",
    )

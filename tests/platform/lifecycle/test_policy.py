"""The policy is a function: evidence and limits in, a decision with reasons out."""

from typing import Any

import pytest

from lorecast.config import PromotionConfig
from lorecast.lifecycle.evidence import Cold, Compared, Decision, Evidence, Latency, Rows, page
from lorecast.lifecycle.policy import decide


def compared(difference: float, half: float = 0.002, champion: float = 0.7) -> Compared:
    return Compared(
        champion=champion,
        challenger=champion + difference,
        difference=difference,
        low=difference - half,
        high=difference + half,
    )


def cold(difference: float, half: float) -> Cold:
    return Cold(rows=200, users=80, auc=compared(difference, half))


BETTER: dict[str, Any] = {
    "champion": "films/1",
    "challenger": "films/2",
    "rows": Rows(dataset="d", split="valid", fingerprint="f", rows=1000, users=100, clicks=400),
    "figures": {
        "auc": compared(0.02),
        "gauc": compared(0.02),
        "log_loss": compared(-0.01),
        "ece": compared(0.001),
    },
    "cold": {"item": cold(0.0, 0.02), "user": Cold(rows=3, users=2, auc=None)},
    "coverage": {"item": 0.9},
    "latency": Latency(champion_ms=1.0, challenger_ms=1.1, ratio=1.1),
    "parity": 1e-7,
    "leaks": (),
    "champion_leaks": (),
    "auc_without": {},
}


def of(policy: PromotionConfig | None = None, **changes: Any) -> Decision:
    figures = {**BETTER["figures"], **changes.pop("figures", {})}
    evidence = Evidence(**{**BETTER, **changes, "figures": figures})
    return decide(evidence, policy or PromotionConfig())


def failed(decision: Decision) -> list[str]:
    return [finding.check for finding in decision.failed]


def test_a_better_one_is_promoted() -> None:
    decision = of()
    assert decision.promote
    assert decision.reason == "all checks pass"
    assert {"cold", "latency", "parity"} <= {finding.check for finding in decision.findings}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"figures": {"gauc": compared(-0.01)}}, "not worse"),
        ({"figures": {"log_loss": compared(0.01)}}, "not worse"),
        ({"figures": {"ece": compared(0.03)}}, "calibration"),
        ({"figures": {"auc": compared(0.001, half=0.0015)}}, "better"),
        ({"figures": {"auc": compared(0.0005, half=0.0001)}}, "better"),
        ({"cold": {"item": cold(-0.05, 0.02)}}, "cold"),
        ({"coverage": {"item": 0.3}}, "coverage"),
        ({"coverage": {"user": None}}, "coverage"),
        ({"latency": Latency(champion_ms=1, challenger_ms=4, ratio=4)}, "latency"),
        ({"parity": 0.01}, "parity"),
        ({"parity": None}, "parity"),
        ({"leaks": ("it has seen rows",)}, "leak"),
        ({"figures": {"auc": compared(0.2)}}, "too good"),
        ({"figures": {"auc": compared(0.05, champion=0.94)}}, "too good"),
    ],
)
def test_one_thing_that_is_wrong_is_the_reason(changes: dict[str, Any], check: str) -> None:
    decision = of(**changes)
    assert not decision.promote
    assert failed(decision) == [check]
    assert decision.failed[0].text in decision.reason


def test_a_loss_of_cold_rows_must_be_large_and_sure() -> None:
    assert of(cold={"item": cold(-0.05, 0.06)}).promote, "it may be chance"
    assert of(cold={"item": cold(-0.005, 0.002)}).promote, "it is small"


def test_a_loss_of_calibration_must_be_large_and_sure() -> None:
    assert of(figures={"ece": compared(0.03, half=0.04)}).promote, "it may be chance"
    assert of(figures={"ece": compared(0.01, half=0.005)}).promote, "it is small"


def test_an_equal_one_is_promoted_only_where_that_is_enough() -> None:
    equal = {name: compared(0.0, half=0.001) for name in BETTER["figures"]}
    assert failed(of(figures=equal)) == ["better"]
    enough = PromotionConfig(requires="not_worse")
    assert of(enough, figures=equal).promote
    unsure = {"auc": compared(0.0, half=0.01)}
    assert failed(of(enough, figures=equal | unsure)) == ["not worse"]


def test_a_gain_too_good_is_explained_by_inputs_that_are_trusted() -> None:
    found = {
        "figures": {"auc": compared(0.2)},
        "auc_without": {"context watched": 0.71, "item feature genre": 0.89},
    }
    refused = of(**found)
    assert failed(refused) == ["too good"]
    assert "context watched hidden: -0.1900" in refused.reason
    assert "genre" not in refused.reason
    assert of(PromotionConfig(trusted_inputs=("context watched",)), **found).promote
    assert not of(PromotionConfig(trusted_inputs=("item feature genre",)), **found).promote


def test_what_the_champion_has_seen_is_said_and_forgiven() -> None:
    decision = of(champion_leaks=("12 of 1,000 rows were in its training part",))
    assert decision.promote
    assert any("may look too good" in finding.text for finding in decision.findings)


def test_the_page_says_what_was_decided_and_why() -> None:
    evidence = Evidence(**{**BETTER, "parity": 0.5})
    policy = PromotionConfig()
    text = page(evidence, decide(evidence, policy), policy)
    assert text.startswith("# films/2 against films/1: keep the champion")
    assert "by up to 5.0e-01" in text
    assert "| AUC | 0.7000 | 0.7200 | +0.0200 |" in text

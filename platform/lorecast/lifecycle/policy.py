"""The policy of promotion: evidence and limits in, a decision with reasons out. Nothing else.

A margin must be kept surely: the worse end of the interval lies within it. Cold rows are few, and a
calibration error is a rough figure (LogLoss counts calibration, too), so these speak against a
challenger only where its loss is both large and sure. A gain that is too good
to be true counts as a leak, unless inputs that a person trusts explain it.
"""

from collections.abc import Iterator

from lorecast.config import PromotionConfig
from lorecast.evaluation.tables import ends, metric_name
from lorecast.lifecycle.evidence import Compared, Decision, Evidence, Finding


def decide(evidence: Evidence, policy: PromotionConfig) -> Decision:
    """The decision on this evidence."""
    findings = tuple(_findings(evidence, policy))
    return Decision(promote=all(each.outcome != "fail" for each in findings), findings=findings)


def is_implausible(auc: Compared, policy: PromotionConfig) -> bool:
    """Whether an AUC is so good that a leak is more likely."""
    return _excess(auc, policy) > 0


def _findings(evidence: Evidence, policy: PromotionConfig) -> Iterator[Finding]:
    yield from _leaks(evidence, policy)
    yield _parity(evidence.parity, policy)
    yield from _quality(evidence, policy)
    yield from _cold(evidence, policy)
    yield from _coverage(evidence, policy)
    ratio, most = evidence.latency.ratio, policy.max_latency_ratio
    yield _finding(
        "latency",
        ratio <= most,
        f"a request takes {ratio:.2f} times the champion's, at most {most:g} is allowed",
    )


def _leaks(evidence: Evidence, policy: PromotionConfig) -> Iterator[Finding]:
    for text in evidence.leaks:
        yield Finding(check="leak", outcome="fail", text=text)
    for text in evidence.champion_leaks:
        text = f"the champion may look too good: {text}"
        yield Finding(check="leak", outcome="note", text=text)
    auc = evidence.figures["auc"]
    excess = _excess(auc, policy)
    if not excess:
        text = f"AUC {auc.challenger:.4f}, {auc.difference:+.4f}: not implausible"
        yield Finding(check="too good", outcome="pass", text=text)
        return
    explains = {
        name: auc.challenger - without
        for name, without in sorted(evidence.auc_without.items(), key=lambda item: item[1])
        if auc.challenger - without >= excess / 2
    }
    told = ", ".join(f"{name} hidden: {-loss:+.4f}" for name, loss in explains.items())
    text = (
        f"AUC {auc.challenger:.4f}, {auc.difference:+.4f} over the champion's, is more likely a "
        f"leak than luck (promotion.max_gain {policy.max_gain:g}, max_auc {policy.max_auc:g}); "
        f"{told or 'no single input explains it'}"
    )
    trusted = bool(explains) and explains.keys() <= set(policy.trusted_inputs)
    yield _finding("too good", trusted, text + ("; trusted" if trusted else ""))


def _excess(auc: Compared, policy: PromotionConfig) -> float:
    """By how much AUC is to be explained; 0 if it is plausible."""
    by_gain = auc.difference if auc.difference > policy.max_gain else 0.0
    by_itself = auc.challenger - 0.5 if auc.challenger > policy.max_auc else 0.0
    return max(by_gain, by_itself)


def _parity(parity: float | None, policy: PromotionConfig) -> Finding:
    if parity is None:
        text = "the bundle holds no check rows (an earlier version made it): register it again"
        return Finding(check="parity", outcome="fail", text=text)
    return _finding(
        "parity",
        parity <= policy.parity,
        f"scores of the check rows differ from training's by up to {parity:.1e}, at most "
        f"{policy.parity:.0e} is allowed",
    )


def _quality(evidence: Evidence, policy: PromotionConfig) -> Iterator[Finding]:
    auc = evidence.figures["auc"]
    if policy.requires == "better":
        enough = auc.difference >= policy.min_gain and auc.low > 0
        wanted = f"at least {policy.min_gain:g} and surely more than 0 is needed"
        yield _finding("better", enough, f"AUC {_shown(auc)}, {wanted}")
    margins = {
        "auc": (policy.auc_margin, -auc.low),
        "gauc": (policy.gauc_margin, -evidence.figures["gauc"].low),
        "log_loss": (policy.log_loss_margin, evidence.figures["log_loss"].high),
    }
    for name, (margin, worst) in margins.items():
        told = f"{metric_name(name)} {_shown(evidence.figures[name])}"
        yield _finding(
            "not worse",
            worst <= margin,
            f"{told}, may be worse by {max(worst, 0):.4f}, the margin is {margin:g}",
        )
    ece = evidence.figures["ece"]
    yield _finding(
        "calibration",
        ece.difference <= policy.max_ece_loss or ece.low <= 0,
        f"ECE {_shown(ece)}, a sure loss of more than {policy.max_ece_loss:g} is refused",
    )


def _cold(evidence: Evidence, policy: PromotionConfig) -> Iterator[Finding]:
    for side, cold in evidence.cold.items():
        if cold.auc is None:
            text = f"cold {side}s: {cold.rows:,} rows of {cold.users:,} users, too few to compare"
            yield Finding(check="cold", outcome="note", text=text)
            continue
        is_worse = cold.auc.difference < -policy.max_cold_loss and cold.auc.high < 0
        text = f"cold {side}s, {cold.rows:,} rows: AUC {_shown(cold.auc)}"
        limit = f"a sure loss of more than {policy.max_cold_loss:g} is refused"
        yield _finding("cold", not is_worse, f"{text}, {limit}")


def _coverage(evidence: Evidence, policy: PromotionConfig) -> Iterator[Finding]:
    for side, share in evidence.coverage.items():
        if share is None:
            text = f"the bundle does not say which {side}s have knowledge: register it again"
            yield Finding(check="coverage", outcome="fail", text=text)
        else:
            yield _finding(
                "coverage",
                share >= policy.min_coverage,
                f"{share:.1%} of the {side}s have knowledge, {policy.min_coverage:.0%} are needed",
            )


def _finding(check: str, passes: bool, text: str) -> Finding:
    return Finding(check=check, outcome="pass" if passes else "fail", text=text)


def _shown(each: Compared) -> str:
    return f"{each.difference:+.4f} {ends(each.low, each.high)}"

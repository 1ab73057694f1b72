"""promote, rollback, history: which version serves, decided by the gate and kept for good.

The gate's evidence lies beside the challenger's run (promotion/<time>/evidence.json and .md) and in
the version's tags `lorecast.gate.*`. Downloaded bundles stay in workspace/promote/.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from lorecast.artifacts import write_json
from lorecast.config import ExperimentConfig
from lorecast.errors import PromotionError
from lorecast.evaluation.tables import ends
from lorecast.jobs.console import Console
from lorecast.jobs.pipeline import Pipeline
from lorecast.lifecycle import history as histories
from lorecast.lifecycle.evidence import Decision, Evidence, figure_lines, finding_lines, page
from lorecast.lifecycle.frozen import FrozenSlice
from lorecast.lifecycle.gate import STEPS, Contender, examine
from lorecast.lifecycle.history import History, Record
from lorecast.lifecycle.mlflow_registry import open_registry
from lorecast.lifecycle.policy import decide
from lorecast.lifecycle.registry import CHALLENGER, ModelVersion, Registry, model_name
from lorecast.lifecycle.scorer import Scorer

_TAG = "lorecast.gate"
_LONGEST_TAG = 1000


def promote(
    config: ExperimentConfig,
    console: Console,
    *,
    version: int | None = None,
    force: str | None = None,
) -> History:
    """The challenger becomes the champion if the gate lets it; returns the history.

    `version`: another than the alias `challenger` names; `force`: why the gate is not asked. Raises
    PromotionError if the champion stays, which is recorded, too.
    """
    registry, model = open_registry(config), model_name(config)
    past = histories.current(registry, model)
    assert past.champion is not None, "a history begins with a champion"
    challenger = registry.resolve(model, CHALLENGER if version is None else version)
    if challenger.number == past.champion:
        raise PromotionError(
            f"{challenger} is the champion already: train another, or name one with --version"
        )
    if force is not None:
        record = Record(action="forced", version=challenger.number, reason=force)
    else:
        champion = registry.resolve(model, past.champion)
        evidence = _evidence(config, registry, champion, challenger, console)
        decision = decide(evidence, config.promotion)
        _show(evidence, decision, console)
        _keep(registry, challenger, evidence, decision, config)
        record = Record(
            action="promoted" if decision.promote else "refused",
            version=challenger.number,
            reason=decision.reason,
        )
    now = histories.move(registry, record, model, past.champion)
    if record.action == "refused":
        raise PromotionError(
            f"{challenger} is not promoted, version {past.champion} stays: {record.reason}"
        )
    _tell(f"{challenger} is the champion", now, console)
    return now


def rollback(config: ExperimentConfig, console: Console, *, reason: str = "") -> History:
    """The version before the champion serves again, without a gate; returns the history."""
    now = histories.rollback(open_registry(config), model_name(config), reason)
    _tell(f"rolled back: {now.model}/{now.champion} is the champion", now, console)
    return now


def history(config: ExperimentConfig, console: Console) -> History:
    """Prints who served when, and why; puts aliases right that a broken-off command left."""
    past = histories.current(open_registry(config), model_name(config))
    lines = [
        {
            "#": str(number),
            "when (UTC)": record.at.removesuffix("+00:00").replace("T", " "),
            "what": record.action,
            "version": str(record.version),
            "by": record.by,
            "why": record.reason,
        }
        for number, record in enumerate(past.records, start=1)
    ]
    console.table(f"history of {past.model}", lines)
    _tell(f"champion: version {past.champion}", past, console)
    return past


def _evidence(
    config: ExperimentConfig,
    registry: Registry,
    champion: ModelVersion,
    challenger: ModelVersion,
    console: Console,
) -> Evidence:
    frozen = FrozenSlice.of(Pipeline(config, console).dataset, config.promotion)
    workspace = config.compute.folder.absolute()
    console.heading(f"lorecast promote · {challenger} against {champion}")
    contenders = [
        Contender(str(each), Scorer.load(_bundle(registry, each, workspace)), frozen)
        for each in (champion, challenger)
    ]
    with console.progress("gate", STEPS) as task:
        return examine(contenders[0], contenders[1], config.promotion, workspace, task.advance)


def _bundle(registry: Registry, version: ModelVersion, workspace: Path) -> Path:
    name = f"{version.model}-{version.number}-{version.run_id[:8]}"
    folder = workspace / "promote" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        registry.download(version, folder)
    return folder


def _show(evidence: Evidence, decision: Decision, console: Console) -> None:
    console.table(f"{evidence.rows.rows:,} rows of {evidence.rows.split}", figure_lines(evidence))
    console.table("checks", finding_lines(decision))


def _keep(
    registry: Registry,
    challenger: ModelVersion,
    evidence: Evidence,
    decision: Decision,
    config: ExperimentConfig,
) -> None:
    """Writes the evidence to the registry."""
    policy, now = config.promotion, datetime.now(UTC)
    whole = {
        "evidence": evidence.model_dump(mode="json"),
        "decision": decision.model_dump(mode="json"),
        "policy": policy.model_dump(mode="json"),
    }
    with TemporaryDirectory(prefix="lorecast-") as scratch:
        write_json(Path(scratch) / "evidence.json", whole)
        text = page(evidence, decision, policy)
        (Path(scratch) / "evidence.md").write_text(text, encoding="utf-8")
        name = f"promotion/{now:%Y%m%dT%H%M%S}"
        registry.annotate(challenger, _tags(evidence, decision, name), Path(scratch), name)


def _tags(evidence: Evidence, decision: Decision, files: str) -> Mapping[str, str]:
    figures = {
        f"{_TAG}.{name}": f"{each.difference:+.4f} {ends(each.low, each.high)}"
        for name, each in evidence.figures.items()
    }
    return {
        _TAG: "promote" if decision.promote else "keep",
        f"{_TAG}.reason": decision.reason[:_LONGEST_TAG],
        f"{_TAG}.champion": evidence.champion,
        f"{_TAG}.slice": evidence.rows.fingerprint,
        f"{_TAG}.files": files,
        **figures,
    }


def _tell(text: str, now: History, console: Console) -> None:
    behind = "none" if now.previous is None else f"version {now.previous}"
    console.result(
        f"{text}; previous: {behind}",
        model=now.model,
        champion=now.champion,
        previous=now.previous,
        records=[vars(record) for record in now.records],
    )

"""An evaluation as tables: lines of cells by column, and Markdown of them. "–": no such figure."""

from collections.abc import Iterator, Mapping, Sequence

from lorecast.evaluation.results import Evaluation, Figure, Gain, Measured

NOTHING = "–"
NAMES = {
    "auc": "AUC",
    "gauc": "GAUC",
    "uauc": "UAUC",
    "log_loss": "LogLoss",
    "ece": "ECE",
    "ndcg": "NDCG",
    "map": "MAP",
}
Line = Mapping[str, str]


def metric_name(metric: str) -> str:
    """AUC, NDCG@10, …"""
    name, at, cutoff = metric.partition("@")
    return f"{NAMES[name]}{at}{cutoff}"


def figures(evaluation: Evaluation) -> list[Line]:
    """A line a metric, a column an arm: mean ± standard deviation over seeds."""
    return [
        {
            "metric": metric_name(metric),
            **{arm.name: of_seeds(arm.measured.figures[metric]) for arm in evaluation.arms},
        }
        for metric in evaluation.arms[0].measured.figures
    ]


def gains(evaluation: Evaluation) -> list[Line]:
    """A line an arm and metric: what it has over the reference, and how sure that is."""
    return [
        {
            "arm": arm.name,
            "metric": metric_name(metric),
            "gain": f"{gain.value:+.4f}",
            "95 % over users": ends(gain.low, gain.high),
            "p (users)": p_value(gain.p),
            "± over seeds": over_seeds(gain),
            "p (seeds)": NOTHING if gain.seeds_p is None else p_value(gain.seeds_p),
        }
        for arm in evaluation.arms
        for metric, gain in arm.measured.gains.items()
    ]


def slices(evaluation: Evaluation, metric: str = "auc") -> list[Line]:
    """A line a slice: its size, every arm's metric, every gain with its interval."""
    return [
        {
            "slice": f"{part.family}: {part.name}",
            "rows": f"{part.rows:,}",
            "users": f"{part.users:,}",
            **dict(_of_slice({each.arm: each for each in part.measured}, evaluation, metric)),
        }
        for part in evaluation.slices
    ]


def _of_slice(
    measured: Mapping[str, Measured], evaluation: Evaluation, metric: str
) -> Iterator[tuple[str, str]]:
    for arm in evaluation.arms:
        of_arm = measured.get(arm.name)
        yield arm.name, NOTHING if of_arm is None else number(of_arm.figures[metric].value)
    for arm in evaluation.arms:
        if arm.name != evaluation.reference:
            of_arm = measured.get(arm.name)
            gain = of_arm.gains.get(metric) if of_arm else None
            yield f"{arm.name} − {evaluation.reference}", gained(gain)


def number(value: float | None) -> str:
    """Four decimals."""
    return NOTHING if value is None else f"{value:.4f}"


def mean_std(mean: float | None, std: float | None) -> str:
    """Mean, and standard deviation if there is one."""
    return number(mean) if std is None else f"{number(mean)} ± {std:.4f}"


def of_seeds(figure: Figure) -> str:
    """Mean ± standard deviation over seeds."""
    return mean_std(figure.value, figure.std)


def gained(gain: Gain | None) -> str:
    """A gain with its interval over users."""
    return NOTHING if gain is None else f"{gain.value:+.4f} {ends(gain.low, gain.high)}"


def over_seeds(gain: Gain) -> str:
    """Half the 95 % interval over seeds."""
    return NOTHING if gain.seeds_half_width is None else f"{gain.seeds_half_width:.4f}"


def ends(low: float, high: float) -> str:
    """An interval of differences."""
    return f"[{low:+.4f}, {high:+.4f}]"


def p_value(p: float) -> str:
    """Three decimals, never 0."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def markdown(lines: Sequence[Line]) -> str:
    """A Markdown table; columns of numbers stand flush right."""
    if not lines:
        return ""
    names = list(lines[0])
    rules = ["--:" if all(_is_number(line[name]) for line in lines) else "---" for name in names]
    rows = [names, rules, *(list(line.values()) for line in lines)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell[:1] in "+-<–"

"""What is seen of a search while it runs: progress, curves, failures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lorecast.config import Search, Space
from lorecast.jobs import cluster
from lorecast.jobs.console import Console, Task
from lorecast.training.search import Trial


def watch(search: Search, shown: Task, console: Console) -> Any:
    """A callback of Ray Tune that shows progress and keeps each trial's curve with Tune's state.

    Its `trial` turns one of Tune's trials into ours.
    """
    from ray.tune import Callback

    class Watcher(Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._numbers: dict[str, int] = {}
            self._curves: dict[str, dict[int, float]] = {}
            self._ended: set[str] = set()
            self._over: set[str] = set()

        def get_state(self) -> dict[str, Any]:
            return {
                "numbers": self._numbers,
                "curves": self._curves,
                "ended": self._ended,
                "over": self._over,
            }

        def set_state(self, state: dict[str, Any]) -> None:
            self._numbers, self._curves = state["numbers"], state["curves"]
            self._ended, self._over = state["ended"], state["over"]
            shown.advance(len(self._over), **self._figures())

        def on_trial_start(self, *, trials: Any, **_: Any) -> None:
            for trial in trials:  # in the order in which they were chosen
                self._number(trial)

        def on_trial_result(self, *, trial: Any, result: Any, **_: Any) -> None:
            self._curves.setdefault(trial.trial_id, {})[result["epoch"]] = result["valid_auc"]
            if result["ended"] or result["epoch"] >= search.config.training.epochs:
                self._ended.add(trial.trial_id)
            shown.advance(0, **self._figures())

        def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
            self._over.add(trial.trial_id)
            shown.advance(1, **self._figures())

        def on_step_end(self, *, trials: Any, **_: Any) -> None:
            for trial in trials:  # the reason is there only after Tune told of the failure
                if trial.get_error() is not None and trial.trial_id not in self._over:
                    self._over.add(trial.trial_id)
                    failed = self.trial(trial)
                    shown.advance(1, **self._figures())
                    console.note(f"trial {failed.number} failed: {failed.error}")

        def on_experiment_end(self, *, trials: Any, **_: Any) -> None:
            self.on_step_end(trials=trials)

        def trial(self, trial: Any) -> Trial:
            curve = self._curves.get(trial.trial_id, {})
            found = Trial(
                number=self._number(trial),
                values=values_of(search.spaces, trial.config),
                valid_auc=tuple(curve[epoch] for epoch in sorted(curve)),
                ending="finished" if trial.trial_id in self._ended else "stopped",
            )
            if trial.status != "ERROR":
                return found
            return replace(found, ending="failed", error=_reason(trial))

        def _number(self, trial: Any) -> int:
            return self._numbers.setdefault(trial.trial_id, len(self._numbers) + 1)

        def _figures(self) -> dict[str, float]:
            aucs = [auc for curve in self._curves.values() for auc in curve.values()]
            return {"epochs": len(aucs), **({"valid_auc": max(aucs)} if aucs else {})}

    return Watcher()


def values_of(spaces: Sequence[Space], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """What Ray Tune drew, as the experiment takes it."""
    return {
        space.key: space.values[drawn[space.key]] if space.kind == "choice" else drawn[space.key]
        for space in spaces
    }


def _reason(trial: Any) -> str:
    """Why a trial failed, in a sentence."""
    text = str(trial.get_error()).strip()
    ours = cluster.our_error(RuntimeError(text))
    return str(ours) if ours is not None else text.splitlines()[-1]

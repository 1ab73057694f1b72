"""Who served when: an append-only history of promotions, from which the aliases follow.

MLflow's aliases move one by one, keep no past and know no compare-and-set, so the history leads: a
record counts from the moment it stands at its place, and a place is taken once. A promotion is
appended only while the champion is the one that its gate compared with. Then whoever appended sets
`champion` and `previous` as the last record wants them, until no newer one is found: the last to
write has seen the last record, so the aliases end as it says, however many promote at once. What a
process that died in between left is put right by the next command.

A promotion puts a version on top of those that served before, and so does a refresh; a rollback
takes the top one away.
"""

import getpass
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from lorecast.errors import PromotionError, RegistryError
from lorecast.lifecycle.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    ModelVersion,
    Registry,
    RunRecord,
)

Action = Literal["first", "promoted", "forced", "refreshed", "refused", "rolled back"]
_LONGEST_REASON = 1500


@dataclass(frozen=True, kw_only=True)
class Record:
    """One entry of a history."""

    action: Action
    version: int
    """Which serves from now on; refused: which does not."""
    reason: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    """UTC."""
    by: str = field(default_factory=getpass.getuser)
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tells equal records apart."""

    def text(self) -> str:
        """As `Registry.append` keeps it."""
        reason = self.reason
        if len(reason) > _LONGEST_REASON:
            reason = reason[: _LONGEST_REASON - 1] + "…"
        return json.dumps({**asdict(self), "reason": reason}, ensure_ascii=False)


@dataclass(frozen=True)
class History:
    """All records of a model, oldest first."""

    model: str
    records: tuple[Record, ...]

    @classmethod
    def read(cls, registry: Registry, model: str) -> "History":
        """The history as it stands now."""
        texts = registry.records(model)
        return cls(model, tuple(Record(**json.loads(text)) for text in texts))

    @property
    def served(self) -> Sequence[int]:
        """The versions a rollback may go back to, then the champion. Empty before the first."""
        stack: list[int] = []
        for record in self.records:
            if record.action == "rolled back":
                stack.pop()
            elif record.action != "refused":
                stack.append(record.version)
        return stack

    @property
    def champion(self) -> int | None:
        """The version that serves."""
        return self.served[-1] if self.served else None

    @property
    def previous(self) -> int | None:
        """The version that a rollback goes back to."""
        return self.served[-2] if len(self.served) > 1 else None


def enrol(
    registry: Registry, model: str, bundle: Path, run: RunRecord, fingerprint: str
) -> ModelVersion:
    """The version of `model` with this fingerprint, registered if there is none yet.

    A new version becomes `challenger`, and `champion` if the model has none. It is sealed last: a
    registration that broke off is never found and leaves an unsealed version behind.
    """
    known = registry.find(model, fingerprint)
    if known is None:
        version = registry.add(model, bundle, run)
        registry.set_alias(version, CHALLENGER)
        if CHAMPION not in registry.aliases(model):
            _begin(registry, version, "the first version")
        registry.seal(version, fingerprint)
        known = registry.resolve(model, version.number)
    return known


def current(registry: Registry, model: str) -> History:
    """The history, its aliases put right; begun now if the champion is older than histories.

    Raises RegistryError if there is neither a history nor a champion.
    """
    if not registry.records(model):
        return _begin(registry, registry.resolve(model, CHAMPION), "served before histories")
    return settle(registry, model)


def move(registry: Registry, record: Record, model: str, champion: int) -> History:
    """Appends `record` while `champion` serves, and lets the aliases follow; returns the history.

    Raises PromotionError if another version serves by now: nothing is changed then.
    """
    while True:
        history = History.read(registry, model)
        if history.champion != champion:
            raise PromotionError(
                f"the champion of {model!r} is version {history.champion} by now, not "
                f"{champion}: somebody else promoted or rolled back; look with `lorecast "
                "history`, and run the command again"
            )
        if registry.append(model, len(history.records), record.text()):
            return settle(registry, model)


def rollback(registry: Registry, model: str, reason: str) -> History:
    """The version before the champion serves again. Raises PromotionError if there is none."""
    history = current(registry, model)
    if history.champion is None or history.previous is None:
        raise PromotionError(
            f"nothing to roll back to: version {history.champion} of {model!r} is the first that "
            "served"
        )
    record = Record(action="rolled back", version=history.previous, reason=reason)
    return move(registry, record, model, history.champion)


def settle(registry: Registry, model: str) -> History:
    """Sets the aliases as the history says, until nobody has added to it; returns it."""
    history = History.read(registry, model)
    while True:
        _set(registry, model, CHAMPION, history.champion)
        _set(registry, model, PREVIOUS, history.previous)
        latest = History.read(registry, model)
        if latest.served == history.served:
            return latest
        history = latest


def _begin(registry: Registry, champion: ModelVersion, reason: str) -> History:
    """Opens a history, unless somebody did so meanwhile."""
    if not registry.records(champion.model):
        first = Record(action="first", version=champion.number, reason=reason)
        registry.append(champion.model, 0, first.text())
    return settle(registry, champion.model)


def _set(registry: Registry, model: str, alias: str, number: int | None) -> None:
    pointed = registry.aliases(model).get(alias)
    if number is None:
        if pointed is not None:
            registry.drop_alias(model, alias)
    elif pointed != number:
        try:
            registry.set_alias(registry.resolve(model, number), alias)
        except RegistryError as error:
            raise RegistryError(
                f"{alias} of {model!r} is version {number} by its history, and cannot be: {error}"
            ) from None

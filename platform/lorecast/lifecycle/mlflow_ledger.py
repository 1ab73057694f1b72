"""An append-only list in MLflow: parameters of a run, which MLflow lets nobody change.

MLflow refuses a second value for a parameter, in SQLite by the table's primary key and so on any
server: that is a compare-and-set, the only one it has. A model's ledger is a run of its own, named
in a tag of the model. Of several processes that make one, the one that its first version's run
names in a parameter is the ledger.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mlflow import MlflowClient

_LEDGER: Final = "lorecast.ledger"
_PLACE: Final = "{:06d}"


def records(client: "MlflowClient", model: str) -> Sequence[str]:
    """All that was appended, in order."""
    run_id = client.get_registered_model(model).tags.get(_LEDGER)
    return () if run_id is None else _texts(client, run_id)


def append(client: "MlflowClient", model: str, place: int, record: str, experiment_id: str) -> bool:
    """As `Registry.append`; the ledger is made in this experiment if there is none."""
    run_id = client.get_registered_model(model).tags.get(_LEDGER)
    run_id = run_id or _make(client, model, experiment_id)
    if place >= len(_texts(client, run_id)):
        _write_once(client, run_id, _PLACE.format(place), record)
    return _texts(client, run_id)[place] == record


def _texts(client: "MlflowClient", run_id: str) -> Sequence[str]:
    params = client.get_run(run_id).data.params
    return [params[key] for key in sorted(params)]


def _make(client: "MlflowClient", model: str, experiment_id: str) -> str:
    made = client.create_run(
        experiment_id, run_name=f"history of {model}", tags={"stage": "promote"}
    ).info.run_id
    client.set_terminated(made)
    versions = client.search_model_versions(f"name = '{model}'")
    first = min(versions, key=lambda version: int(version.version)).run_id
    _write_once(client, first, _LEDGER, made)
    elected = client.get_run(first).data.params[_LEDGER]
    client.set_registered_model_tag(model, _LEDGER, elected)
    if elected != made:
        client.delete_run(made)
    return str(elected)


def _write_once(client: "MlflowClient", run_id: str, key: str, value: str) -> None:
    """Sets a parameter unless it has a value; which one it has is to be read afterwards."""
    from mlflow.exceptions import MlflowException

    try:
        client.log_param(run_id, key, value)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise

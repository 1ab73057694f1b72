"""Point 2h: a later click planted in what is known about a user stops the job, by name.

Three plants on the world, each through the command line: a click added to a prompt, a click put in
the place of another, and imported texts whose writer saw one interaction too many.
"""

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.generation import USERS, run, start, write_experiment
from benchmarks.harness import Outcome
from lorecast.world.catalogue import generate as generate_world

BAR = "a planted later click in a user's prompt is caught before training, by name"
_USER = "u0123"
_IMPORTED = {
    "kind": "import",
    "name": "told",
    "side": "user",
    "file": "texts.parquet",
    "history_end": "seen",
}


def measure() -> Outcome:
    plants: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="lorecast-leaks-") as name:
        folder = Path(name)
        for how in ("added", "replaced"):
            plants[how] = _in_prompt(folder / how, how)
        plants["imported"] = _in_texts(folder / "imported")
    caught = sum(plant["caught"] for plant in plants.values())
    return Outcome(
        figure=f"{caught} of {len(plants)} planted leaks caught before training, by name",
        passed=caught == len(plants),
        details=plants,
    )


def _in_prompt(folder: Path, how: str) -> dict[str, Any]:
    folder.mkdir()
    experiment = write_experiment(folder, [{**USERS, "factors": ["mood"]}])
    run("prepare", str(experiment), log=folder / "prepare.log")
    [path] = (folder / "workspace" / "prepare").glob("*/users.parquet")
    users = pq.read_table(path)
    place = users["id"].to_pylist().index(_USER)
    shown = users["prompt_item_rows"].to_pylist()
    later = users["recent_item_rows"][place].as_py()[-1]
    shown[place] = [*shown[place], later] if how == "added" else [*shown[place][:-1], later]
    column = users.schema.get_field_index("prompt_item_rows")
    field = users.schema.field(column)
    pq.write_table(users.set_column(column, field, pa.array(shown, field.type)), path)
    return _train(folder, experiment)


def _in_texts(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    tables = folder / "tables"
    tables.mkdir()
    world = generate_world()
    for name in ("users", "items", "interactions"):
        pq.write_table(getattr(world, name), tables / f"{name}.parquet")
    ids = world.users["user_id"].to_pylist()
    # No text saw anything, but one writer saw 31 interactions, and prompts may show 30 at most.
    seen = [30 if user == _USER else 0 for user in ids]
    texts = {"id": ids, "text": ["Likes gloomy films."] * len(ids), "seen": seen}
    pq.write_table(pa.table(texts), tables / "texts.parquet")
    dataset = {
        "source": "tables",
        "path": str(tables),
        "interactions": {"file": "interactions.parquet", "rating": "rating"},
        "items": {"file": "items.parquet", "id": "item_id", "title": "title"},
        "users": {"file": "users.parquet", "id": "user_id"},
    }
    return _train(folder, write_experiment(folder, [_IMPORTED], dataset=dataset))


def _train(folder: Path, experiment: Path) -> dict[str, Any]:
    log = folder / "train.log"
    code = start("train", str(experiment), log=log).wait()
    told = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    trained = list((folder / "workspace" / "train").glob("*/manifest.json"))
    return {
        "caught": code == 5 and len(told) == 1 and _USER in told[0] and not trained,
        "exit_code": code,
        "told": told,
        "models_trained": len(trained),
    }

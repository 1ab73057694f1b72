"""Point 2c: what a changed wording, new items and new cut-offs cost: only what is new."""

import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.generation import Generated, generate, write_experiment
from benchmarks.harness import Outcome
from lorecast.knowledge.factors import load_factor_set
from lorecast.world.catalogue import generate as generate_world

BAR = (
    "one factor's wording changed; 1 % new items; a new cut-off for 5 % of users: only those keys "
    "are generated"
)
_SHIPPED = Path(str(resources.files("lorecast.knowledge"))) / "factor_sets" / "world"
_FACTORS = ("director", "mood", "theme")
_CHANGED = ("mood", "What mood does it have?", "Which mood does the film have?")
_NEW_ITEMS = 6
_NEW_CUT_OFFS = 100


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-growth-") as name:
        folder = Path(name)
        world = generate_world()
        num_items, num_users = world.items.num_rows, world.users.num_rows
        factor_set = folder / "world"
        shutil.copytree(_SHIPPED, factor_set)
        experiment = _experiment(folder, factor_set)
        known = world.items.slice(0, num_items - _NEW_ITEMS)
        old_clicks = world.interactions.filter(
            pc.is_in(world.interactions["item_id"], value_set=known["item_id"].combine_chunks())
        )
        late = _late_users(old_clicks)
        steps: dict[str, tuple[Generated, int]] = {}

        _write(folder, world.users, known, _without_last(old_clicks, late))
        steps["first"] = (generate(experiment), len(_FACTORS) * (known.num_rows + num_users))

        name, question, other = _CHANGED
        text = (factor_set / "factors.yaml").read_text()
        assert text.count(question) == 1, "the wording to change is there"
        (factor_set / "factors.yaml").write_text(text.replace(question, other))
        assert load_factor_set(factor_set).item[1].question == other
        steps["wording"] = (generate(experiment), known.num_rows)

        _write(folder, world.users, world.items, _without_last(old_clicks, late))
        steps["new items"] = (generate(experiment), len(_FACTORS) * _NEW_ITEMS)

        _write(folder, world.users, world.items, old_clicks)
        steps["new cut-offs"] = (generate(experiment), len(_FACTORS) * _NEW_CUT_OFFS)
        steps["nothing"] = (generate(experiment, "name=again"), 0)
    counts: dict[str, dict[str, Any]] = {
        step: {
            "asked": done.facts["generated"],
            "expected": expected,
            "wanted": sum(field["wanted"] for field in done.facts["fields_asked"].values()),
            "by_field": done.facts["fields_asked"],
        }
        for step, (done, expected) in steps.items()
    }
    return Outcome(
        figure="; ".join(
            f"{step}: {each['asked']:,} of {each['wanted']:,} asked"
            for step, each in counts.items()
        ),
        passed=all(each["asked"] == each["expected"] for each in counts.values()),
        details=counts,
    )


def _experiment(folder: Path, factor_set: Path) -> Path:
    fields = [
        {"kind": "generate", "name": f"{side}_lore", "side": side}
        | {"factor_set": str(factor_set), "factors": list(_FACTORS)}
        for side in ("item", "user")
    ]
    dataset = {
        "source": "tables",
        "path": str(folder / "tables"),
        "interactions": {"file": "interactions.parquet", "rating": "rating"},
        "users": {"file": "users.parquet", "id": "user_id", "text": ["age_group", "region"]},
        "items": {"file": "items.parquet", "id": "item_id", "title": "title"}
        | {"text": ["year", "genre"], "features": ["genre"]},
    }
    compute = {"engines": 1, "threads": 2}
    return write_experiment(folder, fields, dataset=dataset, compute=compute)


def _write(folder: Path, users: pa.Table, items: pa.Table, clicks: pa.Table) -> None:
    tables = folder / "tables"
    tables.mkdir(exist_ok=True)
    for name, table in {"users": users, "items": items, "interactions": clicks}.items():
        pq.write_table(table, tables / f"{name}.parquet")


def _late_users(clicks: pa.Table) -> pa.Array:
    """Users whose cut-off moves when their last interaction comes to light."""
    counts = pc.value_counts(clicks["user_id"])
    sizes = counts.field("counts").to_numpy()
    # The prefix is min((n + 1) // 2, 30): it grows with every odd n up to there.
    moves = (sizes % 2 == 1) & (sizes < 59)
    return counts.field("values").filter(pa.array(moves))[:_NEW_CUT_OFFS]


def _without_last(clicks: pa.Table, users: pa.Array) -> pa.Table:
    """All interactions but the last one of each of these users."""
    clicks = clicks.sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    ids = clicks["user_id"].combine_chunks()
    is_last = pc.not_equal(ids, pa.concat_arrays([ids[1:], pa.array([None], ids.type)]))
    dropped = pc.and_(pc.fill_null(is_last, True), pc.is_in(ids, value_set=users))
    return clicks.filter(pc.invert(dropped))

"""Point 5m: `lorecast refresh` with 1 % new clicks and 10 new items, under load.

The embedded world without ten films and its latest clicks is run whole: prepared, told about by its
language model, encoded, trained (DIN with KSER), registered. A real `lorecast serve` follows the
champion, requests of 100 candidates arrive at a set rate, and then the rest comes in. What the
endpoint must know afterwards is asked over HTTP; the history it must have is all clicks in order,
sent as `history`, which must score alike. A text that another entity has word for word is encoded
already.
"""

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.harness import Outcome
from benchmarks.load import Load
from benchmarks.server import LORECAST, serving
from lorecast.artifacts import Artifact
from lorecast.knowledge.factors import load_factor_set
from lorecast.world.catalogue import generate

BAR = (
    "1 % new clicks and 10 new items under load: no failed request; answered with the new version, "
    "which knows the items and the clicks; prompts asked and texts encoded are the new items' alone"
)
NEW_ITEMS, NEW_SHARE = 10, 0.01
RATE, CANDIDATES = 20.0, 100
EPOCHS = 30
_ROOT = Path(__file__).parents[1]
_WARM_UP_S = 20.0
LOAD_S = 240.0
"""Of requests; the refresh must end well before."""
_FOLLOWED_S = 20.0
_CHECKED_USERS = 50
_SAME = 1e-5


@dataclass(frozen=True)
class Parted:
    """The world's tables: what the model was trained on, and what comes later."""

    known: dict[str, pa.Table]
    later: dict[str, pa.Table]


def measure() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="lorecast-refresh-") as name:
        found = refreshed(Path(name), parted(), epochs=EPOCHS, rate=RATE, load_s=LOAD_S)
    asked, wanted = found["prompts_asked"], found["prompts_of_new_items"]
    return Outcome(
        figure=(
            f"{found['clicks']:,} clicks, {found['new_items']} items in {found['seconds']:.1f} s "
            f"({found['seconds_to_swap']:.1f} s until all answers were the new version's); "
            f"{found['failed']} of {found['requests']:,} requests failed; {asked} prompts asked, "
            f"{wanted} of new items, and {found['texts_encoded']} texts encoded that no other film "
            f"has; generating and encoding all: {found['whole_prompts']:,} prompts, "
            f"{found['whole_texts_encoded']:,} texts, {found['whole_seconds']:.1f} s"
        ),
        passed=(
            found["failed"] == 0
            and found["followed"]
            and found["unknown_items"] == 0
            and found["histories_off"] == 0
            and asked == wanted
            and found["texts_encoded"] <= found["texts"] <= wanted
        ),
        details=found,
    )


def parted() -> Parted:
    """Ten films that were seen among the latest clicks join with these; earlier clicks on them are
    left out, as if they had come out late."""
    world = generate()
    clicks = world.interactions.sort_by("timestamp")
    num_new = round(NEW_SHARE * clicks.num_rows)
    later = clicks.slice(clicks.num_rows - num_new)
    seen = pc.unique(later["item_id"]).slice(0, NEW_ITEMS)
    is_new = pc.is_in(world.items["item_id"], value_set=seen)
    early = clicks.slice(0, clicks.num_rows - num_new)
    early = early.filter(pc.invert(pc.is_in(early["item_id"], value_set=seen)))
    return Parted(
        known={
            "interactions": early,
            "items": world.items.filter(pc.invert(is_new)),
            "users": world.users,
        },
        later={"interactions": later, "items": world.items.filter(is_new)},
    )


def refreshed(
    folder: Path, tables: Parted, *, epochs: int, rate: float, load_s: float
) -> dict[str, Any]:
    """Runs all in `folder`; what the requests and the refresh saw."""
    words = _experiment(folder, epochs)
    for part, of_part in (("known", tables.known), ("later", tables.later)):
        (folder / part).mkdir()
        for name, table in of_part.items():
            pq.write_table(table, folder / part / f"{name}.parquet")
    _run("run", *words)
    whole = _whole(folder / "workspace")
    new_ids = tables.later["items"]["item_id"].to_pylist()
    factors = len(load_factor_set("world").item)
    with serving(*words, "serving.follow_s=1") as address:
        load = Load(address, [(rate, load_s)], _bodies(tables), folder)
        time.sleep(max(0.0, load.begin_s + _WARM_UP_S - time.monotonic()))
        old = _asked(address, tables, new_ids)
        started_s = time.monotonic()
        told = _run(
            "refresh",
            *words,
            *(f"--{name}={folder / 'later' / name}.parquet" for name in tables.later),
        )
        ended_s = time.monotonic()
        time.sleep(_FOLLOWED_S)
        new = _asked(address, tables, new_ids)
        answers = load.answers()
    (made,) = [line for line in told if line.get("refreshed")]
    of_old = answers.end_s_R[answers.ok_R & (answers.version_R == made["refreshed_from"])]
    last_R = answers.due_s_R > ended_s + _FOLLOWED_S
    during_R = (answers.due_s_R >= started_s) & (answers.due_s_R < ended_s)
    return {
        **{name: value for name, value in made.items() if name != "event"},
        **whole,
        "seconds": round(ended_s - started_s, 2),
        "seconds_to_swap": round(float(of_old.max()) - started_s, 2),
        "requests": len(answers),
        "requests_during_refresh": int(during_R.sum()),
        "failed": int((~answers.ok_R).sum()),
        "followed": bool((answers.version_R[last_R] == made["version"]).all() and last_R.any()),
        "p99_ms_during_refresh": round(answers.where(during_R).p_ms(0.99), 1),
        "p99_ms_after": round(answers.where(last_R).p_ms(0.99), 1) if last_R.any() else None,
        "unknown_items_before": old["unknown"],
        "unknown_items": new["unknown"],
        "histories_off": new["off"],
        "histories_checked": new["checked"],
        "prompts_of_new_items": factors * len(new_ids),
    }


def _experiment(folder: Path, epochs: int) -> list[str]:
    columns = {
        "interactions": "{file: interactions.parquet, rating: rating}",
        "items": "{file: items.parquet, id: item_id, title: title, text: [year, genre], "
        "features: [genre]}",
        "users": "{file: users.parquet, id: user_id, text: [age_group, region]}",
    }
    return [
        str(_ROOT / "configs" / "world.yaml"),
        "dataset.source=tables",
        f"dataset.path={folder / 'known'}",
        *(f"dataset.{name}={mapping}" for name, mapping in columns.items()),
        "training.strategies=[all_parameters]",
        f"training.epochs={epochs}",
        f"compute.workspace={folder / 'workspace'}",
        f"registry.tracking_uri=sqlite:///{folder / 'mlflow.db'}",
    ]


def _run(command: str, *words: str) -> list[dict[str, Any]]:
    """The events of a `lorecast` command."""
    done = subprocess.run([LORECAST, command, *words, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"lorecast {command} ended with exit code {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _whole(workspace: Path) -> dict[str, Any]:
    """What generating and encoding all took."""
    made = {stage: Artifact.open(next((workspace / stage).glob("world-*"))) for stage in _STAGES}
    return {
        "whole_seconds": round(sum(each.manifest["seconds"] for each in made.values()), 1),
        "whole_prompts": made["generate"].facts["generated"],
        "whole_texts_encoded": made["encode"].facts["texts_encoded"],
    }


_STAGES = ("generate", "encode")


def _bodies(tables: Parted) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    users, items = (tables.known[name][0].to_pylist() for name in ("users", "items"))
    return [
        {
            "user_id": users[place],
            "item_ids": [items[i] for i in rng.integers(0, len(items), CANDIDATES)],
        }
        for place in rng.integers(0, len(users), 64)
    ]


def _asked(address: tuple[str, int], tables: Parted, new_ids: list[str]) -> dict[str, int]:
    """Of the endpoint as it is: how many new items it does not know, and for how many of some users
    with new clicks their history, all clicks in order, scores other than their own."""
    items = tables.known["items"]["item_id"].to_pylist()[:CANDIDATES]
    clicks = pa.concat_tables([tables.known["interactions"], tables.later["interactions"]])
    users = pc.unique(tables.later["interactions"]["user_id"]).slice(0, _CHECKED_USERS).to_pylist()
    off = 0
    with httpx.Client(base_url="http://{}:{}".format(*address), timeout=30) as client:

        def score(**body: Any) -> dict[str, Any]:
            answer = client.post("/v1/score", json=body)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

        unknown = score(user_id=users[0], item_ids=new_ids)["unknown"]["item_ids"]
        for user in users:
            own = clicks.filter(pc.equal(clicks["user_id"], user)).sort_by("timestamp")
            history = [
                {"item_id": item, "rating": rating}
                for item, rating in zip(
                    own["item_id"].to_pylist(), own["rating"].to_pylist(), strict=True
                )
            ]
            told = score(user_id=user, item_ids=items, history=history)["scores"]
            own_scores = score(user_id=user, item_ids=items)["scores"]
            off += bool(np.abs(np.subtract(told, own_scores)).max() > _SAME)
    return {"unknown": len(unknown), "off": off, "checked": len(users)}

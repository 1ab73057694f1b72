"""generate with an in-memory engine, through the same Ray Data path as vLLM."""

import errno
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from ray.cloudpickle import register_pickle_by_value

from lorecast.config import (
    CollectiveConfig,
    ComputeConfig,
    ExperimentConfig,
    GeneratedField,
    ImportedField,
    KnowledgeConfig,
    LLMConfig,
)
from lorecast.data.dataset import Dataset
from lorecast.errors import ConfigError, EngineError, KnowledgeError
from lorecast.jobs import generate
from lorecast.jobs.console import Console
from lorecast.knowledge.engine import Answer, Chat, ScriptedEngine
from tests.tiny_dataset import GENRES

pytestmark = pytest.mark.usefixtures("ray_cluster")
register_pickle_by_value(sys.modules[__name__])  # workers cannot import tests

NUM_ITEM_PROMPTS = NUM_USER_PROMPTS = 10 * 9
NUM_PROMPTS = NUM_ITEM_PROMPTS + NUM_USER_PROMPTS


@dataclass
class Engine:
    """Answers with the question's last line; keeps a log of prompts that survives its process."""

    log: Path
    breaks_after: int = 10**9
    """Prompts answered before the engine breaks."""
    dies: Callable[[str], bool] = lambda prompt: False
    """Which prompts end the engine's process."""
    fails: Callable[[str], bool] = lambda prompt: False
    stalls: Callable[[str], bool] = lambda prompt: False
    says: Callable[[str], str | Answer] = lambda prompt: f"About {prompt.splitlines()[-1]}"
    _answered: int = field(default=0, init=False)

    def chat(
        self, batch: Sequence[Chat], schemas: Sequence[str | None] | None = None
    ) -> list[Answer]:
        if self._answered + len(batch) > self.breaks_after:
            raise EngineError("the engine broke")
        self._answered += len(batch)
        with self.log.open("a") as log:
            log.writelines(f"{os.getpid()} {hash(str(chat))}\n" for chat in batch)
        return ScriptedEngine(self._reply).chat(batch)

    def _reply(self, prompt: str) -> str | Answer:
        if self.dies(prompt):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails(prompt):
            return Answer(finish="error", error="no such luck")
        if self.stalls(prompt):
            logging.getLogger("vllm").error("waiting for a token that never comes")
            time.sleep(60)
        return self.says(prompt)


@dataclass
class Job:
    """Runs `generate` on one dataset and workspace."""

    dataset: Dataset
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "asked.log"

    def config(self, engines: int = 1, **knowledge: object) -> ExperimentConfig:
        fields = (
            GeneratedField(name="facts", side="item", factor_set="films"),
            GeneratedField(name="taste", side="user", factor_set="films"),
        )
        llm = LLMConfig(model="test/scripted")
        return ExperimentConfig(
            knowledge=KnowledgeConfig(**{"fields": fields, "llm": llm, **knowledge}),
            compute=ComputeConfig(
                workspace=str(self.folder / "workspace"), engine_batch=20, engines=engines
            ),
        )

    def run(
        self,
        config: ExperimentConfig | None = None,
        *,
        retry_failed: bool = False,
        **engine: object,
    ) -> "Ran":
        log = self.log
        artifact = generate.run(
            config or self.config(),
            self.dataset,
            Console(quiet=True),
            make_engine=lambda: Engine(log, **engine),
            embed=embed,
            retry_failed=retry_failed,
        )
        table = pq.read_table(artifact.path / "knowledge.parquet")
        return Ran(dict(artifact.facts), table, artifact.path)

    def num_asked(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def stored_keys(self) -> list[str]:
        parts = sorted((self.folder / "workspace" / "knowledge").glob("*.parquet"))
        return pa.concat_tables([pq.read_table(part) for part in parts])["key"].to_pylist()


def embed(texts: pa.Array) -> NDArray[np.float32]:
    """Vectors by genre, the last word of an item's text."""
    genres = [text.rsplit(", ", 1)[-1] for text in texts.to_pylist()]
    return np.array([[genre == known for known in GENRES] for genre in genres], np.float32)


@dataclass
class Ran:
    facts: dict[str, object]
    knowledge: pa.Table
    path: Path


@pytest.fixture
def job(make_tiny_dataset: Callable[..., Dataset], tmp_path: Path) -> Job:
    return Job(make_tiny_dataset(num_users=10, num_items=10), tmp_path)


def test_every_entity_gets_one_row_a_factor_and_engines_end(job: Job) -> None:
    ran = job.run(job.config(engines=2))
    knowledge = ran.knowledge
    assert knowledge.num_rows == job.num_asked() == NUM_PROMPTS
    assert ran.facts["counts"] == {"ok": NUM_PROMPTS}
    assert (ran.facts["generated"], ran.facts["reused"]) == (NUM_PROMPTS, 0)
    places = knowledge.group_by(["side", "row", "field", "chunk"]).aggregate([])
    assert places.num_rows == NUM_PROMPTS
    assert {sample["side"] for sample in ran.facts["samples"]} == {"item", "user"}
    assert all(sample["answer"].startswith("About ") for sample in ran.facts["samples"])

    users = knowledge.filter(pc.equal(knowledge["side"], "user"))
    ends = job.dataset.history_end()
    assert users["history_end"].to_pylist() == ends[users["row"].to_numpy()].tolist()
    items = knowledge.filter(pc.equal(knowledge["side"], "item"))
    assert items["history_end"].null_count == items.num_rows

    engines = {int(line.split()[0]) for line in job.log.read_text().splitlines()}
    assert engines
    assert os.getpid() not in engines
    deadline_s = time.monotonic() + 10
    while any(map(_is_alive, engines)) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not any(map(_is_alive, engines))


def test_certainty_is_stored_and_asks_anew(job: Job) -> None:
    def says(_: str) -> Answer:
        return Answer(text="It is gloomy.", certainty=-0.25)

    plain = job.run(says=says)
    assert job.num_asked() == NUM_PROMPTS
    llm = LLMConfig(model="test/scripted", certainty=True)
    sure = job.run(job.config(llm=llm), says=says)
    assert job.num_asked() == 2 * NUM_PROMPTS
    assert set(sure.knowledge["certainty"].to_pylist()) == {-0.25}
    assert sure.facts["texts_digest"] != plain.facts["texts_digest"]


def test_a_killed_run_resumes_with_every_key_once(job: Job) -> None:
    with pytest.raises(EngineError, match="the engine broke"):
        job.run(breaks_after=50)
    paid = job.num_asked()
    assert paid == 40, "two whole blocks"
    assert len(job.stored_keys()) == paid
    ran = job.run()
    assert job.num_asked() == NUM_PROMPTS
    assert ran.facts["reused"] == paid
    keys = job.stored_keys()
    assert len(keys) == len(set(keys)) == NUM_PROMPTS
    assert set(ran.knowledge["key"].to_pylist()) == set(keys)


def test_a_dead_engine_is_replaced_and_no_answer_lost(job: Job, tmp_path: Path) -> None:
    marker = tmp_path / "died"

    def once(prompt: str) -> bool:
        first = not marker.exists()
        marker.touch()
        return first

    assert job.run(dies=once).facts["counts"] == {"ok": NUM_PROMPTS}
    assert sorted(job.stored_keys()) == sorted(set(job.stored_keys()))


def test_an_engine_that_always_dies_ends_the_job(job: Job) -> None:
    with pytest.raises(EngineError, match="process ended 3 times"):
        job.run(dies=lambda prompt: True)


def test_nothing_is_asked_twice_across_experiments(job: Job) -> None:
    job.run()
    first = job.num_asked()
    again = job.run(job.config(prompt_history=3))
    assert job.num_asked() - first == again.facts["generated"] < NUM_USER_PROMPTS
    assert again.facts["reused"] > NUM_ITEM_PROMPTS, "also users with three titles at most"


def test_failed_prompts_are_rows_and_are_asked_again(job: Job) -> None:
    lenient = job.config(error_budget=0.5)
    ran = job.run(lenient, fails=lambda prompt: "music" in prompt)
    failed = ran.knowledge.filter(pc.equal(ran.knowledge["status"], "failed"))
    assert failed.num_rows == 20 == ran.facts["counts"]["failed"]
    assert set(failed["reason"].to_pylist()) == {"no such luck"}
    assert set(failed["factor"].to_pylist()) == {"soundtrack"}
    first = job.num_asked()
    wider = job.run(lenient.model_copy(update={"name": "second"}))
    assert wider.facts["counts"] == {"ok": NUM_PROMPTS}
    assert job.num_asked() - first == wider.facts["generated"] == 20


def test_over_the_error_budget_names_the_first_reason(job: Job) -> None:
    strict = job.config(error_budget=0.05)
    with pytest.raises(EngineError, match=r"5\.0% of 180.*no such luck"):
        job.run(strict, fails=lambda prompt: "film" in prompt)
    assert job.num_asked() < NUM_PROMPTS, "stops as soon as the budget cannot hold"
    assert job.run(strict).facts["counts"] == {"ok": NUM_PROMPTS}


def test_imported_texts_stand_beside_generated_ones(job: Job) -> None:
    plots = job.folder / "plots.parquet"
    pq.write_table(
        pa.table({"id": ["i3", "i1", "nobody"], "text": ["One. Two. Three.", " ", "Lost."]}), plots
    )
    field = ImportedField(kind="import", name="plot", side="item", file=str(plots), max_chunks=2)
    asked = GeneratedField(name="facts", side="item", factor_set="films", factors=("mood", "plot"))
    ran = job.run(job.config(fields=(field, asked)))
    assert ran.facts["imported"] == 2
    assert ran.facts["counts"] == {"ok": 2 * 10 + 2, "empty": 1}
    assert ran.facts["fields"] == [
        {"name": "plot", "side": "item", "factors": ["1", "2"]},
        {"name": "facts", "side": "item", "factors": ["mood", "plot"]},
    ]
    [imports] = ran.facts["imports"]
    assert imports["unknown_ids"] == 1
    assert job.num_asked() == 20


def test_a_finished_artifact_needs_no_engine(job: Job) -> None:
    first = job.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lorecast.jobs.cluster.connect", lambda compute: pytest.fail("started Ray"))
        assert job.run(breaks_after=0).facts == first.facts


def test_one_object_for_all_factors_becomes_a_row_a_factor(job: Job) -> None:
    field = GeneratedField(
        name="facts", side="item", factor_set="films", factors=("mood", "plot"), answer="json"
    )

    def says(prompt: str) -> str:
        if "Film 3" in prompt:
            return '{"mood": "dark"}'
        return json.dumps({"mood": "dark", "plot": f"of {prompt.splitlines()[1]}"})

    ran = job.run(job.config(fields=(field,)), says=says)
    assert job.num_asked() == 10, "one call an item"
    assert ran.facts["counts"] == {"ok": 2 * 9, "unparsable": 1}
    assert ran.facts["fields"] == [{"name": "facts", "side": "item", "factors": ["mood", "plot"]}]
    good = ran.knowledge.filter(pc.equal(ran.knowledge["status"], "ok"))
    moods = good.filter(pc.equal(good["factor"], "mood"))
    assert set(moods["text"].to_pylist()) == {"dark"}
    assert set(moods["chunk"].to_pylist()) == {0}
    assert pc.sum(good["output_tokens"]).as_py() == pc.sum(moods["output_tokens"]).as_py()


def test_prose_is_cut_to_sentences(job: Job) -> None:
    field = GeneratedField(
        name="facts", side="item", factor_set="films", answer="text", max_chunks=2
    )
    ran = job.run(job.config(fields=(field,)), says=lambda prompt: "It is dark. It ends. So.")
    assert job.num_asked() == 10
    assert ran.facts["fields"] == [{"name": "facts", "side": "item", "factors": ["1", "2"]}]
    assert set(ran.knowledge["text"].to_pylist()) == {"It is dark.", "It ends. So."}


def collective(side: str, **more: object) -> GeneratedField:
    groups = CollectiveConfig(**{"clusters": 3, "represent": "text", **more})
    return GeneratedField(
        name=f"{side}_lore",
        side=side,
        factor_set="films",
        factors=("mood", "plot"),
        extraction="collective",
        collective=groups,
    )


def test_a_group_is_asked_once_and_its_members_share_the_answers(job: Job) -> None:
    ran = job.run(job.config(fields=(collective("item"), collective("user"))))
    assert job.num_asked() == 2 * 3 * 2
    assert ran.facts["fields_asked"]["item_lore"] == {"wanted": 6, "asked": 6}
    places = ran.knowledge.group_by(["side", "row", "field", "chunk"]).aggregate([])
    assert places.num_rows == ran.knowledge.num_rows == 2 * 10 * 2
    items = ran.knowledge.filter(pc.equal(ran.knowledge["side"], "item"))
    genre = job.dataset.items()["genre"].to_pylist()
    texts: dict[str, set[str]] = {}
    for row in items.filter(pc.equal(items["factor"], "mood")).to_pylist():
        texts.setdefault(genre[row["row"] - 1], set()).add(row["key"])
    assert [len(keys) for keys in texts.values()] == [1] * len(texts), "a genre is a group"
    users = ran.knowledge.filter(pc.equal(ran.knowledge["side"], "user"))
    ends = job.dataset.history_end()
    assert users["history_end"].to_pylist() == ends[users["row"].to_numpy()].tolist()
    job.run(job.config(fields=(collective("item"), collective("user")), error_budget=0.2))
    assert job.num_asked() == 2 * 3 * 2, "the same groups again"


def test_the_head_is_asked_individually_and_the_tail_mixes_two_groups(job: Job) -> None:
    ran = job.run(job.config(fields=(collective("item", head=0.2, assign="mix"),)))
    assert job.num_asked() == (3 + 2) * 2
    weights = ran.knowledge.group_by(["row", "chunk"]).aggregate([("weight", "sum")])
    assert weights.num_rows == 10 * 2
    np.testing.assert_allclose(weights["weight_sum"].to_numpy(), 1, atol=1e-6)
    whole = ran.knowledge.filter(pc.equal(ran.knowledge["weight"], 1.0))
    assert len(pc.unique(whole["row"])) >= 2


def test_groups_made_from_answers_differ_by_factor(
    job: Job, make_tiny_dataset: Callable[..., Dataset]
) -> None:
    job = Job(make_tiny_dataset(num_users=20, num_items=30), job.folder)
    table = job.dataset.items()
    genre = dict(zip(table["title"].to_pylist(), table["genre"].to_pylist(), strict=True))

    def says(prompt: str) -> str:
        """The mood is the genre; the plot is the same for every other film."""
        titles = [title for title in genre if f"{title}\n" in prompt or f'"{title}"' in prompt]
        if "plot" in prompt.splitlines()[-1]:
            return f"About, {GENRES[int(titles[0].split()[1]) % 2]}" if titles else "About"
        return f"Mood, {genre[titles[0]]}" if titles else "Mood"

    items = collective("item", represent="knowledge", head=0.5, clusters=3)
    users = collective("user", represent="knowledge", clusters=3)
    ran = job.run(job.config(fields=(items, users)), says=says)
    calls = sum(field["wanted"] for field in ran.facts["fields_asked"].values())
    assert job.num_asked() == calls == ran.facts["generated"]
    assert calls <= (15 + 3 + 3) * 2
    assert ran.knowledge.num_rows == (20 + 30) * 2, "everyone has every factor"
    of_users = ran.knowledge.filter(pc.equal(ran.knowledge["side"], "user"))
    parts = {
        factor: of_users.filter(pc.equal(of_users["factor"], factor))["key"].to_pylist()
        for factor in ("mood", "plot")
    }
    together = {
        factor: {(a, b) for a in range(20) for b in range(a) if keys[a] == keys[b]}
        for factor, keys in parts.items()
    }
    assert together["mood"] != together["plot"], "who belongs together depends on the factor"
    grown = Job(make_tiny_dataset(num_users=24, num_items=34), job.folder)
    kept = {"represent": "knowledge", "groups": str(ran.path)}
    again = (
        collective("item", head=15 / 34, clusters=3, **kept),
        collective("user", clusters=3, **kept),
    )
    asked = job.num_asked()
    assert grown.run(grown.config(fields=again), says=says).knowledge.num_rows == (24 + 34) * 2
    new_heads = job.num_asked() - asked
    assert new_heads <= 15 * 2, "only items that became popular are asked about"


@pytest.mark.bad_input
def test_groups_made_from_answers_need_answers(job: Job) -> None:
    with pytest.raises(ConfigError, match=r"'user_lore'.*individual answers about items.*'mood'"):
        job.run(job.config(fields=(collective("user", represent="knowledge"),)))


def test_new_items_join_the_nearest_group_without_a_call(
    job: Job, make_tiny_dataset: Callable[..., Dataset]
) -> None:
    for represent in ("text", "clicks"):
        fields = (collective("item", represent=represent, dim=4),)
        first = job.run(job.config(fields=fields))
        asked = job.num_asked()
        grown = Job(make_tiny_dataset(num_users=10, num_items=13), job.folder)
        kept = (collective("item", represent=represent, dim=4, groups=str(first.path)),)
        ran = grown.run(grown.config(fields=kept))
        assert grown.num_asked() == asked
        assert ran.knowledge.num_rows == 13 * 2


def test_retry_failed_takes_up_what_failed_in_a_finished_run(job: Job) -> None:
    lenient = job.config(error_budget=0.5)
    first = job.run(lenient, fails=lambda prompt: "music" in prompt)
    asked = job.num_asked()
    assert job.run(lenient).facts["counts"] == first.facts["counts"], "finished is finished"
    assert job.num_asked() == asked
    again = job.run(lenient, retry_failed=True)
    assert again.facts["counts"] == {"ok": NUM_PROMPTS}
    assert job.num_asked() - asked == 20
    assert again.facts["texts_digest"] != first.facts["texts_digest"], "vectors are made anew"


def test_a_stalled_engine_is_ended_with_its_last_words(job: Job) -> None:
    config = job.config()
    impatient = config.compute.model_copy(update={"engine_stall_s": 1.5})
    with pytest.raises(EngineError, match=r"in 2 s and was ended.*a token that never comes"):
        job.run(config.model_copy(update={"compute": impatient}), stalls=lambda prompt: True)
    assert job.run(config).facts["counts"] == {"ok": NUM_PROMPTS}


@pytest.mark.bad_input
def test_a_full_disk_ends_the_run_and_loses_nothing(job: Job) -> None:
    with pytest.raises(KnowledgeError, match=r"cannot take more answers \(No space left"):
        job.run(says=_fill_the_disk)
    assert job.run().facts["counts"] == {"ok": NUM_PROMPTS}
    assert len(job.stored_keys()) == len(set(job.stored_keys()))


def _fill_the_disk(prompt: str) -> str:
    """From the seventh film on, the engine's process can write no table."""

    def write_table(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if "Film 7" in prompt:
        pq.write_table = write_table
    return f"About {prompt.splitlines()[-1]}"


@pytest.mark.bad_input
def test_without_vllm_the_extras_are_named(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"lorecast\[cpu\]"):
        generate.run(job.config(), job.dataset, Console(quiet=True))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

"""Every way of serving one trained model, timed on one user's candidates.

LLM online         texts are written and encoded while the request waits (`online`)
extractor online   stored vectors, memory-mapped
prestored          what the extractor makes of an entity by itself, memory-mapped
bare backbone      the experiment's strategy `base`
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from lorecast.artifacts import Artifact
from lorecast.config import ExperimentConfig, Side
from lorecast.data.dataset import Dataset
from lorecast.encoding.encoder import SentenceTransformerEncoder, find_encoder
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import ConfigError
from lorecast.evaluation.latency import Latency, Online, Way, in_turns
from lorecast.jobs import engines
from lorecast.jobs.arms import model_name
from lorecast.jobs.asking import MakeEngine
from lorecast.jobs.console import Console
from lorecast.jobs.encode import MakeEncoder
from lorecast.jobs.online import OnlineScorer
from lorecast.jobs.pipeline import Trained
from lorecast.knowledge.plan import Plan, Question, questions
from lorecast.lifecycle.bundle import Bundle, write_bundle
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.scorer import Id, Scorer

LLM: Final = "LLM online"
VECTORS: Final = "extractor online"
PRESTORED: Final = "prestored"
BARE: Final = "bare backbone"
Request = tuple[Id, list[Id]]
"""A user and candidates."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is asked for: candidates of a request, and how many requests."""

    items: int = 100
    requests: int = 1000
    llm_items: int = 5
    llm_requests: int = 5
    """Whose texts are written while they wait; 0: none."""

    def drawn(self, dataset: Dataset) -> tuple[list[Request], list[Request]]:
        """The requests of both kinds, by a fixed seed; the second has one more, which warms up.
        Raises ConfigError if there are not so many items."""
        num_items = dataset.schema.num_items
        for option, number in (("--items", self.items), ("--llm-items", self.llm_items)):
            if number > num_items:
                raise ConfigError(f"{option} {number}: the dataset has only {num_items:,} items")
        user_ids, item_ids = (t["id"].to_pylist() for t in (dataset.users(), dataset.items()))
        rng = np.random.default_rng(0)

        def draw(number: int, items: int) -> list[Request]:
            users = rng.integers(len(user_ids), size=number)
            picked = [rng.choice(len(item_ids), items, replace=False) for _ in users]
            return [
                (user_ids[user], [item_ids[item] for item in of_user])
                for user, of_user in zip(users, picked, strict=True)
            ]

        return draw(self.requests, self.items), draw(self.llm_requests + 1, self.llm_items)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A trained model with knowledge, what that was made of, and the bare backbone beside."""

    config: ExperimentConfig
    dataset: Dataset
    knowledge: Artifact
    vectors: VectorsTable
    knowing: Trained
    bare: Trained | None
    trial: Trial
    console: Console
    make_engine: MakeEngine | None = None
    make_encoder: MakeEncoder | None = None
    """Instead of the configured ones."""

    def run(self, folder: Path) -> Latency:
        """Bundles lie in `folder` meanwhile. Raises ConfigError for a trial that cannot be,
        EngineError or EncodingError if the language model or the encoder cannot start."""
        requests, waiting = self.trial.drawn(self.dataset)
        online = None
        with TemporaryDirectory(dir=folder) as bundles:
            by_vectors = self._scorer(Path(bundles) / "vectors", self.knowing)
            prestored = self._scorer(Path(bundles) / "prestored", self.knowing, prestore=True)
            scorers = {VECTORS: by_vectors, PRESTORED: prestored}
            if self.bare is not None:
                scorers[BARE] = self._scorer(Path(bundles) / "bare", self.bare)
            ask = {name: partial(_score, scorer) for name, scorer in scorers.items()}
            ways = [
                self._way(name, self.trial.items, taken_s, prestored.bundle.prestored)
                for name, taken_s in in_turns(ask, requests).items()
            ]
            if not (why_not := self._why_not_online(by_vectors.bundle)):
                taken_s, online = self._wait(self._online(by_vectors.bundle), by_vectors, waiting)
                ways.insert(0, self._way(LLM, self.trial.llm_items, taken_s, {}))
        return Latency(
            name=self.config.name,
            model=model_name(self.config.model, self.knowing.strategy),
            ways=tuple(ways),
            online=online,
            notes=tuple(self._notes(why_not)),
        )

    def _scorer(self, folder: Path, trained: Trained, *, prestore: bool = False) -> ClickScorer:
        vectors = None if trained.strategy == "base" else self.vectors
        write_bundle(folder, trained.artifact, self.dataset, vectors, prestore=prestore)
        return ClickScorer.open(folder)

    def _way(
        self, name: str, items: int, taken_s: Sequence[float], widths: Mapping[Side, int]
    ) -> Way:
        """`widths`: of prestored rows."""
        item_bytes, user_bytes = 0, 0
        if name == PRESTORED:
            item_bytes, user_bytes = 4 * widths.get("item", 0), 4 * widths.get("user", 0)
        elif name == VECTORS:
            chunks = [self.vectors.chunks("item"), self.vectors.chunks("user")]
            item_bytes, user_bytes = (2 * self.vectors.dim * len(names) for names in chunks)
        return Way.of(name, items, taken_s, item_bytes=item_bytes, user_bytes=user_bytes)

    @cached_property
    def _asked(self) -> tuple[Question, ...]:
        """About each entity by itself."""
        asked = questions(self.config.knowledge.fields)
        return tuple(question for question in asked if not question.is_collective)

    def _why_not_online(self, bundle: Bundle) -> str:
        """Why no text can be written for this model; empty if it can."""
        if not self.trial.llm_requests:
            return "--llm-requests is 0"
        if not self._asked:
            return "no field of knowledge is asked about each entity by itself"
        if bundle.model.reads_certainty:
            return "model.kser.certainty is scaled over all texts"
        if bundle.model.shuffle_knowledge:
            return "model.shuffle_knowledge gives every entity the texts of another"
        return ""

    def _online(self, bundle: Bundle) -> OnlineScorer:
        config = self.config
        plan = Plan.of(config, self.dataset, engines.find_model(config).digest)
        plan = dataclasses.replace(plan, questions=self._asked)
        # The engine first: it sets what libraries read when they are imported.
        engine = self.make_engine() if self.make_engine else engines.start_here(config)
        encoder = find_encoder(config.encoding.model)
        make = self.make_encoder or partial(SentenceTransformerEncoder, encoder, config.encoding)
        return OnlineScorer(config, plan, engine, make(), bundle, self.vectors)

    def _wait(
        self, scorer: OnlineScorer, by_vectors: Scorer, requests: Sequence[Request]
    ) -> tuple[list[float], Online]:
        """Seconds of each request but the first, and how these went."""
        answers = []
        with self.console.progress(LLM, len(requests)) as task:
            for request in requests:
                answers.append(scorer.score(*request))
                task.advance()
        counted = list(zip(requests, answers, strict=True))[1:]
        agreed = [
            scorer.compare(*request, answer.texts, self.knowledge.path)
            for request, answer in counted
        ]
        gap_RN = np.array(
            [
                np.abs(answer.score_N - by_vectors.candidates(*request).score_N)
                for request, answer in counted
            ]
        )
        gap_S = gap_RN[np.array([each.is_same_N for each in agreed])]
        answers = answers[1:]
        llm_ms, encoder_ms, extractor_ms = 1000 * np.median(
            [(answer.llm_s, answer.encoder_s, answer.extractor_s) for answer in answers], axis=0
        )
        return [answer.seconds for answer in answers], Online(
            prompts=sum(answer.prompts for answer in answers),
            output_tokens=sum(answer.output_tokens for answer in answers),
            texts=sum(each.texts for each in agreed),
            same_texts=sum(each.same_texts for each in agreed),
            llm_ms=float(llm_ms),
            encoder_ms=float(encoder_ms),
            extractor_ms=float(extractor_ms),
            largest_difference=float(gap_RN.max()),
            same_pairs=gap_S.size,
            largest_difference_same=float(gap_S.max()) if gap_S.size else None,
        )

    def _notes(self, why_not_online: str) -> Iterator[str]:
        if self.bare is None:
            yield f"no line for {BARE}: training.strategies has no base"
        if why_not_online:
            yield f"no line for {LLM}: {why_not_online}"
            return
        asked = {question.field for question in self._asked}
        for field in self.config.knowledge.fields:
            if field.name not in asked:
                yield (
                    f"{LLM}: the field {field.name} has its stored vectors, since it is not asked "
                    "about each entity by itself"
                )


def _score(scorer: Scorer, request: Request) -> None:
    scorer.candidates(*request)

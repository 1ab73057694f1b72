"""encode with an in-memory encoder through Ray Data: every text at its row and chunk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from lorecast.artifacts import Artifact, StageSpec, build
from lorecast.config import ComputeConfig, ExperimentConfig
from lorecast.data.dataset import Dataset
from lorecast.encoding.encoder import HashEncoder
from lorecast.encoding.vectors import VectorsTable
from lorecast.errors import EncodingError
from lorecast.jobs import encode
from lorecast.jobs.console import Console
from lorecast.knowledge.leakage import NO_KNOWLEDGE, UNKNOWN_END
from lorecast.knowledge.rows import KNOWLEDGE, SCHEMA

FIELDS = [
    {"name": "facts", "side": "item", "factors": ["mood", "theme"]},
    {"name": "taste", "side": "user", "factors": ["mood"]},
    {"name": "plot", "side": "item", "factors": ["1", "2", "3"]},
]


def write_knowledge(workspace: Path, rows: list[dict[str, object]]) -> Artifact:
    """A finished knowledge artifact with these rows; what they leave out is null."""
    spec = StageSpec(stage="generate", name="tiny", identity={"rows": len(rows)})
    with build(workspace, spec) as draft:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), draft.path / KNOWLEDGE)
        counts: dict[object, int] = {}
        for row in rows:
            counts[row["status"]] = counts.get(row["status"], 0) + 1
        draft.facts.update(fields=FIELDS, counts=counts, texts_digest=spec.fingerprint)
    return Artifact.open(spec.folder(workspace))


def row(
    side: str, row: int, field: str, chunk: int, text: str, **more: object
) -> dict[str, object]:
    return {"side": side, "row": row, "field": field, "chunk": chunk, "text": text} | {
        "status": "ok",
        "weight": 1.0,
        **more,
    }


def run(config: ExperimentConfig, dataset: Dataset, knowledge: Artifact) -> Artifact:
    return encode.run(config, dataset, knowledge, Console(quiet=True), make_encoder=HashEncoder)


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    return ExperimentConfig(compute=ComputeConfig(workspace=str(tmp_path / "workspace")))


@pytest.mark.usefixtures("ray_cluster")
def test_each_text_lands_at_its_row_and_chunk(
    config: ExperimentConfig,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode, "_BLOCK_TEXTS", 2)
    rows = [
        row("item", 3, "facts", 1, "about greed"),
        row("item", 3, "plot", 2, "the end"),
        row("item", 40, "facts", 0, "gloomy"),
        row("user", 7, "taste", 0, "gloomy", history_end=4),
        row("user", 8, "taste", 0, "cut", status="truncated", history_end=2),
        row("user", 9, "taste", 0, "likes it gloomy"),
        row("user", 30, "taste", 0, "likes it slow", history_end=5),
    ]
    artifact = run(config, tiny_dataset, write_knowledge(tmp_path / "workspace", rows))
    table = VectorsTable.open(artifact.path)
    table.check(tiny_dataset)

    def expected(text: str) -> np.ndarray:
        return HashEncoder().encode([text])[0]

    assert table.chunks("item")[:3] == (("facts", "mood"), ("facts", "theme"), ("plot", "1"))
    items, users = table.vectors("item"), table.vectors("user")
    assert items.shape == (41, 5, 32)
    assert users.shape == (31, 1, 32)
    np.testing.assert_array_equal(items[3, 1], expected("about greed"))
    np.testing.assert_array_equal(items[3, 4], expected("the end"))
    np.testing.assert_array_equal(items[40, 0], expected("gloomy"))
    np.testing.assert_array_equal(users[7, 0], expected("gloomy"))
    assert {tuple(place) for place in np.argwhere(table.mask("item"))} == {(3, 1), (3, 4), (40, 0)}
    assert {tuple(place) for place in np.argwhere(table.mask("user"))} == {(7, 0), (9, 0), (30, 0)}
    assert not items[~table.mask("item")].any()
    ends = dict(enumerate(table.user_history_end))
    assert (ends[7], ends[9], ends[30]) == (4, UNKNOWN_END, 5)
    assert ends[8] == NO_KNOWLEDGE, "a text that is not used has seen nothing"
    assert artifact.facts["texts"] == 6
    assert artifact.facts["distinct_texts"] == 5


@pytest.mark.usefixtures("ray_cluster")
def test_certainty_lies_beside_the_vectors_if_the_knowledge_has_it(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    said = {1: -0.5, 2: -1.0, 3: -1.5, 4: None}
    rows = [
        *(row("item", n, "facts", 0, f"text {n}", certainty=s) for n, s in said.items()),
        row("item", 1, "facts", 1, "alone", certainty=-2.0),
        row("item", 5, "plot", 0, "half of it", certainty=-2.0, weight=0.25),
        row("item", 5, "plot", 0, "and half", certainty=-1.0, weight=0.75),
        row("item", 6, "plot", 0, "whole", certainty=-0.25),
        row("user", 7, "taste", 0, "gloomy", history_end=4),
    ]
    artifact = run(config, tiny_dataset, write_knowledge(tmp_path / "workspace", rows))
    table = VectorsTable.open(artifact.path)
    item, user = table.certainty("item"), table.certainty("user")
    assert item.shape == table.mask("item").shape
    step = 1.5**0.5
    np.testing.assert_allclose(item[:5, 0], [0, step, 0, -step, 0], atol=1e-3)
    np.testing.assert_allclose(item[5:7, 2], [-1, 1], atol=1e-3)
    assert np.argwhere(item).tolist() == [[1, 0], [3, 0], [5, 2], [6, 2]], "one text has no spread"
    assert user.shape == table.mask("user").shape
    assert not user.any()


@pytest.mark.usefixtures("ray_cluster")
def test_tables_of_older_versions_have_no_certainty(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    rows = [row("item", n, "facts", 0, f"text {n}") for n in (1, 2)]
    knowledge = write_knowledge(tmp_path / "workspace", rows)
    path = knowledge.path / KNOWLEDGE
    pq.write_table(pq.read_table(path).drop_columns(["certainty"]), path)
    table = VectorsTable.open(run(config, tiny_dataset, knowledge).path)
    assert table.certainty("item") is None


@pytest.mark.usefixtures("ray_cluster")
def test_texts_outside_the_quality_bounds_become_no_vectors(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    rows = [
        *(row("item", n, "facts", 0, "It is gloomy.", factor="mood") for n in (1, 2, 3)),
        row("item", 4, "facts", 0, "It is tender.", factor="mood"),
        row("item", 5, "facts", 0, "Eerie.", factor="mood"),
        row("user", 7, "taste", 0, "it is gloomy", factor="mood", history_end=4),
        row("user", 8, "taste", 0, "gloomy", factor="mood", history_end=4),
    ]
    knowledge = write_knowledge(tmp_path / "workspace", rows)
    bounds = {"copies": (1, 2), "words": (2, None)}
    bounded = config.encoding.model_copy(update={"where": bounds})
    artifact = run(config.model_copy(update={"encoding": bounded}), tiny_dataset, knowledge)
    table = VectorsTable.open(artifact.path)
    assert np.argwhere(table.mask("item")).tolist() == [[4, 0]]
    assert np.argwhere(table.mask("user")).tolist() == [[7, 0]]
    assert table.user_history_end[8] == NO_KNOWLEDGE
    assert (artifact.facts["texts"], artifact.facts["texts_left_out"]) == (2, 5)


def with_components(config: ExperimentConfig, number: int) -> ExperimentConfig:
    kept = config.encoding.model_copy(update={"components": number})
    return config.model_copy(update={"encoding": kept})


ANSWERS = ("gloomy", "tender", "eerie")
MOODS = [row("item", n, "facts", 0, text) for n, text in enumerate(ANSWERS, start=1)]


@pytest.mark.usefixtures("ray_cluster")
def test_texts_that_vary_in_few_directions_fit_into_few_components(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    knowledge = write_knowledge(tmp_path / "workspace", MOODS)
    whole = run(config, tiny_dataset, knowledge)
    kept = run(with_components(config, 2), tiny_dataset, knowledge)
    assert kept.fingerprint != whole.fingerprint
    assert (kept.facts["dim"], kept.facts["encoder_dim"]) == (2, 32)
    assert kept.facts["variance_kept"] == pytest.approx(1, abs=1e-5)
    table = VectorsTable.open(kept.path)
    assert table.dim == 2
    assert table.vectors("item").shape == (41, 5, 2)
    assert table.vectors("user").shape == (31, 1, 2)
    wide, narrow = (VectorsTable.open(a.path).vectors("item")[1:4, 0] for a in (whole, kept))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(narrow[one] - narrow[other]) == pytest.approx(
            np.linalg.norm(wide[one] - wide[other]), abs=0.01
        )


def counting(log: Path, fatal: str | None) -> encode.MakeEncoder:
    """Encoders that write down what they are asked for, one text a line; `fatal` ends them."""

    class CountingEncoder(HashEncoder):
        # Made here, since Ray's workers do not know the tests' modules.
        def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
            if fatal in texts:
                raise EncodingError("out of memory")
            with log.open("a") as lines:
                lines.writelines(f"{text}\n" for text in texts)
            return HashEncoder.encode(self, texts)

    return CountingEncoder


def run_counted(
    config: ExperimentConfig,
    dataset: Dataset,
    rows: list[dict[str, object]],
    log: Path,
    fatal: str | None = None,
) -> tuple[Artifact, list[str]]:
    """The artifact, whose vectors stand where they should, and what the encoder was asked for."""
    workspace = Path(config.compute.workspace)
    log.write_text("")
    artifact = encode.run(
        config,
        dataset,
        write_knowledge(workspace, rows),
        Console(quiet=True),
        make_encoder=counting(log, fatal),
    )
    if config.encoding.components is None:
        items = VectorsTable.open(artifact.path).vectors("item")
        for line in rows:
            expected = HashEncoder().encode([str(line["text"])])[0]
            np.testing.assert_array_equal(items[line["row"], line["chunk"]], expected)
    return artifact, sorted(log.read_text().split())


@pytest.mark.usefixtures("ray_cluster")
def test_texts_are_encoded_once_in_a_workspace(
    config: ExperimentConfig,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode, "_BLOCK_TEXTS", 2)
    log = tmp_path / "asked"
    artifact, asked = run_counted(config, tiny_dataset, MOODS, log)
    assert asked == sorted(ANSWERS)
    assert (artifact.facts["texts_encoded"], artifact.facts["texts_found"]) == (3, 0)

    places = [
        (9, "slow"),
        (20, "eerie"),
        (21, "gloomy"),
        (8, "tender"),
        (10, "brisk"),
        (7, "eerie"),
    ]
    grown = [row("item", n, "facts", 0, text, factor="mood") for n, text in places]
    artifact, asked = run_counted(config, tiny_dataset, grown, log)
    assert asked == ["brisk", "slow"]
    assert (artifact.facts["texts_encoded"], artifact.facts["texts_found"]) == (2, 3)
    assert artifact.facts["distinct_texts"] == 5

    artifact, asked = run_counted(with_components(config, 2), tiny_dataset, grown, log)
    assert (asked, artifact.facts["dim"], artifact.facts["encoder_dim"]) == ([], 2, 32)
    bounded = config.encoding.model_copy(update={"where": {"words": (1, None)}})
    _, asked = run_counted(
        config.model_copy(update={"encoding": bounded}), tiny_dataset, grown, log
    )
    assert asked == []
    shorter = config.encoding.model_copy(update={"max_tokens": 8})
    _, asked = run_counted(
        config.model_copy(update={"encoding": shorter}), tiny_dataset, MOODS, log
    )
    assert asked == sorted(ANSWERS), "other vectors are of no use"


@pytest.mark.usefixtures("ray_cluster")
def test_an_encoding_that_broke_off_goes_on_where_it_was(
    config: ExperimentConfig,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encode, "_BLOCK_TEXTS", 1)
    compute = config.compute.model_copy(update={"encoders": 1})
    config = config.model_copy(update={"compute": compute})
    names = [f"mood-{n}" for n in range(8)]
    rows = [row("item", n, "facts", 0, text) for n, text in enumerate(names, start=1)]
    log = tmp_path / "asked"
    with pytest.raises(EncodingError, match="out of memory"):
        run_counted(config, tiny_dataset, rows, log, fatal=names[-1])
    stored = len(list(Path(config.compute.workspace).glob("encode/.vectors/*/part-*.parquet")))
    assert stored > 0
    artifact, asked = run_counted(config, tiny_dataset, rows, log)
    assert len(asked) == len(names) - stored
    assert names[-1] in asked
    assert artifact.facts["texts_found"] == stored
    assert not list(artifact.path.glob(".texts-*"))


@pytest.mark.usefixtures("ray_cluster")
def test_embedded_texts_keep_their_order_and_are_stored(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_BLOCK_TEXTS", 2)
    log = tmp_path / "asked"
    make = counting(log, None)
    monkeypatch.setattr(encode, "SentenceTransformerEncoder", lambda model, encoding: make())
    Path(config.compute.workspace).mkdir()
    encode.embed_texts(config, pa.array(["tender"]))
    texts = ["eerie", "tender", "gloomy", "eerie", "slow"]
    vector_ND = encode.embed_texts(config, pa.array(texts))
    assert vector_ND.dtype == np.float32
    np.testing.assert_array_equal(vector_ND, HashEncoder().encode(texts))
    assert sorted(log.read_text().split()) == sorted(set(texts))


@pytest.mark.bad_input
@pytest.mark.usefixtures("ray_cluster")
def test_more_components_than_dimensions_are_refused(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    knowledge = write_knowledge(tmp_path / "workspace", MOODS)
    with pytest.raises(EncodingError, match=r"encoding\.components is 33, .* has 32 dimensions"):
        run(with_components(config, 33), tiny_dataset, knowledge)


@pytest.mark.bad_input
def test_bounds_that_leave_nothing_are_said(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    rows = [row("item", 1, "facts", 0, "gloomy", factor="mood")]
    knowledge = write_knowledge(tmp_path / "workspace", rows)
    bounded = config.encoding.model_copy(update={"where": {"words": (3, None)}})
    with pytest.raises(EncodingError, match="leaves none of the 1 texts"):
        run(config.model_copy(update={"encoding": bounded}), tiny_dataset, knowledge)


@pytest.mark.bad_input
def test_nothing_usable_is_said(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    rows = [row("item", 1, "facts", 0, "cut", status="truncated")]
    with pytest.raises(EncodingError, match="1 truncated"):
        run(config, tiny_dataset, write_knowledge(tmp_path / "workspace", rows))


@pytest.mark.bad_input
def test_an_encoder_that_is_not_there_is_named(
    config: ExperimentConfig, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    knowledge = write_knowledge(tmp_path / "workspace", [row("item", 1, "facts", 0, "gloomy")])
    (tmp_path / "empty").mkdir()
    for model, said in (("./absent", "no folder ./absent"), (str(tmp_path / "empty"), "no config")):
        missing = config.model_copy(
            update={"encoding": config.encoding.model_copy(update={"model": model})}
        )
        with pytest.raises(EncodingError, match=said):
            encode.run(missing, tiny_dataset, knowledge, Console(quiet=True))

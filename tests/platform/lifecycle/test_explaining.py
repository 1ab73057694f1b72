"""What a bundle can tell a person: the texts, ESFNet's weights, and the model without knowledge."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorecast.config import KSERConfig, ModelConfig
from lorecast.data.batches import load_samples
from lorecast.data.dataset import Dataset
from lorecast.lifecycle.bundle import BundleVectors, write_bundle
from lorecast.lifecycle.click_scorer import ClickScorer
from lorecast.lifecycle.texts import FILE, read_texts
from lorecast.models.click_model import ClickModel
from lorecast.models.feature_tables import feature_tables
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import SIDES
from tests.small_bundle import (
    CHUNKS,
    make_model,
    write_knowledge,
    write_small_bundle,
    write_trained,
    write_vectors,
)


@pytest.fixture
def workspace(tiny_dataset: Dataset) -> Path:
    return tiny_dataset.path.parents[1]


def _batch(dataset: Dataset) -> Batch:
    return Batch.of(load_samples(dataset, "test"))


def _bundle(workspace: Path, dataset: Dataset, config: ModelConfig, *, prestore: bool) -> Path:
    vectors = write_vectors(workspace, dataset)
    model = make_model(dataset, vectors, config=config)
    folder = workspace / f"bundle-{prestore}"
    trained = write_trained(workspace, model, dataset, vectors, config)
    write_bundle(folder, trained, dataset, vectors, prestore=prestore)
    return folder


class TestTexts:
    def test_are_those_that_became_vectors(self, workspace: Path, tiny_dataset: Dataset) -> None:
        folder = write_small_bundle(workspace, tiny_dataset, texts=True)
        mask = write_vectors(workspace, tiny_dataset).mask("item")
        for row in (2, 5, 10, 40):
            texts = read_texts(folder, "item", row)
            assert texts is not None
            assert [text.place for text in texts] == np.flatnonzero(mask[row]).tolist()
            for text in texts:
                factor = CHUNKS["item"][text.place].factor
                assert text.text == f"{factor} of item i{row}, <b>bold</b>"

    def test_sides_are_told_apart(self, workspace: Path, tiny_dataset: Dataset) -> None:
        folder = write_small_bundle(workspace, tiny_dataset, texts=True)
        assert [text.text for text in read_texts(folder, "user", 3) or ()] == [
            "mood of user u3, <b>bold</b>"
        ]
        assert read_texts(folder, "user", 1) == []  # refused
        assert read_texts(folder, "user", 0) == []

    def test_a_bundle_may_have_none(self, workspace: Path, tiny_dataset: Dataset) -> None:
        folder = write_small_bundle(workspace, tiny_dataset)
        assert read_texts(folder, "item", 2) is None

    def test_change_no_score(self, workspace: Path, tiny_dataset: Dataset) -> None:
        folder = write_small_bundle(workspace, tiny_dataset)
        expected = ClickScorer.open(folder).score(["u1"] * 40, [f"i{n}" for n in range(1, 41)])
        folder = write_small_bundle(workspace, tiny_dataset, texts=True)
        scores = ClickScorer.open(folder).score(["u1"] * 40, [f"i{n}" for n in range(1, 41)])
        np.testing.assert_array_equal(scores, expected)

    def test_of_fields_that_the_model_does_not_read_stay_out(
        self, workspace: Path, tiny_dataset: Dataset
    ) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from lorecast.lifecycle.texts import write_texts

        knowledge = write_knowledge(workspace, tiny_dataset)
        table = pq.read_table(knowledge / "knowledge.parquet")
        other = table.set_column(3, "field", pa.array(["elsewhere"] * len(table)))
        pq.write_table(pa.concat_tables([other, table]), knowledge / "knowledge.parquet")
        write_texts(workspace, knowledge, write_vectors(workspace, tiny_dataset))
        found = pq.read_table(workspace / FILE)
        assert 0 < found.num_rows < table.num_rows
        lines = [tuple(line.values()) for line in found.drop(["share", "text"]).to_pylist()]
        assert len(set(lines)) == len(lines)


class TestGates:
    @pytest.mark.parametrize("prestore", [False, True])
    @pytest.mark.parametrize("chunks", ["texts", "both"])
    def test_are_the_models(
        self, workspace: Path, tiny_dataset: Dataset, prestore: bool, chunks: str
    ) -> None:
        config = ModelConfig(kser=KSERConfig.model_validate({"chunks": chunks, "slice": 8}))
        scorer = ClickScorer.open(_bundle(workspace, tiny_dataset, config, prestore=prestore))
        with torch.no_grad():
            for parameter in scorer._model.parameters():
                parameter.normal_(std=0.15)
        gate_C = scorer.gates("u4", "i6")
        other_C = scorer.gates("u4", "i7")
        assert gate_C is not None
        assert other_C is not None
        assert gate_C.shape == (3,)
        assert np.ptp(gate_C) > 1e-3
        assert ((gate_C > 0) & (gate_C < 2)).all()
        assert not np.allclose(gate_C, other_C)

    def test_no_text_has_no_weight(self, workspace: Path, tiny_dataset: Dataset) -> None:
        scorer = ClickScorer.open(write_small_bundle(workspace, tiny_dataset))
        gate_C = scorer.gates("u4", "i5")  # every fifth lacks its first text
        assert gate_C is not None
        assert np.isnan(gate_C).tolist() == [True, False, False]

    @pytest.mark.parametrize(
        "changes", [{"extractor": "hein"}, {"kser": KSERConfig(chunks="slices", slice=8)}]
    )
    def test_models_without_any_say_so(
        self, workspace: Path, tiny_dataset: Dataset, changes: dict[str, object]
    ) -> None:
        config = ModelConfig().model_copy(update=changes)
        scorer = ClickScorer.open(_bundle(workspace, tiny_dataset, config, prestore=True))
        assert scorer.gates("u4", "i5") is None

    def test_without_knowledge_neither(self, workspace: Path, tiny_dataset: Dataset) -> None:
        scorer = ClickScorer.open(write_small_bundle(workspace, tiny_dataset, knowledge=False))
        assert scorer.gates("u4", "i5") is None


class TestWithoutKnowledge:
    @pytest.mark.invariant
    @pytest.mark.parametrize("injection", ["residual", "widen", "logit"])
    def test_an_extractor_leaves_its_backbone_bit_for_bit(
        self, workspace: Path, tiny_dataset: Dataset, injection: str
    ) -> None:
        config = ModelConfig.model_validate({"injection": injection})
        vectors = write_vectors(workspace, tiny_dataset)
        bare = make_model(tiny_dataset, None, config=config)
        shape = make_model(tiny_dataset, vectors).knowledge
        model = ClickModel(config, tiny_dataset.schema, shape, injected=True).eval()
        model.attach(*feature_tables(tiny_dataset), vectors)
        model.load_backbone(bare.state_dict())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.startswith(("extractor", "join")):
                    parameter.normal_(std=0.5)
            batch = _batch(tiny_dataset)
            expected_B = bare(batch)
            assert not torch.allclose(model(batch), expected_B)
            torch.testing.assert_close(
                model(batch, without="extractor"), expected_B, atol=0, rtol=0
            )

    @pytest.mark.parametrize("prestore", [False, True])
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"extractor": "hein"},
            {"item_field": True},
            {"extractor": "hein", "item_field": True},
        ],
        ids=str,
    )
    def test_a_pooled_model_is_told_nothing(
        self, workspace: Path, tiny_dataset: Dataset, changes: dict[str, object], prestore: bool
    ) -> None:
        config = ModelConfig.model_validate(changes)
        scorer = ClickScorer.open(_bundle(workspace, tiny_dataset, config, prestore=prestore))
        assert scorer.bare_form == "texts"
        vectors = write_vectors(workspace, tiny_dataset)
        silent = make_model(tiny_dataset, vectors, config=config)
        masks = {side: np.zeros_like(vectors.mask(side)) for side in SIDES}
        empty = BundleVectors({side: vectors.vectors(side) * 0 for side in SIDES}, masks, {})
        silent.attach(*feature_tables(tiny_dataset), empty)
        expected = ClickScorer(scorer.bundle, silent)
        users, items = ["u4"] * 41, [f"i{n}" for n in range(1, 42)]
        bare = scorer.without_knowledge().score(users, items)
        np.testing.assert_allclose(bare, expected.score(users, items), rtol=0, atol=1e-5)
        assert np.abs(bare - scorer.score(users, items)).max() > 1e-4

    def test_the_scorer_itself_stays_as_it_was(
        self, workspace: Path, tiny_dataset: Dataset
    ) -> None:
        scorer = ClickScorer.open(write_small_bundle(workspace, tiny_dataset))
        before = scorer.score(["u4"], ["i2"])
        scorer.without_knowledge().score(["u4"], ["i2"])
        np.testing.assert_array_equal(scorer.score(["u4"], ["i2"]), before)

    def test_a_bare_model_is_its_own(self, workspace: Path, tiny_dataset: Dataset) -> None:
        scorer = ClickScorer.open(write_small_bundle(workspace, tiny_dataset, knowledge=False))
        np.testing.assert_array_equal(
            scorer.without_knowledge().score(["u4"], ["i2"]), scorer.score(["u4"], ["i2"])
        )

    def test_an_extractor_alone_leaves_out_the_extractor(
        self, workspace: Path, tiny_dataset: Dataset
    ) -> None:
        scorer = ClickScorer.open(write_small_bundle(workspace, tiny_dataset))
        scorer.bundle = replace(scorer.bundle, strategy="extractor_only")
        assert scorer.bare_form == "extractor"

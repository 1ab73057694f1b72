import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lorecast.config import Gate, KSERConfig, ModelConfig
from lorecast.errors import ConfigError
from lorecast.models.extractors.chunks import SideProjections
from lorecast.models.extractors.esfnet import gate_of
from lorecast.models.extractors.kser import KSER
from lorecast.models.inputs import Batch, FieldCounts, Fields
from lorecast.models.knowledge import Chunk, KnowledgeShape, SideKnowledge, gather
from tests import planted

COUNTS = FieldCounts(target=2, history=3, extra=1, dim=8)
CONFIG = ModelConfig(
    embedding_dim=8, kser=KSERConfig(dim=12, heads=3, gate_hidden=16, feed_forward=2)
)


def _fields(batch: int = 4) -> Fields:
    return Fields(
        torch.randn(batch, 2, 8),
        planted.history(torch.randn(batch, 5, 3, 8), torch.rand(batch, 5) < 0.8),
        torch.randn(batch, 1, 8),
    )


def _knowledge(batch: int = 4) -> dict[str, SideKnowledge]:
    return {
        side: SideKnowledge(
            torch.randn(3, chunks, planted.DIM),
            torch.ones(3, chunks, dtype=torch.bool),
            torch.randint(3, (batch,)),
        )
        for side, chunks in (("item", 3), ("user", 1))
    }


def _kser(shape: KnowledgeShape = planted.SHAPE) -> KSER:
    torch.manual_seed(0)
    return KSER(CONFIG, shape, COUNTS).eval()


@pytest.mark.invariant
def test_gates_start_at_one() -> None:
    _, gates = _kser()(_fields(), _knowledge())
    assert gates.shape == (4, 4)
    assert (gates == 1).all()


def test_surer_texts_weigh_more_from_the_start() -> None:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"kser": CONFIG.kser.model_copy(update={"certainty": True})})
    kser = KSER(config, planted.SHAPE, COUNTS).eval()
    knowledge = {
        side: known._replace(certainty_UC=torch.randn(known.mask_UC.shape))
        for side, known in _knowledge().items()
    }
    gates, _ = kser.gates(_fields(), knowledge)
    certainty = torch.cat([k.certainty_UC[k.entity_B] for k in knowledge.values()], dim=1)
    torch.testing.assert_close(gates, 2 * torch.sigmoid(certainty / 4))

    own, unsure = (
        _kser(),
        {side: known._replace(certainty_UC=None) for side, known in knowledge.items()},
    )
    fields = _fields()
    torch.testing.assert_close(own(fields, knowledge)[0], own(fields, unsure)[0], atol=0, rtol=0)


def test_gates_stay_between_zero_and_two_and_send_no_gradient_to_the_context() -> None:
    kser, fields = _kser(), _fields()
    kser.filter.by_all.weight.data.normal_()
    fields.target_BNE.requires_grad_()
    _, gates = kser(fields, _knowledge())
    assert ((gates > 0) & (gates < 2)).all()
    assert gates.std() > 0
    gates.sum().backward()
    assert fields.target_BNE.grad is None


def test_a_missing_text_is_as_if_it_were_not_there() -> None:
    kser, fields, knowledge = _kser(), _fields(), _knowledge()
    knowledge["item"].mask_UC[:, 1] = False
    expected, gates = kser(fields, knowledge)
    knowledge["item"].vector_UCD[:, 1] = 1e3
    found, _ = kser(fields, knowledge)
    torch.testing.assert_close(found, expected)
    assert (gates[:, 1] == 0).all()


def test_entities_without_any_text_work_in_training_too() -> None:
    kser, knowledge = _kser().train(), _knowledge()
    for side in knowledge.values():
        side.mask_UC[...] = False
    extra, gates = kser(_fields(), knowledge)
    extra.sum().backward()
    assert extra.isfinite().all()
    assert not gates.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in kser.parameters())


def test_muted_chunks_say_as_little_as_missing_ones() -> None:
    layer, asking = _kser().align[0], ([torch.randn(4, 16)], [torch.randn(4, 32)])
    there, key_value = torch.ones(4, 3), torch.randn(4, 3, 24)
    muted = layer(asking, key_value, torch.zeros(4, 3), there)
    silent = layer(asking, torch.zeros(4, 3, 24), there, there)
    torch.testing.assert_close(muted, silent)
    missing = layer(asking, key_value, torch.zeros(4, 3), torch.zeros(4, 3))
    assert not torch.allclose(missing, layer(asking, key_value, there, there))


def test_attention_is_its_equation() -> None:
    layer = _kser().align[0]
    target, history, extra = torch.randn(4, 16), torch.randn(1, 20), torch.randn(4, 12)
    behaviour = torch.cat([history.expand(4, -1), extra], dim=1)
    key_value = torch.randn(4, 5, 24)
    gate, there = torch.rand(4, 5) * 2, (torch.rand(4, 5) < 0.7).float()
    gate = gate * there
    layer.no_op_key_d.data.normal_()
    keys, values = key_value.chunk(2, dim=2)
    for place, (ask, group) in enumerate(zip(layer.ask, (target, behaviour), strict=True)):
        query, residual = ask(group).chunk(2, dim=1)
        heads = []
        for head in range(3):
            own = slice(4 * head, 4 * head + 4)
            k = torch.cat([keys * gate[:, :, None], layer.no_op_key_d.expand(4, 1, 12)], dim=1)
            score = torch.einsum("be,bce->bc", query[:, own], k[:, :, own]) / 2
            score = score.masked_fill(F.pad(there, (0, 1), value=1.0) == 0, -torch.inf)
            share = score.softmax(1)[:, :5]
            heads.append(torch.einsum("bc,bce->be", share, (values * gate[:, :, None])[:, :, own]))
        aligned = layer.norm(residual + layer.output(torch.cat(heads, dim=1)))
        expected = layer.feed_forward_norm(aligned + layer.feed_forward(aligned))
        asking = [target], [history, extra]  # one mean history stands for all
        found = layer(asking, key_value, gate, there)[:, place]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate", ["double_sigmoid", "sigmoid", "softmax", "sparsemax", "top_k"])
def test_equal_chunks_pass_alike_and_a_missing_one_never(gate: Gate) -> None:
    there = torch.tensor([[1.0, 1, 0, 1, 1], [0, 0, 0, 0, 1]])
    gates = gate_of(gate, torch.zeros(2, 5), there, [[0, 1, 2], [3, 4]], top_k=3)
    torch.testing.assert_close(gates, there / 2 if gate == "sigmoid" else there)


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        ("softmax", [[2.1932, 0.8068, 0.0]]),
        ("sparsemax", [[3.0, 0.0, 0.0]]),
        ("top_k", [[1.7616, 0.0, 0.0]]),
    ],
)
def test_gates_choose_within_a_field(gate: Gate, expected: list[list[float]]) -> None:
    logit = torch.tensor([[2.0, 1.0, -30.0]])
    found = gate_of(gate, logit, torch.ones(1, 3), [[0, 1, 2]], top_k=1)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


def test_without_context_a_gate_depends_on_texts_alone() -> None:
    config = CONFIG.model_copy(update={"kser": KSERConfig(dim=12, heads=3, context=False)})
    kser, knowledge = KSER(config, planted.SHAPE, COUNTS).eval(), _knowledge()
    kser.filter.by_all.weight.data.normal_()
    _, gates = kser(_fields(), knowledge)
    _, others = kser(_fields(), knowledge)
    assert gates.std() > 0
    torch.testing.assert_close(gates, others)


def test_start_values_centre_chunks_and_whiten_what_texts_differ_in(
    rng: np.random.Generator,
) -> None:
    _, vectors = planted.world(rng, 1)
    for array in vectors.arrays.values():
        array += 5  # what all texts share
        array[0] = 0
    vectors.masks["item"][::2, 1] = False
    kser = _kser()
    kser.start_from(vectors)
    work = {}
    for side, project in kser.project.items():
        there = vectors.masks[side]
        stored = torch.from_numpy(vectors.arrays[side][1:].astype(np.float32))
        work[side] = project.map(stored, project.mean_CD)[torch.from_numpy(there[1:])]
        torch.testing.assert_close(work[side].mean(0), torch.zeros(12), atol=0.1, rtol=0)
    together = torch.cat(list(work.values()))
    torch.testing.assert_close(together.T.cov(), torch.eye(12), atol=0.1, rtol=0)


def test_start_values_take_only_directions_in_which_texts_differ(
    rng: np.random.Generator,
) -> None:
    _, vectors = planted.world(rng, 1)
    for array in vectors.arrays.values():
        array[:, :, 3:] = 1
    kser = _kser()
    before = kser.project["item"].map.weight_FIO.clone()
    kser.start_from(vectors)
    after = kser.project["item"].map.weight_FIO
    assert (after != before).any(1).all(0).tolist() == [True] * 3 + [False] * 9


def _cut(chunks: str, width: int = 8) -> SideProjections:
    torch.manual_seed(0)
    config = KSERConfig.model_validate({"dim": 12, "chunks": chunks, "slice": width})
    return SideProjections(planted.SHAPE, config)


def test_slices_are_named_by_their_text_and_place() -> None:
    mean = [("item", ("texts", f"mean {place}")) for place in ("[1–8]", "[9–16]")]
    assert [*_cut("slices").shape.all_chunks] == [*mean, *(("user", name) for _, name in mean)]
    both = _cut("both")
    assert both.shape.all_chunks[:3] == (
        ("item", ("facts", "kind [1–8]")),
        ("item", ("facts", "kind [9–16]")),
        ("item", ("facts", "noise [1–8]")),
    )
    assert both.fields_of_sides == [[0, 0, 0, 0, 1, 1], [0, 0]]


def test_a_slice_that_does_not_fill_a_vector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.kser\.slice is 5, .* 16 wide"):
        _cut("both", 5)


def test_a_slice_is_mapped_by_its_field_and_place() -> None:
    project, known = _cut("both"), _knowledge()["item"]
    own = project["item"]
    own.mean_CD.normal_()
    centred = known.vector_UCD - own.mean_CD
    expected = torch.stack(
        [
            own.norm(centred[:, text, 8 * place : 8 * place + 8] @ own.map.weight_FIO[number])
            for text, field in enumerate([0, 0, 1])
            for place, number in ((0, 2 * field), (1, 2 * field + 1))
        ],
        dim=1,
    )
    torch.testing.assert_close(project("item", known).chunk_UCd, expected + own.type_Cd)


def test_without_texts_apart_the_mean_of_those_that_are_there_is_sliced() -> None:
    project, known = _cut("slices"), _knowledge()["item"]
    known.mask_UC[0, 1:] = False
    known.mask_UC[1] = False
    own = project["item"]
    own.mean_CD.normal_()
    centred = known.vector_UCD - own.mean_CD
    mean = torch.stack([centred[0, 0], torch.zeros(planted.DIM), centred[2].mean(0)])
    first, second = (
        own.norm(part @ weight)
        for part, weight in zip(mean.split(8, dim=1), own.map.weight_FIO, strict=True)
    )
    found = project("item", known)
    torch.testing.assert_close(found.chunk_UCd, torch.stack([first, second], 1) + own.type_Cd)
    assert found.mask_UC.tolist() == [[True] * 2, [False] * 2, [True] * 2]


@pytest.mark.parametrize("chunks", ["slices", "both"])
def test_start_values_whiten_slices_at_each_place(chunks: str, rng: np.random.Generator) -> None:
    _, vectors = planted.world(rng, 1)
    for array in vectors.arrays.values():
        array[..., 8:] *= np.float16(0.1)
        array += 5
        array[0] = 0
    project = _cut(chunks)
    project.start_from(vectors)
    work = []
    for side in planted.SHAPE.sides:
        own = project[side]
        vector = torch.from_numpy(vectors.arrays[side][1:].astype(np.float32))
        chunk, _ = own.cut(vector - own.mean_CD, torch.ones(vector.shape[:2]).bool())
        work.append(own.map(chunk)[:, :, :8])
    for place in range(2):
        together = torch.cat([part[:, place::2].flatten(0, 1) for part in work])
        torch.testing.assert_close(together.T.cov(), torch.eye(8), atol=0.05, rtol=0)


def test_one_side_alone_works() -> None:
    shape = KnowledgeShape(dim=planted.DIM, item_chunks=(Chunk("facts", "a"), Chunk("b", "c")))
    knowledge = {
        "item": SideKnowledge(
            torch.randn(3, 2, planted.DIM), torch.ones(3, 2).bool(), torch.tensor([0, 2, 2, 1])
        )
    }
    extra, gates = _kser(shape)(_fields(), knowledge)
    assert extra.shape == (4, 2, 8)
    assert gates.shape == (4, 2)


def test_two_layers_align_deeper() -> None:
    config = CONFIG.model_copy(update={"kser": KSERConfig(dim=12, heads=3, layers=2)})
    extra, _ = KSER(config, planted.SHAPE, COUNTS)(_fields(), _knowledge())
    assert extra.shape == (4, 2, 8)


def test_gather_reads_every_distinct_entity_once(rng: np.random.Generator) -> None:
    samples, vectors = planted.world(rng, 50)
    batch = Batch.of(samples)
    known = gather(vectors, planted.SHAPE, batch)["item"]
    assert len(known.vector_UCD) == len(np.unique(samples.item_row_B))
    expected = vectors.arrays["item"][samples.item_row_B].astype(np.float32)
    np.testing.assert_array_equal(known.vector_UCD[known.entity_B].numpy(), expected)

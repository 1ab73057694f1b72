"""What a chunk of knowledge is, layers over chunks, and their start values.

The paper's words allow three readings of *chunk* (`model.kser.chunks`): a text of an entity; a
slice of the mean of its texts; a slice of a text. Vectors are stored by text and cut here.

Shapes: B any number of entities or samples, U distinct entities, T texts of an entity, S texts,
C chunks, F fields of knowledge, I/O widths, D encoder width, d work width.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lorecast.config import KSERConfig, Side
from lorecast.errors import ConfigError
from lorecast.models.knowledge import Chunk, ChunkVectors, KnowledgeShape, SideKnowledge, sample
from lorecast.models.layers import linear

_SAMPLED_ROWS = 4096
"""Entities a side from which start values are computed."""
_SMALLEST_VARIANCE_SHARE = 1e-4
_MEAN = Chunk("texts", "mean")
"""Names the mean of an entity's texts, whose slices share one field."""


def chunk_shape(texts: KnowledgeShape, config: KSERConfig) -> KnowledgeShape:
    """The chunks of an entity whose texts are `texts`, a text's slices in a row.

    Raises ConfigError if slices do not fill a vector.
    """
    if config.chunks == "texts":
        return texts
    if texts.dim % config.slice:
        raise ConfigError(
            f"model.kser.slice is {config.slice}, and the encoder's vectors are {texts.dim} wide: "
            "choose a slice that divides this width"
        )
    firsts = range(1, texts.dim, config.slice)
    item, user = (
        tuple(
            Chunk(field, f"{factor} [{first}–{first + config.slice - 1}]")
            for field, factor in ([_MEAN] if own and config.chunks == "slices" else own)
            for first in firsts
        )
        for own in (texts.item_chunks, texts.user_chunks)
    )
    return KnowledgeShape(dim=config.slice, item_chunks=item, user_chunks=user)


def centred_sample(vectors: ChunkVectors, side: Side) -> tuple[Tensor, Tensor, Tensor]:
    """(mean_CD, centred_UCD, mask_UC) of a sample of entities: what each chunk's texts have in
    common, and what they have beyond it."""
    vector_UCD, mask_UC = sample(vectors, side, _SAMPLED_ROWS)
    vector_UCD = vector_UCD.float()
    mean_CD = masked_mean(vector_UCD.transpose(0, 1), mask_UC.T)
    return mean_CD, vector_UCD - mean_CD, mask_UC


def masked_mean(chunk_BCI: Tensor, mask_BC: Tensor) -> Tensor:
    """mean_BI of the chunks that are there; 0 where there is none."""
    present_BC = mask_BC.to(chunk_BCI.dtype)
    total_BI = (chunk_BCI * present_BC[:, :, None]).sum(1)
    mean_BI: Tensor = total_BI / present_BC.sum(1, keepdim=True).clamp(min=1)
    return mean_BI


def places(field_C: Sequence[int]) -> list[list[int] | slice]:
    """Where the chunks of each field stand; a slice, which needs no copy, if they adjoin."""
    found: list[list[int] | slice] = []
    for field in range(max(field_C) + 1):
        chunks = [place for place, own in enumerate(field_C) if own == field]
        adjoin = chunks[-1] - chunks[0] + 1 == len(chunks)
        found.append(slice(chunks[0], chunks[-1] + 1) if adjoin else chunks)
    return found


class FieldLinear(nn.Module):
    """A Linear of its own for the chunks of each field, or other group."""

    place_C: Tensor

    def __init__(self, inputs: int, outputs: int, field_C: Sequence[int]) -> None:
        super().__init__()
        self._chunks_of_field = places(field_C)
        maps = [linear(inputs, outputs) for _ in self._chunks_of_field]
        self.weight_FIO = nn.Parameter(torch.stack([m.weight.detach().T for m in maps]))
        self.bias_FO = nn.Parameter(torch.zeros(len(maps), outputs))
        place_C = torch.arange(len(field_C))
        order = torch.cat([place_C[chunks] for chunks in self._chunks_of_field])
        self._in_order = bool((order == place_C).all())
        self.register_buffer("place_C", order.argsort(), persistent=False)

    def forward(self, chunk_UCI: Tensor, minus_CI: Tensor | None = None) -> Tensor:
        """chunk_UCO, the map of `chunk_UCI − minus_CI`."""
        parts = []
        for chunks, weight_IO, bias_O in zip(
            self._chunks_of_field, self.weight_FIO, self.bias_FO, strict=True
        ):
            bias_GO = bias_O if minus_CI is None else bias_O - minus_CI[chunks] @ weight_IO
            parts.append(chunk_UCI[:, chunks] @ weight_IO + bias_GO)
        chunk_UCO = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return chunk_UCO if self._in_order else chunk_UCO[:, self.place_C]


class Projected(NamedTuple):
    """One side's chunks in the work space, each distinct entity once."""

    chunk_UCd: Tensor
    mask_UC: Tensor
    certainty_UC: Tensor | None
    """How sure the writer was of each, about 0 over all entities; none: nobody knows."""


class ChunkProjection(nn.Module):
    """x = LayerNorm(P_f (k − m_c) + b_f) + t_c: stored vectors to the work space.

    m_c is what the chunk's texts have in common, and t_c tells a chunk from the others of its
    entity. Slices at different places of a vector are different coordinates: each has its own P.
    """

    mean_CD: Tensor
    """Of each text as it is stored."""

    def __init__(
        self, texts: tuple[int, int], field_C: Sequence[int], config: KSERConfig, num_slices: int
    ) -> None:
        super().__init__()
        self._is_mean = config.chunks == "slices"
        self._num_slices = num_slices
        self.register_buffer("mean_CD", torch.zeros(texts))
        map_C = [field * num_slices + c % num_slices for c, field in enumerate(field_C)]
        self.map = FieldLinear(texts[1] // num_slices, config.dim, map_C)
        self.norm = nn.LayerNorm(config.dim)
        self.type_Cd = nn.Parameter(torch.empty(len(field_C), config.dim))
        nn.init.normal_(self.type_Cd, std=0.02)

    def cut(self, vector_UTD: Tensor, mask_UT: Tensor) -> tuple[Tensor, Tensor]:
        """(chunk_UCI, mask_UC) of texts."""
        if self._is_mean:
            vector_UTD = masked_mean(vector_UTD, mask_UT)[:, None]
            mask_UT = mask_UT.any(1, keepdim=True)
        mask_UC = mask_UT.repeat_interleave(self._num_slices, dim=1)
        width = vector_UTD.shape[2] // self._num_slices
        return vector_UTD.reshape(*mask_UC.shape, width), mask_UC

    def forward(self, known: SideKnowledge) -> Projected:
        """The chunks of one side's entities."""
        if self._is_mean:
            chunk_UCI, mask_UC = self.cut(known.vector_UCD - self.mean_CD, known.mask_UC)
            mapped_UCd = self.map(chunk_UCI)
        else:
            chunk_UCI, mask_UC = self.cut(known.vector_UCD, known.mask_UC)
            mapped_UCd = self.map(chunk_UCI, self.mean_CD.view(-1, chunk_UCI.shape[2]))
        chunk_UCd = self.norm(mapped_UCd) + self.type_Cd
        return Projected(chunk_UCd, mask_UC, self._certainty(known))

    def _certainty(self, known: SideKnowledge) -> Tensor | None:
        """certainty_UC of chunks: a slice is as sure as what it is cut from."""
        if known.certainty_UC is None:
            return None
        certainty_UT = known.certainty_UC * known.mask_UC
        if self._is_mean:
            certainty_UT = masked_mean(certainty_UT[:, :, None], known.mask_UC)
        return certainty_UT.repeat_interleave(self._num_slices, dim=1)


class SideProjections(nn.ModuleDict):
    """A `ChunkProjection` for each side with knowledge, into one work space."""

    def __init__(self, shape: KnowledgeShape, config: KSERConfig) -> None:
        super().__init__()
        self._width = config.dim
        self.shape = chunk_shape(shape, config)
        """Which chunks each side has."""
        self._num_slices = shape.dim // self.shape.dim
        self.fields_of_sides: list[list[int]] = []
        """For each side, the field of each chunk."""
        for side in shape.sides:
            fields = list(dict.fromkeys(chunk.field for chunk in self.shape.chunks(side)))
            field_C = [fields.index(chunk.field) for chunk in self.shape.chunks(side)]
            self.fields_of_sides.append(field_C)
            texts = (len(shape.chunks(side)), shape.dim)
            self[side] = ChunkProjection(texts, field_C, config, self._num_slices)

    def start_from(self, vectors: ChunkVectors) -> None:
        """Start values that depend on the texts: chunks are centred, and every projection begins
        with the same whitened principal directions (of its place in a vector), so that equal
        meanings of both sides lie close.
        """
        centred = []
        for side, project in self._each():
            mean_CD, centred_UCD, mask_UC = centred_sample(vectors, side)
            project.mean_CD.copy_(mean_CD)
            centred.append(project.cut(centred_UCD, mask_UC))
        for place in range(self._num_slices):
            here = slice(place, None, self._num_slices)
            chunk_SI = torch.cat([chunk[:, here][mask[:, here]] for chunk, mask in centred])
            direction_IO = _whitened_directions(chunk_SI, self._width)
            with torch.no_grad():
                for _, project in self._each():
                    project.map.weight_FIO[here, :, : direction_IO.shape[1]] = direction_IO

    def forward(self, side: Side, known: SideKnowledge) -> Projected:
        """The chunks of one side."""
        projected: Projected = self[side](known)
        return projected

    def _each(self) -> list[tuple[Side, ChunkProjection]]:
        return [(cast(Side, side), cast(ChunkProjection, own)) for side, own in self.items()]


def _whitened_directions(vector_SD: Tensor, width: int) -> Tensor:
    """The leading principal directions of centred vectors, each scaled to variance 1: [D, O].

    O is `width`, or less where texts vary in fewer directions.
    """
    covariance_DD = (vector_SD.T @ vector_SD).double() / len(vector_SD)
    variance_D, direction_DD = torch.linalg.eigh(covariance_DD)
    kept_D = variance_D > _SMALLEST_VARIANCE_SHARE * variance_D[-1]
    kept_D[:-width] = False
    whitened_DO: Tensor = direction_DD[:, kept_D] / variance_D[kept_D].sqrt()
    return whitened_DO.flip(1).float()

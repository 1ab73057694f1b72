"""KSER: ESFNet weighs chunks of knowledge, attention aligns them with the recommender's features.

After Wang et al. 2025 (arXiv 2508.07223), which prints no equations; these are our reading. Pooled
form: two more fields for any backbone, one that the target's fields asked for, one that those of
the history and the user did. Residual form: every field of a frozen backbone is shifted by what its
group read.

Shapes: B batch, U distinct entities, C chunks of both sides in a row, I their width, d work width,
X extra fields, K = fields · E width of a group of fields, J width of a side's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from lorecast.config import ModelConfig, Side
from lorecast.models.extractors.alignment import Alignment
from lorecast.models.extractors.chunks import SideProjections, masked_mean
from lorecast.models.extractors.esfnet import ESFNet
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape, SideKnowledge
from lorecast.models.layers import linear, zero_linear
from lorecast.models.prestored import Known, sample_rows


class KSER(nn.Module):
    """Two extra fields from a batch's knowledge, and the gates that were set on its chunks.

    Two ablations: `kser.gate: none` leaves every chunk as it is, and `kser.align: false` replaces
    attention by a mean, one field a side. `residual`: instead of new fields, shifts of all.
    """

    def __init__(
        self,
        model: ModelConfig,
        shape: KnowledgeShape,
        counts: FieldCounts,
        *,
        residual: bool = False,
    ) -> None:
        super().__init__()
        config = model.kser
        self.num_fields = 2 if config.align else len(shape.sides)
        self._sides = shape.sides
        self.has_gates = config.gate != "none"
        self.project = SideProjections(shape, config)
        self.shape = self.project.shape
        """The chunks that gates weigh."""
        self._chunks_a_side = [len(fields) for fields in self.project.fields_of_sides]
        maps = [2 * config.dim] * config.layers if config.align else [config.dim]
        # Of each side: mask, maps, and what `SideLook` gives.
        self._row_shapes: list[list[tuple[int, ...]]] = []
        for C in self._chunks_a_side:
            shapes: list[tuple[int, ...]] = [(C,), *((C, width) for width in maps)]
            if self.has_gates:
                shapes += [(C, config.dim), (config.gate_hidden,)]
            if self.has_gates and config.certainty:
                shapes.append((C,))
            self._row_shapes.append(shapes)
        self._history_width = counts.history * counts.dim
        # What asks: the target's fields, and those of the history and the user.
        widths = [n * counts.dim for n in (counts.target, counts.history + counts.extra)]
        self.filter = (
            ESFNet(config, self.project.fields_of_sides, sum(widths)) if self.has_gates else None
        )
        layers = [widths, *[[config.dim] * 2] * (config.layers - 1)] if config.align else []
        self.align = nn.ModuleList(Alignment(inputs, config) for inputs in layers)
        self.output = None if residual else linear(config.dim, counts.dim)
        self.moves = nn.ModuleList(
            zero_linear(config.dim, width) for width in (widths if residual else ())
        )

    def start_from(self, vectors: ChunkVectors) -> None:
        """See `SideProjections.start_from`."""
        self.project.start_from(vectors)

    def forward(
        self, fields: Fields, knowledge: Mapping[Side, Known]
    ) -> tuple[Tensor, Tensor | None]:
        """(extra_BXE, gate_BC). A gate is 0 where there is no text."""
        asking = self._ask(fields)
        chunks = self._weighed(asking, knowledge)
        read_BXd = self._aligned(asking, chunks) if self.align else self._side_means(chunks)
        assert self.output, "the residual form adds no fields"
        return self.output(read_BXd), chunks.gate_BC if self.has_gates else None

    def shift(self, fields: Fields, knowledge: Mapping[Side, Known]) -> Fields:
        """The fields, each moved by what its group read: the residual form.

        Every real step of the history takes the shift of its averaged field.
        """
        asking = self._ask(fields)
        read_B2d = self._aligned(asking, self._weighed(asking, knowledge))
        target_BK, behaviour_BK = (
            move(read_Bd) for move, read_Bd in zip(self.moves, read_B2d.unbind(1), strict=True)
        )
        history_BJ = behaviour_BK[:, : self._history_width]
        extra_BI = behaviour_BK[:, self._history_width :]
        return replace(
            fields,
            target_BNE=fields.target_BNE + target_BK.view_as(fields.target_BNE),
            history=fields.history.shifted(history_BJ),
            extra_BXE=fields.extra_BXE + extra_BI.reshape(fields.extra_BXE.shape),
        )

    def gates(self, fields: Fields, knowledge: Mapping[Side, Known]) -> tuple[Tensor, Tensor]:
        """(gate_BC, mask_BC), in either form."""
        chunks = self._weighed(self._ask(fields), knowledge)
        return chunks.gate_BC, chunks.mask_BC

    def _ask(self, fields: Fields) -> "_Asking":
        """The target's fields, and behind one another those of the mean history and the user."""
        target_BK, extra_BK = fields.target_BNE.flatten(1), fields.extra_BXE.flatten(1)
        history_BJ = fields.history.mean()
        if history_BJ.shape[0] < target_BK.shape[0]:  # of one user's candidates it is the same one
            return [target_BK], [history_BJ, extra_BK]
        return [target_BK], [torch.cat([history_BJ, extra_BK], dim=1)]

    def entity_rows(self, side: Side, known: SideKnowledge) -> Tensor:
        """row_UJ: mask, keys and values (or chunks) and looks of a side's entities, in a row."""
        projected = self.project(side, known)
        chunk_UCd = projected.chunk_UCd
        maps = [cast(Alignment, each).key_value(chunk_UCd) for each in self.align] or [chunk_UCd]
        look = self.filter.looks[self._sides.index(side)](projected) if self.filter else ()
        present_UC = projected.mask_UC.to(chunk_UCd.dtype)
        return torch.cat([part.flatten(1) for part in (present_UC, *maps, *look)], dim=1)

    def _weighed(self, asking: "_Asking", knowledge: Mapping[Side, Known]) -> "_Chunks":
        """Each sample's chunks and their gates."""
        found = []
        for side, shapes in zip(self._sides, self._row_shapes, strict=True):
            row_BJ = sample_rows(self.entity_rows, side, knowledge[side])
            parts = torch.split(row_BJ, [prod(shape) for shape in shapes], dim=1)
            found.append([p.reshape(-1, *shape) for p, shape in zip(parts, shapes, strict=True)])
        masks, *columns = zip(*found, strict=True)
        mask_BC = _joined(masks)
        num_maps = len(self.align) or 1
        maps_BCI = tuple(map(_joined, columns[:num_maps]))
        gate_BC = mask_BC
        if self.filter is not None:
            own, excite, *prior = columns[num_maps:]
            excite_BH = torch.stack(excite).sum(0)
            context = [part.detach() for parts in asking for part in parts]
            of_looks = (_joined(own), excite_BH, mask_BC, context)
            gate_BC = self.filter(*of_looks, *map(_joined, prior))
        return _Chunks(maps_BCI, mask_BC, gate_BC)

    def _aligned(self, asking: "_Asking", chunks: "_Chunks") -> Tensor:
        """aligned_B2d: what each group makes of what it read."""
        groups: Sequence[Sequence[Tensor]] = asking
        for layer, key_value_BCI in zip(self.align, chunks.maps_BCI, strict=True):
            aligned_B2d: Tensor = layer(groups, key_value_BCI, chunks.gate_BC, chunks.mask_BC)
            groups = [[aligned_Bd] for aligned_Bd in aligned_B2d.unbind(1)]
        return aligned_B2d

    def _side_means(self, chunks: "_Chunks") -> Tensor:
        """pooled_BXd: the mean of each side's weighed chunks."""
        gated = torch.split(chunks.maps_BCI[0] * chunks.gate_BC[:, :, None], self._chunks_a_side, 1)
        masks = torch.split(chunks.mask_BC, self._chunks_a_side, dim=1)
        return torch.stack(list(map(masked_mean, gated, masks)), dim=1)


_Asking = tuple[Sequence[Tensor], Sequence[Tensor]]
"""(target, behaviour): each in parts of together K columns, see `linear_of_parts`."""


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """The sides' parts in a row; `cat` would copy even a single one."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


class _Chunks(NamedTuple):
    """Chunks of a batch's samples."""

    maps_BCI: tuple[Tensor, ...]
    """Keys and values for each layer of attention; without attention, the chunks themselves."""
    mask_BC: Tensor
    """1 where there is a text, else 0."""
    gate_BC: Tensor

"""KSER: ESFNet weighs chunks of knowledge, attention aligns them with the recommender's features.

After Wang et al. 2025 (arXiv 2508.07223), which prints no equations; these are our reading. A chunk
is one text (one factor of one field). Pooled form: two more fields for any backbone, one from the
queries of the target's fields, one from those of the history and the user. Residual form: every
field of a frozen backbone is shifted by what its own query read.

Shapes: B batch, C chunks of both sides in a row, F fields of knowledge, d work width, X extra
fields, Q queries (the recommender's fields), E their width, h heads.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig, Side
from lorecast.models.extractors.chunks import FieldLinear, SideProjections, masked_mean
from lorecast.models.inputs import FieldCounts, Fields
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape, SideKnowledge
from lorecast.models.layers import linear, zero_linear
from lorecast.models.pooled import pooled_fields


class KSER(nn.Module):
    """Two extra fields from a batch's knowledge, and the gates that were set on its chunks.

    Two ablations: `kser.gate: false` leaves every chunk as it is, and `kser.align: false` replaces
    attention by a mean, one field a side.
    """

    def __init__(self, model: ModelConfig, shape: KnowledgeShape, counts: FieldCounts) -> None:
        super().__init__()
        config = model.kser
        chunks = shape.all_chunks
        fields = list(dict.fromkeys((side, chunk.field) for side, chunk in chunks))
        field_C = [fields.index((side, chunk.field)) for side, chunk in chunks]
        num_queries = counts.target + counts.history + counts.extra
        self.num_fields = 2 if config.align else len(shape.sides)
        self.has_gates = config.gate
        self._num_target = counts.target
        self._chunks_a_side = [len(shape.chunks(side)) for side in shape.sides]
        self.project = SideProjections(shape, config.dim)
        self.filter = (
            ESFNet(field_C, config.dim, num_queries * counts.dim, config.gate_hidden)
            if config.gate
            else None
        )
        widths = [counts.dim, *[config.dim] * (config.layers - 1)] if config.align else []
        self.align = nn.ModuleList(
            Alignment(width, config.dim, config.heads, config.dropout) for width in widths
        )
        self.output = linear(config.dim, counts.dim)

    def start_from(self, vectors: ChunkVectors) -> None:
        """See `SideProjections.start_from`."""
        self.project.start_from(vectors)

    def forward(
        self, fields: Fields, knowledge: Mapping[Side, SideKnowledge]
    ) -> tuple[Tensor, Tensor | None]:
        """(extra_BXE, gate_BC). A gate is 0 where there is no text."""
        query_BQE = pooled_fields(fields)
        chunk_BCd, mask_BC, gate_BC = self._weighed(query_BQE, knowledge)
        pool = self._pooled if self.align else self._side_means
        return self.output(pool(query_BQE, chunk_BCd, mask_BC)), gate_BC

    def start_at_zero(self) -> None:
        """Makes the shift of the residual form zero."""
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def shift(self, fields: Fields, knowledge: Mapping[Side, SideKnowledge]) -> Fields:
        """The fields, each moved by what its own query read: the residual form.

        Every real step of the history takes the shift of its averaged field.
        """
        query_BQE = pooled_fields(fields)
        chunk_BCd, mask_BC, _ = self._weighed(query_BQE, knowledge)
        shift_BQE = self.output(self._aligned(query_BQE, chunk_BCd, mask_BC))
        num_history = fields.history_BLME.shape[2]
        target_BNE, history_BME, extra_BXE = shift_BQE.tensor_split(
            [self._num_target, self._num_target + num_history], dim=1
        )
        real_BL11 = fields.mask_BL[:, :, None, None]
        return fields._replace(
            target_BNE=fields.target_BNE + target_BNE,
            history_BLME=fields.history_BLME + history_BME[:, None] * real_BL11,
            extra_BXE=fields.extra_BXE + extra_BXE,
        )

    def _weighed(
        self, query_BQE: Tensor, knowledge: Mapping[Side, SideKnowledge]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(chunk_BCd, mask_BC, gate_BC): the chunks, each times its gate."""
        chunk_BCd, mask_BC = self.project(knowledge)
        if self.filter is None:
            return chunk_BCd, mask_BC, None
        gate_BC = self.filter(chunk_BCd, mask_BC, query_BQE.detach().flatten(1))
        return chunk_BCd * gate_BC[:, :, None], mask_BC, gate_BC

    def _aligned(self, query_BQE: Tensor, chunk_BCd: Tensor, mask_BC: Tensor) -> Tensor:
        """aligned_BQd: what each query read."""
        aligned_BQd = query_BQE
        for layer in self.align:
            aligned_BQd = layer(aligned_BQd, chunk_BCd, mask_BC)
        return aligned_BQd

    def _pooled(self, query_BQE: Tensor, chunk_BCd: Tensor, mask_BC: Tensor) -> Tensor:
        """pooled_B2d: what the target's queries read, and what the others do."""
        aligned_BQd = self._aligned(query_BQE, chunk_BCd, mask_BC)
        target_BQd, behaviour_BQd = aligned_BQd.tensor_split([self._num_target], dim=1)
        return torch.stack([target_BQd.mean(1), behaviour_BQd.mean(1)], dim=1)

    def _side_means(self, _query_BQE: Tensor, chunk_BCd: Tensor, mask_BC: Tensor) -> Tensor:
        """pooled_BXd: the mean of each side's chunks."""
        chunks = torch.split(chunk_BCd, self._chunks_a_side, dim=1)
        masks = torch.split(mask_BC, self._chunks_a_side, dim=1)
        return torch.stack(list(map(masked_mean, chunks, masks)), dim=1)


class ESFNet(nn.Module):
    """A gate in (0, 2) a chunk, from the chunk, from all other chunks and from the context.

    All gates start at 1. The context carries no gradient, so gates cannot bend the embeddings.
    """

    field_C: Tensor
    member_FC: Tensor

    def __init__(self, field_C: Sequence[int], width: int, context: int, hidden: int) -> None:
        super().__init__()
        num_fields, num_chunks = max(field_C) + 1, len(field_C)
        member_FC = F.one_hot(torch.tensor(field_C), num_fields).T.float()
        self.register_buffer("field_C", torch.tensor(field_C), persistent=False)
        self.register_buffer("member_FC", member_FC, persistent=False)
        self.look = FieldLinear(width, 2 * width, field_C)
        self.squeeze_Fd = nn.Parameter(torch.empty(num_fields, width))
        nn.init.xavier_normal_(self.squeeze_Fd)
        self.excite = linear(num_chunks + num_fields * width + context, hidden)
        self.by_all = zero_linear(hidden, num_chunks)
        self.own_context = linear(context, num_fields * width, bias=False)
        self.by_own_Fd = nn.Parameter(torch.zeros(num_fields, width))

    def forward(self, chunk_BCd: Tensor, mask_BC: Tensor, context_BK: Tensor) -> Tensor:
        """gate_BC, 0 where the mask is False."""
        present_BC = mask_BC.float()
        summary_BCd, own_BCd = self.look(chunk_BCd).chunk(2, dim=2)
        squeeze_Cd = self.squeeze_Fd.index_select(0, self.field_C)
        squeezed_BC = (summary_BCd.tanh() * squeeze_Cd).sum(2) * present_BC
        share_BFC = present_BC[:, None] * self.member_FC
        share_BFC = share_BFC / share_BFC.sum(2, keepdim=True).clamp(min=1)
        mean_BFd = torch.bmm(share_BFC, chunk_BCd)
        everything_BK = torch.cat([squeezed_BC, mean_BFd.flatten(1), context_BK], dim=1)
        by_all_BC = self.by_all(torch.relu(self.excite(everything_BK)))

        context_BFd = self.own_context(context_BK).view(-1, *self.by_own_Fd.shape)
        own_BCd = own_BCd + context_BFd.index_select(1, self.field_C)
        by_own_Cd = self.by_own_Fd.index_select(0, self.field_C)
        by_own_BC = (torch.relu(own_BCd) * by_own_Cd).sum(2)
        gate_BC: Tensor = 2 * torch.sigmoid(by_all_BC + by_own_BC) * present_BC
        return gate_BC


class Alignment(nn.Module):
    """One layer of cross-attention: queries of the recommender read chunks of knowledge.

    A learned key of value zero lets a query ignore all knowledge; keys and values have no bias, so
    a muted chunk says nothing.
    """

    def __init__(self, queries: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self.query = linear(queries, width)
        self.key_value = linear(width, 2 * width, bias=False)
        self.no_op_key_d = nn.Parameter(torch.zeros(width))
        self.merge = nn.Sequential(linear(width, width), nn.Dropout(dropout))
        self.residual = linear(queries, width)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            linear(width, 4 * width), nn.GELU(), linear(4 * width, width), nn.Dropout(dropout)
        )
        self.feed_forward_norm = nn.LayerNorm(width)

    def forward(self, query_BQE: Tensor, chunk_BCd: Tensor, mask_BC: Tensor) -> Tensor:
        """aligned_BQd."""
        key_BCd, value_BCd = self.key_value(chunk_BCd).chunk(2, dim=2)
        no_op_B1d = self.no_op_key_d.expand(len(chunk_BCd), 1, -1)
        attended_BhQe = F.scaled_dot_product_attention(
            self._split(self.query(query_BQE)),
            self._split(torch.cat([key_BCd, no_op_B1d], dim=1)),
            self._split(F.pad(value_BCd, (0, 0, 0, 1))),
            attn_mask=F.pad(mask_BC, (0, 1), value=True)[:, None, None],
        )
        read_BQd = self.merge(attended_BhQe.transpose(1, 2).flatten(2))
        aligned_BQd = self.norm(self.residual(query_BQE) + read_BQd)
        result_BQd: Tensor = self.feed_forward_norm(aligned_BQd + self.feed_forward(aligned_BQd))
        return result_BQd

    def _split(self, x_BSd: Tensor) -> Tensor:
        B, S, _ = x_BSd.shape
        return x_BSd.view(B, S, self._heads, -1).transpose(1, 2)

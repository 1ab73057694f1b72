"""Models that see a list whole, over the same features and knowledge as the click models.

A list is K rows of a batch: the user, the history and one item each. An item's input are its own
fields, the user's features, what the extractor says and, unless switched off, the averaged history.

    DLCM     Ai et al. 2018     a GRU reads the list, its last state is the context of every item
    PRM      Pei et al. 2019    attention among items that know their place
    SetRank  Pang et al. 2020   attention among items that do not: equivariant to permutations

In the reduced form that KAR's code uses (arXiv 2306.10933): one layer each. Every list model takes
(x_WKI, mask_WK) to logit_WK; what the mask leaves out has no influence.

Shapes: W lists, K items a list, I an item's input, H hidden width, R real items, h heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import ModelConfig, RerankingConfig
from lorecast.data.dataset import FeatureSchema
from lorecast.models.click_model import _EXTRACTORS, check_vectors
from lorecast.models.feature_tables import SideFeatures
from lorecast.models.features import FeatureEmbedding
from lorecast.models.inputs import Batch
from lorecast.models.knowledge import ChunkVectors, KnowledgeShape, gather, shuffled
from lorecast.models.layers import linear, mlp
from lorecast.models.pooled import pooled_fields

_HIDDEN = 64
_HEADS = 2
_TEMPERATURE = 0.5


class DLCM(nn.Module):
    """φ(o_k, s) = v · (BatchNorm(o_k) ∘ tanh(W s + b)), o_k the GRU's states in the order the list
    comes in and s the last of them. Padding stands at the end."""

    def __init__(self, inputs: int, _model: ModelConfig) -> None:
        super().__init__()
        self.read = nn.GRU(inputs, _HIDDEN, batch_first=True)
        self.norm = nn.BatchNorm1d(_HIDDEN)
        self.context = linear(_HIDDEN, _HIDDEN)
        self.score = linear(_HIDDEN, 1)

    def forward(self, x_WKI: Tensor, mask_WK: Tensor) -> Tensor:
        """logit_WK."""
        state_WKH: Tensor = self.read(x_WKI)[0]
        last_W = mask_WK.sum(1) - 1
        context_WH = self.context(state_WKH[torch.arange(len(last_W)), last_W]).tanh()
        real_RH = self.norm(state_WKH[mask_WK])
        of_list_R = mask_WK.nonzero()[:, 0]
        logit_R: Tensor = self.score(real_RH * context_WH.index_select(0, of_list_R)).squeeze(1)
        return logit_R.new_zeros(mask_WK.shape).masked_scatter(mask_WK, logit_R)


class PRM(nn.Module):
    """An MLP on [attention's output, input], the input with sinusoids of its place added."""

    def __init__(self, inputs: int, model: ModelConfig) -> None:
        super().__init__()
        self.attention = ListAttention(inputs, _HIDDEN, _HEADS)
        self.head = mlp(_HIDDEN + inputs, model.mlp_hidden, model.dropout)

    def forward(self, x_WKI: Tensor, mask_WK: Tensor) -> Tensor:
        """logit_WK."""
        x_WKI = x_WKI + sinusoids(*x_WKI.shape[1:]).to(x_WKI)
        read_WKH = self.attention(x_WKI, mask_WK)
        logit_WK: Tensor = self.head(torch.cat([read_WKH, x_WKI], dim=2)).squeeze(2)
        return logit_WK


class SetRank(nn.Module):
    """An MLP on LayerNorm(input + attention's output)."""

    def __init__(self, inputs: int, model: ModelConfig) -> None:
        super().__init__()
        self.attention = ListAttention(inputs, _HIDDEN, _HEADS)
        self.residual = linear(inputs, _HIDDEN)
        self.norm = nn.LayerNorm(_HIDDEN)
        self.head = mlp(_HIDDEN, model.mlp_hidden, model.dropout)

    def forward(self, x_WKI: Tensor, mask_WK: Tensor) -> Tensor:
        """logit_WK."""
        in_list_WKH = self.norm(self.residual(x_WKI) + self.attention(x_WKI, mask_WK))
        logit_WK: Tensor = self.head(in_list_WKH).squeeze(2)
        return logit_WK


class ListAttention(nn.Module):
    """Multi-head attention among the items of a list."""

    def __init__(self, inputs: int, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.query_key_value = linear(inputs, 3 * width)
        self.merge = linear(width, width)

    def forward(self, x_WKI: Tensor, mask_WK: Tensor) -> Tensor:
        """read_WKH."""
        W, K, _ = x_WKI.shape
        query, key, value = (
            part.view(W, K, self._heads, -1).transpose(1, 2)
            for part in self.query_key_value(x_WKI).chunk(3, dim=2)
        )
        read_WhKe = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask_WK[:, None, None]
        )
        read_WKH: Tensor = self.merge(read_WhKe.transpose(1, 2).flatten(2))
        return read_WKH


_LIST_MODELS: dict[str, type[nn.Module]] = {"dlcm": DLCM, "prm": PRM, "setrank": SetRank}
"""Name in the experiment to module: made of (I, ModelConfig)."""


class ReRanker(nn.Module):
    """Logits of whole lists; without `knowledge` it has no extractor.

    Call `attach` before the first batch, as with `ClickModel`.
    """

    def __init__(
        self,
        model: ModelConfig,
        config: RerankingConfig,
        schema: FeatureSchema,
        knowledge: KnowledgeShape | None,
    ) -> None:
        super().__init__()
        self.features = FeatureEmbedding(schema, model.embedding_dim)
        counts = self.features.counts
        self.extractor = (
            _EXTRACTORS[model.extractor](model, knowledge, counts) if knowledge else None
        )
        num_fields = counts.target + counts.extra + counts.history * config.history
        if self.extractor:
            num_fields += self.extractor.num_fields
        self.list_model = _LIST_MODELS[config.model](num_fields * counts.dim, model)
        self.knowledge = knowledge
        self._history = config.history
        self._listwise = config.model == "setrank"
        self._reads_certainty = model.reads_certainty
        self._shuffle = model.shuffle_knowledge
        self._vectors: ChunkVectors | None = None

    def attach(
        self,
        items: SideFeatures,
        users: SideFeatures,
        vectors: ChunkVectors | None,
    ) -> None:
        """Sets what batches refer to, and start values that depend on the texts. Raises
        EncodingError if the vectors are not of the model's shape, or lack the certainty that it
        reads."""
        assert (vectors is None) == (self.knowledge is None), "vectors and knowledge go together"
        self.features.attach(items, users)
        if self.knowledge and vectors:
            check_vectors(
                vectors,
                self.knowledge,
                {"item": items, "user": users},
                certainty=self._reads_certainty,
            )
            if self._shuffle:
                vectors = shuffled(vectors, self.knowledge.sides)
        self._vectors = vectors
        if self.extractor and vectors:
            self.extractor.start_from(vectors)

    def forward(self, batch: Batch, mask_WK: Tensor) -> Tensor:
        """logit_WK of a batch of W·K rows, a list's after each other."""
        fields = self.features(batch)
        if self.extractor:
            assert self.knowledge
            assert self._vectors, "attach the vectors first"
            extra_BXE, _ = self.extractor(fields, gather(self._vectors, self.knowledge, batch))
            fields = fields.with_extra(extra_BXE)
        x_BFE = (
            pooled_fields(fields)
            if self._history
            else torch.cat([fields.target_BNE, fields.extra_BXE], dim=1)
        )
        logit_WK: Tensor = self.list_model(x_BFE.view(*mask_WK.shape, -1), mask_WK)
        return logit_WK

    def loss(self, logit_WK: Tensor, label_WK: Tensor, mask_WK: Tensor) -> Tensor:
        """Cross-entropy of clicks; SetRank's adds `attention_loss`."""
        pointwise = F.binary_cross_entropy_with_logits(logit_WK[mask_WK], label_WK[mask_WK])
        if not self._listwise:
            return pointwise
        return pointwise + attention_loss(logit_WK, label_WK, mask_WK)


def attention_loss(logit_WK: Tensor, label_WK: Tensor, mask_WK: Tensor) -> Tensor:
    """Binary cross-entropy between the shares of a list's attention that labels and click
    probabilities claim: a_k = τ(x_k) / Σ_j τ(x_j), τ(x) = exp(x / T) for x > 0, otherwise 0.

    Mean over the real items of lists with a click; the others claim nothing.
    """
    counted_WK = mask_WK & (label_WK * mask_WK).any(dim=1, keepdim=True)
    if not counted_WK.any():
        return logit_WK.sum() * 0
    wanted_WK = _shares(label_WK, mask_WK)
    given_WK = _shares(logit_WK.sigmoid(), mask_WK)
    return F.binary_cross_entropy(given_WK[counted_WK], wanted_WK[counted_WK])


def _shares(x_WK: Tensor, mask_WK: Tensor) -> Tensor:
    weight_WK = torch.where(mask_WK & (x_WK > 0), (x_WK / _TEMPERATURE).exp(), 0)
    return weight_WK / weight_WK.sum(1, keepdim=True).clamp(min=1e-9)


def sinusoids(length: int, width: int) -> Tensor:
    """position_KI: sines at even and cosines at odd places, wave lengths from 2π to 20,000π."""
    place_K1 = torch.arange(length)[:, None]
    rate_J = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    both_KJ2 = torch.stack([(place_K1 * rate_J).sin(), (place_K1 * rate_J).cos()], dim=2)
    return both_KJ2.flatten(1)[:, :width]

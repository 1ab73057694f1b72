"""The hybrid projection: what stands in a prompt's collaborative tokens (stage 3).

    <User_ID> = a_u φ(p_u)      <Item_ID> = a_i φ(q_i)      <Warm_ID> = a_w (W s_i + b)

The scales a match the lengths of the language model's own input embeddings at first, since the
projection may begin in the space of its last states; they learn. Users and items without training
rows take row 0, which training meets by hiding some rows' users and items.

Legend: B rows, R rows of a table, D width of users and items, H width of the language model.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lorecast.config import AlignConfig, GuideConfig
from lorecast.sella.collaborative import Projection
from lorecast.sella.methods import Switches
from lorecast.sella.prompts import ITEM, USER, WARM

_SCALES: Final = {USER: "user", ITEM: "item", WARM: "warm"}


class Guide(nn.Module):
    """Tables, projections and scales of the tokens that a method has."""

    known_user_R: Tensor
    known_item_R: Tensor

    def __init__(
        self,
        method: Switches,
        align: AlignConfig,
        guide: GuideConfig,
        sizes: Mapping[str, int],
        *,
        faithful: bool = False,
    ) -> None:
        """`sizes`: rows of `user` and `item` with row 0, `width` of the language model."""
        super().__init__()
        self.method, self.faithful = method, faithful
        self._unknown_share = 0.0 if faithful else guide.unknown_share
        width = sizes["width"]
        if method.id_tokens:
            self.user = nn.Embedding(sizes["user"], align.dim)
            self.item = nn.Embedding(sizes["item"], align.dim)
            self.projection = Projection(align.dim, align.hidden, width)
            for side in ("user", "item"):
                seen_R = torch.ones(sizes[side], dtype=torch.bool)
                self.register_buffer(f"known_{side}_R", seen_R)
        if method.warm_token:
            self.semantic = nn.Embedding(sizes["item"], width)
            self.semantic.requires_grad_(requires_grad=faithful)
            self.warm = nn.Linear(width, width)
        scales = {_SCALES[slot]: nn.Parameter(torch.ones(())) for slot in self.slots}
        self.scale = nn.ParameterDict(scales).requires_grad_(requires_grad=guide.norm_match)

    @property
    def slots(self) -> tuple[int, ...]:
        """The places it fills."""
        ids = (USER, ITEM) if self.method.id_tokens else ()
        return (*ids, *((WARM,) if self.method.warm_token else ()))

    @torch.no_grad()
    def start(
        self,
        tables: Mapping[str, Tensor],
        known: Mapping[str, Tensor],
        embedding_length: float | None,
    ) -> None:
        """Takes what the stages before made: `user`, `item` and, for a warm start, the
        projection's parameters of the collaborative model; `semantic` vectors; `known`: which rows
        were trained. `embedding_length`: what tokens' lengths shall be (none: as they come)."""
        if self.method.id_tokens:
            for side in ("user", "item"):
                getattr(self, side).weight.copy_(tables[side])
                if not self.faithful:
                    getattr(self, f"known_{side}_R").copy_(known[side])
            if self.method.warm_start:
                started = {k: v for k, v in tables.items() if k.startswith("projection.")}
                self.projection.load_state_dict(
                    {name.removeprefix("projection."): value for name, value in started.items()}
                )
        if self.method.warm_token:
            self.semantic.weight.copy_(tables["semantic"])
        if embedding_length is None:
            return
        for slot in self.slots:
            rows_R = known["user" if slot == USER else "item"].nonzero()[:, 0]
            length = self._token(slot, rows_R).norm(dim=1).mean()
            self.scale[_SCALES[slot]].fill_(embedding_length / float(length.clamp(min=1e-6)))

    def forward(self, user_row_B: Tensor, item_row_B: Tensor) -> dict[int, Tensor]:
        """For each slot what stands there, [B, H]; item row 0 has no meaning, either."""
        rows = {}
        if self.method.id_tokens:
            rows[USER] = user_row_B * self.known_user_R[user_row_B]
            rows[ITEM] = item_row_B * self.known_item_R[item_row_B]
            if self.training and self._unknown_share:
                for slot, row_B in rows.items():
                    hidden_B = torch.rand(len(row_B), device=row_B.device) < self._unknown_share
                    rows[slot] = row_B.masked_fill(hidden_B, 0)
        if self.method.warm_token:
            rows[WARM] = item_row_B
        return {
            slot: self.scale[_SCALES[slot]] * self._token(slot, row_B)
            for slot, row_B in rows.items()
        }

    def _token(self, slot: int, row_B: Tensor) -> Tensor:
        if slot == WARM:
            token_BH: Tensor = self.warm(self.semantic(row_B))
        else:
            table = self.user if slot == USER else self.item
            token_BH = self.projection(F.embedding(row_B, table.weight))
        return token_BH

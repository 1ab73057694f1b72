import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from lorecast.models.backbones.din import TargetAttention


def _attention(width: int = 6) -> TargetAttention:
    torch.manual_seed(0)
    return TargetAttention(width, (8, 4))


def test_split_first_layer_is_the_concatenated_one() -> None:
    attention = _attention().eval()
    query, steps = torch.randn(5, 6), torch.randn(5, 7, 6)
    mask = torch.rand(5, 7) < 0.7
    q = query[:, None].expand_as(steps)
    naive = attention.first(torch.cat([q, steps, q - steps, q * steps], dim=2))
    score = attention.rest(naive.flatten(0, 1)).view(5, 7)
    expected = torch.einsum("bl,bl,blw->bw", score, mask.float(), steps)
    torch.testing.assert_close(attention(query, steps, mask), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.invariant
def test_padding_enters_neither_output_nor_statistics() -> None:
    short, padded = _attention().train(), _attention().train()
    query, steps = torch.randn(5, 6), torch.randn(5, 7, 6)
    mask = torch.ones(5, 7, dtype=torch.bool)
    garbage = torch.randn(5, 3, 6) * 100
    longer = torch.cat([garbage, steps], dim=1)
    expected = short(query, steps, mask)
    found = padded(query, longer, F.pad(mask, (3, 0), value=False))
    torch.testing.assert_close(found, expected)
    for (name, a), (_, b) in zip(short.named_buffers(), padded.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_an_empty_history_gives_no_interest() -> None:
    attention = _attention().train()
    nothing = attention(torch.randn(2, 6), torch.randn(2, 3, 6), torch.zeros(2, 3).bool())
    assert not nothing.any()
    assert all(buffer.isfinite().all() for buffer in attention.buffers())

import torch

from lorecast.models.layers import Dice, Layers, mlp, tower, zero_linear


def test_dice_scores_a_row_alone_as_among_others() -> None:
    torch.manual_seed(0)
    dice, rows = Dice(3), torch.randn(64, 3) * 2 + 1
    dice.train()
    for _ in range(200):
        dice(rows)
    dice.eval()
    torch.testing.assert_close(dice(rows[:1]), dice(rows)[:1])
    torch.testing.assert_close(dice.mean, rows.mean(0))
    torch.testing.assert_close(dice.var, rows.var(0))


def test_dice_lies_between_x_and_alpha_x() -> None:
    dice = Dice(1).eval()
    torch.testing.assert_close(dice(torch.tensor([[20.0]])), torch.tensor([[20.0]]))
    torch.testing.assert_close(dice(torch.tensor([[-20.0]])), torch.zeros(1, 1), atol=1e-6, rtol=0)
    with torch.no_grad():
        dice.alpha.fill_(1)
    torch.testing.assert_close(dice(torch.tensor([[-3.0]])), torch.tensor([[-3.0]]))


def test_dice_survives_batches_too_small_for_statistics() -> None:
    dice = Dice(2).train()
    assert dice(torch.ones(1, 2)).isfinite().all()
    assert dice(torch.ones(0, 2)).shape == (0, 2)
    assert dice.mean.isfinite().all()


def test_zero_linear_adds_nothing() -> None:
    assert not zero_linear(3, 2)(torch.randn(5, 3)).any()


def test_what_stands_beside_joins_the_first_layer_alone() -> None:
    torch.manual_seed(0)
    layers, x_BK, beside_BH = mlp(3, (4, 2), 0.0), torch.randn(5, 3), torch.randn(5, 4)
    first, *rest = layers
    expected = torch.nn.Sequential(*rest)(first(x_BK) + beside_BH)
    torch.testing.assert_close(layers(x_BK, beside_BH), expected)
    torch.testing.assert_close(layers(x_BK), torch.nn.Sequential(*layers)(x_BK))
    none = tower(3, (), 0.0)
    assert isinstance(none, Layers)
    assert none(x_BK) is x_BK

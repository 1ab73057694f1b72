"""The running mean of weights."""

import pytest
import torch
from torch import nn

from lorecast.training.averaging import RunningMean


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[2].requires_grad_(False)
    return model


def test_the_mean_follows_the_weights_and_leaves_them_alone() -> None:
    model = _model()
    mean, expected = RunningMean(model, 0.5), model[0].weight.detach().clone()
    for step in range(1, 9):
        with torch.no_grad():
            model[0].weight += step
        mean.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with mean.applied():
        torch.testing.assert_close(model[0].weight.detach(), expected)
        assert torch.equal(model[2].weight, own["2.weight"])
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_an_error_within_gives_the_weights_back() -> None:
    model = _model()
    mean = RunningMean(model, 0.5)
    with torch.no_grad():
        model[0].weight += 1
    own = model[0].weight.detach().clone()
    with pytest.raises(KeyError), mean.applied():
        raise KeyError
    assert torch.equal(model[0].weight.detach(), own)


def test_a_restored_mean_goes_on() -> None:
    model = _model()
    first, second = RunningMean(model, 0.9), RunningMean(model, 0.9)
    for step in range(5):
        with torch.no_grad():
            model[0].weight.mul_(1.1 + step)
        first.update()
    second.restore(first.state())
    first.update(), second.update()
    assert all(map(torch.equal, first.state().values(), second.state().values()))

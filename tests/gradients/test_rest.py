"""A model that is observed comes back module by module as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_datadiet.gradients import GradientNorms
from hf_datadiet.gradients.rest import at_rest


def mixed() -> nn.Module:
    """In train mode, but for one layer that stays frozen in eval mode and one below it that does not."""
    frozen = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))
    model = nn.Sequential(nn.Linear(4, 4), frozen, nn.Linear(4, 3)).train()
    frozen.eval()
    frozen[1].train()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("model", [mixed(), mixed().train(), mixed().eval()])
def test_each_module_has_its_own_mode_back(model: nn.Module) -> None:
    before = modes(model)
    assert modes(mixed()) == [True, True, False, False, True, True]
    with at_rest(model):
        assert not any(modes(model))
    assert modes(model) == before
    with pytest.raises(RuntimeError), at_rest(model):
        raise RuntimeError
    assert modes(model) == before


def test_finding_routes_leaves_the_modes() -> None:
    model = mixed()
    before = modes(model)
    with at_rest(model):
        GradientNorms(model).find_routes(torch.randn(3, 4), torch.tensor([0, 1, 2]))
    assert modes(model) == before

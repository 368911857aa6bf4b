"""The averaged weights: against NumPy in float64, and as what a run validates, saves and resumes."""

import numpy as np
import torch
from torch import nn

from mask2edge.train.averaging import AveragedWeights


def test_the_average_is_the_one_that_numpy_finds() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].bias.requires_grad_(False)
    averaged = AveragedWeights(model, decay=0.5)
    names = ["0.weight", "1.weight", "1.bias"]
    wanted = {name: model.state_dict()[name].double().numpy().copy() for name in names}
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            model[1].running_mean.copy_(torch.randn(4, generator=generator))
        averaged.update(step)
        decay = min(0.5, (1 + step) / (10 + step))  # reaches 0.5 at step 8
        for name in names:
            weight = model.state_dict()[name].double().numpy()
            wanted[name] = decay * wanted[name] + (1 - decay) * weight
    found = averaged.model.state_dict()
    for name in names:
        np.testing.assert_allclose(found[name].numpy(), wanted[name], rtol=1e-5, atol=1e-6)
    assert torch.equal(found["1.running_mean"], model[1].running_mean)
    assert not torch.equal(found["0.bias"], model[0].bias)  # frozen: nothing that trains changes it
    assert averaged.averages.keys() == set(names)
    assert not averaged.model.training
    assert not any(parameter.requires_grad for parameter in averaged.model.parameters())

"""A head that grows: known classes keep their rows, by name, and their outputs bit for bit; the rest is new."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.pretrained.load import load_weights
from megabatch.trainer.pretrained.read import Weights


def network(outputs: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, outputs))


@pytest.mark.parametrize("known", [(0, 1, 2, 3, 4), (7, 2, 9, 0, 4), (3, 0)])
def test_known_classes_keep_their_outputs_bit_for_bit(known: tuple[int, ...]) -> None:
    before, here, fresh = network(len(known), 1).eval(), network(10, 2).eval(), network(10, 2)
    before[1].running_mean += 0.5
    began = load_weights(here, Weights(before.state_dict(), "before"), outputs=known)
    images = torch.randn(20, 3, 6, 6)
    # one product for each output, as kernels add up in another order for another number of rows
    features = [module[:3](images) for module in (before, here)]
    assert torch.equal(*features)
    for number, place in enumerate(known):
        old, new = (
            nn.functional.linear(x, m[3].weight[n : n + 1], m[3].bias[n : n + 1])
            for x, m, n in zip(features, (before, here), (number, place), strict=True)
        )
        assert torch.equal(old, new)
    torch.testing.assert_close(here(images)[:, list(known)], before(images))
    others = [number for number in range(10) if number not in known]
    assert torch.equal(here[3].weight[others], fresh[3].weight[others])
    assert torch.equal(here[3].bias[others], fresh[3].bias[others])
    assert [one.name for one in began.grown] == ["3.weight", "3.bias"]
    assert began.other_shape == ()
    shown = f"grown, as the shape is another for more classes: 3.weight ({len(known)}, 128) there, (10, 128) here"
    assert shown in "\n".join(began.lines())
    assert began.to_json()["grown"][1] == {"name": "3.bias", "there": (len(known),), "here": (10,)}


def test_prefixes_of_wrappers_are_taken_off_a_head_that_grows_too() -> None:
    tensors = {f"module.{name}": tensor for name, tensor in network(2, 1).state_dict().items()}
    here = network(3, 2)
    load_weights(here, Weights(tensors, "before"), outputs=(2, 1))
    assert torch.equal(here[3].weight[[2, 1]], tensors["module.3.weight"])


@pytest.mark.parametrize(
    ("source", "outputs"),
    [
        (lambda: network(4, 1), (0, 1)),  # four rows, and two are said to be known
        (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(64, 2)), (0, 1)),
    ],
)
def test_a_head_that_cannot_grow_is_told(source: Callable[[], nn.Module], outputs: tuple[int, ...]) -> None:
    with pytest.raises(TrainingError, match=r"outputs: no weight has 2 rows there and more here, .*: 3.weight \("):
        load_weights(network(10, 2), Weights(source().state_dict(), "before"), outputs=outputs)


def test_the_same_classes_are_loaded_as_ever() -> None:
    before, here = network(4, 1), network(4, 2)
    began = load_weights(here, Weights(before.state_dict(), "before"), outputs=(0, 1, 2, 3))
    assert began.grown == ()
    assert torch.equal(here[3].weight, before[3].weight)

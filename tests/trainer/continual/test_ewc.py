"""Elastic weight consolidation: the gradient of the written formula, Fisher information of a plain loop, on any ranks."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from megabatch.configs.continual import ElasticWeights
from megabatch.data.hashing import RandomStream, key
from megabatch.data.loader import MicroBatch
from megabatch.data.requests import Request
from megabatch.trainer.continual.ewc import ElasticPenalty
from megabatch.trainer.continual.fisher import Ranks, diagonal_fisher
from megabatch.trainer.errors import TrainingError

IMAGES = torch.randint(0, 256, (41, 6, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
KNOWN = (2, 0)  # of four outputs, which two a stage before had


def network(outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, outputs))


def written(folder: Path, *, outputs: int = 2) -> tuple[ElasticWeights, dict[str, Tensor], dict[str, Tensor]]:
    """A file as a stage with two outputs writes it, and what is in it."""
    parameters = dict(network(outputs).named_parameters())
    fisher = {name: torch.rand(p.shape) for name, p in parameters.items()}
    anchor = {name: torch.randn(p.shape) for name, p in parameters.items()}
    tensors = {f"fisher/{n}": t for n, t in fisher.items()} | {f"anchor/{n}": t for n, t in anchor.items()}
    save_file(tensors, folder / "ewc.safetensors")
    return ElasticWeights(source="ewc.safetensors", strength=3.0), fisher, anchor


def test_the_gradient_is_that_of_the_written_formula_and_new_rows_have_none(tmp_path: Path) -> None:
    settings, fisher, anchor = written(tmp_path)
    here = network()
    penalty = ElasticPenalty(here, settings, tmp_path, KNOWN)
    loss = here(torch.randn(5, 3, 6, 6)).square().mean()
    loss.backward()
    plain = {name: p.grad.clone() for name, p in here.named_parameters() if p.grad is not None}
    penalty.add_gradient()
    rows = list(KNOWN)
    terms = []
    for name, p in here.named_parameters():
        known = p[rows] if name.startswith("4.") else p
        terms.append((fisher[name] * (known - anchor[name]) ** 2).sum())
    expected = torch.autograd.grad(3.0 / 2 * torch.stack(terms).sum(), list(here.parameters()))
    for (name, p), gradient in zip(here.named_parameters(), expected, strict=True):
        assert p.grad is not None
        torch.testing.assert_close(p.grad, plain[name] + gradient)
        assert gradient.abs().sum() > 0
    head = here[4].weight.grad
    assert head is not None
    assert torch.equal(head[[1, 3]], plain["4.weight"][[1, 3]])


def test_parameters_without_a_gradient_stay_without_one(tmp_path: Path) -> None:
    settings, *_ = written(tmp_path)
    here = network()
    here[0].requires_grad_(False)
    penalty = ElasticPenalty(here, settings, tmp_path, KNOWN)
    here(torch.randn(5, 3, 6, 6)).sum().backward()
    penalty.add_gradient()
    assert here[0].weight.grad is None


@pytest.mark.parametrize(
    ("outputs", "other", "told"),
    [
        (None, False, r"4.bias was \(2,\), and is \(4,\) here: it is of another network"),
        ((0, 1, 2), False, "it is of another network"),
        (KNOWN, True, "ewc.safetensors is of another network: 0.bias"),
    ],
)
def test_a_file_of_another_network_is_refused(
    tmp_path: Path, outputs: tuple[int, ...] | None, other: bool, told: str
) -> None:
    settings, *_ = written(tmp_path)
    with pytest.raises(TrainingError, match=told):
        ElasticPenalty(
            nn.Sequential(nn.Flatten(), nn.Linear(3, 4)) if other else network(), settings, tmp_path, outputs
        )


def test_a_file_that_no_stage_wrote_or_that_changed_is_refused(tmp_path: Path) -> None:
    settings, *_ = written(tmp_path)
    changed = settings.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(TrainingError, match=r"ewc.safetensors changed since the job was written"):
        ElasticPenalty(network(), changed, tmp_path, KNOWN)
    save_file(dict(network().state_dict()), tmp_path / "ewc.safetensors")
    with pytest.raises(TrainingError, match=r"is of another network: empty"):
        ElasticPenalty(network(), settings, tmp_path, KNOWN)


def load(ids: Sequence[int], skipped: int = -1) -> Iterator[MicroBatch]:
    for number in ids:
        one = np.array([number], dtype=np.int64)
        request = Request(0, 0, 0, one, np.zeros_like(one), 1, True)
        lost: tuple[object, ...] = ("lost",) if number == skipped else ()
        yield MicroBatch(request, IMAGES[number][None], torch.zeros(1), torch.ones(1), lost)  # type: ignore[arg-type]


def normalize(images_NHWC: Tensor) -> Tensor:
    return images_NHWC.permute(0, 3, 1, 2).float() / 255


def fisher_on(
    num_ranks: int, ids: Sequence[int], load: Callable[[Sequence[int]], Iterator[MicroBatch]] = load
) -> list[dict[str, Tensor]]:
    """What each of some ranks finds; they are threads, each with a copy of the network."""
    barrier, given = threading.Barrier(num_ranks), [torch.empty(0)] * num_ranks
    found: list[dict[str, Tensor]] = [{} for _ in range(num_ranks)]

    def rank(number: int, own: nn.Module) -> None:
        def sum_over_ranks(tensor: Tensor) -> None:
            given[number] = tensor.clone()
            barrier.wait()
            total = torch.stack(given).sum(dim=0)
            barrier.wait()
            tensor.copy_(total)

        found[number] = diagonal_fisher(own, ids, load, normalize, 7, Ranks(number, num_ranks, sum_over_ranks))

    threads = [threading.Thread(target=rank, args=(n, copy.deepcopy(network()))) for n in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_the_fisher_information_is_that_of_a_plain_loop() -> None:
    (found,) = fisher_on(1, range(41))
    here = network().eval()
    sums = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in here.named_parameters()}
    labels = []
    for number in range(41):
        log_p = torch.log_softmax(here(normalize(IMAGES[number][None]))[0], dim=0)
        p = log_p.detach().double().exp().numpy()
        drawn = int(np.searchsorted(np.cumsum(p), RandomStream(key(7, 70, number)).uniform() * p.sum()))
        labels.append(drawn)
        for (name, _), gradient in zip(
            here.named_parameters(), torch.autograd.grad(log_p[drawn], list(here.parameters())), strict=True
        ):
            sums[name] += gradient.double() ** 2 / 41
    assert set(labels) == {0, 1, 2, 3}
    assert found.keys() == sums.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, sums[name], rtol=1e-10, atol=0)


def test_any_number_of_ranks_finds_the_same_bits() -> None:
    (alone,) = fisher_on(1, range(3, 38))
    for num_ranks in (2, 3, 17):
        for found in fisher_on(num_ranks, range(3, 38)):
            assert all(torch.equal(value, alone[name]) for name, value in found.items())


def test_a_sample_that_cannot_be_used_has_no_part_in_the_mean() -> None:
    (without,) = fisher_on(1, range(20), lambda ids: load(ids, skipped=4))
    (found,) = fisher_on(1, [n for n in range(20) if n != 4])
    for name, value in without.items():
        torch.testing.assert_close(value, found[name], rtol=1e-12, atol=0)

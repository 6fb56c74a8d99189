"""Mixup and cutmix against torchvision's with our draws, and the draws against their distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from megabatch.configs.base import Choice
from megabatch.configs.batch_transforms import BatchRandomErasing, Cutmix, Mixup, MixupOrCutmix
from megabatch.data.hashing import RandomStream, key
from megabatch.trainer.batch_augment.chain import chain
from megabatch.trainer.batch_augment.mix import cut_part, symmetric_beta

CLASSES = 7
ALL = [Mixup(alpha=0.8), Cutmix(), MixupOrCutmix(), BatchRandomErasing(probability=0.7)]


def batch(count: int, height: int = 12, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    images_NHWC = torch.randn(count, height, width, 3, generator=generator)
    return images_NHWC.permute(0, 3, 1, 2), torch.randint(CLASSES, (count,), generator=generator)


def named(settings: Choice) -> str:
    return str(settings.name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("settings", [Mixup(alpha=0.8), Cutmix(), MixupOrCutmix()], ids=named)
def test_rows_of_a_target_are_mixed_as_the_rows_of_classes_are(settings: Choice) -> None:
    images_NCHW, labels_N = batch(5)
    rows_NK = torch.nn.functional.one_hot(labels_N, CLASSES).float()
    of_labels = chain([settings], CLASSES)(images_NCHW, labels_N, RandomStream(key(3)))[1]
    of_rows = chain([settings], CLASSES)(images_NCHW, 10 * rows_NK, RandomStream(key(3)))[1]
    assert not torch.equal(of_labels, rows_NK)
    torch.testing.assert_close(of_rows, 10 * of_labels)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_mixup_is_torchvisions(count: int) -> None:
    images_NCHW, labels_N = batch(count)
    stream = RandomStream(key(3))
    stream.uniform()
    share = symmetric_beta(0.8, stream)
    theirs = v2.MixUp(num_classes=CLASSES)
    theirs.make_params = lambda _: {"lam": share}
    expected_images, expected_targets = theirs(images_NCHW, labels_N)
    mixed_NCHW, targets_NK = chain([Mixup(alpha=0.8)], CLASSES)(images_NCHW, labels_N, RandomStream(key(3)))
    assert torch.equal(mixed_NCHW, expected_images)
    assert torch.equal(targets_NK, expected_targets)


@pytest.mark.parametrize("count", [2, 5, 8])
def test_cutmix_is_torchvisions(count: int) -> None:
    images_NCHW, labels_N = batch(count)
    for number in range(10):
        stream = RandomStream(key(number))
        stream.uniform()
        rows, columns = cut_part(12, 10, symmetric_beta(1.0, stream), stream)
        share = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / 120
        theirs = v2.CutMix(num_classes=CLASSES)
        box = (columns.start, rows.start, columns.stop, rows.stop)
        theirs.make_params = lambda _, box=box, share=share: {"box": box, "lam_adjusted": share}
        expected_images, expected_targets = theirs(images_NCHW, labels_N)
        mixed_NCHW, targets_NK = chain([Cutmix()], CLASSES)(images_NCHW, labels_N, RandomStream(key(number)))
        assert torch.equal(mixed_NCHW, expected_images)
        assert torch.equal(targets_NK, expected_targets)


@pytest.mark.parametrize("settings", ALL, ids=named)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_batches_keep_shape_type_and_layout_and_the_input_stays(settings: Choice, dtype: torch.dtype) -> None:
    for count in (1, 2, 3, 8):
        images_NCHW, labels_N = batch(count)
        images_NCHW = images_NCHW.to(dtype)
        before = images_NCHW.clone()
        for number in range(6):
            out_NCHW, targets = chain([settings], CLASSES)(images_NCHW, labels_N, RandomStream(key(number)))
            assert out_NCHW.shape == images_NCHW.shape
            assert out_NCHW.dtype == dtype
            assert out_NCHW.is_contiguous(memory_format=torch.channels_last)
            if targets.ndim == 2:
                assert targets.dtype == dtype
                torch.testing.assert_close(targets.sum(dim=1), torch.ones(count, dtype=dtype))
        assert torch.equal(images_NCHW, before)


@pytest.mark.parametrize("settings", [Mixup(), Cutmix(), MixupOrCutmix()], ids=named)
def test_a_lone_sample_stays_as_it_is(settings: Choice) -> None:
    images_NCHW, labels_N = batch(1)
    out_NCHW, targets = chain([settings], CLASSES)(images_NCHW, labels_N, RandomStream(key(1)))
    assert out_NCHW is images_NCHW
    assert targets is labels_N


@pytest.mark.parametrize("settings", ALL, ids=named)
def test_no_global_generator_is_touched(settings: Choice) -> None:
    state = torch.get_rng_state()
    images_NCHW, labels_N = batch(4)
    outs = [chain([settings], CLASSES)(images_NCHW, labels_N, RandomStream(key(9)))[0] for _ in range(2)]
    assert torch.equal(*outs)
    assert torch.equal(torch.get_rng_state(), state)


def test_transforms_follow_each_other_and_mix_distributions_again() -> None:
    images_NCHW, labels_N = batch(5)
    both = chain([Mixup(alpha=1.0), Cutmix()], CLASSES)(images_NCHW, labels_N, RandomStream(key(2)))
    stream = RandomStream(key(2))
    one = chain([Mixup(alpha=1.0)], CLASSES)(images_NCHW, labels_N, stream)
    two = chain([Cutmix()], CLASSES)(*one, stream)
    assert torch.equal(both[0], two[0])
    assert torch.equal(both[1], two[1])
    assert (both[1] > 0).sum(dim=1).max() >= 3


def test_an_empty_list_changes_nothing() -> None:
    images_NCHW, labels_N = batch(3)
    assert chain([], CLASSES)(images_NCHW, labels_N, RandomStream(0)) == (images_NCHW, labels_N)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 3.0, 40.0])
def test_the_share_has_the_beta_distribution(alpha: float) -> None:
    draws = np.array([symmetric_beta(alpha, RandomStream(key(11, n))) for n in range(4000)])
    assert ((draws >= 0) & (draws <= 1)).all()
    points = np.concatenate([[1e-6, 1e-3], np.linspace(0.01, 0.99, 99), [1 - 1e-3, 1 - 1e-6]])
    below = (draws[:, None] <= points).mean(axis=0)
    assert np.abs(below - stats.beta(alpha, alpha).cdf(points)).max() < 1.63 / np.sqrt(4000)  # Kolmogorov, 1 %
    assert abs(draws.mean() - 0.5) < 0.02


def test_the_rectangle_has_the_area_left_over_where_it_fits() -> None:
    for number in range(200):
        stream = RandomStream(key(number))
        share = symmetric_beta(1.0, stream)
        rows, columns = cut_part(60, 80, share, stream)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert 0 <= rows.start <= rows.stop <= 60
        assert 0 <= columns.start <= columns.stop <= 80
        assert height <= int(60 * np.sqrt(1 - share))
        if rows.start > 0 and rows.stop < 60 and columns.start > 0 and columns.stop < 80:
            assert (height, width) == (int(60 * np.sqrt(1 - share)), int(80 * np.sqrt(1 - share)))


def test_mixup_or_cutmix_does_either_with_the_switch_probability() -> None:
    images_NCHW, labels_N = batch(4)
    cut = []
    for number in range(400):
        settings = MixupOrCutmix(switch_probability=0.3, mixup_alpha=5.0)
        out_NCHW, _ = chain([settings], CLASSES)(images_NCHW, labels_N, RandomStream(key(number)))
        partners = images_NCHW.roll(1, 0)
        cut.append(bool(((out_NCHW == images_NCHW) | (out_NCHW == partners)).all()))
    assert abs(np.mean(cut) - 0.3) < 0.06


@pytest.mark.parametrize("kind", [Mixup, Cutmix, MixupOrCutmix])
def test_mixing_comes_with_its_probability(kind: type[Mixup] | type[Cutmix] | type[MixupOrCutmix]) -> None:
    images_NCHW, labels_N = batch(2, 2, 2)
    transform = chain([kind(probability=0.25)], CLASSES)
    mixed = [transform(images_NCHW, labels_N, RandomStream(key(n)))[1].ndim == 2 for n in range(600)]
    assert abs(np.mean(mixed) - 0.25) < 0.05


def test_erasing_sets_a_rectangle_of_its_own_to_zero_in_each_chosen_image() -> None:
    images_NCHW, labels_N = batch(200)
    settings = BatchRandomErasing(probability=0.4, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    out_NCHW, targets = chain([settings], CLASSES)(images_NCHW, labels_N, RandomStream(key(0)))
    assert targets is labels_N
    erased = [(image == 0).all(dim=0) for image in out_NCHW]
    chosen = [mask for mask in erased if mask.any()]
    assert abs(len(chosen) / 200 - 0.4) < 0.1
    for mask in chosen:
        rows, columns = mask.any(dim=1).nonzero().ravel(), mask.any(dim=0).nonzero().ravel()
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 0.05 < len(rows) * len(columns) / 120 < 0.25
    assert len({tuple(mask.ravel().tolist()) for mask in chosen}) > len(chosen) // 2

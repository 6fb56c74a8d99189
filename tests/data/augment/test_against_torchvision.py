"""The same parameters give torchvision's pixels, and the drawn parameters have torchvision's ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from megabatch.configs.transforms import (
    AutoAugment,
    ColorJitter,
    GaussianBlur,
    Grayscale,
    RandomAffine,
    RandomErasing,
    RandomRotation,
    VerticalFlip,
)
from megabatch.data.augment import affine, color, erasing, learned_policies, policies
from megabatch.data.augment.operations import AUTO, RAND, TRIVIAL_WIDE, Border, Space
from megabatch.data.decode import Pixels
from megabatch.data.hashing import RandomStream, key

BILINEAR = functional.InterpolationMode.BILINEAR
NEAREST = functional.InterpolationMode.NEAREST


def noise(height: int, width: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGE = noise(31, 44)
IMAGE_CHW = torch.from_numpy(IMAGE).permute(2, 0, 1).contiguous()


class Recorder:
    """Stands in for torchvision's functions: calls them and keeps the arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str):
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for name in names:
            monkeypatch.setattr(functional, name, self.wrapped(name, getattr(functional, name)))

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(image: torch.Tensor, *arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments, named))
            return function(image, *arguments, **named)

        return call


def pixels(image_CHW: torch.Tensor) -> Pixels:
    return image_CHW.permute(1, 2, 0).numpy()


def test_vertical_flips_come_with_their_probability() -> None:
    for probability in (0.0, 0.3, 1.0):
        outs = [
            affine.vertical_flip(IMAGE, VerticalFlip(probability=probability), 8, RandomStream(key(n)))
            for n in range(600)
        ]
        flipped = np.mean([np.array_equal(out, IMAGE[::-1]) for out in outs])
        assert abs(flipped - probability) < 0.05


@pytest.mark.parametrize("fill", [(0, 0, 0), (10, 20, 30)])
def test_rotation(fill: tuple[int, int, int]) -> None:
    settings = RandomRotation(degrees=40, interpolation="nearest", fill=fill)
    angle = RandomStream(key(5)).uniform(-40, 40)
    out = affine.random_rotation(IMAGE, settings, 8, RandomStream(key(5)))
    assert np.array_equal(out, pixels(functional.rotate(IMAGE_CHW, angle, fill=[float(f) for f in fill])))
    assert not np.array_equal(out, IMAGE)


def test_rotation_by_no_degrees_changes_nothing() -> None:
    for number in range(5):
        assert np.array_equal(affine.random_rotation(IMAGE, RandomRotation(degrees=0), 8, RandomStream(number)), IMAGE)


def test_rotation_angles_cover_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, "rotate")
    for number in range(400):
        affine.random_rotation(IMAGE[:3, :3], RandomRotation(degrees=40), 8, RandomStream(key(number)))
    angles = np.array([arguments[0] for _, arguments, _ in recorder.calls])
    assert -40 <= angles.min() < -38
    assert 38 < angles.max() < 40
    assert abs(angles.mean()) < 3


def test_affine(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision's own transform with our draws in it gives our pixels."""
    settings = RandomAffine(degrees=20, translate=(0.25, 0.5), scale=(0.5, 1.5), shear=(30, 10), fill=(1, 2, 3))
    theirs = v2.RandomAffine(20, (0.25, 0.5), (0.5, 1.5), (-30, 30, -10, 10), BILINEAR, fill=[1, 2, 3])
    for number in range(20):
        recorder = Recorder(monkeypatch, "affine")
        out = affine.random_affine(IMAGE, settings, 8, RandomStream(key(number)))
        angle, translate, scale, shear = recorder.calls[0][1]
        parameters = {"angle": angle, "translate": translate, "scale": scale, "shear": shear}
        monkeypatch.undo()
        assert np.array_equal(out, pixels(theirs.transform(IMAGE_CHW, parameters)))


def test_affine_draws_cover_their_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, "affine")
    settings = RandomAffine(degrees=20, translate=(0.25, 0.5), scale=(0.5, 1.5), shear=(30, 10))
    for number in range(600):
        affine.random_affine(IMAGE[:20, :40], settings, 8, RandomStream(key(number)))
    drawn = np.array([[angle, *translate, scale, *shear] for _, (angle, translate, scale, shear), _ in recorder.calls])
    assert drawn.min(axis=0) == pytest.approx([-20, -10, -10, 0.5, -30, -10], rel=0.05)
    assert drawn.max(axis=0) == pytest.approx([20, 10, 10, 1.5, 30, 10], rel=0.05)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(6)).max() < 0.12


def test_an_affine_map_that_moves_nothing_changes_nothing() -> None:
    assert np.array_equal(affine.random_affine(IMAGE, RandomAffine(degrees=0), 8, RandomStream(3)), IMAGE)


def test_color_jitter_applies_the_drawn_factors_in_the_drawn_order() -> None:
    settings = ColorJitter(brightness=0.4, contrast=0.3, saturation=0.2, hue=0.1)
    orders = set()
    for number in range(200):
        stream = RandomStream(key(number))
        stream.uniform()
        factors = [stream.uniform(1 - x, 1 + x) for x in (0.4, 0.3, 0.2)] + [stream.uniform(-0.1, 0.1)]
        order = color._ORDERS[stream.integer(24)]
        orders.add(order)
        theirs = v2.ColorJitter(0.4, 0.3, 0.2, 0.1)
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        expected = theirs.transform(IMAGE_CHW, {"fn_idx": list(order), **dict(zip(names, factors, strict=True))})
        assert np.array_equal(color.color_jitter(IMAGE, settings, 8, RandomStream(key(number))), pixels(expected))
    assert len(orders) == 24


def test_color_jitter_without_strength_or_probability_changes_nothing() -> None:
    still = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0)
    assert np.array_equal(color.color_jitter(IMAGE, still, 8, RandomStream(1)), IMAGE)
    changed = [
        not np.array_equal(color.color_jitter(IMAGE, ColorJitter(probability=0.3), 8, RandomStream(key(n))), IMAGE)
        for n in range(400)
    ]
    assert abs(np.mean(changed) - 0.3) < 0.06


def test_a_strong_jitter_never_asks_for_a_negative_factor() -> None:
    for number in range(30):
        color.color_jitter(IMAGE, ColorJitter(brightness=3, contrast=3, saturation=3), 8, RandomStream(key(number)))


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.7])
def test_contrast_is_torchvisions(factor: float) -> None:
    for shape in ((31, 44), (1, 1), (900, 700)):
        image = torch.from_numpy(noise(*shape)).permute(2, 0, 1)
        assert torch.equal(color.adjust_contrast(image, factor), functional.adjust_contrast(image, factor))


def test_grayscale() -> None:
    always = color.grayscale(IMAGE, Grayscale(probability=1), 8, RandomStream(0))
    assert np.array_equal(always, pixels(functional.rgb_to_grayscale(IMAGE_CHW, 3)))
    seen = [np.array_equal(color.grayscale(IMAGE, Grayscale(), 8, RandomStream(key(n))), always) for n in range(600)]
    assert abs(np.mean(seen) - 0.2) < 0.05


def test_blur_keeps_3_sigma_and_a_shorter_kernel_where_the_image_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(monkeypatch, "gaussian_blur")
    settings = GaussianBlur(probability=1, sigma=(0.5, 2.0))
    outs = [color.gaussian_blur(IMAGE[:, :4], settings, 8, RandomStream(key(n))) for n in range(200)]
    monkeypatch.undo()
    sigmas = np.array([arguments[1][0] for _, arguments, _ in recorder.calls])
    assert 0.5 <= sigmas.min() < 0.52
    assert 1.95 < sigmas.max() < 2
    for out, (_, (kernel, sigma), _) in zip(outs, recorder.calls, strict=True):
        assert kernel == [min(7, 2 * int(np.ceil(3 * sigma[0])) + 1), 2 * int(np.ceil(3 * sigma[0])) + 1]
        expected = v2.GaussianBlur(kernel, sigma[0]).transform(IMAGE_CHW[:, :, :4], {"sigma": sigma})
        assert np.array_equal(out, pixels(expected))


def test_erasing_fills_a_rectangle_of_the_asked_area_with_the_mean() -> None:
    settings = RandomErasing(probability=1.0, scale=(0.1, 0.3), ratio=(0.5, 2.0))
    image = np.full((100, 120, 3), 7, dtype=np.uint8)
    image[::2] = 13
    areas, ratios = [], []
    for number in range(400):
        out = erasing.random_erasing(image, settings, 8, RandomStream(key(number)))
        rows, columns = (
            np.nonzero((out == 10).all(axis=2).any(axis=1))[0],
            np.nonzero((out == 10).all(axis=2).any(axis=0))[0],
        )
        assert (out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == 10).all()
        areas.append(len(rows) * len(columns) / 12_000)
        ratios.append(len(rows) / len(columns))
    assert 0.095 < min(areas) < 0.11
    assert 0.29 < max(areas) < 0.305
    assert 0.48 < min(ratios) < 0.55
    assert 1.8 < max(ratios) < 2.1


def test_erasing_comes_with_its_probability_and_can_be_black() -> None:
    white = np.full((20, 20, 3), 255, dtype=np.uint8)
    outs = [erasing.random_erasing(white, RandomErasing(fill="black"), 8, RandomStream(key(n))) for n in range(600)]
    assert abs(np.mean([(out == 0).any() for out in outs]) - 0.25) < 0.05


SPACES = [
    (AUTO, v2.AutoAugment, 10),
    (RAND, v2.RandAugment, 31),
    (TRIVIAL_WIDE, v2.TrivialAugmentWide, 31),
]


@pytest.mark.parametrize(("ours", "transform", "num_bins"), SPACES, ids=["auto", "rand", "trivial"])
def test_the_operations_and_their_magnitudes_are_torchvisions(ours: Space, transform: Any, num_bins: int) -> None:
    theirs = transform._AUGMENTATION_SPACE
    assert list(ours) == list(theirs)
    for name, operation in ours.items():
        magnitudes_of, signed = theirs[name]
        magnitudes = magnitudes_of(num_bins, 224, 200)
        assert operation.signed == signed
        assert (operation.magnitude is None) == (magnitudes is None)
        if operation.magnitude is not None:
            shares = np.arange(num_bins) / (num_bins - 1)
            scale = 255 if name == "Solarize" else 1  # theirs is a share of the largest value
            expected = magnitudes.double().numpy() * scale
            assert [operation.magnitude(share, 224, 200) for share in shares] == pytest.approx(
                expected, rel=1e-5, abs=1e-4
            )


@pytest.mark.parametrize(
    "border", [Border(NEAREST, None), Border(BILINEAR, [9.0, 8.0, 7.0])], ids=["nearest", "bilinear"]
)
@pytest.mark.parametrize(("ours", "transform", "num_bins"), SPACES, ids=["auto", "rand", "trivial"])
def test_every_operation_gives_torchvisions_pixels(ours: Space, transform: Any, num_bins: int, border: Border) -> None:
    theirs = transform(interpolation=border.interpolation, fill=border.fill)
    for name, operation in ours.items():
        for share in np.linspace(0, 1, num_bins)[:: 4 if operation.magnitude else num_bins]:
            magnitude = operation.magnitude(float(share), 31, 44) if operation.magnitude else 0.0
            for signed in (magnitude, -magnitude) if operation.signed else (magnitude,):
                expected = theirs._apply_image_or_video_transform(
                    IMAGE_CHW, name, signed / 255 if name == "Solarize" else signed, border.interpolation, theirs._fill
                )
                assert torch.equal(operation.apply(IMAGE_CHW, signed, border), expected), (name, share)


def test_magnitude_0_changes_nothing_but_white_which_solarize_inverts_as_in_torchvision() -> None:
    image = IMAGE_CHW.clamp(max=254)
    for name, operation in RAND.items():
        if operation.magnitude is not None:
            out = operation.apply(image, operation.magnitude(0.0, 31, 44), Border(BILINEAR, None))
            assert torch.equal(out, image), name


def test_the_learned_policies_are_torchvisions() -> None:
    assert list(learned_policies.IMAGENET) == v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET)._policies
    assert list(learned_policies.CIFAR10) == v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies


def test_each_operation_is_drawn_equally_often_and_goes_either_way() -> None:
    drawn = [policies._any_of(RAND, RandomStream(key(n))) for n in range(2800)]
    counts = [drawn.count(operation) for operation in RAND.values()]
    assert min(counts) > 150
    assert max(counts) < 250
    brighter = 0
    for number in range(400):
        out = policies._applied(RAND["Brightness"], IMAGE_CHW, 0.5, Border(NEAREST, None), RandomStream(key(number)))
        brighter += int(out.float().mean() > IMAGE_CHW.float().mean())
    assert abs(brighter / 400 - 0.5) < 0.06


def test_a_policy_applies_its_steps_with_their_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "CIFAR10", ((("Invert", 0.25, None), ("Posterize", 1.0, 9)),))
    outs = [policies.auto_augment(IMAGE, AutoAugment(policy="cifar10"), 8, RandomStream(key(n))) for n in range(400)]
    posterized = np.mean([np.array_equal(out, IMAGE & 0xF0) for out in outs])
    inverted = np.mean([np.array_equal(out, ~IMAGE & 0xF0) for out in outs])
    assert posterized + inverted == 1
    assert abs(inverted - 0.25) < 0.06

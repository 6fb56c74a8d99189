"""The distance to teachers, against the formulas written in numpy, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from megabatch.configs.distillation import Form, form_of
from megabatch.configs.losses import BinaryCrossEntropy, CrossEntropy, Focal, Huber, Loss, MeanSquaredError
from megabatch.configs.targets import ClassTarget, LabelsTarget, NumbersTarget, Target
from megabatch.trainer.distillation.losses import distance, teaching

Array = NDArray[np.float64]
FORMS: tuple[Form, ...] = ("softmax", "sigmoid", "squared_error")


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def sigmoid(values: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-values)))


def reference(form: Form, student: Array, teachers: list[Array], weights: list[float], temperature: float) -> Array:
    if form == "squared_error":
        mean = sum(w * z for w, z in zip(weights, teachers, strict=True))
        return np.asarray(((student - mean) ** 2).mean(axis=1))
    predict = softmax if form == "softmax" else sigmoid
    p = np.asarray(sum(w * predict(z / temperature) for w, z in zip(weights, teachers, strict=True)))
    q = predict(student / temperature)
    if form == "softmax":
        return np.asarray(temperature**2 * (p * np.log(p / q)).sum(axis=1))
    return np.asarray(temperature**2 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(axis=1))


@settings(deadline=None, max_examples=25)
@given(
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 2**31),
    classes=st.integers(1, 7),
    teachers=st.integers(1, 3),
    temperature=st.floats(0.5, 20),
)
def test_the_distance_is_that_of_the_formula(
    form: Form, seed: int, classes: int, teachers: int, temperature: float
) -> None:
    random = np.random.default_rng(seed)
    outputs = [random.normal(0, 3, (4, classes)) for _ in range(teachers + 1)]
    shares = random.uniform(0.1, 1, teachers)
    weights = (shares / shares.sum()).tolist()
    student, *others = (torch.from_numpy(values) for values in outputs)
    found = distance(form, student, teaching(form, others, weights, temperature), temperature)
    np.testing.assert_allclose(
        found.numpy(), reference(form, outputs[0], outputs[1:], weights, temperature), rtol=1e-9, atol=1e-10
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_student_like_its_teacher_has_no_distance_and_no_gradient(form: Form) -> None:
    student = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = distance(form, student, teaching(form, [student.detach()], [1.0], 3.0), 3.0)
    found.sum().backward()
    assert student.grad is not None
    assert found.abs().max() < 1e-12
    assert student.grad.abs().max() < 1e-12


def test_at_high_temperature_the_gradient_is_that_of_squared_logits() -> None:
    """Hinton, Vinyals and Dean 2015, equations 2 to 4, times T**2: (z - v) / K for logits of mean 0."""
    z, v = (torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    z, v = ((values - values.mean(dim=1, keepdim=True)) for values in (z, v))
    z.requires_grad_()
    distance("softmax", z, teaching("softmax", [v], [1.0], 1e4), 1e4).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, (z.detach() - v) / 5, rtol=1e-3, atol=1e-3)


def test_sure_teachers_and_sixteen_bits_give_finite_numbers() -> None:
    outputs = torch.tensor([[60.0, -60.0, 0.0]], dtype=torch.bfloat16)
    for form in FORMS:
        found = distance(form, -outputs, teaching(form, [outputs], [1.0], 0.5), 0.5)
        assert found.dtype == torch.float32
        assert found.isfinite().all()


@pytest.mark.parametrize(
    ("target", "loss", "form"),
    [
        (ClassTarget(), CrossEntropy(), "softmax"),
        (ClassTarget(), BinaryCrossEntropy(), "sigmoid"),
        (ClassTarget(), MeanSquaredError(), "squared_error"),
        (LabelsTarget(), Focal(), "sigmoid"),
        (NumbersTarget(member="txt", count=1), Huber(), "squared_error"),
    ],
)
def test_the_form_follows_what_the_recipe_trains_with(target: Target, loss: Loss, form: Form) -> None:
    assert form_of(target, loss) == form

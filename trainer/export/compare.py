"""Do two functions predict the same? On real samples where there are some, with one image and with several."""

from __future__ import annotations

from typing import NamedTuple

import torch

from megabatch.configs.job import Job
from megabatch.configs.normalization import Auto
from megabatch.data.arrangement import arrange
from megabatch.data.errors import DataError
from megabatch.data.requests import evaluation_requests
from megabatch.trainer.build import implementation
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.export.formats import Predict
from megabatch.trainer.loaders import split_loader

TOLERANCE = 1e-4  # of the largest output: other kernels add floats in another order
_IMAGES = 32


class Images(NamedTuple):
    """Images as the network wants them, and in words where they are from."""

    images_NCHW: torch.Tensor
    origin: str


def images_of(job: Job) -> Images:
    """Return the first samples of the validation split (else test, else train), or random pixels if there are none."""
    try:
        pixels_NHWC, origin = _samples(job)
    except (DataError, OSError) as error:
        torch.manual_seed(job.recipe.seed)
        size = job.recipe.data.image_size
        pixels_NHWC = torch.randint(0, 256, (_IMAGES, size, size, 3), dtype=torch.uint8)
        origin = f"{_IMAGES} random images, as the data cannot be read ({str(error).splitlines()[0]})"
    scaling = job.recipe.data.normalize
    assert not isinstance(scaling, Auto), "the launcher writes the numbers into the job"
    normalize = implementation(scaling)(scaling, torch.device("cpu"), torch.float32)
    return Images(normalize(pixels_NHWC).contiguous(), origin)


def _samples(job: Job) -> tuple[torch.Tensor, str]:
    arrangement, data = arrange(job), job.recipe.data
    splits = (data.validation_split, data.test_split, data.train_split)
    split = next((name for name in splits if name in arrangement.parts and len(arrangement.sample_ids(name))), None)
    if split is None:
        raise DataError("there is none that can be read by itself")
    chosen = arrangement.sample_ids(split)[:_IMAGES]
    loader = split_loader(job, arrangement, arrangement.reader(split), data.evaluation_transforms, threads=1)
    batch = next(loader.load(evaluation_requests(len(chosen), _IMAGES, rank=0, num_ranks=1, chosen=chosen)))
    return batch.images_NHWC.clone(), f"{len(chosen)} samples of {split}"


class Comparison(NamedTuple):
    """The largest difference between the outputs, and the largest output itself."""

    difference: float
    largest: float

    @property
    def allowed(self) -> float:
        """Return the largest difference that counts as the same prediction."""
        return TOLERANCE * self.largest


@torch.no_grad()
def compare(expected: Predict, predict: Predict, images_NCHW: torch.Tensor) -> Comparison:
    """Compare on all images at once and on the first alone. Raises TrainingError if they differ or are not finite."""
    differences, largest = [], 0.0
    for images in (images_NCHW, images_NCHW[:1]):
        one_NK, other_NK = expected(images), _predicted(predict, images)
        if one_NK.shape != other_NK.shape:
            raise TrainingError(f"the outputs have shape {tuple(other_NK.shape)}, not {tuple(one_NK.shape)}")
        differences.append((one_NK - other_NK).abs().max().item())
        largest = max(largest, one_NK.abs().max().item())
    found = Comparison(max(differences), largest)
    if not all(difference <= found.allowed for difference in differences):  # not a number is no small difference
        raise TrainingError(
            f"what was written predicts other numbers than the network: they differ by {max(differences):.3g}, and "
            f"{found.allowed:.3g} is allowed ({TOLERANCE:g} of the largest output). Instead: another --format"
        )
    return found


def _predicted(predict: Predict, images_NCHW: torch.Tensor) -> torch.Tensor:
    try:
        return predict(images_NCHW)
    except Exception as error:  # a traced network that has the size of its example in it, say
        raise TrainingError(
            f"what was written does not predict {len(images_NCHW)} images: {first_line(error)}. "
            "Instead: another --format"
        ) from error

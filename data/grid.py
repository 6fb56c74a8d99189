"""`python -m megabatch.data.grid DATASET OUT`: samples before and after augmentation, as one PNG or HTML file.

What it shows after augmentation is what training sees: the same transforms with the same draws. It runs in a process of
its own because the transforms need torch and the launcher does not import it.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from megabatch.configs.cache import Cache
from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load
from megabatch.configs.recipe import Recipe
from megabatch.data.augment.chain import decoding_chain
from megabatch.data.dataset import Dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError, OwnPartError
from megabatch.data.hashing import AUGMENT, RandomStream, key, permutation
from megabatch.data.read import NO_LABEL, EncodedSample, SplitReader
from megabatch.data.sources.open import open_dataset

_CHOICE = 8  # what a key is for
_MOST_PIXELS = 100_000_000
_THUMBNAIL, _GAP, _CAPTION = 160, 8, 30  # pixels
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem; }
.samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; padding: .75rem; border: 1px solid #8884; border-radius: .5rem; }
figure div { display: flex; flex-wrap: wrap; gap: .5rem; align-items: start; }
img { max-width: 9rem; max-height: 9rem; border-radius: .25rem; }
figcaption { margin-top: .5rem; overflow-wrap: anywhere; }
small { opacity: .75; }
"""


@dataclass(frozen=True)
class Request:
    """What to show. Without a recipe only the images as they are."""

    location: str
    split: str
    count: int
    epochs: int
    seed: int
    out: Path
    recipe: Recipe | None


class _Shown(NamedTuple):
    caption: str
    details: str
    original: Image.Image
    augmented: list[Image.Image]


def main() -> int:
    """Write the file; a user's mistake ends with its message and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m megabatch.data.grid", description=__doc__.splitlines()[0])
    parser.add_argument("location")
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe")
    parser.add_argument("--split", default="train")
    for name in ("count", "epochs", "seed"):
        parser.add_argument(f"--{name}", type=int)
    asked = parser.parse_args()
    try:
        recipe = None
        if asked.recipe:
            recipe = load(asked.recipe, "laptop", [f"data.path={json.dumps(asked.location)}"]).recipe
        seed = asked.seed if asked.seed is not None else recipe.seed if recipe else 0
        write_grid(Request(asked.location, asked.split, asked.count, asked.epochs, seed, asked.out, recipe))
    except (DataError, ConfigError, OwnPartError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_grid(request: Request) -> None:
    """Write a grid of samples. Raises DataError for a split without samples or an image that cannot be shown."""
    dataset = open_dataset(request.location, Path.cwd(), Cache(), lambda done, total: None)
    shown = list(_samples(dataset, request))
    if not shown:
        raise DataError(f"{dataset.shown}: split {request.split!r} has no samples to show")
    try:
        if request.out.suffix.lower() == ".png":
            _as_png(shown).save(request.out)
        else:
            request.out.write_text(_as_html(dataset, request, shown), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{request.out}: cannot be written: {error.strerror or error}") from None


def _samples(dataset: Dataset, request: Request) -> Iterator[_Shown]:
    reader = SplitReader(dataset.folder, dataset.split(request.split))
    chosen = permutation(key(request.seed, _CHOICE), reader.samples)[: request.count]
    for sample_id in chosen.tolist():
        sample = reader.read(sample_id)
        try:
            original = Image.fromarray(decode_image(sample.image, _MOST_PIXELS))
            augmented = list(_augmented(request, sample, sample_id))
        except ValueError as error:
            raise DataError(f"{sample.where}: {error}") from None
        known = 0 <= sample.label < len(dataset.classes)
        name = dataset.classes[sample.label] if known else "no class"
        label = "" if sample.label == NO_LABEL else f"label {sample.label}, "
        details = f"{label}{original.width} x {original.height}, {len(sample.image):,} bytes"
        original.thumbnail((_THUMBNAIL, _THUMBNAIL))
        yield _Shown(f"{name}: {sample.key}", details, original, augmented)


def _augmented(request: Request, sample: EncodedSample, sample_id: int) -> Iterator[Image.Image]:
    """Yield the sample as training sees it, epoch by epoch."""
    if request.recipe is None:
        return
    data = request.recipe.data
    transform = decoding_chain(data.train_transforms, data.image_size, data.max_image_pixels)
    for epoch in range(request.epochs):
        pixels_HWC = np.zeros((data.image_size, data.image_size, 3), dtype=np.uint8)
        transform(sample.image, RandomStream(key(request.seed, epoch, AUGMENT, sample_id, 0)), pixels_HWC)
        image = Image.fromarray(pixels_HWC)
        image.thumbnail((_THUMBNAIL, _THUMBNAIL))
        yield image


def _as_png(shown: list[_Shown]) -> Image.Image:
    """Return a row for each sample: the original, then one picture for each epoch."""
    cell = _THUMBNAIL + _GAP
    columns = 1 + max(len(sample.augmented) for sample in shown)
    rows = [(sample, _THUMBNAIL + _CAPTION + _GAP) for sample in shown]
    canvas = Image.new("RGB", (_GAP + columns * cell, _GAP + sum(height for _, height in rows)), "white")
    draw, top = ImageDraw.Draw(canvas), _GAP
    for sample, height in rows:
        for column, image in enumerate((sample.original, *sample.augmented)):
            canvas.paste(image, (_GAP + column * cell, top))
        for line, text in enumerate((sample.caption, sample.details)):
            draw.text((_GAP, top + _THUMBNAIL + 2 + 14 * line), text, fill="black")
        top += height
    return canvas


def _as_html(dataset: Dataset, request: Request, shown: list[_Shown]) -> str:
    title = html.escape(f"{dataset.shown}, {request.split}")
    figures = "\n".join(_figure(sample) for sample in shown)
    epochs = f", then as training sees it in {request.epochs} epochs" if request.recipe else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
        f'<body><h1>{title}</h1><p>Each sample as it is{epochs}.</p>\n<div class="samples">\n{figures}\n</div>'
        "</body></html>\n"
    )


def _figure(sample: _Shown) -> str:
    caption = html.escape(sample.caption)
    names = [caption, *(f"{caption}, epoch {epoch}" for epoch in range(len(sample.augmented)))]
    pictures = zip(names, (sample.original, *sample.augmented), strict=True)
    images = "".join(f'<img alt="{name}" src="{_data_uri(image)}">' for name, image in pictures)
    details = html.escape(sample.details)
    return f"<figure><div>{images}</div><figcaption>{caption}<br><small>{details}</small></figcaption></figure>"


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


if __name__ == "__main__":
    sys.exit(main())

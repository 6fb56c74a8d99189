"""Shards with one of everything that `megabatch data clean` looks for, written as a broken pipeline would write them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Members = dict[str, bytes]  # name in the shard -> bytes


def picture(number: int, width: int = 96, height: int = 72) -> Image.Image:
    """Draw one image of an endless series: soft colours below, a few sharp shapes above."""
    random = np.random.default_rng([77, number])
    soft = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    image = soft.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        x, y = random.uniform(0, width * 0.8), random.uniform(0, height * 0.8)
        box = (x, y, x + random.uniform(0.1, 0.4) * width, y + random.uniform(0.1, 0.4) * height)
        draw.ellipse(box, fill=tuple(random.integers(0, 256, 3).tolist()))
    return image


def encoded(image: Image.Image, kind: str = "JPEG", quality: int = 92) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    image.save(file, kind, quality=quality)
    return file.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    """Write members one after the other, whatever they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return path


def sample(key: str, image: bytes, label: int | str = 0, extension: str = "jpg") -> Members:
    """Return the members of a sample."""
    return {f"{key}.{extension}": image, f"{key}.cls": str(label).encode()}


def clean_samples(count: int, first: int = 0, prefix: str = "fine") -> Members:
    """Return samples without fault, labels 0 and 1 in turn."""
    numbers = range(first, first + count)
    return {
        name: payload
        for number in numbers
        for name, payload in sample(f"{prefix}{number:03d}", encoded(picture(number)), number % 2).items()
    }


def one_of_everything(folder: Path) -> set[tuple[str, str, str, str | None]]:
    """Write shards of train and test, and return what is wrong: (kind, split, key, key of the partner)."""
    twice, stored_again, leaked, disputed, nearly = (encoded(picture(900 + n)) for n in range(5))
    png = encoded(picture(910), "PNG")
    cropped = picture(904).crop((1, 1, 95, 71)).resize((67, 50), Image.Resampling.BICUBIC)
    near_leak = picture(911)
    train = {
        **clean_samples(40),
        **sample("twice_a", twice),
        **sample("twice_b", twice),
        **sample("pixels_a", stored_again),
        **sample("pixels_b", encoded(Image.open(io.BytesIO(stored_again)).convert("RGB"), "PNG"), 0, "png"),
        **sample("leaked", leaked),
        **sample("disputed_a", disputed, 0),
        **sample("disputed_b", disputed, 1),
        **sample("near_a", nearly),
        **sample("near_b", encoded(cropped, quality=60)),
        **sample("near_leaked", encoded(near_leak)),
        **sample("unreadable", b"no image at all"),
        **sample("corrupt", png[:60] + bytes(20) + png[80:], 0, "png"),
        **sample("cut_jpg", encoded(picture(912))[:-900]),
        **sample("cut_png", png[:-900], 0, "png"),
        **sample("cut_webp", encoded(picture(913), "WEBP")[:-300], 0, "webp"),
        **sample("named_wrong", encoded(picture(914), "PNG"), 0, "jpg"),
        **sample("word", encoded(picture(915)), "cat"),
        **sample("outside", encoded(picture(916)), 2),
        **sample("negative", encoded(picture(917)), -1),
        "unlabelled.jpg": encoded(picture(918)),
        "imageless.cls": b"1",
        **sample("empty", b"", 1),
        **sample("huge", encoded(Image.new("L", (300, 200)), "PNG"), 1, "png"),
        **sample("blank", encoded(Image.new("RGB", (96, 72), (90, 120, 60)))),
        **sample("ribbon", encoded(picture(919, 200, 40))),
        **sample("tiny", encoded(picture(920, 16, 16))),
        **sample("white", encoded(picture(921).point(lambda value: 210 + value // 6))),
    }  # fmt: skip
    test = {
        **clean_samples(10, first=100),
        **sample("also_train", leaked),
        **sample("nearly_train", encoded(near_leak.resize((67, 50)), quality=60)),
    }
    write_tar(folder / "train-000000.tar", train)
    write_tar(folder / "test-000000.tar", test)
    (folder / "classes.txt").write_text("cat\ndog\n")
    return {
        ("duplicate", "train", "twice_b", "twice_a"),
        ("duplicate", "train", "pixels_b", "pixels_a"),
        ("leak", "train", "leaked", "also_train"),
        ("conflict", "train", "disputed_a", "disputed_b"),
        ("conflict", "train", "disputed_b", "disputed_a"),
        ("near_duplicate", "train", "near_b", "near_a"),
        ("near_leak", "train", "near_leaked", "nearly_train"),
        ("unreadable", "train", "unreadable", None),
        ("unreadable", "train", "corrupt", None),
        ("truncated", "train", "cut_jpg", None),
        ("truncated", "train", "cut_png", None),
        ("truncated", "train", "cut_webp", None),
        ("wrong_extension", "train", "named_wrong", None),
        ("label_not_integer", "train", "word", None),
        ("label_outside", "train", "outside", None),
        ("label_outside", "train", "negative", None),
        ("label_missing", "train", "unlabelled", None),
        ("image_missing", "train", "imageless", None),
        ("image_missing", "train", "empty", None),
        ("huge", "train", "huge", None),
        ("blank", "train", "blank", None),
        ("aspect", "train", "ribbon", None),
        ("size", "train", "tiny", None),
        ("brightness", "train", "white", None),
        ("contrast", "train", "white", None),
    }


MAX_PIXELS = 50_000
ALWAYS = {
    "unreadable", "corrupt", "cut_jpg", "cut_png", "cut_webp", "word", "outside", "negative", "unlabelled", "imageless",
    "empty", "huge",
}  # fmt: skip

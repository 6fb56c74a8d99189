"""Class folders and zips with files that begin like images, made of nothing but their number."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

from megabatch.data.importer import Imported, ImportOptions, import_images

SIGNATURES = {"jpg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF\x10\x00\x00\x00WEBP"}


def no_progress(done: int, total: int) -> None:
    pass


def image(number: int, kind: str = "jpg") -> bytes:
    return SIGNATURES[kind] + random.Random(number).randbytes(50 + number % 300)


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, payload in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(payload)
    return folder


def animals(counts: dict[str, int], prefix: str = "") -> dict[str, bytes]:
    kinds = ("jpg", "png", "webp")
    numbered = [(c, n) for c, count in counts.items() for n in range(count)]
    return {f"{prefix}{c}/{n:03d}.{kinds[n % 3]}": image(i, kinds[n % 3]) for i, (c, n) in enumerate(numbered)}


def zipped(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, payload in files.items():
            archive.writestr(name, payload)
    return path


def imported(source: Path, out: Path, **options: object) -> Imported:
    return import_images(source, out, ImportOptions(**options), no_progress)  # type: ignore[arg-type]

"""Where images come from: a tree of class folders, or a zip of one, read without extracting it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from megabatch.data.errors import DataError
from megabatch.data.tar_index import IMAGE_EXTENSIONS

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class SourceImage:
    """One image file: its split and class by the folders it lies in, and its path inside the source."""

    split: str
    class_name: str
    path: str


@dataclass(frozen=True)
class Listing:
    """Every image of a source, sorted by path, and how many other files were passed over."""

    images: tuple[SourceImage, ...]
    ignored_files: int


class ImageSource(Protocol):
    """Files by path, in a folder or a zip."""

    def paths(self) -> list[str]:
        """Return the path of every file, with forward slashes."""
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of one file."""
        ...


class _Folder:
    def __init__(self, root: Path):
        self._root = root

    def paths(self) -> list[str]:
        return [p.relative_to(self._root).as_posix() for p in self._root.rglob("*") if p.is_file()]

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, name: str):
        self._archive = archive
        self._name = name

    def paths(self) -> list[str]:
        return [info.filename for info in self._archive.infolist() if not info.is_dir()]

    def read(self, path: str) -> bytes:
        try:
            return self._archive.read(path)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # RuntimeError: encrypted
            raise DataError(f"{self._name}: {path}: cannot be read: {error}") from None


def open_source(path: Path) -> AbstractContextManager[ImageSource]:
    """Open a folder or a zip. Raises DataError for anything else."""
    if path.is_dir():
        return _open_folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _open_zip(path)
    seen = "is neither a folder nor a zip" if path.exists() else "does not exist"
    raise DataError(f"{path}: {seen}: give a folder of class folders (CLASS/image.jpg), or a zip of one")


@contextmanager
def _open_folder(path: Path) -> Iterator[ImageSource]:
    yield _Folder(path)


@contextmanager
def _open_zip(path: Path) -> Iterator[ImageSource]:
    with zipfile.ZipFile(path) as archive:
        yield _Zip(archive, str(path))


def list_images(source: ImageSource, name: str) -> Listing:
    """Sort the files of a source into splits and classes by their folders.

    `CLASS/a.jpg` is one split called train; `train/CLASS/a.jpg`, `val/CLASS/a.jpg`, `test/CLASS/a.jpg` are splits where
    every top folder is named so. One folder around it all is looked through.
    """
    paths = [p for p in source.paths() if not _hidden(p)]
    images = sorted(p for p in paths if PurePosixPath(p).suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS)
    if not images:
        raise DataError(f"{name}: no {', '.join(IMAGE_EXTENSIONS)} files in it: give a folder of CLASS/image.jpg files")
    depth = _wrapping_folders(images)
    by_split = all(PurePosixPath(p).parts[depth] in SPLIT_FOLDERS and _folders(p) > depth + 1 for p in images)
    found = []
    for path in images:
        parts = PurePosixPath(path).parts[depth:]
        split = SPLIT_FOLDERS[parts[0]] if by_split else "train"
        inside = parts[1:] if by_split else parts
        if len(inside) < 2:
            raise DataError(f"{name}: {path}: lies in no class folder: put it under CLASS/")
        found.append(SourceImage(split, inside[0], path))
    return Listing(tuple(found), len(paths) - len(images))


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


def _folders(path: str) -> int:
    return len(PurePosixPath(path).parts) - 1


def _wrapping_folders(paths: list[str]) -> int:
    """Return 1 if everything lies in one folder that holds class or split folders, else 0."""
    first = {PurePosixPath(p).parts[0] for p in paths}
    return 1 if len(first) == 1 and first.isdisjoint(SPLIT_FOLDERS) and all(_folders(p) >= 2 for p in paths) else 0

"""Where images come from: a tree of class folders, or a zip of one, read without extracting it. Decodes nothing."""

from __future__ import annotations

import lzma
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn, Protocol

from megabatch.data.errors import DataError
from megabatch.data.tar_index import IMAGE_EXTENSIONS

SPLIT_FOLDERS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
HEAD_BYTES = 16
_SHOWN = 10
_ENCRYPTED_FLAG = 0x1
_NOT_IN_A_CLASS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # classes.txt has one a line


@dataclass(frozen=True)
class SourceImage:
    """One image file: its split and class by the folders it lies in, its name below them, its path in the source."""

    split: str
    class_name: str
    name: str
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

    def size(self, path: str) -> int:
        """Return how many bytes a file has."""
        ...

    def head(self, path: str) -> bytes:
        """Return the first HEAD_BYTES bytes of a file."""
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of one file."""
        ...


class _Folder:
    def __init__(self, root: Path):
        self._root = root

    def paths(self) -> list[str]:
        """Linked folders are followed, but not in a circle, nor to the same images twice."""
        found = []
        visited = set()
        for folder, inner, files in os.walk(self._root, onerror=_raise, followlinks=True):
            status = Path(folder).stat()
            if (status.st_dev, status.st_ino) in visited:
                raise DataError(f"{folder}: a link to a folder that was listed already: remove the link")
            visited.add((status.st_dev, status.st_ino))
            inner.sort()
            base = Path(folder).relative_to(self._root).as_posix()
            found += files if base == "." else [f"{base}/{file}" for file in files]
        return found

    def size(self, path: str) -> int:
        return (self._root / path).stat().st_size

    def head(self, path: str) -> bytes:
        with (self._root / path).open("rb") as file:
            return file.read(HEAD_BYTES)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()


def _raise(error: OSError) -> NoReturn:
    """os.walk passes over a folder it may not read; half a class must not go missing in silence."""
    raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from None


class _Zip:
    def __init__(self, archive: zipfile.ZipFile, name: str):
        self._archive = archive
        self._name = name

    def paths(self) -> list[str]:
        infos = [info for info in self._archive.infolist() if not info.is_dir()]
        encrypted = [info.filename for info in infos if info.flag_bits & _ENCRYPTED_FLAG]
        if encrypted:
            raise DataError(f"{self._name}: {shown(encrypted)}: encrypted: write the zip again without a password")
        twice = [path for path, count in Counter(info.filename for info in infos).items() if count > 1]
        if twice:
            raise DataError(f"{self._name}: {shown(twice)}: twice in the zip, so one of them is lost: write it again")
        return [info.filename for info in infos]

    def size(self, path: str) -> int:
        return self._archive.getinfo(path).file_size

    def head(self, path: str) -> bytes:
        with self._readable(path), self._archive.open(path) as file:
            return file.read(HEAD_BYTES)

    def read(self, path: str) -> bytes:
        with self._readable(path):
            return self._archive.read(path)

    @contextmanager
    def _readable(self, path: str) -> Iterator[None]:
        damage = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, OSError, ValueError)
        try:
            yield
        except damage as error:
            raise DataError(
                f"{self._name}: {path}: cannot be read: {error}. Copy the zip again (unzip -t tests it)"
            ) from None


def open_source(path: Path) -> AbstractContextManager[ImageSource]:
    """Open a folder or a zip. Raises DataError for anything else."""
    if path.is_dir():
        return _open_folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _open_zip(path)
    seen = "is neither a folder nor a whole zip" if path.exists() else "does not exist"
    raise DataError(f"{path}: {seen}: give a folder of class folders (CLASS/image.jpg), or a zip of one")


@contextmanager
def _open_folder(path: Path) -> Iterator[ImageSource]:
    yield _Folder(path)


@contextmanager
def _open_zip(path: Path) -> Iterator[ImageSource]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{path}: a damaged zip: {error}. Copy it again (unzip -t tests it)") from None
    with archive:
        yield _Zip(archive, str(path))


def list_images(source: ImageSource, name: str) -> Listing:
    """Sort the files of a source into splits and classes by their folders.

    `CLASS/a.jpg` is one split called train; `train/CLASS/a.jpg`, `val/CLASS/a.jpg`, `test/CLASS/a.jpg` are splits where
    every top folder is named so. One folder around it all is looked through. Hidden files are no images.
    """
    paths = source.paths()
    images = sorted(path for path in paths if _is_image(path))
    if not images:
        raise DataError(f"{name}: no {', '.join(IMAGE_EXTENSIONS)} files in it: give a folder of CLASS/image.jpg files")
    depth = _wrapping_folders(images)
    top = {PurePosixPath(path).parts[depth] for path in images}
    by_split = top <= set(SPLIT_FOLDERS)
    if by_split and {"val", "validation"} <= top:
        raise DataError(f"{name}: has both val/ and validation/: keep one of them")
    outside = [path for path in images if _folders(path) < depth + 1 + by_split]
    if outside:
        form = "SPLIT/CLASS/image.jpg" if by_split else "CLASS/image.jpg"
        raise DataError(f"{name}: {len(outside):,} images lie in no class folder: {shown(outside)}: needed is {form}")
    return Listing(tuple(_placed(path, depth, by_split, name) for path in images), len(paths) - len(images))


def _placed(path: str, depth: int, by_split: bool, source: str) -> SourceImage:
    parts = PurePosixPath(path).parts[depth:]
    split = SPLIT_FOLDERS[parts[0]] if by_split else "train"
    class_name, *rest = parts[1:] if by_split else parts
    if _NOT_IN_A_CLASS.search(class_name):
        raise DataError(f"{source}: {path!r}: a class folder with control characters, or not in UTF-8: rename it")
    return SourceImage(split, class_name, "/".join(rest), path)


def shown(names: list[str], separator: str = ", ") -> str:
    """Return the first ten of many names, and how many more there are."""
    parts = [name.encode("utf-8", "backslashreplace").decode() for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        parts.append(f"and {len(names) - _SHOWN:,} more")
    return separator.join(parts)


def _is_image(path: str) -> bool:
    parts = PurePosixPath(path).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(path).suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS


def _folders(path: str) -> int:
    return len(PurePosixPath(path).parts) - 1


def _wrapping_folders(paths: list[str]) -> int:
    """Return 1 if everything lies in one folder that holds class or split folders, else 0."""
    first = {PurePosixPath(p).parts[0] for p in paths}
    return 1 if len(first) == 1 and first.isdisjoint(SPLIT_FOLDERS) and all(_folders(p) >= 2 for p in paths) else 0

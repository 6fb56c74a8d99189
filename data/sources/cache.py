"""The shards of a node: each is loaded once, checked, and then read by all ranks.

A shard is named by the SHA-256 of its bytes and appears whole or not at all: loaded under another name, checked,
indexed, renamed. Who loads holds the shard's `.lock`; who reads holds a shared lock on the shard, and only during the
read, so that a small cache cannot end with every rank waiting for the others (data/sources/room.py removes shards).
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from platformdirs import user_cache_path

from megabatch.configs.cache import Cache
from megabatch.data.dataset import Shard
from megabatch.data.errors import DataError
from megabatch.data.sources.download import OtherFileError, download, repeated
from megabatch.data.sources.locks import locked, share
from megabatch.data.sources.places import visible
from megabatch.data.sources.remote import size_of
from megabatch.data.sources.room import make_room, named, part_path
from megabatch.data.tar_index import (
    LABEL_EXTENSION,
    Sample,
    SampleTable,
    index_tar,
    read_index,
    sample_table,
    write_index,
)

_INDEX_SHARE = 8  # an index is less than an eighth of its shard: a member takes 1,024 bytes at least


class ShardCache:
    """Shards of URLs in a folder of this machine, for any number of processes and threads."""

    def __init__(self, settings: Cache):
        self.settings = settings
        self.folder = Path(settings.folder).expanduser() if settings.folder else user_cache_path("megabatch")
        self._shards = self.folder / "shards"
        self._background: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def opened(self, shard: Shard) -> Iterator[int]:
        """Yield the shard as an open file that cannot be removed meanwhile; load it first if it is not here.

        Raises DataError naming the URL, or the cache folder if that cannot be written.
        """
        path = self._path(shard.sha256)
        file = _open_shared(path)
        if file is None:
            file = self._loaded(shard)
        try:
            with suppress(OSError):  # a folder that is only for reading keeps no record of use
                os.utime(file)
            yield file
        finally:
            os.close(file)

    def table(self, shard: Shard, extension: str = LABEL_EXTENSION) -> SampleTable:
        """Return where the samples of a shard and their members with an extension lie; load it if it is not here."""
        return sample_table(self.samples(shard), visible(shard.url), extension)

    def samples(self, shard: Shard) -> tuple[Sample, ...]:
        """Return the samples of a shard with all members; load it if it is not here."""
        path = self._path(shard.sha256)
        index = path.with_suffix(".idx")
        with self.opened(shard):
            try:
                samples = read_index(index)
            except DataError:  # a power failure may leave it empty; it is made of the shard alone
                samples = index_tar(path)
                write_index(samples, index)
            return samples

    def prefetch(self, shards: Iterable[Shard]) -> None:
        """Begin to load shards in the background, the first ones first, a few at a time; the rest is left out.

        What goes wrong is told when the shard is opened.
        """
        for shard in shards:
            with self._lock:
                if len(self._background) >= self.settings.prefetch_shards:
                    return
                if shard.sha256 in self._background or self._path(shard.sha256).exists():
                    continue
                self._background.add(shard.sha256)
            # A daemon: a run that has ended does not wait for shards that nobody needs.
            threading.Thread(target=self._load_in_background, args=(shard,), daemon=True).start()

    def load_unknown(self, url: str, file_name: str) -> Shard:
        """Load a shard of which nothing is known yet, and return its entry for dataset.json.

        Raises DataError if it is no shard.
        """
        name = hashlib.sha256(url.encode()).hexdigest()[:32]
        with self._folder_told(), locked(self._shards / f"{name}.lock"):
            size = repeated(url, self.settings, lambda: size_of(url, self.settings.timeout_seconds)) or 0
            part = self._reserved(name, size)
            with part.open("w+b") as file:
                download(url, file, self.settings)
                sha256 = _sha256(file)
                path = self._path(sha256)
                samples = _index(part, path.with_suffix(".idx"), url)
                shard = Shard(file_name, samples, file.seek(0, os.SEEK_END), sha256, url)
                _publish(file, part, path)
        return shard

    def _path(self, sha256: str) -> Path:
        return self._shards / f"{sha256}.tar"

    def _loaded(self, shard: Shard) -> int:
        """Return the shard, open: loaded by this thread, or by somebody else while it waited for the lock."""
        path = self._path(shard.sha256)
        with self._folder_told(), locked(path.with_suffix(".lock")):
            found = _open_shared(path)
            if found is not None:
                return found
            part = self._reserved(shard.sha256, shard.bytes)
            with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
                self._load(shard, file)
                if _index(part, path.with_suffix(".idx"), shard.url) != shard.samples:
                    raise DataError(f"{visible(shard.url)}: has other samples than dataset.json recorded")
                _publish(file, part, path)
                return os.dup(file.fileno())

    def _load(self, shard: Shard, file: BufferedRandom) -> None:
        """Load what is missing of a shard and compare it with what was recorded; try other bytes once more."""
        for last in (False, True):
            try:
                download(shard.url, file, self.settings, shard.bytes)
                if _sha256(file) == shard.sha256:
                    return
                raise OtherFileError(
                    f"{visible(shard.url)}: the bytes differ from those recorded in dataset.json (SHA-256): the shard "
                    "was changed. Copy it again, or index the shards anew"
                )
            except OtherFileError:
                file.truncate(0)
                if last:
                    raise

    def _reserved(self, name: str, size: int) -> Path:
        needed = size + size // _INDEX_SHARE
        part = part_path(self._shards, name, needed)
        make_room(part, needed, self.settings.max_bytes)
        return part

    def _load_in_background(self, shard: Shard) -> None:
        try:
            with suppress(DataError), self.opened(shard):
                pass
        finally:
            with self._lock:
                self._background.discard(shard.sha256)

    @contextmanager
    def _folder_told(self) -> Iterator[None]:
        """Make the folder, and say what is wrong with it where it cannot be written."""
        try:
            self._shards.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise DataError(
                f"{self.folder}: the cache for shards cannot be written: {error.strerror or error}. Make room or set "
                "cluster.cache.folder to a folder of yours on a disk with room; cluster.cache.max_gibibytes limits it"
            ) from None


def _open_shared(path: Path) -> int | None:
    while True:
        try:
            file = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise DataError(f"{path}: cannot be opened: {error.strerror or error}") from None
        share(file, path)
        if os.fstat(file).st_nlink:
            return file
        os.close(file)  # removed between the open and the lock


def _sha256(file: BufferedRandom) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


def _index(part: Path, index: Path, url: str) -> int:
    """Write the index of a shard that was just loaded and return its number of samples."""
    try:
        samples = index_tar(part)
        sample_table(samples, visible(url))
    except DataError as error:
        part.unlink()
        raise DataError(str(error).replace(str(part), visible(url))) from None
    write_index(samples, index)
    return len(samples)


def _publish(file: BufferedRandom, part: Path, path: Path) -> None:
    """Give a loaded shard its name. It is held before others can see it, so that it cannot be removed at once."""
    os.fsync(file.fileno())
    share(file.fileno(), part)
    named(part, path)

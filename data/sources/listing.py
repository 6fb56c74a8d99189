"""Which shards there are: looks into folders, object stores and lists of shards, but into no shard."""

from __future__ import annotations

import glob
from pathlib import Path

from megabatch.configs.cache import Cache
from megabatch.data.errors import DataError
from megabatch.data.sources.download import read_small, repeated
from megabatch.data.sources.manifests import FILE_NAMES, shards_in
from megabatch.data.sources.places import is_remote, joined, visible
from megabatch.data.sources.remote import MissingError, matching
from megabatch.data.sources.shards import ListedShard, listed
from megabatch.data.sources.spec import is_pattern


def spec_shards(places: list[str], settings: Cache) -> list[ListedShard]:
    """Return the shards that the places of a spec name: shards, patterns and lists of shards.

    Raises DataError for a pattern that matches nothing, and for files of this machine that are missing.
    """
    shards: list[ListedShard] = []
    for place in places:
        if is_pattern(place):
            shards += [listed(found) for found in _matching(place, settings)]
        elif place.endswith(".json"):
            shards += shards_in(place, _content(place, settings))
        else:
            shards.append(listed(place))
    _require_present(shards)
    return shards


def folder_shards(place: str, settings: Cache) -> list[ListedShard]:
    """Return the shards of a folder: those that a list in it names (_info.json, sizes.json), or every .tar file.

    Raises DataError if a folder elsewhere has none; one of this machine may be empty.
    """
    for name in FILE_NAMES:
        manifest = joined(place, name)
        try:
            shards = shards_in(manifest, _content(manifest, settings))
        except MissingError:
            continue
        _require_present(shards)
        return shards
    pattern = f"{place.rstrip('/') if is_remote(place) else glob.escape(place)}/*.tar"
    shards = [listed(found) for found in repeated(place, settings, lambda: _found(pattern))]
    if not shards and is_remote(place):
        raise DataError(f"{visible(place)}: no .tar files in it. Correct data.path, or copy shards there")
    return shards


def _matching(pattern: str, settings: Cache) -> list[str]:
    found = repeated(pattern, settings, lambda: _found(pattern))
    if not found:
        raise DataError(f"{visible(pattern)}: matches no file. Correct data.path, or write the shards with braces")
    return found


def _found(pattern: str) -> list[str]:
    return matching(pattern) if is_remote(pattern) else sorted(glob.glob(pattern))  # noqa: PTH207  # an absolute pattern


def _content(place: str, settings: Cache) -> bytes:
    if is_remote(place):
        return read_small(place, settings)
    try:
        return Path(place).read_bytes()
    except FileNotFoundError:
        raise MissingError(f"{place}: no such file. Correct data.path") from None
    except OSError as error:
        raise DataError(f"{place}: cannot be read: {error.strerror or error}") from None


def _require_present(shards: list[ListedShard]) -> None:
    local = [shard.place for shard in shards if not is_remote(shard.place)]
    missing = [place for place in local if not Path(place).is_file()]
    if missing:
        raise DataError(
            f"{missing[0]}: no such file; {len(missing):,} of the {len(shards):,} shards of data.path are missing. "
            "Correct data.path, or copy them there"
        )

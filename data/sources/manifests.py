"""Lists of shards that other tools write: timm's _info.json, OpenCLIP's sizes.json, wids' shard lists. Pure."""

from __future__ import annotations

import json
from typing import Any

from megabatch.data.errors import DataError
from megabatch.data.sources.places import beside, visible
from megabatch.data.sources.shards import ListedShard, listed, split_name

FILE_NAMES = ("_info.json", "sizes.json")  # looked for in a folder without a dataset.json


def shards_in(manifest: str, content: bytes) -> list[ListedShard]:
    """Return the shards that a list names, with their numbers of samples. Raises DataError if it is no such list.

    timm: {"splits": {"train": {"filenames": [...], "shard_lengths": [...]}}}, the split is the key.
    wids: {"shardlist": [{"url": ..., "nsamples": ...}]}. OpenCLIP: {"train-0000.tar": 1000, ...}.
    """
    try:
        values = json.loads(content)
        shards = _parsed(manifest, values)
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _no_list(manifest, f"{type(error).__name__}: {error}") from None
    if not shards:
        raise _no_list(manifest, "it names no shards")
    for shard in shards:
        if shard.samples is not None and (type(shard.samples) is not int or shard.samples < 0):
            raise _no_list(manifest, f"{shard.samples!r} where a number of samples must be")
    return shards


def _no_list(manifest: str, reason: str) -> DataError:
    return DataError(
        f"{visible(manifest)}: no list of shards ({reason}). Known are timm's _info.json, OpenCLIP's sizes.json and "
        "webdataset's shardlist; for a megabatch dataset.json name its folder"
    )


def _parsed(manifest: str, values: Any) -> list[ListedShard]:  # Any: whatever stands in the file
    if "splits" in values and "format" not in values:
        return [shard for name, split in values["splits"].items() for shard in _timm(manifest, name, split)]
    if "shardlist" in values:
        return [listed(beside(manifest, shard["url"]), shard.get("nsamples")) for shard in values["shardlist"]]
    return [listed(beside(manifest, name), samples) for name, samples in values.items() if name.endswith(".tar")]


def _timm(manifest: str, name: str, split: Any) -> list[ListedShard]:
    files, lengths = split["filenames"], split.get("shard_lengths") or [None] * len(split["filenames"])
    shards = [
        ListedShard(beside(manifest, file), split_name(name), samples)
        for file, samples in zip(files, lengths, strict=True)
    ]
    total = split.get("num_samples")
    if total is not None and None not in lengths and total != sum(lengths):
        raise ValueError(f"split {name}: num_samples is {total}, the shards have {sum(lengths)}")
    return shards

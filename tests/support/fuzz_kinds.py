"""What is fuzzed: for each kind of file, how it is mutated from a seed, read, and what must be true then.

A case ends as "refused" (an error of ours, one line each, with its place) or "accepted" (and then nothing was lost or
ignored). Everything else is a failed case: another exception, a hang, memory, something silent.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import Loaded, load, read_job
from megabatch.configs.machine import AUTO, AUTOMATIC
from megabatch.data.arrangement import Arrangement
from megabatch.data.dataset import Dataset, Shard, Split, read_dataset, write_dataset
from megabatch.data.decode import EncodedImage, decode_image
from megabatch.data.errors import DataError
from megabatch.data.importer import sha256_of
from megabatch.data.indexing import verify
from megabatch.data.parts import Part
from megabatch.data.tar_index import Sample, index_tar, read_index, write_index
from megabatch.launcher.hosts.messages import Lines, decoded, encoded
from megabatch.launcher.plan import make_plan
from megabatch.launcher.prepare import job_of
from megabatch.launcher.refusals import refusals
from megabatch.launcher.save_job import write_job
from support.mutate import mutated_bytes, mutated_tar, whole_images, whole_tars
from support.mutate_yaml import mutated_yaml, whole_clusters, whole_recipes

Case = Callable[[int], str]  # seed -> "refused" or "accepted"
MOST_PIXELS = 1_000_000
MOST_SHOWN = 1500  # characters of a message


def small_shards(folder: Path) -> Dataset:
    """Write a data set of small shards, one in each format of tar."""
    folder.mkdir()
    shards = []
    for number, raw in enumerate(whole_tars()):
        path = folder / f"train-{number}.tar"
        path.write_bytes(raw)
        samples = index_tar(path)
        write_index(samples, path.with_suffix(".idx"))
        shards.append(Shard(path.name, len(samples), len(raw), sha256_of(path)))
    samples_in_all = sum(shard.samples for shard in shards)
    dataset = Dataset(folder, ("a", "b"), (Split("train", tuple(shards), {0: samples_in_all}),))
    write_dataset(dataset)
    return dataset


# ---- recipes and cluster files


def configs(folder: Path) -> Case:
    """Recipes and cluster files: loaded, refused or planned, written to job.yaml and read again."""
    yaml = YAML(typ="safe", pure=True)
    recipes, clusters = ([(text, yaml.load(text)) for text in whole()] for whole in (whole_recipes, whole_clusters))
    file = folder / "x.yaml"

    def case(seed: int) -> str:
        of_recipe = seed % 4 != 3
        files = recipes if of_recipe else clusters
        raw = mutated_yaml(*files[0 if seed % 2 and of_recipe else seed // 4 % len(files)], seed)
        file.write_bytes(raw)
        try:
            loaded = load(str(file), "laptop") if of_recipe else load("digits", str(file))
        except ConfigError as error:
            assert error.problems  # noqa: PT017
            for problem in error.problems:
                assert problem.where.startswith((str(file), "digits.yaml")), problem
                _require_readable(str(problem))
            return "refused"
        model = loaded.recipe if of_recipe else loaded.cluster
        _require_all_used(_read_otherwise(raw), model.model_dump(mode="json"), "")
        return _planned(loaded, folder if seed % 20 == 0 else None)

    return case


def _require_readable(message: str) -> None:
    assert message.isprintable(), repr(message)
    assert len(message) <= MOST_SHOWN, len(message)


def _read_otherwise(raw: bytes) -> Any:
    """Return the file as the YAML library alone reads it."""
    try:
        yaml = YAML(typ="safe", pure=True)
        return yaml.load(raw.decode("utf-8-sig"))
    except (YAMLError, ValueError, TypeError):  # a date that is none: we read it as the text that it is
        return {}


def _require_all_used(written: Any, used: Any, place: str) -> None:
    """Assert that each value that was written is one that is used: nothing is ignored, rounded or turned into another."""
    if isinstance(written, dict) and isinstance(used, dict):
        for key, value in written.items():
            if not (place == "" and key == "base"):
                assert key in used, f"{place}.{key} was ignored"
                _require_all_used(value, used[key], f"{place}.{key}")
    elif isinstance(written, list) and isinstance(used, list):
        assert len(written) == len(used), f"{place}: {written} became {used}"
        for number, pair in enumerate(zip(written, used, strict=True)):
            _require_all_used(*pair, f"{place}.{number}")
    elif isinstance(written, str) and isinstance(used, dict):
        assert written == used["name"], f"{place}: {written} became {used}"
    elif written == AUTO and place.removeprefix(".") in AUTOMATIC:
        return  # what this machine has
    elif isinstance(written, str | bool | int | float | None) and not (
        isinstance(written, str) and "${env:" in written
    ):
        same = written == used or (isinstance(used, float) and isinstance(written, int) and float(written) == used)
        assert same, f"{place}: {written} became {used}"
        assert isinstance(written, bool) == isinstance(used, bool), f"{place}: {written} became {used}"


DESCRIBED = Dataset(
    Path("data"),
    tuple(map(str, range(10))),
    tuple(
        Split(
            name,
            tuple(Shard(f"{name}-{n}.tar", 100, 200_000, "0") for n in range(4)),
            dict.fromkeys(range(10), 40),
        )
        for name in ("train", "validation", "test")
    ),
)


def _planned(loaded: Loaded, folder: Path | None) -> str:
    """Refuse or plan what was loaded, for a data set that exists as its description alone."""
    recipe, cluster = loaded.recipe, loaded.cluster
    messages = refusals(recipe, cluster, DESCRIBED)
    for message in messages:
        _require_readable(message)
    if messages:
        return "refused"
    try:
        parts = {split.name: (Part(DESCRIBED, split),) for split in DESCRIBED.splits}
        plan = make_plan(recipe, cluster, DESCRIBED, Arrangement(recipe, Path(), (DESCRIBED,), parts).order())
    except DataError as error:
        _require_readable(str(error))
        return "refused"
    assert plan.total_steps > 0
    assert all(math.isfinite(rate) and rate >= 0 for _, rate in plan.learning_rates), plan.learning_rates
    if folder is not None:
        job = job_of(loaded)
        write_job(job, folder / "job.yaml")
        assert read_job(folder / "job.yaml") == job
    return "accepted"


# ---- shards, their indexes and their description


def tars(folder: Path) -> Case:
    """Shards: refused at a byte, or read as tarfile reads them; and verify knows each that is not the whole one."""
    dataset = small_shards(folder / "tars")
    wholes = [(path, path.read_bytes(), index_tar(path)) for path in sorted(dataset.folder.glob("*.tar"))]

    def case(seed: int) -> str:
        path, raw, whole = wholes[seed % len(wholes)]
        other = mutated_tar(raw, seed)
        try:
            path.write_bytes(other)
            try:
                samples = index_tar(path)
            except DataError as error:
                assert str(error).startswith(f"{path}: byte "), error  # noqa: PT017
                return "refused"
            assert [(m.name, m.offset, m.size) for s in samples for m in s.members] == _found_by_tarfile(path)
            assert content(other, samples) == content(raw, whole) or problems_of(dataset.folder, path)
            return "accepted"
        finally:
            path.write_bytes(raw)

    return case


def _found_by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as tar:
        return [(info.name, info.offset_data, info.size) for info in tar if not info.isdir()]


def problems_of(folder: Path, path: Path) -> list[str]:
    """Return what verify says about one file."""
    return [problem for problem in verify(read_dataset(folder), lambda a, b: None) if problem.startswith(f"{path}:")]


def content(raw: bytes, samples: tuple[Sample, ...]) -> list[tuple[str, bytes]]:
    """Return names and bytes of all members."""
    return [(m.name, raw[m.offset : m.offset + m.size]) for sample in samples for m in sample.members]


def indexes(folder: Path) -> Case:
    """Indexes: not whole, or whole; and verify tells each that is not the shard's."""
    dataset = small_shards(folder / "indexes")
    wholes = [(path, path.read_bytes(), read_index(path)) for path in sorted(dataset.folder.glob("*.idx"))]

    def case(seed: int) -> str:
        path, raw, whole = wholes[seed % len(wholes)]
        try:
            path.write_bytes(mutated_bytes(raw, seed))
            try:
                samples = read_index(path)
            except DataError as error:
                assert str(error).startswith(f"{path}: not a whole index ("), error  # noqa: PT017
                return "refused"
            assert all(member.size >= 0 and member.offset >= 512 for sample in samples for member in sample.members)
            assert (samples != whole) == bool(problems_of(dataset.folder, path))
            return "accepted"
        finally:
            path.write_bytes(raw)

    return case


def descriptions(folder: Path) -> Case:
    """dataset.json: refused, or the same after it is written and read again."""
    dataset = small_shards(folder / "descriptions")
    whole = (dataset.folder / "dataset.json").read_bytes()

    def case(seed: int) -> str:
        return read_back(dataset.folder, mutated_bytes(whole, seed))

    return case


def read_back(folder: Path, text: bytes) -> str:
    """Read a description; whatever is accepted must be the same after it is written and read again."""
    (folder / "dataset.json").write_bytes(text)
    try:
        found = read_dataset(folder)
    except DataError as error:
        assert str(error).startswith(f"{folder / 'dataset.json'}: "), error  # noqa: PT017
        return "refused"
    write_dataset(found)
    assert read_dataset(folder) == found
    return "accepted"


# ---- images


def images(folder: Path) -> Case:
    """Images: a reason, or pixels within the limit; and a part of one is as large as was asked for."""
    wholes = whole_images()

    def case(seed: int) -> str:
        payload = mutated_bytes(wholes[seed % len(wholes)], seed)
        try:
            pixels = decode_image(payload, MOST_PIXELS)
        except ValueError as error:
            assert str(error)  # noqa: PT017
            return "refused"
        assert pixels.dtype == np.uint8
        assert pixels.shape == (*pixels.shape[:2], 3)
        assert pixels.shape[0] * pixels.shape[1] <= MOST_PIXELS
        try:
            image = EncodedImage(payload, MOST_PIXELS)
            height, width = -(-image.height // 2), -(-image.width // 2)
            part = image.region((image.height - height, image.width - width, height, width))
            assert part.shape == (height, width, 3)
        except ValueError as error:
            assert str(error)  # noqa: PT017
        return "accepted"

    return case


# ---- what ranks, hosts and earlier runs leave to be read


def manifests(folder: Path) -> Case:
    """A checkpoint's manifest: damaged, or one that says the same of the same files."""
    import torch

    from megabatch.configs.run_dir import RunDir
    from megabatch.trainer import checkpoint

    snapshot = checkpoint.Snapshot({"a": torch.ones(3)}, {"a/b": torch.zeros(2)}, {"step": 1})
    saved = checkpoint.save(RunDir(folder / "run"), 1, snapshot)
    file = saved / "manifest.json"
    raw = file.read_bytes()

    def case(seed: int) -> str:
        file.write_bytes(mutated_bytes(raw, seed))
        problem = checkpoint.damage(saved)
        if problem is None:
            assert json.loads(file.read_bytes()) == json.loads(raw)
            return "accepted"
        assert problem
        return "refused"

    return case


def messages(folder: Path) -> Case:
    """What launcher and hosts tell each other: no message, or an object; cut anywhere, the lines stay the same."""
    whole = b"".join(
        encoded(message)
        for message in ({"do": "stop"}, {"event": "beat"}, {"do": "start", "environment": {"A": "é\n"}, "argv": ["x"]})
    )

    def case(seed: int) -> str:
        raw = mutated_bytes(whole, seed)
        cut = seed % (len(raw) + 1)
        lines = Lines()
        found = [*lines.cut(raw[:cut]), *lines.cut(raw[cut:])]
        assert found == raw.split(b"\n")[:-1]
        read = [decoded(line) for line in found]
        assert all(message is None or isinstance(message, dict) for message in read)
        return "accepted" if read and all(message is not None for message in read) else "refused"

    return case


KINDS: dict[str, Callable[[Path], Case]] = {
    "configs": configs, "tars": tars, "indexes": indexes, "descriptions": descriptions, "images": images,
    "manifests": manifests, "messages": messages,
}  # fmt: skip

"""s3:// against a real S3 API on loopback: the same samples, a few requests, and clear messages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from megabatch.configs.cache import Cache
from megabatch.data.dataset import Dataset, fingerprint
from megabatch.data.errors import DataError
from megabatch.data.read import SplitReader
from megabatch.data.sources import object_store
from megabatch.data.sources.open import open_dataset
from support.shards import dataset


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("indexed"), {"train": 20, "validation": 18})


@pytest.fixture(scope="module")
def endpoint(indexed: Dataset) -> Iterator[str]:
    """Two folders: one as it was imported, one of plain shards."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
        aws_access_key_id="key", aws_secret_access_key="SECRET",
    )  # fmt: skip
    client.create_bucket(Bucket="big")
    for file in indexed.folder.iterdir():
        client.upload_file(str(file), "big", f"imported/{file.name}")
        if file.suffix == ".tar" or file.name == "classes.txt":
            client.upload_file(str(file), "big", f"plain/{file.name}")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    object_store._file_system.cache_clear()


def no_progress(done: int, total: int) -> None:
    pass


def samples(opened: Dataset) -> list[tuple[str, bytes, int]]:
    readers = [SplitReader(opened.folder, split) for split in opened.splits]
    found = [reader.read(number) for reader in readers for number in range(reader.samples)]
    return [(sample.key, bytes(sample.image), sample.label) for sample in found]


@pytest.mark.parametrize(
    "location",
    [
        "s3://big/imported",
        "s3://big/plain/",
        "s3://big/plain/{train,validation}-{000000..000001}.tar",
        "s3://big/plain/*.tar",
    ],
)
def test_folders_specs_and_patterns_give_the_samples_of_the_local_folder(
    indexed: Dataset, tmp_path: Path, location: str
) -> None:
    opened = open_dataset(location, tmp_path, Cache(folder=str(tmp_path)), no_progress)
    assert samples(opened) == samples(indexed)
    assert fingerprint(opened) == fingerprint(indexed)
    first = SplitReader(opened.folder, opened.split("train")).read(0)
    assert first.shard == f"s3://big/{'imported' if 'imported' in location else 'plain'}/train-000000.tar"


def test_a_shard_is_loaded_in_blocks_and_gone_on_with(
    indexed: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "_BLOCK_BYTES", 1000)
    opened = open_dataset("s3://big/imported", tmp_path, Cache(folder=str(tmp_path)), no_progress)
    shard = opened.split("train").shards[0]
    part = tmp_path / "shards" / f"{shard.sha256}.{shard.bytes + shard.bytes // 8}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((indexed.folder / shard.file).read_bytes()[:1500])
    assert samples(opened) == samples(indexed)
    assert not part.exists()


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://big/imported/train-000009.tar", r"s3://big/imported/train-000009.tar: not found \(404\)"),
        ("s3://big/plain/nothing-*.tar", r"s3://big/plain/nothing-\*.tar: matches no file"),
        ("s3://big/nothing", "s3://big/nothing: no .tar files in it"),
        ("s3://missing-bucket/train-0.tar", r"s3://missing-bucket/train-0.tar: not found \(404\)"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, location: str, message: str) -> None:
    with pytest.raises(DataError, match=f"^{message}"):
        open_dataset(location, tmp_path, Cache(folder=str(tmp_path), attempts=1), no_progress)


def test_missing_credentials_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"^s3://big/imported/dataset.json: may not be read \(NoCredentialsError"):
        open_dataset("s3://big/imported", tmp_path, Cache(folder=str(tmp_path), attempts=1), no_progress)


def test_a_store_that_is_not_there_is_told_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DataError, match=r"dataset.json: could not be read in 1 tries. The last one: ") as caught:
        open_dataset("s3://big/imported", tmp_path, Cache(folder=str(tmp_path), attempts=1), no_progress)
    assert "SECRET" not in str(caught.value)


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed here")
def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gs:// is read by gcsfs, .* pip install 'megabatch\[gs\]'"):
        open_dataset("gs://big/train-0.tar", tmp_path, Cache(folder=str(tmp_path)), no_progress)

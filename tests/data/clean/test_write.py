"""findings.json, mask.json, report.html and clean shards as files, and as an attacker would like them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typing_extensions import override

from megabatch.data.clean.clean import CleanOptions, clean_dataset
from megabatch.data.clean.kinds import DEFAULT_MASKED
from megabatch.data.clean.write import write_clean_shards
from megabatch.data.dataset import read_dataset
from megabatch.data.errors import DataError
from megabatch.data.indexing import verify
from megabatch.data.read import SplitReader
from megabatch.data.tar_index import index_tar
from support.dirty_shards import ALWAYS, MAX_PIXELS, clean_samples, encoded, one_of_everything, picture, write_tar
from support.dirty_shards import sample as members

VOID = {"meta", "img"}


def no_progress(done: int, total: int) -> None:
    pass


def cleaned(folder: Path, out: Path, clean: Path | None = None, threads: int = 2) -> dict[str, Any]:
    """Look at a folder, and write clean shards too if asked to."""
    cleaned = clean_dataset(folder, out, CleanOptions(DEFAULT_MASKED, MAX_PIXELS, threads), no_progress)
    if clean is not None:
        write_clean_shards(cleaned.scan, cleaned.mask, clean, no_progress)
    return cleaned.summary


class Page(HTMLParser):
    """Checks that every element is closed in turn, and collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    @override
    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    @override
    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dirty")
    one_of_everything(folder)
    cleaned(folder, folder / "clean", folder / "written")
    return folder


def test_findings_json_has_settings_counts_and_every_finding(dirty: Path) -> None:
    values = json.loads((dirty / "clean" / "findings.json").read_text())
    assert values["format"] == "megabatch-clean-1"
    assert values["samples"] == {"train": 67, "test": 12}
    assert values["counts"]["duplicate"] == {"train": 2, "test": 0}
    assert sum(sum(counts.values()) for counts in values["counts"].values()) == len(values["findings"])
    assert values["settings"]["max_image_pixels"] == MAX_PIXELS
    assert values["findings"][0] == {
        "kind": "leak",
        "split": "train",
        "shard": "train-000000.tar",
        "key": "leaked",
        "value": "the same file",
        "partner": {"split": "test", "shard": "test-000000.tar", "key": "also_train"},
    }


def test_mask_json_names_keys_with_reasons(dirty: Path) -> None:
    values = json.loads((dirty / "clean" / "mask.json").read_text())
    assert values["format"] == "megabatch-mask-1"
    assert set(values["excluded"]) == {"train"}
    assert set(values["excluded"]["train"]) == ALWAYS | {"twice_b", "pixels_b", "leaked"}
    assert values["excluded"]["train"]["twice_b"] == "duplicate: the same file (as train: twice_a)"


def test_the_files_do_not_depend_on_the_number_of_threads(dirty: Path, tmp_path: Path) -> None:
    cleaned(dirty, tmp_path, threads=5)
    for name in ("findings.json", "mask.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (dirty / "clean" / name).read_bytes()


def test_the_report_is_valid_whole_and_described(dirty: Path) -> None:
    page = Page((dirty / "clean" / "report.html").read_text(encoding="utf-8"))
    images = page.all("img")
    assert len(images) > 20
    assert all(image["alt"] and str(image["src"]).startswith("data:image/webp;base64,") for image in images)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert {cell["scope"] for cell in page.all("th")} == {"row", "col"}
    anchors = {str(link["href"])[1:] for link in page.all("a")}
    assert anchors == {section["id"] for section in page.all("section") if "id" in section}
    assert not page.all("script")
    assert not page.all("link")


def test_clean_shards_have_the_rest_and_no_findings_that_are_masked(dirty: Path, tmp_path: Path) -> None:
    dataset = read_dataset(dirty / "written")
    assert verify(dataset, no_progress, decode=True) == []
    assert dataset.classes == ("cat", "dog")
    assert {split.name: split.samples for split in dataset.splits} == {"train": 67 - 15, "test": 12}
    head = cleaned(dirty / "written", tmp_path)
    assert set(head["counts"]) == {
        "conflict", "near_leak", "near_duplicate", "blank", "aspect", "size", "brightness", "contrast",
    }  # fmt: skip


def test_clean_shards_keep_the_bytes_of_every_member(tmp_path: Path) -> None:
    image = encoded(picture(1))
    extra = {**members("a", image, 1), "a.json": b'{"by": "me"}', **members("b", b"broken")}
    write_tar(tmp_path / "dirty" / "train-7.tar", {**extra, **members("c", encoded(picture(2), "PNG"), 0)})
    cleaned(tmp_path / "dirty", tmp_path / "out", tmp_path / "clean")
    shard = tmp_path / "clean" / "train-000000.tar"
    found = {member.name: member for sample in index_tar(shard) for member in sample.members}
    assert set(found) == {"a.cls", "a.jpg", "a.json", "c.cls", "c.png"}  # the PNG is called what it is
    content = shard.read_bytes()
    assert content[found["a.jpg"].offset :][: found["a.jpg"].size] == image
    assert content[found["a.json"].offset :][: found["a.json"].size] == b'{"by": "me"}'
    dataset = read_dataset(tmp_path / "clean")
    assert (dataset.classes, dataset.split("train").label_counts) == (("0", "1"), {0: 1, 1: 1})
    assert SplitReader(dataset.folder, dataset.split("train")).read(0).label == 1


def test_clean_shards_go_into_an_empty_folder_and_leave_no_split_empty(tmp_path: Path) -> None:
    write_tar(tmp_path / "dirty" / "train-0.tar", members("a", b"broken"))
    with pytest.raises(DataError, match="nothing would be left of split 'train'"):
        cleaned(tmp_path / "dirty", tmp_path / "out", tmp_path / "clean")
    assert not (tmp_path / "clean").exists()
    with pytest.raises(DataError, match="is not an empty folder"):
        cleaned(tmp_path / "dirty", tmp_path / "out", tmp_path / "dirty")


def test_a_shard_in_which_all_is_masked_is_not_written(tmp_path: Path) -> None:
    write_tar(tmp_path / "dirty" / "train-0.tar", members("a", b"broken"))
    write_tar(tmp_path / "dirty" / "train-1.tar", clean_samples(3))
    cleaned(tmp_path / "dirty", tmp_path / "out", tmp_path / "clean")
    assert [shard.file for shard in read_dataset(tmp_path / "clean").split("train").shards] == ["train-000000.tar"]


HOSTILE = ("<script>alert(1)</script>", '"onerror="alert(1)', "&lt;b&gt;", "</style><h1>", "a\u202egpj.exe", "x" * 90)


def test_hostile_keys_classes_and_labels_are_shown_as_text(tmp_path: Path) -> None:
    image = encoded(picture(1))
    samples: dict[str, bytes] = {}
    for number, key in enumerate(HOSTILE):
        samples |= members(key.replace("/", "_"), image, number % 2)
    samples |= members("label", encoded(picture(2)), "<img src=x>")
    write_tar(tmp_path / "d" / "train-0.tar", samples)
    (tmp_path / "d" / "classes.txt").write_text("<b onclick=alert(1)>\n'\"><svg>\n")
    cleaned(tmp_path / "d", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.elements} <= {
        "html", "head", "meta", "title", "style", "body", "header", "h1", "dl", "div", "dt", "dd", "main", "section", "h2",
        "table", "thead", "tbody", "tr", "th", "td", "a", "p", "span", "ul", "li", "figure", "figcaption", "img", "footer",
    }  # fmt: skip
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)<_script>" in page.text
    assert "<b onclick=alert(1)>" in page.text
    assert "<img src=x>" in page.text
    assert "\u202e" not in text
    assert "\\u202egpj" in page.text


def test_a_data_set_full_of_findings_stays_under_3_mb(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples: dict[str, bytes] = {}
    for number in range(60):  # noise is what compresses worst
        noise = Image.fromarray(random.integers(0, 256, (200, 200, 3), dtype=np.uint8))
        first, again = encoded(noise, quality=30), encoded(noise.resize((180, 180)), quality=30)
        samples |= members(f"{number}_{'k' * 200}_1", first, 0) | members(f"{number}_{'k' * 200}_2", first, 0)
        samples |= members(f"{number}_3", first, 1) | members(f"{number}_4", again, 0, "png")
        samples |= members(f"{number}_5", first[:-99], 0)
    write_tar(tmp_path / "d" / "train-0.tar", samples)
    write_tar(tmp_path / "d" / "test-0.tar", samples)
    head = cleaned(tmp_path / "d", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert 1_000_000 < len(text.encode()) < 3_000_000
    assert len(Page(text).all("section")) == 1 + len(head["counts"])
    assert "more in findings.json" in text


def test_nothing_found_is_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "d" / "train-0.tar", clean_samples(5))
    cleaned(tmp_path / "d", tmp_path / "out")
    assert "Nothing was found." in Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).text
    assert json.loads((tmp_path / "out" / "mask.json").read_text()) == {"format": "megabatch-mask-1", "excluded": {}}

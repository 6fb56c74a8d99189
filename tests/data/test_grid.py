"""`megabatch data inspect`: what it shows is what training sees, and hostile names stay text."""

from __future__ import annotations

import html.parser
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from webdataset import TarWriter

from megabatch.configs.load import load
from megabatch.data.augment.chain import decoding_chain
from megabatch.data.errors import DataError
from megabatch.data.grid import Request, _samples, write_grid
from megabatch.data.indexing import index_shards
from megabatch.data.loader import Loader
from megabatch.data.read import SplitReader
from megabatch.data.requests import Request as LoadRequest
from megabatch.launcher.cli import app

RECIPE = """\
name: tiny
seed: 5
epochs: 1
data: {path: unused, image_size: 12, train_transforms: [{name: random_resized_crop}, horizontal_flip]}
model: {name: "a:b"}
batch: {global_batch: 4, micro_batch: 2}
optimizer: {name: sgd, base_learning_rate: 0.1, scaling: none}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    generator = np.random.default_rng(0)
    with TarWriter(str(tmp_path / "data" / "train-000000.tar"), encoder=False) as tar:
        for number in range(6):
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(buffer, "PNG")
            tar.write({"__key__": f"a<b>{number}", "png": buffer.getvalue(), "cls": str(number % 2).encode()})
    (tmp_path / "data" / "classes.txt").write_text("<script>alert(1)</script>\ndog & cat\n")
    index_shards(tmp_path / "data", None, lambda done, total: None)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def request(folder: Path, out: str, with_recipe: bool = True) -> Request:
    recipe = load("recipe.yaml", "laptop", ["data.path=data"]).recipe if with_recipe else None
    return Request("data", "train", 4, 2, 5, folder / out, recipe)


def test_the_augmented_pictures_are_those_of_the_loader(folder: Path) -> None:
    from megabatch.data.sources.open import open_dataset

    asked = request(folder, "x.html")
    assert asked.recipe is not None
    dataset = open_dataset("data", folder, load("recipe.yaml", "laptop", []).cluster.cache, lambda done, total: None)
    reader = SplitReader(dataset.folder, dataset.split("train"))
    transform = decoding_chain(asked.recipe.data.train_transforms, 12, 10**6)
    loader = Loader(reader, transform, 12, 2, seed=5, threads=1)
    ids = np.arange(6, dtype=np.int64)
    by_key = {reader.read(i).key: i for i in range(6)}
    for epoch in range(2):
        load_request = LoadRequest(0, epoch, 0, ids, np.zeros_like(ids), 6, last=True)
        (batch,) = loader.load([load_request])
        for shown in _samples(dataset, asked):
            number = by_key[shown.caption.rpartition(": ")[2]]
            assert np.array_equal(np.array(shown.augmented[epoch]), batch.images_NHWC[number].numpy())


class Checker(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.alts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.alts += tag == "img" and bool(dict(attrs)["alt"])


def test_the_page_has_a_picture_with_a_text_for_each_and_no_script(folder: Path) -> None:
    write_grid(request(folder, "x.html"))
    text = (folder / "x.html").read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.tags.count("img") == checker.alts == 4 * 3
    assert "script" not in checker.tags
    assert "&lt;script&gt;" in text or "dog &amp; cat" in text


def test_a_png_has_a_row_for_each_sample(folder: Path) -> None:
    write_grid(request(folder, "x.png", with_recipe=False))
    write_grid(request(folder, "y.png"))
    with Image.open(folder / "x.png") as few, Image.open(folder / "y.png") as many:
        assert many.width > few.width
        assert few.height > 4 * 160


def test_the_command_writes_and_tells_mistakes(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["data", "inspect", "data", "recipe.yaml", "--count", "2", "--out", "grid.html"])
    assert done.exit_code == 0, done.stderr
    assert (folder / "grid.html").is_file()
    for arguments, message in (
        (["data", "--out", "grid.pdf"], "name a .html or .png file"),
        (["data", "--split", "x"], "has no split 'x'"),
        (["data", "nothing"], "no recipe is called 'nothing'"),
    ):
        result = runner.invoke(app, ["data", "inspect", *arguments])
        assert result.exit_code == 2
        assert message in result.stderr


def test_an_empty_choice_is_told(folder: Path) -> None:
    with pytest.raises(DataError, match="no split 'validation'"):
        write_grid(Request("data", "validation", 4, 2, 5, folder / "x.html", None))

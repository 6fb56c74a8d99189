"""Every kind is planted in real files, and exactly that is found; and what the mask makes of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megabatch.data.clean.findings import find, make_mask, reason
from megabatch.data.clean.inspect import is_cut
from megabatch.data.clean.kinds import DEFAULT_MASKED, KINDS, Finding
from megabatch.data.clean.outliers import robust_scores
from megabatch.data.clean.scan import Scan, scan
from megabatch.data.clean.shards import find_shards
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards
from support.dirty_shards import ALWAYS, MAX_PIXELS, clean_samples, encoded, one_of_everything, picture, write_tar
from support.dirty_shards import sample as members

Planted = set[tuple[str, str, str, str | None]]


def looked_at(folder: Path, threads: int = 2) -> tuple[Scan, list[Finding]]:
    scanned = scan(find_shards(folder), threads, MAX_PIXELS, lambda done, total: None)
    return scanned, find(scanned)


def named(scanned: Scan, findings: list[Finding]) -> Planted:
    def key(sample: int | None) -> str | None:
        return None if sample is None else scanned.keys[sample]

    return {(f.kind, scanned.split_of(f.sample), scanned.keys[f.sample], key(f.partner)) for f in findings}


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Planted]:
    folder = tmp_path_factory.mktemp("dirty")
    return folder, one_of_everything(folder)


def test_what_was_planted_is_found_and_nothing_else(dirty: tuple[Path, Planted]) -> None:
    folder, planted = dirty
    found = named(*looked_at(folder))
    assert found - planted == set()
    assert planted - found == set()
    assert {kind for kind, *_ in planted} == {kind.name for kind in KINDS}


def test_the_number_of_threads_changes_nothing(dirty: tuple[Path, Planted]) -> None:
    one, many = looked_at(dirty[0], threads=1), looked_at(dirty[0], threads=7)
    assert one[1] == many[1]
    assert one[0].keys == many[0].keys
    assert one[0].rows.tobytes() == many[0].rows.tobytes()


def test_the_values_say_what_is_wrong(dirty: tuple[Path, Planted]) -> None:
    scanned, findings = looked_at(dirty[0])
    value = {(finding.kind, scanned.keys[finding.sample]): finding.value for finding in findings}
    assert value["unreadable", "unreadable"] == "unknown content: not a JPEG, PNG, WebP, BMP, GIF or TIFF image"
    assert value["wrong_extension", "named_wrong"] == "png, called .jpg"
    assert value["huge", "huge"] == "300 x 200 pixels, at most 50,000 are allowed"
    assert value["label_outside", "outside"] == "2; the classes are 0 to 1"
    assert value["label_not_integer", "word"] == "'cat'"
    assert value["label_missing", "unlabelled"] == "the sample has .jpg"
    assert value["image_missing", "empty"] == "the sample has .jpg of 0 bytes, .cls of 1 bytes"
    assert value["duplicate", "twice_b"] == "the same file"
    assert value["duplicate", "pixels_b"] == "the same pixels, stored differently"
    assert value["conflict", "disputed_a"] == "cat, also dog"
    assert value["aspect", "ribbon"] == "200 x 40"


def test_the_default_mask_leaves_out_what_stops_training_and_equal_images(dirty: tuple[Path, Planted]) -> None:
    scanned, findings = looked_at(dirty[0])
    mask = make_mask(scanned, findings, DEFAULT_MASKED)
    assert {scanned.keys[sample] for sample in mask.reasons} == ALWAYS | {"twice_b", "pixels_b", "leaked"}
    assert mask.ambiguous == frozenset()
    leaked = scanned.keys.index("leaked")
    assert mask.reasons[leaked] == "leak: the same file (as test: also_train)"


def test_the_mask_leaves_out_what_is_asked_for(dirty: tuple[Path, Planted]) -> None:
    scanned, findings = looked_at(dirty[0])
    mask = make_mask(scanned, findings, ["conflict", "near_leak", "blank"])
    found = {scanned.keys[sample] for sample in mask.reasons}
    assert found == ALWAYS | {"disputed_a", "disputed_b", "near_leaked", "blank"}


def test_an_indexed_data_set_is_looked_at_with_its_classes(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", clean_samples(4))
    index_shards(tmp_path, None, lambda done, total: None)
    write_tar(tmp_path / "train-0.tar", {**clean_samples(4), **members("late", encoded(picture(5)), 2)})
    assert named(*looked_at(tmp_path)) == {("label_outside", "train", "late", None)}


def test_without_class_names_every_label_from_0_on_is_one(tmp_path: Path) -> None:
    labels = [0, 999, "-1", 1 << 70]
    samples = [members(f"a{n}", encoded(picture(n)), label) for n, label in enumerate(labels)]
    write_tar(tmp_path / "train-0.tar", {name: payload for sample in samples for name, payload in sample.items()})
    assert named(*looked_at(tmp_path)) == {
        ("label_outside", "train", "a2", None),
        ("label_outside", "train", "a3", None),
    }


def test_a_leak_between_evaluation_splits_is_told_and_not_masked(tmp_path: Path) -> None:
    image = encoded(picture(1))
    write_tar(tmp_path / "train-0.tar", clean_samples(2, first=10))
    write_tar(tmp_path / "validation-0.tar", {**members("v", image), **clean_samples(2, first=20, prefix="v")})
    write_tar(tmp_path / "test-0.tar", {**members("t", image), **clean_samples(2, first=30, prefix="t")})
    scanned, findings = looked_at(tmp_path)
    assert named(scanned, findings) == {("leak", "validation", "v", "t")}
    assert make_mask(scanned, findings, ["leak"]).reasons == {}


def test_of_many_copies_the_first_of_each_split_and_label_is_no_duplicate(tmp_path: Path) -> None:
    image = encoded(picture(1))
    copies = [members(f"c{n}", image, label) for n, label in enumerate([0, 1, 0, 0, 1])]
    write_tar(tmp_path / "train-0.tar", {name: payload for sample in copies for name, payload in sample.items()})
    found = named(*looked_at(tmp_path))
    assert {(key, partner) for kind, _, key, partner in found if kind == "duplicate"} == {
        ("c2", "c0"), ("c3", "c0"), ("c4", "c1"),
    }  # fmt: skip
    assert {(key, partner) for kind, _, key, partner in found if kind == "conflict"} == {
        ("c0", "c1"), ("c1", "c0"), ("c2", "c1"), ("c3", "c1"), ("c4", "c0"),
    }  # fmt: skip


def test_an_image_in_three_splits_leaks_from_each_into_the_next(tmp_path: Path) -> None:
    image = encoded(picture(1))
    for split, keys in {"train": "ab", "validation": "cd", "test": "e"}.items():
        copies = [members(key, image) for key in keys]
        write_tar(tmp_path / f"{split}-0.tar", {name: payload for copy in copies for name, payload in copy.items()})
    scanned, findings = looked_at(tmp_path)
    assert named(scanned, findings) == {
        ("leak", "train", "a", "c"), ("leak", "train", "b", "c"), ("leak", "validation", "c", "e"),
        ("leak", "validation", "d", "e"), ("duplicate", "train", "b", "a"), ("duplicate", "validation", "d", "c"),
    }  # fmt: skip
    assert {scanned.keys[sample] for sample in make_mask(scanned, findings, DEFAULT_MASKED).reasons} == {"a", "b", "d"}


def test_very_small_images_are_compared_only_for_equality(tmp_path: Path) -> None:
    image = picture(1, 20, 20)
    copies = {
        **members("a", encoded(image)),
        **members("b", encoded(image, quality=60)),
        **members("c", encoded(image)),
    }
    write_tar(tmp_path / "train-0.tar", copies)
    assert named(*looked_at(tmp_path)) == {("duplicate", "train", "c", "a")}


def test_a_key_that_comes_in_two_shards_stays_out_of_the_mask_file(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", {**members("a", b"broken"), **members("b", encoded(picture(2)))})
    write_tar(tmp_path / "train-1.tar", members("a", encoded(picture(1))))
    scanned, findings = looked_at(tmp_path)
    mask = make_mask(scanned, findings, [])
    assert (set(mask.reasons), mask.ambiguous) == ({0}, frozenset({0}))
    assert reason(scanned, findings[0]) == "unreadable: unknown content: not a JPEG, PNG, WebP, BMP, GIF or TIFF image"


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_a_file_cut_anywhere_is_told_and_a_whole_one_is_not(tmp_path: Path, kind: str, extension: str) -> None:
    whole = encoded(picture(3), kind)
    assert not is_cut(whole)
    assert not is_cut(memoryview(whole))
    cuts = np.linspace(40, len(whole) - 1, 60).astype(int)
    assert all(is_cut(whole[:cut]) for cut in cuts)
    samples = [members(f"c{cut}", whole[:cut], 0, extension) for cut in cuts]
    write_tar(tmp_path / "train-0.tar", {name: payload for sample in samples for name, payload in sample.items()})
    assert {kind for kind, *_ in named(*looked_at(tmp_path))} == {"truncated"}


def test_random_damage_is_a_finding_or_decodes_but_never_an_error(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    samples = {}
    for number in range(300):
        kind, extension = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))[number % 3]
        payload = bytearray(encoded(picture(number % 6), kind))
        for place in random.integers(0, len(payload), 1 + number % 4):
            payload[place] = random.integers(256)
        samples |= members(f"{number}", bytes(payload[: random.integers(20, len(payload))]), 0, extension)
    write_tar(tmp_path / "train-0.tar", samples)
    scanned, findings = looked_at(tmp_path)
    broken = {finding.sample for finding in findings if finding.kind in ("truncated", "unreadable", "huge")}
    assert set(np.flatnonzero(~scanned.rows["decoded"]).tolist()) == broken
    assert len(broken) > 250


def test_an_image_too_large_for_pillow_is_huge(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(file, "PNG")
    write_tar(tmp_path / "train-0.tar", members("a", file.getvalue(), 0, "png"))
    assert named(*looked_at(tmp_path)) == {("huge", "train", "a", None)}


def test_a_folder_that_is_none_and_a_damaged_shard_are_mistakes_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither dataset\.json nor \.tar files"):
        find_shards(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_shards(tmp_path / "no")
    path = write_tar(tmp_path / "train-0.tar", clean_samples(3))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(DataError, match="end-of-archive marker is missing"):
        looked_at(tmp_path)


def test_robust_scores_are_those_of_the_formula() -> None:
    scores = robust_scores(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
    assert scores.tolist() == pytest.approx([-1.349, -0.6745, 0.0, 0.6745, 0.6745 * 97])
    assert robust_scores(np.array([5.0, 5.0, 5.0, 6.0])).tolist() == [0.0, 0.0, 0.0, np.inf]

"""The sections of a report as values: classes, ranks, what happened, how to do it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from megabatch.launcher.report.classes import MATRIX_CLASSES, details_of
from megabatch.launcher.report.ranks import RankMeans, ranks_of, stragglers
from megabatch.launcher.report.recipe import commands_of, differences_of, recipe_text
from megabatch.launcher.report.run import Run, read_run
from megabatch.launcher.report.summary import cards, facts
from megabatch.launcher.report.trouble import checkpoints_of
from support.report_runs import CIFAR10, class_details, rich_run


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(rich_run(tmp_path_factory.mktemp("report") / "rich", 200))


def test_the_cards_tell_result_time_and_cost(rich: Run) -> None:
    found = {card.name: (card.figure, card.more) for card in cards(rich, price=30.0)}
    assert found["test top-1"] == ("87.34%", "of 10,000 samples, step 200")
    assert found["steps"] == ("200", "51,200 samples")
    assert found["time"] == ("1m 45s", "in 2 starts")
    assert found["device-hours"] == ("0.12", "4 GPUs")
    assert found["cost"] == ("3.50", "at 30 a device-hour")
    assert "cost" not in {card.name for card in cards(rich)}


def test_what_ran_has_git_and_versions(rich: Run) -> None:
    found = dict(facts(rich))
    assert found["git"] == "4f2c9a1b77d0 on main, 1 file not committed"
    assert found["versions"] == "megabatch 0.1.0, torch 2.11.0, python 3.11.2"
    assert found["cluster"] == "laptop: 4 ranks on node-a, node-b, cuda (NVIDIA H200)"


def test_ten_classes_have_a_matrix_and_all_their_rows() -> None:
    found = details_of(class_details(np.random.default_rng(0), CIFAR10, "test", 5))
    assert [row.name for row in found.rows] == list(CIFAR10)
    assert len(found.matrix) == len(found.matrix[0]) == 10
    assert sum(cell.count for row in found.matrix for cell in row) == 1000
    assert all(row[number].right for number, row in enumerate(found.matrix))
    assert found.all_rows is None
    counts = [int(row[2]) for row in found.pairs.rows] if found.pairs else []
    assert counts == sorted(counts, reverse=True)


def test_a_thousand_classes_have_the_worst_a_histogram_and_the_most_confused_pairs() -> None:
    found = details_of(class_details(np.random.default_rng(0), [f"n{n}" for n in range(1000)], "validation", 5))
    assert found.matrix == ()
    assert len(found.rows) == 25
    shares = [row.share for row in found.rows]
    assert shares == sorted(shares)
    assert sum(count for _, count, _ in found.histogram) == 1000
    assert found.all_rows is not None
    assert len(found.all_rows.rows) == 1000
    assert found.pairs is not None
    assert len(found.pairs.rows) == 12


def test_the_matrix_ends_where_it_cannot_be_read() -> None:
    def matrix(classes: int) -> int:
        return len(details_of(class_details(np.random.default_rng(0), [str(n) for n in range(classes)], "t", 1)).matrix)

    assert (matrix(MATRIX_CLASSES), matrix(MATRIX_CLASSES + 1)) == (MATRIX_CLASSES, 0)


def test_labels_and_numbers_are_told_in_their_own_measures() -> None:
    per_class = [{"class": 0, "samples": 9, "average_precision": 0.5, "precision": 0.25, "recall": 1.0}]
    several = details_of({
        "split": "test", "target": "labels", "classes": ["sea", "sun"], "per_class": per_class,
        "mistakes": [{"key": "k", "shard": "s", "targets": [0, 1], "predictions": [[1, 0.9], [0, 0.125]], "loss": 2.0}],
    })  # fmt: skip
    assert (several.rows[0].shown, several.rows[0].more) == ("50.0%", "precision 25.0%, recall 100.0%")
    assert several.mistakes[0].title == "sea, sun"
    assert several.mistakes[0].lines == ("taken for", "sun 90.0%", "sea 12.5%", "loss 2")
    per_output = [{"output": 0, "mae": 0.5, "bias": -0.25}, {"output": 1, "mae": 1.0, "bias": 0.0}]
    numbers = details_of({"split": "test", "target": "numbers", "outputs": ["x", "y"], "per_output": per_output})
    assert [(row.name, row.share, row.shown, row.more) for row in numbers.rows] == [
        ("x", 0.5, "0.5", "bias -0.25"), ("y", 1.0, "1", "bias +0"),
    ]  # fmt: skip


def rank(number: int, waits: float, for_data: float = 0.02) -> RankMeans:
    return RankMeans(number, "host", waits, for_data, None, None)


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([rank(0, 0.3), rank(1, 0.3), rank(2, 0.02, 0.25)], {2: "its input"}),
        ([rank(0, 0.3), rank(1, 0.3), rank(2, 0.02)], {2: "its computing"}),
        ([rank(0, 0.3), rank(1, 0.28), rank(2, 0.25)], {}),
        ([rank(0, 0.02), rank(1, 0.3)], {0: "its computing"}),
        ([rank(0, 0.02)], {}),
        ([RankMeans(0, "h", None, None, None, None), rank(1, 0.3)], {}),
    ],
)
def test_a_straggler_waits_little_while_the_others_wait_for_it(
    ranks: list[RankMeans], expected: dict[int, str]
) -> None:
    assert stragglers(ranks) == expected


def test_the_table_of_ranks_begins_with_the_straggler(rich: Run) -> None:
    found = ranks_of(rich)
    assert found is not None
    assert found.told == "The others wait for rank 3 on node-b (its input)."
    assert (found.table.rows[0][0], found.table.rows[0][-1]) == ("3", "straggler")


def test_checkpoints_say_whether_they_are_still_there(rich: Run) -> None:
    table = checkpoints_of(rich)
    assert table is not None
    assert [row[1] for row in table.rows] == ["removed since"] * (len(table.rows) - 1) + ["best"]


def test_how_to_do_it_again_has_folder_commit_and_command(rich: Run) -> None:
    assert commands_of(rich)[0][1].splitlines() == [
        "cd /home/me/project", "git checkout 4f2c9a1b77d0e8c35a6b19d2e4f80713c5a9b6d8  # files that were not as they are there: 1",
        "megabatch launch mine.yaml epochs=30",
    ]  # fmt: skip
    found = differences_of(rich)
    assert found is not None
    assert found[1].rows[0] == ("epochs", "20", "30", "command line")


def test_no_secret_of_a_url_gets_into_the_page(tmp_path: Path) -> None:
    run = read_run(
        rich_run(tmp_path / "secret", 20, CIFAR10, 0, "data.path=https://me:secret@host/t-{0..3}.tar?sig=key")
    )
    assert "host/t-{0..3}.tar" in recipe_text(run)
    shown = recipe_text(run) + str(facts(run))
    assert "secret@" not in shown
    assert "sig=key" not in shown

"""The tutorial is true: its commands run in order in an empty folder, and print what stands under them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.documents import ROOT, Block, blocks, executed

TUTORIAL = ROOT / "docs" / "tutorial.md"


def test_every_block_of_the_tutorial_is_run_or_says_why_not() -> None:
    kinds = {block.kind for block in blocks(TUTORIAL)}
    assert kinds == {"sh", "text", "yaml"}
    assert [block.place for block in blocks(TUTORIAL) if block.kind == "yaml" and block.file is None] == []


def blocks_before(heading: str | None) -> list[Block]:
    """Return the blocks of the tutorial above a heading, or all of them."""
    lines = TUTORIAL.read_text(encoding="utf-8").splitlines()
    end = len(lines) if heading is None else lines.index(heading)
    return [block for block in blocks(TUTORIAL) if block.line <= end]


@pytest.mark.processes
@pytest.mark.parametrize("end", ["## 2. Change one thing", pytest.param(None, marks=pytest.mark.matrix)])
def test_the_tutorial_prints_what_it_says(end: str | None, tmp_path: Path) -> None:
    printed = ""
    for block in blocks_before(end):
        if block.not_run:
            continue
        if block.kind == "yaml":
            (tmp_path / str(block.file)).write_text(block.text)
        elif block.kind == "sh":
            done = executed(block.text, tmp_path)
            printed = done.stdout.replace(f"{tmp_path}/", "")
            assert done.returncode == 0, f"{block.place}:\n{printed}"
        else:
            missing = first_missing(block.text, printed)
            assert missing is None, f"{block.place}: {missing!r} was not printed, or not there:\n{printed}"


def first_missing(shown: str, printed: str) -> str | None:
    """Return the first line that is shown and was not printed after the one before it, whatever the numbers are.

    Between `...` and the next line others may have been printed; a line that ends with ` ...` is the beginning of one.
    """
    lines = [plain(line) for line in printed.splitlines()]
    place, may_skip = 0, True
    for line in shown.splitlines():
        if line == "...":
            may_skip = True
            continue
        wanted = plain(line.removesuffix(" ..."))
        begins = line.endswith(" ...")
        fitting = (
            n for n in range(place, len(lines)) if (lines[n].startswith(wanted) if begins else lines[n] == wanted)
        )
        found = next(fitting, None)
        if found is None or (found > place and not may_skip):
            return line
        place, may_skip = found + 1, False
    return None


def plain(line: str) -> str:
    """Return a line without its numbers, ages and the width of its gaps, which are those of a machine."""
    return re.sub(r"\s+", " ", re.sub(r"\d+(,\d{3})*(\.\d+)?([smhd]\b)?", "N", line)).strip()


def test_a_line_that_was_not_printed_is_found() -> None:
    assert first_missing("a 1\n...\nc 2.5", "a 3\nb\nc 7") is None
    assert first_missing("a 1\nc 2.5", "a 3\nb\nc 7") == "c 2.5"
    assert first_missing("c\na", "a\nc") == "a"
    assert first_missing("loss 1 ...", "loss 2, and more") is None
    assert first_missing("age 2m", "age 44s") is None

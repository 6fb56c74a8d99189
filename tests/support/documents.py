"""The code blocks of the documents, and what is checked about a command that stands in one.

A block is fenced, or indented by four spaces. In ```sh blocks every line is run by the test of the tutorial, in order and in
one folder; a ```text block after one is what must have been printed. `<!-- not run here: REASON -->` before a block says why
it is not run. Commands of `megabatch` in any block are parsed down to their options and keys, run or not. How-to pages are run
too, one command after the other, whatever the block is called; what stands under `$ COMMAND` is not compared.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
_NOT_RUN = re.compile(r"<!-- not run here: \S.* -->")
_FILE = re.compile(r"<!-- file: ([\w.\-]+) -->")
_PROGRAM = re.compile(
    r"(\$ )?(megabatch|python|pip|wandb|tensorboard|mlflow|torchrun|accelerate|deepspeed|srun|sbatch) ", re.MULTILINE
)
_FENCE = re.compile(r"(?P<indent> *)```(?P<kind>\S*)")


@dataclass(frozen=True)
class Block:
    """One block of code: `kind` is the word after the fence, `line` where its text begins."""

    page: Path
    line: int
    kind: str
    text: str
    not_run: bool

    @property
    def file(self) -> str | None:
        """Return the file that it is to be written to: the comment above it names it."""
        match = _FILE.fullmatch(self.page.read_text(encoding="utf-8").splitlines()[self.line - 3])
        return match[1] if match else None

    @property
    def shell_lines(self) -> list[str]:
        """Return its commands, each on one line: those after `$`, or all lines if one of them calls a program that we name."""
        if self.kind not in ("", "sh", "bash", "console") or not _PROGRAM.search(self.text):
            return []
        lines = [line for line in re.sub(r"\\\n\s*", " ", self.text).splitlines() if line.strip()]
        typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return typed or lines

    @property
    def place(self) -> str:
        """Return file and line, as a failure names them."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of megabatch, without the name of the program."""

    place: str
    words: tuple[str, ...]
    in_text: bool  # in the middle of a sentence, where arguments may be left out

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.place}: megabatch {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    not_run = False
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.fullmatch(line)
        if fence or (line.startswith("    ") and number and not lines[number - 1].strip()):
            begin = number + 1 if fence else number
            end = _end_of_fence(lines, begin) if fence else _end_of_indent(lines, begin)
            text = "\n".join(text.strip() if not fence else text for text in lines[begin:end])
            found.append(Block(page, begin + 1, fence["kind"] if fence else "", text + "\n", not_run))
            number, not_run = end + bool(fence), False
            continue
        if line.strip():
            not_run = _NOT_RUN.fullmatch(line.strip()) is not None
        number += 1
    return found


def _end_of_fence(lines: list[str], begin: int) -> int:
    return next(number for number in range(begin, len(lines)) if lines[number].strip() == "```")


def _end_of_indent(lines: list[str], begin: int) -> int:
    return next((n for n in range(begin, len(lines)) if not lines[n].startswith("    ")), len(lines))


def commands(page: Path) -> Iterator[Command]:
    """Return every command of megabatch in the blocks of a page, and those in the middle of its text."""
    for block in blocks(page):
        if block.kind in ("", "sh", "bash", "console"):
            for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
                yield from _command(block.place, line.removeprefix("$ "), in_text=False)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for code in re.findall(r"(?<!`)`(megabatch [^`]+)`(?!`)", line):
            yield from _command(f"{page.relative_to(ROOT)}:{number}", code, in_text=True)


def _command(place: str, line: str, in_text: bool) -> Iterator[Command]:
    """Return the first command of a line, if it is one of megabatch, without what redirects it.

    One with `|| true` after it shows a mistake.
    """
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose in a block that is no code
        return
    stop = next((n for n, word in enumerate(words) if re.match(r"[|;&>]|2>", word)), len(words))
    if words[1:2] == ["COMMAND"]:  # any of them
        return
    meant_to_fail = words[stop : stop + 2] == ["||", "true"]
    if words[:1] == ["megabatch"] and not meant_to_fail:
        yield Command(place, tuple(words[1:stop]), in_text)


def keys_in_text(page: Path) -> Iterator[tuple[str, str]]:
    """Return place and override of each `key: value` in the middle of a text: `batch.micro_batch: 64` is batch.micro_batch=64."""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", line):
            match = re.fullmatch(r"([a-z_]+(?:\.[a-z_0-9]+)*): (\S.*)", code)
            if match and "..." not in code:
                yield f"{page.relative_to(ROOT)}:{number}", f"{match[1]}={match[2]}"


def executed(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of a page in a folder, up to its first failure, and answer yes to a question; stdout has stderr in it."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=folder, text=True,
        env={**os.environ, "PATH": path, "COLUMNS": "160", **environment},
        input="y\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip

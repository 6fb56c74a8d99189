"""The how-to pages are true: their commands run in order, in a folder that has the data and the runs that they name.

Data and runs are small ones under those names, and what would take minutes is made shorter; the page has the command as it is.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.documents import PAGES, ROOT, blocks, executed

EXAMPLES = ("own_augmentation", "own_backend", "own_loss", "own_model", "own_tracker")
# page -> beginning of a command, what is written after it
RUN: dict[str, dict[str, str]] = {
    "docs/ablation.md": {"megabatch ablate": "epochs=2 --seeds 1 cluster.processes_per_node=1"},
    "docs/batch.md": {},
    "docs/check.md": {},
    "docs/cleaning.md": {},
    "docs/continual.md": {"megabatch launch": "epochs=2"},
    "docs/data.md": {},
    "docs/distillation.md": {"megabatch launch": "epochs=4"},
    "docs/ensembles.md": {"megabatch launch digits seed": "epochs=8", "megabatch launch cifar10-laptop": "epochs=2"},
    "docs/export.md": {},
    "docs/large-batch.md": {},
    "docs/network.md": {},
    "docs/pruning.md": {"megabatch prune runs/dense --name": "--epochs 1", "megabatch launch": "epochs=2"},
    "docs/quantization.md": {"megabatch launch": "epochs=2"},
    "docs/report.md": {},
    "docs/resume.md": {},
    "docs/schedules.md": {},
    "docs/shell.md": {},
    "docs/targets.md": {"megabatch launch": "epochs=2"},
    "docs/tracking.md": {"megabatch launch": "epochs=2"},
    "docs/transfer.md": {"megabatch launch": "epochs=4"},
    "docs/tuning.md": {"megabatch tune lr": "--steps 20", "megabatch tune batch digits": "--seconds 0.1 --max 16"},
}
PARSED_ONLY = {
    "README.md": "its commands are those of the tutorial and of the other pages",
    "docs/overfitting.md": "not run yet",
    "docs/restarts.md": "not run yet: it names hosts that are not there",
    "docs/engines.md": "not run yet; the engines have tests of their own",
    "docs/from-accelerate.md": "not run yet: it needs a configuration of accelerate",
    "docs/from-open-clip-webdataset.md": "ImageNet is not there",
    "docs/from-timm.md": "ImageNet is not there; tests/launcher has config from-timm",
    "docs/from-torchrun.md": "not run yet: it starts the ranks of several machines",
    "docs/hosts.md": "not run yet: it needs several hosts, or other launchers",
    "docs/slurm.md": "not run yet: it needs a cluster",
    "examples/README.md": "tests/test_examples.py runs the examples",
    **{f"examples/{name}/README.md": "tests/test_examples.py runs the examples" for name in EXAMPLES},
    "docs/tutorial.md": "tests/test_tutorial.py runs it and compares what it prints",
}  # fmt: skip
PREPARE = r"""
megabatch data example digits-images
megabatch data import digits-images data/digits --split train=0.8,validation=0.1,test=0.1
python -c '
from pathlib import Path
from PIL import Image
for file in Path("digits-images").glob("*/*.png"):
    photo = Path("photos", file.parent.name, file.stem + ".jpg")
    photo.parent.mkdir(parents=True, exist_ok=True)
    Image.open(file).convert("RGB").resize((32, 32)).save(photo)
'
megabatch data import photos data/photos --split train=0.8,validation=0.1,test=0.1
cp -r data/photos data/cifar10
cp -r data/photos data/mine
megabatch launch digits epochs=2 --run-dir runs/a
megabatch launch cifar10-laptop epochs=2 --run-dir runs/dense
megabatch launch mine.yaml --run-dir runs/mine
cp -r runs/a runs/b
cp -r runs/a runs/c
cp -r runs/a runs/digits-20261120-231942
cp -r runs/a runs/digits-20261121-120149
cp -r runs/a run
cp -r runs/dense dense
cp -r runs/mine runs/mine-20261120-231942
"""
MINE = "base: digits\nname: mine\nepochs: 2\ntracking:\n  wandb: {project: mine}\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two in it: `kept`, what all pages begin with, and the name of `work`, where the runs were started."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "work").mkdir()
    (folder / "work" / "mine.yaml").write_text(MINE)
    done = executed(PREPARE, folder / "work", HOME=str(folder))
    assert done.returncode == 0, done.stdout
    (folder / "work").rename(folder / "kept")
    return folder


@pytest.fixture
def work(prepared: Path) -> Iterator[Path]:
    """A fresh copy under the same name: some commands are refused elsewhere than where their run was started."""
    yield Path(shutil.copytree(prepared / "kept", prepared / "work", symlinks=True))
    shutil.rmtree(prepared / "work")


@pytest.mark.processes
@pytest.mark.matrix
@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run_in_order(page: str, work: Path) -> None:
    for made in re.findall(
        r"(?:--run-dir|data example|data import \S+) (\S+)", (ROOT / page).read_text(encoding="utf-8")
    ):
        shutil.rmtree(work / made, ignore_errors=True)
    for block in blocks(ROOT / page):
        if block.file is not None:
            (work / block.file).write_text(block.text)
        for line in [] if block.not_run else block.shell_lines:
            done = executed(shortened(line, RUN[page]), work, HOME=str(work.parent))
            assert done.returncode == 0, f"{block.place}: {line}\n{done.stdout}"


def shortened(line: str, shorter: dict[str, str]) -> str:
    """Return a command with what makes it shorter behind its words and before its comment."""
    added = next((words for begin, words in shorter.items() if line.startswith(begin)), "")
    command, *comment = re.split(r"\s+(?=# )", line, maxsplit=1)
    return "  ".join([f"{command} {added}".strip(), *comment])


def test_every_page_with_commands_is_run_or_listed_with_the_reason() -> None:
    with_commands = {
        str(page.relative_to(ROOT))
        for page in PAGES
        if any(block.shell_lines and not block.not_run for block in blocks(page))
    }
    assert with_commands == RUN.keys() | PARSED_ONLY.keys()
    assert RUN.keys() & PARSED_ONLY.keys() == set()


def test_every_row_that_shortens_a_command_is_needed() -> None:
    lines = {page: [line for block in blocks(ROOT / page) for line in block.shell_lines] for page in RUN}
    unused = [
        (page, begin) for page, rows in RUN.items() for begin in rows
        if not any(line.startswith(begin) for line in lines[page])
    ]  # fmt: skip
    assert unused == []
    assert shortened("megabatch launch digits     # a run", {"megabatch launch": "epochs=2"}) == (
        "megabatch launch digits epochs=2  # a run"
    )

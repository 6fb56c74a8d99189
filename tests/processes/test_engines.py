"""Every engine trains like one plain process: same samples, same losses, on any number of ranks. Real processes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import product

import pytest

from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.trainer import loop
from support.ranks import FINISHED, train_together
from support.runs import Workplace, losses, trained_samples
from support.training import training

pytestmark = pytest.mark.processes

ENGINES = {
    "ddp": "ddp",
    "fsdp": "{name: fsdp, min_parameters: 500}",
    "ddp-static": "{name: ddp, static_graph: true}",
    "accelerate": "accelerate",
}
"""What is compared, by a name for the test: what stands in the recipe at `engine`."""

WORLDS = (1, 2, 3)
# 44 samples: a step of 40 and one of 4, whose few micro-batches leave some ranks with a filler.
MICRO_BATCH = {(1, 1): 40, (2, 1): 20, (3, 1): 14, (1, 4): 10, (2, 4): 5, (3, 4): 4}
"""For (number of ranks, micro-batches that the rank with the most of them has in a step)."""


@dataclass(frozen=True)
class Cell:
    """One training of the matrix; `engine` is None for the plain process that it is compared with."""

    num_ranks: int
    accumulation: int
    clip: bool
    precision: str
    epochs: int
    engine: str | None = None

    @property
    def name(self) -> str:
        clip = "clip" if self.clip else "free"
        plain = f"{self.num_ranks}-{self.accumulation}-{clip}-{self.precision}-{self.epochs}"
        return f"{plain}-{self.engine or 'plain'}"

    @property
    def settings(self) -> tuple[str, ...]:
        micro_batch = MICRO_BATCH[self.num_ranks, self.accumulation]
        return (
            f"epochs={self.epochs}", f"checkpoint.every_epochs={self.epochs}", f"precision={self.precision}",
            f"batch={{global_batch: 40, micro_batch: {micro_batch}}}",
            f"regularization.clip_norm={0.5 if self.clip else 'null'}", "cluster.limits.collective_timeout_seconds=60",
            "data.test_split=test", "evaluation.micro_batch=2",
            *([] if self.engine is None else [f"engine={ENGINES[self.engine]}"]),
        )  # fmt: skip

    def plain(self) -> Cell:
        """Return the training without an engine that this one must equal."""
        return Cell(self.num_ranks, self.accumulation, self.clip, self.precision, self.epochs)


COVERING = ((1, True, "fp64"), (4, False, "fp64"), (4, True, "fp32"), (1, False, "fp32"))
"""Every pair of an accumulation, clipping or not, and a number format."""

FULL = tuple(product((1, 4), (True, False), ("fp64",)))


@dataclass(frozen=True)
class Matrix:
    """Trainings, each run once, those of one number of ranks together."""

    workplace: Workplace
    kinds: tuple[tuple[int, bool, str], ...]
    epochs: int
    failures: dict[int, str] = field(default_factory=dict)

    def cells(self, num_ranks: int, engine: str) -> list[Cell]:
        """Return what is trained with an engine on this number of ranks."""
        return [Cell(num_ranks, *kind, self.epochs, engine) for kind in self.kinds]

    def run(self, cell: Cell) -> RunDir:
        """Return where a training of the matrix left its results; all of its number of ranks are run with it."""
        run_dir = RunDir(self.workplace.folder / cell.name)
        if cell.num_ranks not in self.failures:
            cells = [c for engine in ENGINES for c in self.cells(cell.num_ranks, engine)]
            together = [self.workplace.job(c.name, c.num_ranks, *c.settings) for c in cells]
            self.failures[cell.num_ranks] = train_together(together, cell.num_ranks)
        assert (run_dir.root / FINISHED).exists(), self.failures[cell.num_ranks]
        return run_dir

    def reference(self, cell: Cell) -> RunDir:
        """Return the same training in one plain process: this one."""
        plain = cell.plain()
        run_dir = RunDir(self.workplace.folder / plain.name)
        if not run_dir.metrics.exists():
            with training(self.workplace, plain.name, *plain.settings) as parts:
                loop.train(parts)
        return run_dir

    def assert_equal(self, cell: Cell) -> None:
        """The losses agree within the rounding of the number format; samples and learning rates exactly."""
        runs = self.run(cell), self.reference(cell)
        own, plain = (losses(run_dir) for run_dir in runs)
        assert len(own) == len(plain) == 2 * cell.epochs
        if cell.precision == "fp64":
            assert own == pytest.approx(plain, rel=1e-9, abs=0)
        else:
            assert own[:5] == pytest.approx(plain[:5], rel=1e-5, abs=0)
        assert trained_samples(runs[0]) == trained_samples(runs[1])
        rates = [[line["learning_rate"] for line in read_metrics(run_dir.metrics, "step")] for run_dir in runs]
        assert rates[0] == rates[1]


@pytest.fixture(scope="module")
def few_steps(workplace: Workplace) -> Matrix:
    return Matrix(workplace, COVERING, epochs=3)


@pytest.fixture(scope="module")
def two_hundred_steps(workplace: Workplace) -> Matrix:
    return Matrix(workplace, FULL, epochs=100)


@pytest.mark.parametrize("num_ranks", WORLDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_like_one_plain_process(few_steps: Matrix, engine: str, num_ranks: int) -> None:
    for cell in few_steps.cells(num_ranks, engine):
        few_steps.assert_equal(cell)


def test_every_engine_finds_the_same_mistakes(few_steps: Matrix) -> None:
    for number, (_, _, precision) in enumerate(few_steps.kinds):
        cells = [few_steps.cells(3, engine)[number] for engine in ENGINES]
        first, *others = [json.loads(few_steps.run(cell).details("test").read_text()) for cell in cells]
        assert len(first["mistakes"]) > 3
        assert precision == "fp32" or others == [first] * 3


@pytest.mark.matrix
@pytest.mark.parametrize("num_ranks", WORLDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_like_one_plain_process_for_200_steps(
    two_hundred_steps: Matrix, engine: str, num_ranks: int
) -> None:
    for cell in two_hundred_steps.cells(num_ranks, engine):
        two_hundred_steps.assert_equal(cell)


def test_accumulation_clipping_and_a_short_last_batch_are_really_there(few_steps: Matrix) -> None:
    _, free, clipped, _ = few_steps.cells(3, "ddp")
    unclipped = Cell(3, 4, False, "fp32", 3)
    assert losses(few_steps.reference(unclipped))[0] == losses(few_steps.reference(clipped))[0]
    assert losses(few_steps.reference(unclipped))[2] != pytest.approx(losses(few_steps.reference(clipped))[2], rel=1e-4)
    assert [len(step) for step in trained_samples(few_steps.run(free))] == [40, 4] * 3
    logs = [few_steps.run(free).sample_log(rank).read_text().splitlines() for rank in range(3)]
    assert [len(log) for log in logs] == [12, 12, 9]  # of 11 micro-batches an epoch; the last one leaves two fillers

"""What a drill finds in the folder of a run that came back, exactly or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.data.arrangement import arrange
from megabatch.data.steps import steps_of
from megabatch.launcher.drill import judge, verdict
from megabatch.launcher.prepare import prepare
from support.runs import Workplace


@pytest.fixture
def job(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.chdir(workplace.folder)
    return prepare("recipe.yaml", "laptop", []).job


class Story:
    """Steps 1 to 4 of two ranks; the second attempt goes on from step 3, so that step 3 and 4 come again, up to 6."""

    def __init__(self, job: Job, folder: Path):
        self.run_dir = RunDir(folder)
        order = arrange(job).order()
        steps = steps_of(job.recipe, order.samples)
        self.metrics: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []
        for attempt, numbers in ((1, range(1, 5)), (2, range(3, 7))):
            for step in numbers:
                line = {"kind": "step", "attempt": attempt, "step": step, "samples_seen": steps.samples_seen(step)}
                self.metrics.append({**line, "loss": 1 / step})
                span = steps.at(step - 1)
                ids = order.draws(span.epoch, span.start, span.stop).sample_ids.tolist()
                for number in range(0, len(ids), 4):
                    self.samples.append({"step": step - 1, "number": number, "sample_ids": ids[number : number + 4]})

    def write(self) -> RunDir:
        self.run_dir.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in self.metrics))
        for rank in range(2):
            file = self.run_dir.sample_log(rank)
            file.parent.mkdir(exist_ok=True)
            lines = [line for line in self.samples if line["number"] % 8 == 4 * rank]
            file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return self.run_dir


def test_a_run_that_came_back_exactly_is_proven(job: Job, tmp_path: Path) -> None:
    checks = judge(Story(job, tmp_path).write(), job, attempt=1)
    assert verdict(checks)
    assert [check.text for check in checks] == [
        "attempt 2 began with step 3; the one before ended with step 4",
        "2 steps were trained again from the checkpoint, to the same loss",
        "88 samples were seen after step 6, as planned",
        "the samples of steps 1 to 6 are those of the recipe's order, each once",
    ]


def _gap(story: Story) -> None:
    story.metrics = [line for line in story.metrics if line["step"] != 5]


def _other_loss(story: Story) -> None:
    story.metrics[-4]["loss"] += 1e-9


def _other_count(story: Story) -> None:
    story.metrics[-1]["samples_seen"] -= 1


def _sample_twice(story: Story) -> None:
    story.samples[-1]["sample_ids"] = story.samples[-2]["sample_ids"]


def _sample_lost(story: Story) -> None:
    story.samples.pop()


def _nothing_new(story: Story) -> None:
    story.metrics = [line for line in story.metrics if line["attempt"] == 1]


@pytest.mark.parametrize("harm", [_gap, _other_loss, _other_count, _sample_twice, _sample_lost, _nothing_new])
def test_whatever_is_not_exact_is_found(harm: Any, job: Job, tmp_path: Path) -> None:
    story = Story(job, tmp_path)
    harm(story)
    checks = judge(story.write(), job, attempt=1)
    assert len([check for check in checks if not check.holds]) == 1


def test_without_a_sample_log_the_rest_is_judged(job: Job, tmp_path: Path) -> None:
    recipe = job.recipe.model_copy(update={"tracking": job.recipe.tracking.model_copy(update={"sample_log": False})})
    checks = judge(Story(job, tmp_path).write(), job.model_copy(update={"recipe": recipe}), attempt=1)
    assert len(checks) == 3
    assert verdict(checks)

"""Training from streams: real ranks, a real command, and a run that says what it cannot promise."""

from __future__ import annotations

import pytest

from megabatch.configs.metrics import read_metrics
from support.runs import Workplace, losses

pytestmark = pytest.mark.processes
STREAM = "data.train_stream={urls: 'pipe:cat data/train-{000000..000004}.tar', samples: 44, allow_pipe: true}"


def test_two_ranks_train_from_commands_and_the_run_says_that_the_order_is_approximate(workplace: Workplace) -> None:
    run_dir = workplace.train("stream", 2, STREAM, "data.validation_split=validation", "epochs=3")
    assert len(losses(run_dir)) == 9
    assert "their order is approximate" in run_dir.metrics.read_text()
    assert read_metrics(run_dir.metrics, "evaluation")[-1]["samples"] == 15
    plan = workplace.megabatch("plan", "recipe.yaml", STREAM)
    assert "the order is approximate" in plan.stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (STREAM.replace(", allow_pipe: true", ""), "allow it with data.train_stream.allow_pipe: true"),
        (STREAM.replace("pipe:cat", "http://host"), "reads http, s3 and gs exactly"),
        (STREAM.replace("000004", "000000"), "names 1 streams for 2 ranks"),
    ],
)
def test_a_stream_that_cannot_work_is_refused_before_anything_starts(
    workplace: Workplace, override: str, message: str
) -> None:
    done = workplace.megabatch("plan", "recipe.yaml", override, "cluster.processes_per_node=2")
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_nothing_can_be_chosen_of_a_stream(workplace: Workplace) -> None:
    done = workplace.megabatch("plan", "recipe.yaml", STREAM, "data.repeats=2", "data.sampling=class_balanced")
    assert done.returncode == 2
    assert "train_stream has no order to choose from: leave out sampling, repeats" in done.stderr

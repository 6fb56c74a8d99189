"""What a person sees of an evaluation: the main metric of the target first, in its unit."""

from __future__ import annotations

import pytest

from megabatch.configs.targets import METRICS, METRICS_OF, main_metric_in
from megabatch.launcher.render import print_evaluation, print_summary
from megabatch.launcher.soup_command import _is_worse, _numbers

RESULTS: dict[str, tuple[dict[str, float], list[str], str]] = {
    "class": ({"top1": 0.9125, "top5": 1.0}, ["top-1 91.25%", "top-5 100.00%"], "test accuracy 91.25% of 40 images"),
    "labels": ({"map": 0.75, "top1": 0.5}, ["mAP 75.00%", "top-1 50.00%"], "test mAP 75.00% of 40 images"),
    "numbers": (
        {"mae": 0.01234567, "mse": 1234567.0, "r2": -0.5},
        ["MAE 0.01235", "MSE 1.235e+06", "R2 -0.5"],
        "test MAE 0.01235 of 40 images",
    ),
}


@pytest.mark.parametrize("target", RESULTS)
def test_results_are_shown_with_the_metrics_of_their_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    metrics, rows, summary = RESULTS[target]
    assert [*metrics, "loss"] == list(METRICS_OF[target])
    result = {"split": "test", "samples": 40, "skipped_samples": 0, "loss": 0.5, **metrics}
    print_evaluation({**result, "checkpoint": "step-00000001"})
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[-len(rows) - 2 :] == ["samples 40", *rows, "loss 0.5000"]
    print_summary({"step": 1, "samples_seen": 40, "seconds": 1.0, "test": result}, "run")
    assert summary in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("target", RESULTS)
def test_a_soup_is_worse_whichever_way_its_metric_improves(target: str) -> None:
    metrics = RESULTS[target][0]
    name = main_metric_in(metrics)
    better = metrics[name] + (0.01 if METRICS[name].higher_is_better else -0.01)
    found = {"single_validation": [metrics, {**metrics, name: better}], "validation": metrics}
    assert _is_worse(found, name)
    assert not _is_worse({**found, "validation": {**metrics, name: better}}, name)
    assert _numbers({"loss": 0.5, **metrics}) == (METRICS[name].shown(metrics[name]), "0.5000")

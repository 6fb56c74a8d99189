"""Rolling back: what is left out, what is kept, and that the result is that of a run without the steps left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabatch.configs.metrics import read_metrics
from megabatch.trainer import checkpoint, loop, step
from megabatch.trainer.build import Parts
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.rollback import keep_rule, steps_to_leave_out
from support.poison import SHORT, STEPS, STEPS_PER_EPOCH, poisoned_workplace
from support.runs import Workplace
from support.training import training

NAN = (*SHORT, "loss={name: custom, function: 'poison:nan'}")
BACK = (*NAN, "stability={on_bad_step: roll_back}", "averaging={name: ema, decay: 0.9}")
Weights = dict[str, bytes]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return poisoned_workplace(tmp_path_factory.mktemp("poisoned"))


def trained(place: Workplace, run: str, *overrides: str, left_out: tuple[int, ...] = ()) -> Weights:
    """Train to the end; return weights, optimizer and average as bytes."""
    with training(place, run, *overrides) as parts:
        parts.state.guard.left_out = [*left_out]
        assert loop.train(parts) == "finished"
        return weights(parts)


def weights(parts: Parts) -> Weights:
    snapshot = checkpoint.load(parts.run_dir.checkpoint(parts.state.step))
    tensors = {**snapshot.network, **snapshot.optimizer, **{f"ema/{n}": t for n, t in snapshot.averaged.items()}}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def bad_steps(place: Workplace, run: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place.folder / run / "bad-steps.jsonl").read_text().splitlines()]


def left_out(place: Workplace, run: str) -> list[int]:
    found: list[int] = checkpoint.read_state(place.folder / run / "checkpoints" / f"step-{STEPS:08d}")["training"][
        "guard"
    ]["left_out"]
    return found


@given(st.sets(st.integers(0, 30)), st.integers(0, 30), st.integers(1, 8))
def test_the_steps_left_out_end_with_the_bad_one_and_are_new(before: set[int], bad: int, count: int) -> None:
    before -= {bad}
    found = steps_to_leave_out(before, bad, count)
    assert found == sorted(found)
    assert found[-1] == bad
    assert not before & set(found)
    assert len(found) == count or all(n in before or n in found for n in range(bad + 1))
    assert all(n in before or n in found for n in range(found[0], bad + 1))


def test_a_run_that_rolled_back_is_bit_for_bit_one_without_those_steps(place: Workplace) -> None:
    """The sample comes once in each of three epochs; each time the step before it is left out as well."""
    after = trained(place, "back", *BACK)
    known = left_out(place, "back")
    lines = bad_steps(place, "back")
    assert [line["step"] for line in lines] == [1 + bad for bad in known[1::2]]
    assert len(lines) == 3
    assert [(line["step"] - 1) // STEPS_PER_EPOCH for line in lines] == [0, 1, 2]
    for line in lines:
        assert (line["reason"], line["loss"], line["then"]) == ("the loss is nan", None, "roll_back")
        assert sum(len(keys) for keys in line["samples"].values()) == 4
        worst = [key for keys in line["worst"].values() for key in keys]
        assert (len(worst), "class3/poison" in worst) == (2, True)
    assert after == trained(place, "known", *BACK, left_out=tuple(known))
    assert after != trained(place, "passed", *NAN, "stability={on_bad_step: pass_over}", BACK[-1])
    metrics = read_metrics(place.folder / "back" / "metrics.jsonl", "step")
    assert [line["step"] for line in metrics] == [*range(1, STEPS + 1)]
    assert [line["step"] - 1 for line in metrics if "passed_over" in line] == known


def test_one_step_left_out_is_a_step_passed_over(place: Workplace) -> None:
    single = trained(place, "single", *NAN, "stability={on_bad_step: roll_back, roll_back_steps: 1}")
    assert single == trained(place, "skipped", *NAN, "stability={on_bad_step: pass_over}")


@pytest.mark.parametrize(("every", "count"), [(3, 2), (100, 2), (2, 4)])
def test_which_checkpoint_it_goes_back_to_does_not_matter(place: Workplace, every: int, count: int) -> None:
    """With 4 steps left out, checkpoints in between have updates of them: they must not be gone back to later."""
    run, guard = f"every-{every}", f"stability={{on_bad_step: roll_back, roll_back_steps: {count}}}"
    other = trained(place, run, *BACK, guard, f"checkpoint.every_steps={every}")
    assert len(left_out(place, run)) == 3 * count
    assert other == trained(place, f"known-{every}", *BACK, guard, left_out=tuple(left_out(place, run)))


class _KilledError(BaseException):
    pass


def _killed(*arguments: object) -> None:
    raise _KilledError


def _killed_afterwards(function: Callable[..., object]) -> Callable[..., object]:
    def both(*arguments: object) -> None:
        function(*arguments)
        _killed()

    return both


@pytest.mark.parametrize("stage", ["before deleting", "deleted", "put back", "told"])
def test_a_kill_at_any_stage_of_going_back_changes_nothing(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    run, alone = f"killed-{stage[:6]}", trained(place, "alone", *BACK)
    for _ in range(2):
        with monkeypatch.context() as patch, training(place, run, *BACK) as parts:
            if stage == "before deleting":
                patch.setattr(checkpoint, "delete_after", _killed)
            elif stage == "deleted":
                patch.setattr(checkpoint, "delete_after", _killed_afterwards(checkpoint.delete_after))
            elif stage == "put back":
                patch.setattr(loop, "put_back", _killed_afterwards(loop.put_back))
            else:
                patch.setattr(loop, "carry_over", _killed_afterwards(loop.carry_over))
            with pytest.raises(_KilledError):
                loop.train(parts)
    assert trained(place, run) == alone
    assert left_out(place, run) == left_out(place, "alone")
    assert losses_of(place, run) == losses_of(place, "alone")


def test_a_wish_to_stop_at_a_bad_step_is_heard_after_going_back(place: Workplace) -> None:
    wished: list[int] = []

    def stop_requested() -> bool:
        wished.extend([parts.state.step] if parts.state.step == 6 else [])
        return bool(wished)

    with training(place, "stopped", *BACK) as parts:
        parts.step_parts = replace(parts.step_parts, stop_requested=stop_requested)
        assert loop.train(parts) == "stopped"
        assert parts.state.step == 5
    assert trained(place, "stopped") == trained(place, "not-stopped", *BACK)


def losses_of(place: Workplace, run: str) -> list[float | None]:
    return [line["loss"] for line in read_metrics(place.folder / run / "metrics.jsonl", "step")]


LATE = (
    *SHORT, "loss={name: custom, function: 'poison:late'}", "seed=3", "epochs=1",
    "precision=fp64",
)  # fmt: skip


def test_harm_done_by_the_step_before_is_undone_by_going_back_and_not_by_passing_over(place: Workplace) -> None:
    spike = "loss_spike: 50, window: 5, max_bad_steps: 2"
    message = r"3 bad steps, stability\.max_bad_steps allows 2; the last: step"
    with pytest.raises(TrainingError, match=message):
        trained(place, "late-passed", *LATE, f"stability={{on_bad_step: pass_over, {spike}}}")
    trained(place, "late-back", *LATE, f"stability={{on_bad_step: roll_back, {spike}}}")
    (line,) = bad_steps(place, "late-back")
    assert "is more than 50 times" in line["reason"]
    assert line["loss"] > 1e9
    assert all(loss is not None and loss < 3 for loss in losses_of(place, "late-back"))


def test_the_checkpoints_to_go_back_to_are_kept_with_the_best_known_there(place: Workplace) -> None:
    """A bad step 26 would leave out 16 to 26: back to the checkpoint of 16, for which that of 8 is the best."""
    with training(place, "kept", *NAN, "stability={on_bad_step: roll_back, roll_back_steps: 11}") as parts:
        for step_saved, best in ((8, 8), (12, 8), (16, 8), (24, 24), (26, 24)):
            state = {"training": {"step": step_saved, "best_step": best}}
            checkpoint.save(parts.run_dir, step_saved, checkpoint.Snapshot({}, {}, state))
        parts.state.step = 26
        assert keep_rule(parts)() == {8, 16, 24, 26}
        parts.state.guard.left_out = [20, 21, 22]
        assert keep_rule(parts)() == {8, 12, 16, 24, 26}


def test_without_an_undamaged_checkpoint_the_run_ends_and_says_so(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, training(place, "gone", *NAN, "stability.on_bad_step=roll_back") as parts:
        patch.setattr(checkpoint, "newest", lambda *_, **__: (None, []))
        with pytest.raises(TrainingError, match=r"step 7 was bad, and .* has no undamaged checkpoint to go back to"):
            loop.train(parts)


def test_a_gradient_that_is_not_finite_points_at_no_micro_batch(place: Workplace) -> None:
    trained(place, "steep", *SHORT, "loss={name: custom, function: 'poison:steep'}", "stability.on_bad_step=pass_over")
    for line in bad_steps(place, "steep"):
        assert line["reason"].startswith("the gradient norm is")
        assert (line["gradient_norm"], line["worst"]) == (None, None)
        assert any("class3/poison" in keys for keys in line["samples"].values())
    metrics = (place.folder / "steep" / "metrics.jsonl").read_text()
    assert "Infinity" not in metrics
    assert "NaN" not in metrics


def test_a_spike_ends_the_run_where_a_bad_step_is_to_stop_it(place: Workplace) -> None:
    with pytest.raises(TrainingError, match=r"^step 6: the loss .* something is wrong with these samples$"):
        trained(place, "late-stopped", *LATE, "stability={loss_spike: 50, window: 5}")


def test_without_guards_no_gradient_norm_is_taken_and_nothing_is_written(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "clip", _killed)
    trained(place, "off", *SHORT, "epochs=1")
    assert not (place.folder / "off" / "bad-steps.jsonl").exists()
    assert not (place.folder / "off" / "checkpoints" / "step-00000000").exists()

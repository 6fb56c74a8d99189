"""What `distillation.teachers` are settled to before a job is written, and which are refused; all of it without torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megabatch.configs.distillation import Distillation, TeacherNetwork
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.save_job import write_job
from megabatch.launcher.teachers import with_teachers

CLASSES = tuple("0123456789")
NUMBERS = ("data.target={name: numbers, keys: [age]}", "loss=huber", "regularization.label_smoothing=0")


def job_of(folder: Path, *overrides: str) -> Job:
    loaded = load("digits", "laptop", overrides)
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="1"
    )


def run_of(folder: Path, *overrides: str, names: tuple[str, ...] = CLASSES) -> None:
    """A run folder as far as the launcher looks at it."""
    run_dir = RunDir(folder)
    run_dir.checkpoint(10).mkdir(parents=True)
    (run_dir.checkpoint(10) / "manifest.json").write_text(folder.name)
    (run_dir.checkpoint(10) / "state.json").write_text(json.dumps({"training": {"best_step": None}}))
    run_dir.outputs.write_text(json.dumps({"number": len(names), "names": names}))
    write_job(job_of(folder, *overrides), run_dir.job)


def settled(job: Job) -> Distillation:
    found = with_teachers(job, CLASSES).recipe.distillation
    assert found is not None
    return found


def test_a_run_is_settled_to_its_checkpoint_network_and_scaling_once_and_for_all(tmp_path: Path) -> None:
    run_of(tmp_path / "big", "model.options={widths: [64, 64]}", "model.activation=gelu", "data.normalize=min_max")
    job = with_teachers(job_of(tmp_path, "data.normalize=min_max", "distillation.teachers=[big]"), CLASSES)
    assert job.recipe.distillation is not None
    (teacher,) = job.recipe.distillation.teachers
    assert teacher.source == "big/checkpoints/step-00000010"
    assert teacher.model == TeacherNetwork.of(
        load("digits", "laptop", ["model.options={widths: [64, 64]}", "model.activation=gelu"]).recipe.model
    )
    assert teacher.normalize == job.recipe.data.normalize
    assert with_teachers(job, CLASSES) == job


def test_teachers_decide_what_is_trained_and_their_place_does_not(tmp_path: Path) -> None:
    run_of(tmp_path / "a")
    run_of(tmp_path / "b")
    (tmp_path / "b/checkpoints/step-00000010/manifest.json").write_text("a")
    run_of(tmp_path / "c")
    prints = [
        with_teachers(job_of(tmp_path, f"distillation.teachers=[{name}]"), CLASSES).fingerprint() for name in "abc"
    ]
    assert prints[0] == prints[1] != prints[2]
    assert job_of(tmp_path).fingerprint() not in prints


def test_a_file_needs_its_network_and_is_scaled_like_the_student(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"weights")
    with pytest.raises(ConfigError, match=r"w.pt: a file does not say which network .* write `model: \{name: ...\}`"):
        settled(job_of(tmp_path, "distillation.teachers=[w.pt]"))
    named = "distillation.teachers=[{source: w.pt, model: {name: timm/resnet18}}]"
    (teacher,) = settled(job_of(tmp_path, named)).teachers
    assert teacher.normalize == job_of(tmp_path).recipe.data.normalize


@pytest.mark.parametrize(
    ("made", "names", "asked", "told"),
    [
        ((), ("0", "1", "7"), (), "trained for other classes: its output 2 is 7, and in these data class 2 is 2 (3 "),
        ((), CLASSES[:9], (), "its output 9 is no class, and in these data class 9 is 9 (9 classes there, 10 here)"),
        (("data.image_size=16",), CLASSES, (), "images of 16 pixels, and data.image_size is 8"),
        (("data.normalize=per_image",), CLASSES, (), "one cannot be had from the other"),
        (NUMBERS, CLASSES, (), "was trained towards data.target=NumbersTarget"),
        (NUMBERS, CLASSES, ("data.target={name: numbers, keys: [size]}", *NUMBERS[1:]), "the outputs mean something else"),
        (("quantization=ternary",), CLASSES, (), "was trained with quantization ternary, and a teacher computes in full"),
        ((), CLASSES, ("distillation.teachers=[{source: t, model: {name: timm/resnet18}}]",), "the model of a run is"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused_before_anything_starts(
    tmp_path: Path, made: tuple[str, ...], names: tuple[str, ...], asked: tuple[str, ...], told: str
) -> None:
    run_of(tmp_path / "t", *made, names=names)
    with pytest.raises(ConfigError) as refused:
        settled(job_of(tmp_path, "distillation.teachers=[t]", *asked))
    assert str(refused.value).startswith("distillation.teachers.0: t/checkpoints/step-00000010: ")
    assert told in str(refused.value)


def test_all_teachers_that_do_not_fit_are_told_at_once(tmp_path: Path) -> None:
    run_of(tmp_path / "a")
    (tmp_path / "a" / "outputs.json").unlink()
    (tmp_path / "lost/checkpoints/step-00000010").mkdir(parents=True)
    (tmp_path / "lost/checkpoints/step-00000010/manifest.json").touch()
    asked = "distillation.teachers=[nope, a, lost/checkpoints/step-00000010]"
    with pytest.raises(ConfigError) as refused:
        settled(job_of(tmp_path, asked))
    lines = str(refused.value).splitlines()
    assert len(lines) == 3
    assert "nope: no such file or folder" in lines[0]
    assert "outputs.json is missing, which names the classes: `megabatch eval` of the run writes it" in lines[1]
    assert "job.yaml is missing, which says how the network is built: name the run folder" in lines[2]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("distillation.teachers=[]", "distillation.teachers"),
        ("distillation.teachers=[timm]", "timm's weights are for classes of their own"),
        ("distillation={teachers: [a], share: 0}", "distillation.share"),
        ("distillation.teachers=[{source: a.pt, normalize: auto}]", "write the numbers that the teacher was trained"),
    ],
)
def test_what_cannot_teach_is_refused_in_the_recipe(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load("digits", "laptop", [override])
    assert told in str(refused.value)

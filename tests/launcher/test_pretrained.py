"""What `model.pretrained` is settled to before a job is written, and what is refused; all of it without torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.pretrained import Pretrained
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.pretrained import with_pretrained


def job_of(folder: Path, pretrained: str, begun: bool = False) -> Job:
    loaded = load("digits", "laptop", [f"model.pretrained={pretrained}"])
    data = "d" if begun else ""
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint=data, version="1"
    )


def settled(job: Job) -> Pretrained:
    found = with_pretrained(job).recipe.model.pretrained
    assert found is not None
    return found


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose best checkpoint is not its last, and with one that is not complete."""
    run_dir = RunDir(tmp_path / "runs" / "a")
    for step in (10, 20):
        run_dir.checkpoint(step).mkdir(parents=True)
        (run_dir.checkpoint(step) / "manifest.json").write_text(json.dumps({"step": step}))
        (run_dir.checkpoint(step) / "state.json").write_text(json.dumps({"training": {"best_step": 10}}))
    run_dir.checkpoint(30).mkdir()
    run_dir.job.touch()
    return run_dir


def test_a_file_gets_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    found = settled(job_of(tmp_path, "w.pth"))
    assert found == Pretrained(source="w.pth", sha256=sha256(tmp_path / "w.pth"))


def test_a_run_folder_becomes_its_best_checkpoint_and_that_stays_when_a_better_one_comes(
    tmp_path: Path, run: RunDir
) -> None:
    job = with_pretrained(job_of(tmp_path, "runs/a"))
    best = Pretrained(source="runs/a/checkpoints/step-00000010", sha256=sha256(run.checkpoint(10) / "manifest.json"))
    assert job.recipe.model.pretrained == best
    (run.checkpoint(20) / "state.json").write_text(json.dumps({"training": {"best_step": 20}}))
    assert settled(job) == best
    assert settled(job_of(tmp_path, str(run.root))).source == str(run.checkpoint(20))


def test_without_an_evaluation_the_last_checkpoint_counts(tmp_path: Path, run: RunDir) -> None:
    (run.checkpoint(20) / "state.json").write_text(json.dumps({"training": {"best_step": None}}))
    assert settled(job_of(tmp_path, "runs/a")).source == "runs/a/checkpoints/step-00000020"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nope.pth", "nope.pth: no such file or folder. Paths start at the folder of the launch"),
        ("notes.txt", "weights are in a file of type .safetensors, .pt, .pth, .bin, or in a run folder"),
        ("hub", "is no run folder and no checkpoint. Of another folder name the file: model.safetensors"),
        ("empty", "it has none of type .safetensors, .pt, .pth, .bin"),
        ("new", "has no checkpoint yet: train it first"),
        ("torn", "step-00000010 is damaged"),
    ],
)
def test_what_has_no_weights_is_refused(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "notes.txt").touch()
    for folder in ("hub", "empty", "new", "torn/checkpoints/step-00000010"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "hub" / "model.safetensors").touch()
    (tmp_path / "new" / "job.yaml").touch()
    (tmp_path / "torn" / "job.yaml").touch()
    (tmp_path / "torn/checkpoints/step-00000010/manifest.json").touch()
    with pytest.raises(ConfigError) as refused:
        with_pretrained(job_of(tmp_path, source))
    assert told in str(refused.value)
    assert str(refused.value).startswith("model.pretrained: ")


def test_another_file_is_refused_and_one_that_is_gone_only_in_a_new_run(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"other")
    asked = f"{{source: w.pth, sha256: {sha256(tmp_path / 'w.pth')}}}"
    assert settled(job_of(tmp_path, asked)).source == "w.pth"
    (tmp_path / "w.pth").write_bytes(b"weights")
    with pytest.raises(
        ConfigError, match=r"w.pth is not what it was: its SHA-256 is [0-9a-f]{64}, model.pretrained.sha256 is"
    ):
        with_pretrained(job_of(tmp_path, asked, begun=True))
    (tmp_path / "w.pth").unlink()
    begun = job_of(tmp_path, asked, begun=True)
    assert with_pretrained(begun) == begun
    with pytest.raises(ConfigError, match="no such file or folder"):
        with_pretrained(job_of(tmp_path, asked))


def test_timm_is_asked_by_name_and_nothing_is_read(tmp_path: Path) -> None:
    assert settled(job_of(tmp_path, "timm:resnet18.a1_in1k")) == Pretrained(source="timm:resnet18.a1_in1k")


def test_the_weights_and_not_their_place_decide_what_is_trained(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"1"), ("b.pt", b"1"), ("c.pt", b"2")):
        (tmp_path / name).write_bytes(content)
    prints = [with_pretrained(job_of(tmp_path, source)).fingerprint() for source in ("a.pt", "b.pt", "c.pt")]
    prints += [job_of(tmp_path, source).fingerprint() for source in ("null", "timm:a", "timm:b")]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 5


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.pretrained=https://a.b/c.pth", "is a URL: fetch the file first, and write its path"),
        (
            "model.pretrained={source: timm:resnet18, sha256: " + "a" * 64 + "}",
            "timm chooses its files itself: leave it out",
        ),
        ("model.pretrained={source: a.pt, sha256: abc}", "'abc': write the 64 digits that sha256sum prints"),
        (
            "model.pretrained=timm",
            "pretrained: timm is for models of timm, not megabatch.trainer.models.convnet:convnet",
        ),
        ("model={name: timm/resnet18, options: {pretrained: true}}", "leave it out and write model.pretrained alone"),
        (
            "model={name: timm/resnet18, pretrained: a.pt, options: {checkpoint_path: b.pt}}",
            "options.checkpoint_path loads weights",
        ),
        ("model={name: torchvision/resnet18, options: {weights: DEFAULT}}", "options.weights loads weights unchecked"),
    ],
)
def test_a_recipe_names_one_source_of_weights(override: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load("digits", "laptop", [override])
    assert told in str(refused.value)


def test_weights_of_timm_may_stay_in_the_options_of_a_model_of_ones_own() -> None:
    recipe = load("digits", "laptop", ["model.options={pretrained: true}", "model.pretrained=timm:resnet18"]).recipe
    assert recipe.model.pretrained == Pretrained(source="timm:resnet18")

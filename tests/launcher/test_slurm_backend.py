"""The script as text, and what bash makes of it; tests/cluster hands it to a real Slurm.

`python tests/launcher/test_slurm_backend.py` writes the two expected scripts again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.slurm import render, submit
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import ExitCode

ROOT = Path(__file__).parents[2]
# What a shell, sbatch or our own template could take for something else.
NASTY = [
    "a b",
    "it's",
    "$(touch canary)",
    "`touch canary`",
    "'; touch canary; '",
    "a; touch canary",
    "& touch canary &",
    "#MODULES",
    "@PYTHON@ '$(touch canary)'",
    "%j",
    "*",
    "-n",
]
FOR_BASH_ONLY = ['"; touch canary; "', "back\\slash\\"]
SCONTROL = """\
#!/bin/bash
case "$*" in
    "show hostnames gpu[07-08]") printf 'gpu07\\ngpu08\\n' ;;
    "show node gpu07") printf 'NodeName=gpu07 Arch=x86_64\\n   NodeAddr=10.0.0.7 NodeHostName=gpu07 Version=1\\n' ;;
    *) exit 1 ;;
esac
"""
SRUN = """\
#!/bin/bash
printf '%s\\0' "$@" > "$RECORD/arguments"
env -0 > "$RECORD/environment"
pwd > "$RECORD/folder"
"""


def job(
    folder: str = "/path/to/project", overrides: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Job:
    loaded = load("imagenet-resnet50", "slurm-example", list(overrides))
    cluster = loaded.cluster.model_copy(update={"environment": environment or {}})
    return Job(recipe=loaded.recipe, cluster=cluster, working_folder=folder, data_fingerprint="", version="0.1.0")


def script(made: Job, run_dir: str = "/path/to/project/runs/imagenet", python: str = "/path/to/venv/bin/python") -> str:
    with mock.patch.object(sys, "executable", python):
        text = render(made, RunDir(Path(run_dir))).script
    assert text is not None
    return text


def plain() -> str:
    return script(job())


def with_every_key() -> str:
    settings = ["account=vision", "qos=high", "constraint=h100&nvlink", "reservation=spring", "memory_gigabytes=900"]
    modules = "modules=[cuda/13.2, gcc/14]"
    overrides = [f"cluster.backend.{setting}" for setting in (*settings, modules)]
    made = job("/home/ann o'neill/project", overrides, {"NCCL_SOCKET_IFNAME": "ib0", "GREETING": "it's $HOME"})
    return script(made, "/scratch/ann o'neill/50%", "/home/ann o'neill/venv/bin/python")


EXPECTED = {
    ROOT / "slurm/slurm-example.sbatch": plain,  # shipped, ready to edit
    ROOT / "tests/golden/slurm-example.sbatch": with_every_key,
}


@pytest.mark.parametrize("file", EXPECTED, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_whole_script_is_as_expected_and_bash_accepts_it(file: Path) -> None:
    assert EXPECTED[file]() == file.read_text(), f"if that is meant: python {Path(__file__).relative_to(ROOT)}"
    assert subprocess.run(["bash", "-n", file], capture_output=True, check=True).stderr == b""


def test_cpus_for_all_threads_are_asked_for_where_the_cluster_file_names_no_number() -> None:
    few = ["cluster.backend.cpus_per_task=null", "cluster.processes_per_node=2", "cluster.loader_threads=3"]
    assert "#SBATCH --cpus-per-task=14\n" in script(job(overrides=few))


def run_script(text: str, tmp_path: Path) -> dict[str, list[str]]:
    """Run a script with a fake srun and scontrol; return the arguments and environment that srun got."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, content in {"scontrol": SCONTROL, "srun": SRUN}.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    of_slurm = {"JOB_NODELIST": "gpu[07-08]", "JOB_ID": "123456", "NNODES": "2", "CPUS_PER_TASK": "128"}
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(programs),
        **{f"SLURM_{name}": value for name, value in of_slurm.items()},
    }
    done = subprocess.run(
        ["bash"], input=text, text=True, capture_output=True, check=False, cwd=tmp_path, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    recorded = {name: (programs / name).read_text().split("\0") for name in ("arguments", "environment")}
    return {**recorded, "folder": [(programs / "folder").read_text().removesuffix("\n")]}


def test_srun_starts_one_torchrun_a_node_that_meets_at_the_address_of_the_first(tmp_path: Path) -> None:
    arguments = run_script(script(job(str(tmp_path))), tmp_path)["arguments"]
    assert arguments[arguments.index("bash") :] == [
        "bash", "-c", 'trap "" TERM; exec "$0" -m torch.distributed.run --node-rank "$SLURM_NODEID" "$@"',
        "/path/to/venv/bin/python", "--nnodes", "2", "--nproc-per-node", "8", "--signals-to-handle", "SIGINT",
        "--rdzv-id", "123456", "--rdzv-backend", "static", "--rdzv-endpoint", "10.0.0.7:13456",
        "-m", "megabatch.trainer", "/path/to/project/runs/imagenet/job.yaml", "",
    ]  # fmt: skip


@pytest.mark.parametrize("text", [*NASTY, *FOR_BASH_ONLY])
def test_no_folder_and_no_value_can_run_anything(text: str, tmp_path: Path) -> None:
    folder = tmp_path / text
    folder.mkdir()
    run_dir = "/runs/x" if text in FOR_BASH_ONLY else f"/runs/{text}"
    got = run_script(script(job(str(folder), (), {"VALUE": text}), run_dir, f"/opt/{text}/python"), tmp_path)
    assert got["folder"] == [str(folder)]
    assert f"VALUE={text}" in got["environment"]
    assert f"/opt/{text}/python" in got["arguments"]
    assert f"{run_dir}/job.yaml" in got["arguments"]
    assert list(tmp_path.rglob("canary")) == []


@pytest.mark.parametrize("sign", ["\n", "\r", "\0", "\x1b"])
def test_control_characters_are_refused_all_at_once(sign: str) -> None:
    bad = f"a{sign}touch canary"
    with pytest.raises(ConfigError) as caught:
        script(job(bad, (), {"GOOD": "x", "BAD": bad}), bad, bad)
    told = [problem.message.partition(" has a control character: ")[0] for problem in caught.value.problems]
    places = ["the run folder", "the working folder", "the Python interpreter", "cluster.environment.BAD"]
    assert sorted(told) == sorted(f"{place} {bad!r}" for place in places)


@pytest.mark.parametrize("text", FOR_BASH_ONLY)
def test_a_run_folder_that_sbatch_cannot_be_told_of_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Use another --run-dir"):
        script(job(), f"/runs/{text}")


def fake_sbatch(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (folder / "sbatch").write_text(f"#!/bin/bash\n{content}\n")
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def submitted(tmp_path: Path) -> tuple[RunDir, Submission]:
    run_dir = RunDir(tmp_path / "run")
    run_dir.logs.mkdir(parents=True)
    run_dir.result.write_text('{"outcome": "stopped"}')
    run_dir.failure(1).write_text("{}")
    return run_dir, render(job(), run_dir)


def test_the_number_is_told_and_the_last_failure_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, monkeypatch, 'echo "$@" > "$(dirname "$0")/called"; echo "77;main"')
    run_dir, submission = submitted(tmp_path)
    told: list[str] = []
    assert submit(submission, job(), run_dir, told.append).code == ExitCode.DONE
    assert told == [f"submitted as Slurm job 77: `squeue -j 77` shows it, {run_dir.logs}/slurm-77.log is its output"]
    assert (tmp_path / "called").read_text() == f"--parsable {run_dir.submission}\n"
    assert run_dir.submission.read_text() == submission.script
    assert run_dir.submission.stat().st_mode & 0o777 == 0o600
    assert run_dir.result.exists()  # the ranks replace it when they start; an evaluation leaves it
    assert run_dir.failures() == []


def test_what_sbatch_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    run_dir, submission = submitted(tmp_path)
    ending = submit(submission, job(), run_dir, print)
    expected = f"sbatch refused {run_dir.submission}: sbatch: error: invalid partition specified: gpu"
    assert (ending.code, ending.message) == (ExitCode.FAILED, expected)


if __name__ == "__main__":
    for file, text_of in EXPECTED.items():
        file.write_text(text_of())

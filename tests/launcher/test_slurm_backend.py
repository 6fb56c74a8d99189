"""The script as text, and what bash makes of it; tests/cluster hands it to a real Slurm.

`python tests/launcher/test_slurm_backend.py` writes the expected scripts again.
"""

from __future__ import annotations

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
from megabatch.launcher import launch, slurm_queue
from megabatch.launcher.backends.slurm import render, submit
from megabatch.launcher.run_commands import start_run
from megabatch.launcher.slurm_script import environment_file
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import ExitCode
from support.runs import Workplace
from support.slurm_jail import run_script

ROOT = Path(__file__).parents[2]
RUN_DIR = "/path/to/project/runs/imagenet"


def job(
    folder: str = "/path/to/project", overrides: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Job:
    loaded = load("imagenet-resnet50", "slurm-example", [f"cluster.{text}" for text in overrides])
    cluster = loaded.cluster.model_copy(update={"environment": environment or {}})
    return Job(recipe=loaded.recipe, cluster=cluster, working_folder=folder, data_fingerprint="", version="0.1.0")


def script(
    made: Job, run_dir: str = RUN_DIR, python: str = "/path/to/venv/bin/python", arguments: Sequence[str] = ()
) -> str:
    with mock.patch.object(sys, "executable", python):
        text = render(made, RunDir(Path(run_dir)), arguments).script
    assert text is not None
    return text


def plain() -> str:
    return script(job())


def with_every_key() -> str:
    settings = ["account=vision", "qos=high", "constraint=h100&nvlink", "reservation=spring", "memory_gigabytes=900"]
    settings += ["exclude=gpu[13-14]", "gpu_type=h100", "task=rank", "requeue=false", "modules=[cuda/13.2, gcc/14]"]
    image = "nvcr.io#nvidia/pytorch:25.10-py3"
    settings.append(f"container={{name: pyxis, image: '{image}', mounts: ['/data:/mnt/data', '/it is']}}")
    made = job("/home/ann o'neill/project", [f"backend.{setting}" for setting in settings], {"GREETING": "it's $HOME"})
    return script(made, "/scratch/ann o'neill/50%", "/home/ann o'neill/venv/bin/python")


EXPECTED = {
    ROOT / "slurm/slurm-example.sbatch": plain,  # shipped, ready to edit
    ROOT / "tests/golden/slurm-example.sbatch": with_every_key,
}


@pytest.mark.parametrize("file", EXPECTED, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_whole_script_is_as_expected_and_bash_accepts_it(file: Path) -> None:
    assert EXPECTED[file]() == file.read_text(), f"if that is meant: python {Path(__file__).relative_to(ROOT)}"
    assert subprocess.run(["bash", "-n", file], capture_output=True, check=True).stderr == b""


def test_the_body_of_every_script_is_the_same_and_so_is_that_of_the_script_for_hand_use() -> None:
    by_hand = (ROOT / "slurm/train.sbatch").read_text()
    bodies = {text.partition("# -- where the ranks run\n")[2] for text in (plain(), with_every_key(), by_hand)}
    assert len(bodies) == 1
    assert subprocess.run(["bash", "-n"], input=by_hand, text=True, capture_output=True, check=True).stderr == ""


def test_cpus_for_all_threads_are_asked_for_where_the_cluster_file_names_no_number() -> None:
    few = ["backend.cpus_per_task=null", "processes_per_node=2", "loader_threads=3"]
    assert "#SBATCH --cpus-per-task=14\n" in script(job(overrides=few))
    assert "#SBATCH --cpus-per-task=7\n" in script(job(overrides=[*few, "backend.task=rank"]))


def test_a_time_to_save_that_is_longer_than_the_job_is_refused() -> None:
    with pytest.raises(ConfigError, match="save_seconds=120 are no less than the whole time limit, 2 min"):
        job(overrides=["backend.time_minutes=2"])


def test_srun_starts_one_process_a_node_that_meets_at_the_address_of_the_first(tmp_path: Path) -> None:
    python = tmp_path / "python"
    done = run_script(
        script(job(str(tmp_path)), python=str(python)), [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", python
    )
    assert (done.code, done.errors) == (0, "")
    assert done.calls["srun"][:4] == ["--export=ALL", "--cpus-per-task=128", "--kill-on-bad-exit=1", "--wait=0"]
    assert done.calls["python"] == [
        "-m", "megabatch.trainer.node", "--node-rank", "1", "--nodes", "2", "--meet", "10.0.0.7:13456",
        f"{RUN_DIR}/job.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "own", "used"),
    [
        ("10.0.0.9 STREAM gpu07", "192.168.0.1", "10.0.0.9"),
        ("127.0.1.1 STREAM gpu07", "192.168.0.1 172.17.0.1", "192.168.0.1"),  # as Debian writes it for a machine itself
        ("", "192.168.0.1", "192.168.0.1"),
    ],
)
def test_the_name_of_the_first_node_becomes_a_number_that_is_not_its_own_loopback(
    known: str, own: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    fake("getent", tmp_path, monkeypatch, f"echo '{known}'; [ -n '{known}' ]")
    fake("hostname", tmp_path, monkeypatch, f"echo '{own} '")
    text = script(job(str(tmp_path)), python=str(python))
    variables = {"NODE_ADDRESS": "gpu07.example"}
    done = run_script(text, [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", python, variables)
    assert (done.code, done.errors) == (0, "")
    assert f"{used}:13456" in done.calls["python"]


def test_on_one_node_the_ranks_meet_at_its_loopback_interface(tmp_path: Path) -> None:
    python = tmp_path / "python"
    for task in ("node", "rank"):
        text = script(job(str(tmp_path), [f"backend.task={task}"]), python=str(python))
        done = run_script(text, [f"{RUN_DIR}/job.yaml"], tmp_path / task, python, {"SLURM_NNODES": "1"})
        assert "--meet" not in done.calls["python"]
        assert ("MASTER_ADDR=127.0.0.1" in done.calls["environment"]) == (task == "rank")


def test_with_a_task_for_each_rank_srun_starts_the_ranks_themselves(tmp_path: Path) -> None:
    python = tmp_path / "python"
    text = script(job(str(tmp_path), ["backend.task=rank"]), python=str(python))
    done = run_script(text, [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", python)
    assert done.calls["python"] == ["-m", "megabatch.trainer", f"{RUN_DIR}/job.yaml"]
    assert {"MASTER_ADDR=10.0.0.7", "MASTER_PORT=13456"} <= set(done.calls["environment"])


@pytest.mark.parametrize("name", ["pyxis", "apptainer"])
def test_in_a_container_folder_and_run_folder_are_mounted_and_the_python_inside_is_used(
    name: str, tmp_path: Path
) -> None:
    inside = tmp_path / "python3.12"
    container = f"backend.container={{name: {name}, image: /images/a b.sif, python: {inside}, mounts: ['/data:/mnt']}}"
    text = script(job(str(tmp_path), [container]))
    done = run_script(text, [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", inside)
    assert done.calls["python"][-1] == f"{RUN_DIR}/job.yaml"
    if name == "apptainer":
        binds = ["--bind", str(tmp_path), "--bind", RUN_DIR, "--bind", "/data:/mnt"]
        assert done.calls["apptainer"][:11] == ["exec", "--nv", *binds, "--pwd", str(tmp_path), "/images/a b.sif"]
    else:
        assert f"--container-mounts={tmp_path}:{tmp_path},{RUN_DIR}:{RUN_DIR},/data:/mnt" in done.calls["srun"]
        assert "--container-image=/images/a b.sif" in done.calls["srun"]


def test_the_job_of_an_array_task_is_its_own(tmp_path: Path) -> None:
    python = tmp_path / "python"
    text = script(job(str(tmp_path)), python=str(python))
    variables = {"SLURM_ARRAY_JOB_ID": "123456", "SLURM_ARRAY_TASK_ID": "1", "DECISION": "75"}
    done = run_script(text, ["/a/job.yaml", "/b/job.yaml"], tmp_path / "jail", python, variables)
    assert done.calls["python"][-1] == "/b/job.yaml"
    assert done.calls["scontrol-requeue"] == ["requeue", "123456_1"]  # not all tasks


def test_modules_are_loaded_and_the_environment_is_read_before_the_ranks_start(tmp_path: Path) -> None:
    python = tmp_path / "python"
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "job.environment").write_text(environment_file({"GREETING": "it's $HOME"}))
    text = script(job(str(tmp_path), ["backend.modules=[cuda/13.2, gcc/14]"]), python=str(python))
    done = run_script(text, [f"{run_dir}/job.yaml"], tmp_path / "jail", python)
    assert done.calls["modules"] == ["cuda/13.2\ngcc/14\n"]
    assert "GREETING=it's $HOME" in done.calls["environment"]


@pytest.mark.parametrize(
    ("state", "decision", "requeued", "code"),
    [
        ("RUNNING None 0", "75", True, 0),
        ("COMPLETING TimeLimit 0", "75", True, 0),  # the ranks did not save in time
        ("RUNNING None 0", "7", False, 7),
        ("COMPLETING None 0", "75", False, 9),  # cancelled, or requeued by Slurm: nobody is asked
        ("RUNNING None 1", "75", False, 9),  # on a node that Slurm had lost: the job runs elsewhere by now
    ],
)
def test_the_job_goes_back_into_the_queue_if_slurm_has_not_ended_it_and_the_run_is_to_go_on(
    state: str, decision: str, requeued: bool, code: int, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    variables = {"STATE": state, "DECISION": decision, "CODE": "9", "BAD_NODE": "gpu07", "EXCLUDED": "gpu03"}
    text = script(job(str(tmp_path)), python=str(python))
    done = run_script(text, [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", python, variables)
    assert (done.code, "scontrol-requeue" in done.calls) == (code, requeued)
    if requeued:
        assert done.calls["decide"][2:] == [
            f"{RUN_DIR}/job.yaml", "--slurm-job", "123456", "--code", "9", "--time-is-up", "no",
        ]  # fmt: skip
        assert done.calls["scontrol-requeue"] == ["requeue", "123456"]
        assert done.calls["scontrol-update"] == ["update", "JobId=123456", "ExcNodeList=gpu03,gpu07"]


@pytest.mark.parametrize(("settings", "arguments"), [(["backend.requeue=false"], []), ([], ["--evaluate", "test"])])
def test_an_evaluation_and_a_job_that_is_not_to_go_on_are_never_requeued(
    settings: list[str], arguments: list[str], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    text = script(job(str(tmp_path), settings), python=str(python), arguments=arguments)
    done = run_script(text, [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", python, {"CODE": "9", "DECISION": "75"})
    assert done.code == 9
    assert done.calls["python"][-1 - len(arguments) :] == [f"{RUN_DIR}/job.yaml", *arguments]
    assert not {"decide", "scontrol-requeue"} & set(done.calls)


def test_while_the_controller_is_away_it_is_asked_ten_times_and_then_the_log_says_how_to_go_on(tmp_path: Path) -> None:
    python = tmp_path / "python"
    text = script(job(str(tmp_path)), python=str(python))
    text = text.replace("look() {", 'squeue() { echo x >> "$RECORD/tries"; false; }\nlook() {')
    done = run_script(f"{text}\n", [f"{RUN_DIR}/job.yaml"], tmp_path / "jail", python)
    assert done.code == 1
    assert done.calls["tries"] == ["x\n" * 10]


@pytest.mark.parametrize("sign", ["\n", "\r", "\0", "\x1b"])
def test_control_characters_are_refused_all_at_once(sign: str) -> None:
    bad = f"a{sign}touch canary"
    with pytest.raises(ConfigError) as caught:
        script(job(bad, (), {"GOOD": "x", "BAD": bad}), bad, bad)
    told = [problem.message.partition(" has a control character: ")[0] for problem in caught.value.problems]
    places = ["the run folder", "the working folder", "the Python interpreter", "cluster.environment.BAD"]
    assert sorted(told) == sorted(f"{place} {bad!r}" for place in places)


@pytest.mark.parametrize("text", ['"; touch canary; "', "back\\slash\\"])
def test_a_run_folder_that_sbatch_cannot_be_told_of_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Use another --run-dir"):
        script(job(), f"/runs/{text}")


def test_a_folder_that_no_container_can_mount_is_refused() -> None:
    with pytest.raises(ConfigError, match="has a colon or a comma"):
        script(job("/a:b", ["backend.container={name: pyxis, image: x}"]))


def test_a_run_folder_that_sbatch_cannot_be_told_of_is_not_made(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(workplace.folder)
    (workplace.folder / "slurm.yaml").write_text("{name: x, backend: slurm}")
    fake("sbatch", tmp_path, monkeypatch, "exit 1")
    with pytest.raises(ConfigError, match="Use another --run-dir"):
        start_run("recipe.yaml", "slurm.yaml", [], Path('a "quoted" one'))
    assert not Path('a "quoted" one').exists()


def test_a_dry_run_shows_the_script_and_what_it_reads() -> None:
    shown = str(render(job(environment={"GREETING": "it's me"}), RunDir(Path(RUN_DIR))))
    assert shown.startswith(f"sbatch --parsable {RUN_DIR}/job.sbatch {RUN_DIR}/job.yaml\n\n#!/bin/bash\n")
    assert shown.endswith("""export GREETING='it'"'"'s me'\n""")


def fake(program: str, folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    (folder / program).write_text(f"#!/bin/bash\n{content}\n")
    (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def submitted(tmp_path: Path) -> tuple[RunDir, Submission]:
    run_dir = RunDir(tmp_path / "run")
    run_dir.logs.mkdir(parents=True)
    run_dir.result.write_text('{"outcome": "stopped"}')
    run_dir.failure(1).write_text("{}")
    return run_dir, render(job(), run_dir)


def test_the_number_is_told_and_kept_and_the_last_failure_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("sbatch", tmp_path, monkeypatch, 'echo "$@" > "$(dirname "$0")/called"; echo "77;main"')
    run_dir, submission = submitted(tmp_path)
    secret = job(environment={"TOKEN": "it's secret"})
    told: list[str] = []
    assert submit(submission, secret, run_dir, told.append).code == ExitCode.DONE
    assert told == [f"submitted as Slurm job 77: `squeue -j 77` shows it, {run_dir.logs}/slurm-77.log is its output"]
    assert (tmp_path / "called").read_text() == f"--parsable {run_dir.submission} {run_dir.job}\n"
    assert run_dir.submission.read_text() == submission.script
    assert "secret" not in run_dir.submission.read_text()
    assert """export TOKEN='it'"'"'s secret'\n""" in run_dir.job_environment.read_text()
    assert [f.stat().st_mode & 0o777 for f in (run_dir.submission, run_dir.job_environment)] == [0o600, 0o600]
    assert run_dir.result.exists()  # the ranks replace it when they start; an evaluation leaves it
    assert run_dir.failures() == []
    assert slurm_queue.number_of(run_dir) == "77"


def test_what_sbatch_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("sbatch", tmp_path, monkeypatch, "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    run_dir, submission = submitted(tmp_path)
    ending = submit(submission, job(), run_dir, print)
    expected = f"sbatch refused {run_dir.submission}: sbatch: error: invalid partition specified: gpu"
    assert (ending.code, ending.message) == (ExitCode.FAILED, expected)


@pytest.mark.parametrize(("state", "refused"), [("PENDING", True), ("RUNNING", True), ("COMPLETED", False)])
def test_a_run_whose_job_is_still_queued_is_not_submitted_again(
    state: str, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake("sbatch", tmp_path, monkeypatch, "echo 78")
    fake("squeue", tmp_path, monkeypatch, f"echo '{state}|None|node1'")
    run_dir, _ = submitted(tmp_path)
    slurm_queue.remember(run_dir, "77")
    if refused:
        with pytest.raises(ConfigError, match=f"is Slurm job 77 already \\({state}, None\\)"):
            launch.start(job(), run_dir, print)
        with pytest.raises(ConfigError, match="two jobs must not write to one run folder"):
            launch.start(job().model_copy(update={"cluster": load("digits", "laptop").cluster}), run_dir, print)
    else:
        assert launch.start(job(), run_dir, print).code == ExitCode.DONE
        assert slurm_queue.number_of(run_dir) == "78"


def test_an_outer_allocation_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("sbatch", tmp_path, monkeypatch, 'env > "$(dirname "$0")/environment"; echo 77')
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_CPU", "SBATCH_NO_REQUEUE", "SRUN_CPUS_PER_TASK", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "1")
    run_dir, submission = submitted(tmp_path)
    submit(submission, job(), run_dir, print)
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert {name for name in names if name.startswith(("SLURM_", "SRUN_", "SBATCH_"))} - {"SLURM_CONF"} == {
        "SBATCH_ACCOUNT"
    }


if __name__ == "__main__":
    for file, text_of in EXPECTED.items():
        file.write_text(text_of())

"""Thirty hostile texts in every text field of every backend that starts ranks elsewhere: none becomes a command.

Each is refused by the schema, or what a backend makes of it is carried out in an empty folder, as a shell, sshd or a
kubelet would: then the interpreter, here a script that writes down its arguments, is started with the text as it is.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest import mock

import pytest
from ruamel.yaml import YAML

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError
from megabatch.configs.hosts import Ssh
from megabatch.configs.job import Job
from megabatch.configs.load import load, validate
from megabatch.configs.recipe import Recipe
from megabatch.configs.run_dir import RunDir
from megabatch.configs.yaml_tree import Tree
from megabatch.launcher.backends.choose import backend_of
from megabatch.launcher.hosts.connection import Connection, Event, ssh_command
from megabatch.launcher.hosts.hostfile import with_hosts
from megabatch.launcher.submission import Submission
from support.hostile import CONTROL, TEXTS

RECORDER = """\
#!/bin/sh
printf '%s\\0' "$@" >> "$RECORD"
printf '\\n' >> "$RECORD"
"""
# Does what ssh and sshd do: joins what follows the host with spaces, and has a shell read it.
FAKE_SSH = """\
#!/bin/sh
while [ "$1" != "--" ]; do shift; done
shift 2
exec /bin/sh -c "$*"
"""
BACKENDS: dict[str, dict[str, Any]] = {
    "ssh": {"name": "ssh", "hosts": ["n1", "n2"], "address": "n1", "user": "me", "identity_file": "key",
            "config_file": "config", "pass_environment": ["NAME"]},
    "accelerate": {"name": "accelerate", "address": "n1"},
    "deepspeed": {"name": "deepspeed", "address": "n1"},
    "kubernetes": {"name": "kubernetes", "image": "me/image:1", "claim": "shared", "mount": "/", "namespace": "mine",
                   "secret": "keys", "python": "python"},
}  # fmt: skip
FIELDS = [
    (backend, field)
    for backend, values in BACKENDS.items()
    for field in (*(key for key in values if key != "name"), "environment", "working_folder", "run_dir", "interpreter")
] + [("ssh", "program"), ("ssh", "python"), ("ssh", "hostfile")]


@cache
def recipe() -> Recipe:
    return load("digits", "laptop").recipe


@contextmanager
def jail(folder: Path) -> Iterator[Path]:
    """An empty folder to be in, with an interpreter that writes its arguments into `record`."""
    folder.mkdir()
    (folder / "python").write_text(RECORDER)
    (folder / "ssh").write_text(FAKE_SSH)
    for name in ("python", "ssh"):
        (folder / name).chmod(0o755)
    before = Path.cwd()
    os.chdir(folder)
    with mock.patch.dict(os.environ, {"RECORD": str(folder / "record"), "SOME_TOKEN": "canary-token"}):
        yield folder
    os.chdir(before)


def made(folder: Path, backend: str, field: str, text: str) -> tuple[Job, RunDir, str]:
    """Return a job with the text in the field, its run folder, and the interpreter. Raises ConfigError if refused."""
    values = {**BACKENDS[backend]}
    if backend == "ssh":
        values["program"] = str(folder / "ssh")
    if field == "hostfile":
        del values["hosts"]
    if field in values or field in ("program", "python", "hostfile"):
        values[field] = [text, "n2"] if field == "hosts" else [text] if field == "pass_environment" else text
    cluster = {"name": "c", "nodes": 2, "backend": values}
    if field == "environment":
        cluster["environment"] = {"VALUE": text}
    job = Job(
        recipe=recipe(), cluster=validate(Cluster, Tree(cluster, {})), data_fingerprint="",
        working_folder=str(folder / text) if field == "working_folder" else str(folder), version="",
    )  # fmt: skip
    run_dir = RunDir(folder / (text if field == "run_dir" else "run"))
    return job, run_dir, str(folder / (text if field == "interpreter" else "python"))


def carried_out(job: Job, run_dir: RunDir, submission: Submission, folder: Path, interpreter: str) -> list[list[str]]:
    """Do what a person, sshd or a kubelet does with a submission; return the arguments of the interpreters started."""
    Path(job.working_folder).mkdir(parents=True, exist_ok=True)
    if Path(interpreter).parent.is_dir() and not Path(interpreter).exists():
        Path(interpreter).write_text(RECORDER)
        Path(interpreter).chmod(0o755)
    if submission.script is not None:
        kubelet(YAML(typ="safe", pure=True).load(submission.script), interpreter)
    else:
        subprocess.run(["bash"], input=str(submission), text=True, capture_output=True, check=False, cwd=folder)
    if isinstance(job.cluster.backend, Ssh):
        over_ssh(job.cluster.backend, interpreter)
    record = folder / "record"
    lines = record.read_bytes().decode().split("\n")[:-1] if record.exists() else []
    record.unlink(missing_ok=True)
    return [line.split("\0")[:-1] for line in lines]


def over_ssh(backend: Ssh, interpreter: str) -> None:
    events: SimpleQueue[Event] = SimpleQueue()
    for host in backend.hosts:
        try:
            connection = Connection(0, host, ssh_command(backend, host), interpreter, events)
        except OSError:  # the text was the name of the program
            continue
        connection.close()


def kubelet(manifest: dict[str, Any], interpreter: str) -> None:
    (replicated,) = manifest["spec"]["replicatedJobs"]
    (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: filled_in(entry["value"]) for entry in container["env"]}
    command = [interpreter, *map(filled_in, container["command"][1:])]
    folder = container["workingDir"]
    subprocess.run(command, env={**os.environ, **environment}, cwd=folder, check=False, capture_output=True)


def filled_in(text: str) -> str:
    """Return what Kubernetes makes of a word: $(NAME) is filled in, $$ is $."""
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else os.environ.get(m[1], m[0]), text)


@pytest.mark.parametrize(("backend", "field"), FIELDS)
def test_no_text_in_any_field_becomes_a_command(tmp_path: Path, backend: str, field: str) -> None:
    ran = 0
    for number, text in enumerate(TEXTS):
        with jail(tmp_path / f"jail{number}") as folder:
            if "/" in text and field in ("working_folder", "run_dir", "interpreter"):
                continue
            try:
                job, run_dir, interpreter = made(folder, backend, field, text)
                with mock.patch.object(sys, "executable", interpreter):
                    submission = backend_of(job).render(with_hosts(job), run_dir)
            except ConfigError:
                pass
            else:
                started = carried_out(job, run_dir, submission, folder, interpreter)
                ran += len(started)
                if field == "run_dir":
                    assert any(f"{run_dir.root}/job.yaml" in arguments for arguments in started), text
                assert not [word for words in started for word in words if "canary-token" in word]
            assert [str(file) for file in folder.rglob("canary")] == [], text
    if field in ("environment", "working_folder", "run_dir", "interpreter"):
        assert ran >= len(TEXTS) - 1


@pytest.mark.parametrize("text", CONTROL)
@pytest.mark.parametrize("backend", ["ssh", "accelerate", "deepspeed", "kubernetes"])
@pytest.mark.parametrize("field", ["environment", "working_folder", "run_dir", "interpreter"])
def test_control_characters_are_refused(tmp_path: Path, backend: str, field: str, text: str) -> None:
    job, run_dir, interpreter = made(tmp_path, backend, field, text)
    if field == "interpreter" and backend == "kubernetes":
        backend_of(job)  # the pods have another one, which the schema looks at
        return
    with mock.patch.object(sys, "executable", interpreter), pytest.raises(ConfigError, match="control character"):
        backend_of(job).render(job, run_dir)

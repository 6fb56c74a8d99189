"""A user's own accelerate config: it agrees with recipe and cluster in every key, or each key that does not is told."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.launcher.accelerate_config import KEYS, accelerate_problems

# What `accelerate config` of 1.15.0 writes for two GPUs of one machine.
WRITTEN = """\
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: MULTI_GPU
downcast_bf16: 'no'
enable_cpu_affinity: false
gpu_ids: all
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""
TWO_GPUS = ("precision=bf16", "cluster.device=cuda")
CPU = "distributed_type: MULTI_CPU\n"


def told(folder: Path, text: str, *overrides: str) -> list[str]:
    (folder / "mine.yaml").write_text(text)
    engine = "engine={name: accelerate, config_file: mine.yaml}"
    return [str(problem) for problem in accelerate_problems(job(folder, engine, *overrides), {})]


def job(folder: Path, *overrides: str) -> Job:
    loaded = load("digits", "laptop", overrides)
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="0"
    )


def test_a_file_that_accelerate_wrote_is_accepted_where_it_agrees(tmp_path: Path) -> None:
    assert told(tmp_path, WRITTEN, *TWO_GPUS) == []


CONTRADICTIONS = [
    ("num_processes: 4", ": num_processes: 4, but the cluster says nodes=1 and processes_per_node=2. Instead: "
     "num_processes: 2, or another cluster"),
    ("num_machines: 2", ": num_machines: 2, but the cluster says nodes=1. Instead: num_machines: 1, or another cluster"),
    ("mixed_precision: bf16", ": mixed_precision: bf16, but the recipe says precision=fp32. Instead: precision=bf16 in the "
     "recipe, or `no` for accelerate"),
    ("fp16: true", ": fp16: True, but the recipe says precision=fp32. Instead: precision=fp16 in the recipe, or `no` for "
     "accelerate"),
    ("gradient_accumulation_steps: 2", ": gradient_accumulation_steps: 2, but batch.global_batch=256 in micro-batches of 32 "
     "on 2 ranks makes 4. Instead: leave it out: the batch in the recipe decides it"),
    ("gradient_accumulation_steps: 4", ": gradient_accumulation_steps: 4, but batch.global_batch=256 and "
     "batch.micro_batch=32 in the recipe decide it. Instead: leave it out"),
    ("downcast_bf16: 'yes'", ": downcast_bf16: yes, but the cluster says device=cpu, which is no TPU. Instead: leave it out; "
     "precision=bf16 is the recipe's"),
    ("dynamo_backend: INDUCTOR", ": dynamo_backend: INDUCTOR, but the recipe has no model.compile. Instead: "
     "model.compile={backend: inductor} in the recipe, and `no` for accelerate"),
    ("dynamo_config: {dynamo_backend: EAGER}", ": dynamo_config: {'dynamo_backend': 'EAGER'}, but the recipe has no "
     "model.compile. Instead: model.compile={backend: eager} in the recipe, and `no` for accelerate"),
    ("gpu_ids: '0,1'", ": gpu_ids: 0,1, but cluster.environment.CUDA_VISIBLE_DEVICES is not set. Instead: gpu_ids: all, and "
     'cluster.environment={CUDA_VISIBLE_DEVICES: "0,1"}'),
    ("enable_cpu_affinity: true", ": enable_cpu_affinity: True, but cluster.environment.ACCELERATE_CPU_AFFINITY is not set. "
     'Instead: cluster.environment={ACCELERATE_CPU_AFFINITY: "1"}, which reaches the ranks however they are started'),
    ("fsdp_config: {fsdp_version: 2}", ": fsdp_config: {'fsdp_version': 2}, but the recipe says engine=accelerate. Instead: "
     "engine=fsdp in the recipe with options of its own, and accelerate launch --multi_gpu"),
    ("deepspeed_config: {zero_stage: 2}", ": deepspeed_config: {'zero_stage': 2}, but the recipe says engine=accelerate. "
     "Instead: engine=deepspeed in the recipe with options of its own, and accelerate launch --multi_gpu"),
    ("megatron_lm_config: {a: 1}", ": megatron_lm_config: {'a': 1}, but the recipe says engine=accelerate. Instead: leave it "
     "out: no engine of this program does that"),
    ("parallelism_config: {a: 1}", ": parallelism_config: {'a': 1}, but the recipe says engine=accelerate. Instead: leave it "
     "out: no engine of this program does that"),
    ("tpu_name: mine", ": tpu_name: mine, but nothing in this program reads it. Instead: leave it out"),
    ("compute_environment: AMAZON_SAGEMAKER", ": compute_environment: AMAZON_SAGEMAKER, but the cluster says backend=local. "
     "Instead: compute_environment: LOCAL_MACHINE"),
    ("num_procesess: 2", ": num_procesess: accelerate has no such key. Did you mean num_processes? Allowed: "
     + ", ".join(KEYS) + "."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), CONTRADICTIONS, ids=[line for line, _ in CONTRADICTIONS])
def test_a_contradiction_names_file_and_key_and_what_it_contradicts(tmp_path: Path, line: str, message: str) -> None:
    assert told(tmp_path, CPU + line) == ["mine.yaml:2:1" + message]


@pytest.mark.parametrize(
    ("distributed_type", "message"),
    [
        ("FSDP", "the recipe says engine=accelerate. Instead: engine=fsdp in the recipe with options of its own, and "
         "accelerate launch --multi_gpu"),
        ("DEEPSPEED", "the recipe says engine=accelerate. Instead: engine=deepspeed in the recipe with options of its own, "
         "and accelerate launch --multi_gpu"),
        ("MULTI_GPU", "the cluster says device=cpu and 2 ranks. Instead: distributed_type: MULTI_CPU"),
        ("NO", "the cluster says device=cpu and 2 ranks. Instead: distributed_type: MULTI_CPU"),
    ],
)  # fmt: skip
def test_the_distributed_type_is_that_of_engine_and_cluster(
    tmp_path: Path, distributed_type: str, message: str
) -> None:
    text = f"distributed_type: {distributed_type}"
    assert told(tmp_path, text) == [f"mine.yaml:1:1: {text}, but {message}"]


def test_one_rank_is_distributed_type_no(tmp_path: Path) -> None:
    assert told(tmp_path, "distributed_type: NO", "cluster.processes_per_node=1") == []


def test_a_device_forced_to_the_cpu_contradicts_a_cluster_with_gpus(tmp_path: Path) -> None:
    (problem,) = told(tmp_path, WRITTEN.replace("use_cpu: false", "use_cpu: true"), *TWO_GPUS)
    assert problem == (
        "mine.yaml:17:1: use_cpu: True, but the cluster says device=cuda. Instead: cluster.device=cpu, or accelerate "
        "launch without --cpu"
    )


def test_gpus_and_affinity_that_stand_in_the_cluster_file_too_agree(tmp_path: Path) -> None:
    environment = 'cluster.environment={CUDA_VISIBLE_DEVICES: "0,1", ACCELERATE_CPU_AFFINITY: "1"}'
    assert told(tmp_path, CPU + "gpu_ids: '0,1'\nenable_cpu_affinity: true", environment) == []


def test_without_a_distributed_type_accelerate_itself_would_not_read_the_file(tmp_path: Path) -> None:
    assert told(tmp_path, "num_machines: 1") == [
        "mine.yaml: the key distributed_type is missing, without which accelerate does not read the file"
    ]


def test_a_file_that_is_not_there_or_no_yaml_is_told(tmp_path: Path) -> None:
    engine = "engine={name: accelerate, config_file: none.yaml}"
    (problem,) = accelerate_problems(job(tmp_path, engine), {})
    assert str(problem) == (
        f"engine.config_file: {tmp_path}/none.yaml: no such file. `accelerate config --config_file FILE` writes one"
    )
    (told_of_yaml,) = told(tmp_path, "a: [")
    assert told_of_yaml.startswith("mine.yaml:1:5: not valid YAML")


def test_the_variables_are_checked_before_a_launch_too(tmp_path: Path) -> None:
    (problem,) = accelerate_problems(job(tmp_path), {"ACCELERATE_MIXED_PRECISION": "fp16"})
    assert str(problem).startswith("environment: ACCELERATE_MIXED_PRECISION=fp16, but the recipe says precision=fp32")
    set_for_the_ranks = "cluster.environment={ACCELERATE_USE_FSDP: 'true'}"
    (problem,) = accelerate_problems(job(tmp_path, set_for_the_ranks), {"ACCELERATE_USE_FSDP": "false"})
    assert str(problem).startswith("environment: ACCELERATE_USE_FSDP=true, but the recipe says engine=ddp")


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else find_spec(name))
    (problem,) = accelerate_problems(job(tmp_path, "engine=accelerate"), {})
    assert str(problem) == (
        "engine=accelerate, and the package accelerate is not installed here. "
        "Instead: pip install 'megabatch[accelerate]', or engine=ddp"
    )
    assert accelerate_problems(job(tmp_path), {}) == []


def test_every_key_of_accelerate_is_known_and_no_other_but_those_it_converts() -> None:
    from accelerate.commands.config.config_args import ClusterConfig

    of_accelerate = {field.name for field in dataclasses.fields(ClusterConfig)}
    converted = {"fp16", "dynamo_backend"}
    assert set(KEYS) - {"gradient_accumulation_steps"} == of_accelerate | converted


def test_accelerate_itself_reads_what_is_accepted_here(tmp_path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert told(tmp_path, WRITTEN, *TWO_GPUS) == []
    read = load_config_from_file(str(tmp_path / "mine.yaml"))
    assert (read.num_processes, read.mixed_precision) == (2, "bf16")

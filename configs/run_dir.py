"""Every path inside a run folder. Nobody else joins these names. Launcher and ranks both read them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_PREFIX = "step-"


@dataclass(frozen=True)
class RunDir:
    """RUN_DIR: the one place where a run's state is."""

    root: Path

    @property
    def job(self) -> Path:
        """Return job.yaml, the one file that crosses from the launcher to the ranks."""
        return self.root / "job.yaml"

    @property
    def metrics(self) -> Path:
        """Return metrics.jsonl, one line for each step and each evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def data_errors(self) -> Path:
        """Return data-errors.jsonl, one line for each time a sample took part with weight 0."""
        return self.root / "data-errors.jsonl"

    @property
    def bad_steps(self) -> Path:
        """Return bad-steps.jsonl, one line for each step whose loss or gradient was found to be bad."""
        return self.root / "bad-steps.jsonl"

    @property
    def result(self) -> Path:
        """Return result.json, how the last attempt ended."""
        return self.root / "result.json"

    @property
    def outputs(self) -> Path:
        """Return outputs.json, what the outputs of the network stand for."""
        return self.root / "outputs.json"

    @property
    def pretrained(self) -> Path:
        """Return pretrained.json, which tensors the training began with and which it did not find."""
        return self.root / "pretrained.json"

    @property
    def pruning_plan(self) -> Path:
        """Return pruning-plan.json, which channels the network has lost."""
        return self.root / "pruning-plan.json"

    def stage(self, number: int) -> RunDir:
        """Return the run of a stage of continual learning, counted from 1."""
        return RunDir(self.root / "stages" / str(number))

    def stages(self) -> list[RunDir]:
        """Return the runs of the stages that have begun."""
        numbers = (int(file.parent.name) for file in self.root.glob("stages/*/job.yaml") if file.parent.name.isdigit())
        return [self.stage(number) for number in sorted(numbers)]

    @property
    def stage_result(self) -> Path:
        """Return stage.json, what was measured after a stage."""
        return self.root / "stage.json"

    @property
    def ewc(self) -> Path:
        """Return ewc.safetensors, what mattered to a stage and to those before."""
        return self.root / "ewc.safetensors"

    @property
    def continual(self) -> Path:
        """Return continual.json, what is known of all stages."""
        return self.root / "continual.json"

    @property
    def recipe(self) -> Path:
        """Return the recipe that `megabatch prune` writes."""
        return self.root / "recipe.yaml"

    @property
    def exports(self) -> Path:
        """Return the folder that `megabatch export` writes to if it is not told another."""
        return self.root / "exports"

    @property
    def study_result(self) -> Path:
        """Return what `megabatch tune` and `megabatch soup` have the ranks write."""
        return self.root / "study-result.json"

    @property
    def probes(self) -> Path:
        """Return probes.jsonl, a line before and after each micro-batch size that `megabatch tune batch` tries."""
        return self.root / "probes.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of the checkpoints."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of the checkpoint taken after `step` steps."""
        return self.checkpoints / f"{CHECKPOINT_PREFIX}{step:08d}"

    @property
    def logs(self) -> Path:
        """Return the folder of the logs."""
        return self.root / "logs"

    def rank_log(self, rank: int) -> Path:
        """Return what one rank prints that is not for the terminal."""
        return self.logs / f"rank-{rank:05d}.log"

    def rank_logs(self) -> list[Path]:
        """Return the logs of all ranks."""
        return sorted(self.logs.glob("rank-*.log"))

    @property
    def launcher_log(self) -> Path:
        """Return what the process that starts the ranks prints itself."""
        return self.logs / "launcher.log"

    def failure(self, rank: int) -> Path:
        """Return why a rank failed, written by the rank itself."""
        return self.logs / f"failure-rank-{rank:05d}.json"

    def failures(self) -> list[Path]:
        """Return the failure files of all ranks."""
        return sorted(self.logs.glob("failure-rank-*.json"))

    def exit_codes(self, node: int) -> Path:
        """Return with which codes the ranks of a node ended, written by the process that started them."""
        return self.logs / f"exit-codes-node-{node:05d}.json"

    def all_exit_codes(self) -> list[Path]:
        """Return those files of all nodes."""
        return sorted(self.logs.glob("exit-codes-node-*.json"))

    @property
    def ended(self) -> Path:
        """Return the empty file that rank 0 makes when the work is done: an exit code of 0 alone does not say so."""
        return self.logs / "ended"

    def sample_log(self, rank: int) -> Path:
        """Return which samples a rank trained on, step by step."""
        return self.root / "samples" / f"rank-{rank:05d}.jsonl"

    @property
    def lock(self) -> Path:
        """Return the file that rank 0 holds locked while it runs."""
        return self.root / "run.lock"

    @property
    def cancel(self) -> Path:
        """Return the empty file that asks the launcher, wherever it is, to have the ranks save and end."""
        return self.root / "cancel"

    @property
    def wandb_id(self) -> Path:
        """Return the file with the Weights & Biases run id, kept across restarts."""
        return self.root / "wandb_id"

    @property
    def wandb_replay(self) -> Path:
        """Return the folder in which `megabatch sync --offline` leaves what it wrote."""
        return self.root / "wandb-replay"

    @property
    def tensorboard(self) -> Path:
        """Return the folder of the event files that TensorBoard reads."""
        return self.root / "tensorboard"

    @property
    def mlflow_id(self) -> Path:
        """Return the file with the MLflow run id, kept across restarts."""
        return self.root / "mlflow_id"

    @property
    def manifest(self) -> Path:
        """Return the JobSet handed to Kubernetes."""
        return self.root / "jobset.yaml"

    @property
    def accelerate_config(self) -> Path:
        """Return the config file that `accelerate launch` is given."""
        return self.root / "accelerate.yaml"

    @property
    def hostfile(self) -> Path:
        """Return the hostfile that `deepspeed` is given."""
        return self.root / "hostfile"

    @property
    def submission(self) -> Path:
        """Return the batch script handed to a scheduler."""
        return self.root / "job.sbatch"

    @property
    def job_environment(self) -> Path:
        """Return the variables that the batch script reads in; only its owner can read it."""
        return self.root / "job.environment"

    @property
    def slurm_job(self) -> Path:
        """Return the file with the number of the run's newest Slurm job."""
        return self.root / "slurm.json"

    @property
    def attempts(self) -> Path:
        """Return attempts.jsonl, how each attempt of a batch job ended and what followed, a line each."""
        return self.root / "attempts.jsonl"

    @property
    def ranks(self) -> Path:
        """Return ranks.json, where each rank is and what it is doing, written every few seconds."""
        return self.root / "ranks.json"

    @property
    def report(self) -> Path:
        """Return report.html, the page about the run."""
        return self.root / "report.html"

    @property
    def launches(self) -> Path:
        """Return launches.jsonl, with which command the run was started and gone on with, a line each."""
        return self.root / "launches.jsonl"

    @property
    def rank_history(self) -> Path:
        """Return rank-history.jsonl, how each rank waits and what memory it takes, a line now and then."""
        return self.root / "rank-history.jsonl"

    @property
    def starts(self) -> Path:
        """Return starts.jsonl, a line for each start of the training and one for each end."""
        return self.root / "starts.jsonl"

    def details(self, split: str) -> Path:
        """Return what the last evaluation of a split found beyond its figures: confusions, and the worst mistakes."""
        return self.root / f"details-{split}.json"

    def evaluation(self, split: str, checkpoint: str) -> Path:
        """Return the result of `megabatch eval`."""
        return self.root / f"evaluation-{split}-{checkpoint}.json"

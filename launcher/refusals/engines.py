"""What an engine cannot do, or would do wrong."""

from __future__ import annotations

from collections.abc import Iterator

from megabatch.configs.cluster import Cluster
from megabatch.configs.engines import DdpOptions, DeepSpeed, Fsdp
from megabatch.configs.optimizers import LibraryOptimizer
from megabatch.configs.precision import Bf16, Fp8, Fp64
from megabatch.configs.recipe import Recipe
from megabatch.data.dataset import Dataset
from megabatch.launcher.refusals.table import Refusal

# With these a step on parameters cut among ranks is compared with one on whole ones (tests/processes/test_fsdp.py).
# Others end in an error in the first step, and some, like Muon of timm 1.0.31, give another result without one.
FSDP_OPTIMIZERS = frozenset(
    f"{library}/{name}"
    for library, names in {
        "torch": "Adadelta Adagrad Adam AdamW Adamax ASGD NAdam RAdam RMSprop Rprop SGD",
        "timm": "adabelief adadelta adagrad adam adamax adamc adamw adan adanw adopt adoptw lamb "
        "lambc lambw laprop larc lars lion madgrad madgradw momentum nadam nadamw nesterov nesterovw nlarc nlars "
        "radabelief radam radamw rmsprop rmsproptf rmsproptfw sgd sgdw",
    }.items()
    for name in names.split()
)


def _noise_scale(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.engine, Fsdp) and recipe.tracking.noise_scale:
        yield "tracking.noise_scale with engine=fsdp"


def _sixteen_bits(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.engine, Fsdp) and recipe.engine.parameter_dtype and not isinstance(recipe.precision, Bf16):
        yield f"engine.parameter_dtype=bf16 with precision={recipe.precision.name}"


def _fp8(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.engine, Fsdp) and isinstance(recipe.precision, Fp8):
        yield "precision=fp8 with engine=fsdp"


def _compiled(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    if isinstance(recipe.engine, Fsdp) and recipe.model.compile is not None:
        yield "model.compile with engine=fsdp"


def _untried_optimizer(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    optimizer = recipe.optimizer
    if (
        isinstance(recipe.engine, Fsdp)
        and isinstance(optimizer, LibraryOptimizer)
        and optimizer.name not in FSDP_OPTIMIZERS
    ):
        yield f"optimizer.name={optimizer.name} with engine=fsdp"


def _compressed_float64(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    engine = recipe.engine
    if isinstance(engine, DdpOptions) and engine.gradient_compression != "none" and isinstance(recipe.precision, Fp64):
        yield f"engine.gradient_compression={engine.gradient_compression} with precision=fp64"


def _no_replicas(recipe: Recipe, cluster: Cluster, dataset: Dataset) -> Iterator[str]:
    engine, every = recipe.engine, recipe.stability.compare_replicas_every_steps
    shared_out = isinstance(engine, Fsdp) or (isinstance(engine, DeepSpeed) and engine.stage == 3)
    if shared_out and every is not None:
        yield f"stability.compare_replicas_every_steps={every} with parameters that engine={engine.name} shares out"


ENGINES: tuple[Refusal, ...] = (
    Refusal(
        "Gradients sent in 16 bits with fp64",
        "fp64 is there for exact comparisons, and the sums would be rounded to three digits",
        lambda r, c, d: "engine.gradient_compression=none, or precision=fp32",
        _compressed_float64,
    ),
    Refusal(
        "Comparing copies of parameters of which no rank has a copy",
        "each part is on one rank only",
        lambda r, c, d: "stability.compare_replicas_every_steps=null, or engine=ddp",
        _no_replicas,
    ),
    Refusal(
        "The noise scale with FSDP",
        "it compares a rank's own gradient with that of all ranks, and with FSDP no rank has a whole one",
        lambda r, c, d: "tracking.noise_scale=false, or engine=ddp",
        _noise_scale,
    ),
    Refusal(
        "FSDP with parameters in 16 bits beside another precision",
        "the network would compute in bf16 and not in what the recipe says",
        lambda r, c, d: "precision=bf16, or engine.parameter_dtype=null",
        _sixteen_bits,
    ),
    Refusal(
        "FP8 with FSDP",
        "the two were never run together",
        lambda r, c, d: "precision=bf16, or engine=ddp",
        _fp8,
    ),
    Refusal(
        "A compiled network with FSDP",
        "the two were never compared with an uncompiled run",
        lambda r, c, d: "model.compile=null, or engine=ddp",
        _compiled,
    ),
    Refusal(
        "An optimizer of a library with FSDP, unless its steps were compared with those on whole parameters",
        "on parameters cut among ranks it fails, or takes another step without a word (timm/muon)",
        lambda r, c, d: f"engine=ddp, or one of: {', '.join(sorted(FSDP_OPTIMIZERS))}",
        _untried_optimizer,
    ),
)

"""What loads the samples of a job: of its training from any step on, and of any split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from megabatch.configs.job import Job
from megabatch.configs.norms import SynchronizedNorm
from megabatch.configs.targets import ClassTarget
from megabatch.configs.transforms import Transform
from megabatch.data.arrangement import Arrangement
from megabatch.data.augment.chain import decoding_chain
from megabatch.data.draws import Order
from megabatch.data.hashing import key
from megabatch.data.loader import Loader, MicroBatch
from megabatch.data.read import Reader
from megabatch.data.requests import training_requests
from megabatch.data.steps import Steps
from megabatch.trainer.engines.base import Engine
from megabatch.trainer.world import World

_LOADING_SHARE = 0.8  # of the time that other ranks wait: the rank that hangs is the one to say why


def training_data(
    job: Job, world: World, arrangement: Arrangement, order: Order, steps: Steps, engine: Engine
) -> Callable[[int], Iterator[MicroBatch]]:
    """Return what gives this rank's micro-batches from a step on."""
    data = job.recipe.data
    together = engine.same_number_of_passes or isinstance(job.recipe.model.batch_norm, SynchronizedNorm)

    def from_step(step: int) -> Iterator[MicroBatch]:
        reader = _stream_reader(job, world, arrangement, step) or arrangement.reader(data.train_split)
        loader = split_loader(job, arrangement, reader, data.train_transforms, job.cluster.loader_threads)
        return loader.load(training_requests(steps, order, world.rank, world.num_ranks, step, together))

    return from_step


def _stream_reader(job: Job, world: World, arrangement: Arrangement, first_step: int) -> Reader | None:
    """Return what reads this rank's streams from their beginning; each start mixes them in another way."""
    settings = job.recipe.data.train_stream
    if settings is None:
        return None
    from megabatch.data.stream import StreamReader

    seed = key(job.recipe.seed, first_step)
    return StreamReader(
        arrangement.streams, seed, world.rank, world.num_ranks, settings.shuffle_buffer, arrangement.target
    )


def split_loader(
    job: Job, arrangement: Arrangement, reader: Reader, transforms: Sequence[Transform], threads: int
) -> Loader:
    """Return what loads samples of a reader as this job wants them."""
    data = job.recipe.data
    return Loader(
        reader=reader,
        transform=decoding_chain(transforms, data.image_size, data.max_image_pixels),
        image_size=data.image_size,
        num_classes=arrangement.num_classes,
        seed=job.recipe.seed,
        threads=threads,
        skip_errors=data.on_error.name == "skip",
        outputs=None if isinstance(data.target, ClassTarget) else arrangement.num_outputs,
        timeout_seconds=_LOADING_SHARE * job.cluster.limits.collective_timeout_seconds,
    )

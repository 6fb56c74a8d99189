"""What the communication hook of DDP really sends, and that the options reach DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import nn

from megabatch.configs.engines import Accelerate, Ddp, DdpOptions
from megabatch.trainer.engines.accelerate import AccelerateEngine
from megabatch.trainer.engines.ddp import _SENT_IN, DdpEngine, _sum_bucket, _Summing
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.world import World

ONE = World(0, 1, 0, torch.device("cpu"))
TWO = World(0, 2, 0, torch.device("cpu"))


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def sent(group: None, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every tensor that is summed over the ranks, as it is sent."""
    seen: list[torch.Tensor] = []
    all_reduce = dist.all_reduce
    monkeypatch.setattr(dist, "all_reduce", lambda t, **k: (seen.append(t.clone()), all_reduce(t, **k))[1])
    return seen


class Bucket:
    """What DDP gives its hook, as far as ours looks at it."""

    def __init__(self, gradients: torch.Tensor):
        self.gradients = gradients

    def buffer(self) -> torch.Tensor:
        return self.gradients


@pytest.mark.parametrize(("compression", "sent_bytes"), [("none", 400), ("fp16", 200), ("bf16", 200)])
def test_compressed_gradients_are_sent_in_half_the_bytes_and_come_back_rounded_in_float32(
    sent: list[torch.Tensor], compression: str, sent_bytes: int
) -> None:
    gradients = torch.randn(100, generator=torch.Generator().manual_seed(0))
    before, dtype = gradients.clone(), _SENT_IN[compression]
    summed = _sum_bucket(_Summing(None, dtype), Bucket(gradients)).wait()
    (on_the_wire,) = sent
    assert on_the_wire.nbytes == sent_bytes
    assert summed.dtype == torch.float32
    assert summed.data_ptr() == gradients.data_ptr()  # DDP's bucket itself: parameters look into it
    assert torch.equal(summed, before if dtype is None else before.to(dtype).float())


@pytest.mark.parametrize("compression", ["none", "fp16", "bf16"])
def test_the_squares_for_the_noise_scale_are_those_of_the_gradient_before_it_is_rounded(
    group: None, compression: str
) -> None:
    gradients = torch.randn(100, generator=torch.Generator().manual_seed(0))
    expected, squares = gradients.double().square().sum(), []
    _sum_bucket(_Summing(squares, _SENT_IN[compression]), Bucket(gradients)).wait()
    assert float(squares[0]) == pytest.approx(float(expected), rel=1e-12)


OPTIONS = {"bucket_megabytes": 3, "find_unused_parameters": True}


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("options", [OPTIONS, {"static_graph": True}])
def test_the_options_reach_distributed_data_parallel(options: dict[str, object]) -> None:
    shared = DdpEngine.share(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Ddp(**options), ONE)
    assert shared.bucket_bytes_cap == options.get("bucket_megabytes", 25) * 1024 * 1024
    assert shared.find_unused_parameters == options.get("find_unused_parameters", False)
    assert shared.static_graph == options.get("static_graph", False)
    assert not shared.will_sync_module_buffers()


@pytest.mark.parametrize("kind", [Ddp, Accelerate])
def test_a_static_graph_and_a_search_for_unused_parameters_are_one_too_many(kind: type[DdpOptions]) -> None:
    with pytest.raises(ValidationError, match="static_graph finds unused parameters by itself: leave find_unused"):
        kind(static_graph=True, find_unused_parameters=True)


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Let accelerate forget what it saw of this process, before and after."""
    from accelerate.state import AcceleratorState, GradientState

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield
    forget()


@pytest.fixture
def started(group: None, fresh_accelerate: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launcher sets for a single rank."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("options", [OPTIONS, {"static_graph": True}])
def test_the_options_reach_distributed_data_parallel_through_accelerate(options: dict[str, object]) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    shared = AccelerateEngine.share(network, Accelerate(**options), ONE)
    assert shared.module is network
    assert shared.bucket_bytes_cap == options.get("bucket_megabytes", 25) * 1024 * 1024
    assert shared.find_unused_parameters == options.get("find_unused_parameters", False)
    assert shared.static_graph == options.get("static_graph", False)
    assert shared.gradient_as_bucket_view
    assert not shared.will_sync_module_buffers()


@pytest.mark.usefixtures("started")
def test_neither_accumulation_nor_precision_of_the_environment_reaches_accelerate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`Accelerator(gradient_accumulation_steps=1)` would take the variable, and divide every gradient by it."""
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")
    network = nn.Linear(2, 2)
    shared = AccelerateEngine.share(network, Accelerate(), ONE)
    assert GradientState().num_steps == 1
    assert AcceleratorState().mixed_precision == "no"
    assert shared(torch.ones(2, 2)).dtype == torch.float32
    assert type(shared) is nn.parallel.DistributedDataParallel


@pytest.mark.usefixtures("fresh_accelerate")
def test_ranks_that_accelerate_does_not_see_are_not_trained_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TrainingError, match="accelerate sees 1 processes, and 2 ranks train: each would train alone"):
        AccelerateEngine.share(nn.Linear(2, 2), Accelerate(), TWO)


@pytest.mark.usefixtures("started")
def test_another_engine_in_accelerate_s_hands_is_refused_instead_of_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """With cpu=True accelerate 1.15 makes a DistributedDataParallel where FSDP was asked for; where not, it is told."""
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "prepare_model", lambda self, network, **options: network)
    with pytest.raises(TrainingError, match="accelerate made a Linear of the network, not a DistributedDataParallel"):
        AccelerateEngine.share(nn.Linear(2, 2), Accelerate(), ONE)


def test_one_rank_has_nothing_to_prepare() -> None:
    network = nn.Linear(2, 2)
    for kind, settings in ((DdpEngine, Ddp()), (AccelerateEngine, Accelerate())):
        engine = kind(network, settings, ONE, torch.zeros(2, 2))
        assert engine.network is network
        assert engine.num_ranks == 1

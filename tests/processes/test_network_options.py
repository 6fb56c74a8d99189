"""How the network is computed does not change what is learned: compiled, channels last, activations computed again."""

from __future__ import annotations

import pytest

from support.runs import Workplace, losses

pytestmark = pytest.mark.processes
SHORT = ("epochs=4", "checkpoint.every_epochs=4", "precision=fp64")


@pytest.mark.parametrize(
    "wish", ["channels_last: true", "compile: {backend: aot_eager}", "checkpoint_activations: ['?']"]
)
def test_the_losses_are_those_of_the_plain_network(workplace: Workplace, wish: str) -> None:
    word = wish.partition(":")[0]
    plain = workplace.train(f"plain-{word}", 1, *SHORT)
    changed = workplace.train(f"with-{word}", 2, *SHORT, f"model={{name: 'network:small', {wish}}}")
    assert losses(changed) == pytest.approx(losses(plain), rel=1e-9)
    assert len(losses(plain)) == 12


@pytest.mark.slow
def test_the_default_compiler_gives_the_losses_of_the_plain_network(workplace: Workplace) -> None:
    plain = workplace.train("plain-inductor", 1, *SHORT)
    compiled = workplace.train(
        "inductor", 1, *SHORT, "model={name: 'network:small', options: {dropout: 0.0}, compile: {}}"
    )
    undropped = workplace.train("undropped", 1, *SHORT, "model={name: 'network:small', options: {dropout: 0.0}}")
    assert losses(compiled) == pytest.approx(losses(undropped), rel=1e-9)
    assert losses(plain) != losses(undropped)

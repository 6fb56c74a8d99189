"""Cuts a network in two at a layer: what is below, which several networks can share, and what is above.

torch.fx records which modules the forward pass calls in which order (Reed et al. 2022). Modules stay as they are and
keep their names; only the order of the calls is taken apart. So it works for every network in which the output of the
layer is all that the layers above it see: chains such as nn.Sequential and ResNets, at any layer of the chain.
"""

from __future__ import annotations

from torch import fx, nn
from typing_extensions import override

from megabatch.configs.errors import nearest
from megabatch.trainer.errors import TrainingError, first_line


def trunk_and_branch(network: nn.Module, layer: str, key: str) -> fx.GraphModule:
    """Return the network with two outputs: what `layer` gives, and its own. Raises TrainingError; `key` is its name."""
    graph, cut = _traced(network, layer, key)
    output = next(node for node in graph.nodes if node.op == "output")
    output.args = ((cut, output.args[0]),)
    return fx.GraphModule(network, graph)


def branch(network: nn.Module, layer: str, key: str) -> fx.GraphModule:
    """Return what of the network is above `layer`; its input is what the layer gives. Raises TrainingError."""
    graph, cut = _traced(network, layer, key)
    with graph.inserting_after(cut):
        features = graph.placeholder("features")
    cut.replace_all_uses_with(features)
    nodes = list(graph.nodes)
    for node in reversed(nodes[: nodes.index(features)]):
        if not node.users:
            graph.erase_node(node)
    if [node for node in graph.nodes if node.op == "placeholder"] != [features]:
        raise TrainingError(
            f"{key} cannot be cut after {layer!r}: what is above it also sees what comes before it. Name a layer "
            "that everything passes through"
        )
    return fx.GraphModule(network, graph)


class _Tracer(fx.Tracer):
    """Looks only into the modules that the layer is inside of."""

    def __init__(self, layer: str):
        super().__init__()
        self._layer = layer

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self._layer.startswith(f"{module_qualified_name}.")


def _traced(network: nn.Module, layer: str, key: str) -> tuple[fx.Graph, fx.Node]:
    """Return the calls of the network, and that of the layer. Raises TrainingError if it is not called just once."""
    if layer not in dict(network.named_modules()):
        names = [name for name, _ in network.named_children()]
        raise TrainingError(
            f"model.options.share_until: {key} has no layer {layer!r}. {nearest(layer, names)} Or one inside of these "
            f"({names[0]}.0)"
        )
    graph = _graph(network.train(), layer, key)
    if str(_graph(network.eval(), layer, key)) != str(graph):
        raise TrainingError(
            f"{key} cannot be cut: outside of its modules its forward pass is another one in training than in "
            "evaluation (dropout called as a function, say). Turn that off in its options"
        )
    network.train()
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if len(calls) != 1:
        raise TrainingError(f"{key} cannot be cut after {layer!r}: it is called {len(calls)} times in a forward pass")
    return graph, calls[0]


def _graph(network: nn.Module, layer: str, key: str) -> fx.Graph:
    try:
        return _Tracer(layer).trace(network)
    except Exception as error:  # a forward pass may do anything that torch.fx does not know
        raise TrainingError(
            f"{key} cannot be cut: torch.fx cannot follow its forward pass ({first_line(error)}). Networks that are a "
            "chain of modules can be (ours, ResNets)"
        ) from error

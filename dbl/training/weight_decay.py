"""Which parameters decay: the matrices of linear layers and convolutions, as is usual for transformers.

The scale of a norm, a bias or a temperature would be pulled to 0, which is no simpler model, and a row of an embedding
would shrink in every step in which its token does not occur.
"""

from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

_WITH_MATRICES = (nn.Linear, nn.Bilinear, _ConvNd, nn.MultiheadAttention, nn.RNNBase)


def by_decay(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters that decay, and all others, each in the order of the module; those that are frozen are left out.

    Weights of linear layers, convolutions, torch's attention and recurrent networks decay; biases,
    norms, embeddings and parameters of a class of your own do not.
    """
    decaying = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, _WITH_MATRICES)
        for name, parameter in part.named_parameters(recurse=False)
        if "weight" in name
    }
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return (
        [parameter for parameter in parameters if id(parameter) in decaying],
        [parameter for parameter in parameters if id(parameter) not in decaying],
    )


def numbered_by_module(state: dict[str, Any], module: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer with its parameters numbered in the order of the module, not in that of its groups.

    FSDP2 writes such numbers and takes them for granted when it reads; an optimizer reads any.

    Args:
        state: result of `optimizer.state_dict()`.
        module: module with all parameters of the optimizer.
        optimizer: the optimizer.
    """
    places = {id(parameter): place for place, parameter in enumerate(module.parameters())}
    numbers = [places[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    groups = [{**group, "params": [numbers[index] for index in group["params"]]} for group in state["param_groups"]]
    return {
        **state,
        "state": {numbers[index]: of_one for index, of_one in state["state"].items()},
        "param_groups": groups,
    }

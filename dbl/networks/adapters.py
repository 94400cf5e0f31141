"""Low-rank adapters (LoRA, arXiv 2106.09685) of linear layers: made by peft, merged into ordinary weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dbl.networks.layers import layers_of
from dbl.utils.checks import Number, check_numbers, shown, whole
from dbl.utils.errors import UserError, optional_package

LORA = "model.recipe.lora"
EXTRA = "convert"  # which installs peft
# Modules of torch that read the weights of their linear layers, and would go past an adapter.
_READ_WEIGHTS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # in names of peft


@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters in place of full training: `W + alpha / rank * B A` with a frozen W, and B = 0 at first.

    Only A [rank, in] and B [out, rank] of linear layers in residual layers are trained, have an optimizer state and an
    average. All else is frozen: the other weights of the layers, the stem, embeddings and the head.

    Args:
        rank: rank of the change of a weight.
        alpha: numerator of its scale, `alpha / rank`.
        layers: ends of the names of the linear layers to adapt, such as qkv or mlp.0; null: all in residual layers.

    Example:
        >>> import dbl
        >>> data = dbl.Digits(batch_size=64, eval_batch_size=64)
        >>> network = dbl.DiT(2, width=32, num_heads=2).build(data.spec, data.spec.shape, num_layers=2)
        >>> dbl.LoRA(layers=["qkv", "out"]).targets(network)
        ['layers.0.attention.qkv', 'layers.0.attention.out', 'layers.1.attention.qkv', 'layers.1.attention.out']
    """

    rank: int = 16
    alpha: float = 16.0
    layers: list[str] | None = None

    def __post_init__(self) -> None:
        check_numbers(LORA, self, rank=whole(1, 2**16), alpha=Number(above=0, at_most=1e6))
        if self.layers is not None and not (self.layers and all(isinstance(name, str) for name in self.layers)):
            raise UserError(f"{LORA}.layers ({shown(self.layers)}) must name linear layers, such as qkv, or be null")

    def targets(self, network: nn.Module) -> list[str]:
        """Names of the linear layers to adapt. Raises UserError if a name in `layers` matches none."""
        found = _linear_layers(network)
        if not found:
            raise UserError(
                f"{LORA}: {type(network).__name__} has no linear layers in residual layers (nn.ModuleList `layers`): "
                "set it to null"
            )
        if self.layers is None:
            return found
        for name in self.layers:
            if not any(_ends_with(each, name) for each in found):
                ends = ", ".join(dict.fromkeys(each.split(".", 2)[2] for each in found))
                raise UserError(f"{LORA}.layers: no linear layer is called {name[:40]!r}: choose of {ends}")
        return [each for each in found if any(_ends_with(each, name) for name in self.layers)]


def _linear_layers(network: nn.Module) -> list[str]:
    """Names of the linear layers in residual layers that are called, and not read by the module around them."""
    modules = [("", network), *network.named_modules()]
    within = {id(module) for layer in layers_of(network) or () for module in layer.modules()}
    read = {id(child) for _, module in modules if isinstance(module, _READ_WEIGHTS) for child in module.children()}
    # Exactly this class: subclasses may have another use of their weight.
    return [name for name, module in modules if type(module) is nn.Linear and id(module) in within - read]


def _ends_with(name: str, end: str) -> bool:
    return f".{name}".endswith(f".{end}")


def insert_adapters(network: nn.Module, lora: LoRA) -> None:
    """Put adapters beside linear layers of a network, in place, and freeze all else in it.

    B is 0 and A is drawn from torch's generator, as in the paper. Raises UserError if there is nothing to adapt, or
    peft is not installed.
    """
    names = lora.targets(network)
    peft = optional_package("peft", EXTRA, LORA)
    # An expression for whole names: peft takes those of a list for ends of names.
    chosen = "|".join(name.replace(".", r"\.") for name in names)
    with torch.device("meta"):  # peft would move what it makes, which fake tensors do not allow
        peft.inject_adapter_in_model(
            peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=chosen), network
        )
    for name in names:
        layer: Any = network.get_submodule(name)
        layer.cast_input_dtype_enabled = False  # it would copy inputs in bfloat16
        down, up = layer.lora_A["default"], layer.lora_B["default"]
        for linear in (down, up):
            linear.weight = nn.Parameter(torch.zeros(linear.weight.shape, device=layer.weight.device))
        nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))


def adapter_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of adapters, among weights by name."""
    return {name: tensor for name, tensor in weights.items() if name.endswith((_DOWN, _UP))}


def adapter_ranks(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The rank of each linear layer that has an adapter, by its name, from weights by name."""
    return {name.removesuffix(_DOWN): len(tensor) for name, tensor in weights.items() if name.endswith(_DOWN)}


def beside_adapters(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights of a network without adapters, by their names in one that has them, with its adapters as they are."""
    now = network.state_dict()
    places = {name.replace(_BASE, "."): name for name in now}
    return {places.get(name, name): tensor for name, tensor in weights.items()} | adapter_weights(now)


def merged(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Weights with what adapters change added to them, by their names in a network without adapters.

    Args:
        weights: weights of a network with adapters, by name.
        alpha: as in `LoRA`.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, is_adapted, rest = name.partition(_BASE)
        if name.endswith((_DOWN, _UP)):
            continue
        if is_adapted and rest == "weight":
            down, up = weights[layer + _DOWN], weights[layer + _UP]
            tensor = tensor + alpha / len(down) * (up @ down)
        result[f"{layer}.{rest}" if is_adapted else name] = tensor
    return result

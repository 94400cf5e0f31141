"""The end-to-end baseline of an architecture of the user's own."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from typing_extensions import override

from dbl.data import Digits
from dbl.data.spec import DataSpec
from dbl.denoising.targets import ClassTarget
from dbl.networks import Architecture, LabelCNN, ResidualMLP, ViT
from dbl.run.contract import ContractConfig
from dbl.training.baselines import EndToEndClassifier, baseline_of
from dbl.utils.errors import UserError


@dataclass(frozen=True)
class Own(Architecture):
    """Blocks of a user, with the plain network beside them."""

    num_layers: int = 3

    @override
    def build(self, *_: Any, **__: Any) -> nn.Module:
        return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(16, 16)])})

    @override
    def build_classifier(self, data: DataSpec) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, data.num_classes))


@dataclass(frozen=True)
class OtherBlocks(ViT):
    """Other blocks than those of the ViT whose plain form it would inherit."""

    @override
    def build(self, *_: Any, **__: Any) -> Any:
        return nn.Identity()


@dataclass(frozen=True)
class OtherSizes(ViT):
    """The blocks of a ViT, and so its plain form."""

    width: int = 16


def test_the_classifier_of_an_own_network_is_trained_and_tested() -> None:
    """Catches a network of the user's that is compared with something else than its own plain form."""
    data = Digits(batch_size=16, eval_batch_size=16)
    contract = ContractConfig(Own(), ClassTarget()).build(data.spec)
    assert baseline_of(Own()) is EndToEndClassifier
    part = EndToEndClassifier(contract)
    batch = data.batch("train", torch.arange(16))
    part.losses(batch).per_sample.mean().backward()
    assert part.network[1].weight.grad.abs().sum() > 0  # type: ignore[index, union-attr]
    assert part.predict_step(batch, 0).shape == (16,)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (ViT(), EndToEndClassifier),
        (LabelCNN(), EndToEndClassifier),
        (ResidualMLP(), EndToEndClassifier),
        (OtherSizes(num_heads=2), EndToEndClassifier),
        (OtherBlocks(), None),
    ],
)
def test_a_classifier_belongs_to_the_blocks_of_its_class(network: Architecture, expected: type | None) -> None:
    """Catches other blocks that are compared with the plain form of those which they replace."""
    assert baseline_of(network) is expected


def test_a_network_without_a_plain_form_says_so() -> None:
    """Catches a baseline without a network."""

    @dataclass(frozen=True)
    class Blocks(Own):
        def build_classifier(self, data: DataSpec) -> None:  # type: ignore[override]
            return None

    contract = ContractConfig(Blocks(), ClassTarget()).build(Digits(batch_size=16, eval_batch_size=16).spec)
    with pytest.raises(UserError, match="Blocks has no plain form: give it a build_classifier"):
        EndToEndClassifier(contract)

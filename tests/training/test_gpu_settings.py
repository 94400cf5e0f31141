"""What is set for a GPU, as far as it shows without one."""

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD, Adagrad, AdamW

from dbl.run.contract import Contract
from dbl.training.block import DiffusionBlock
from dbl.training.config import OptimizerFactory, TrainingConfig


@pytest.mark.parametrize(
    ("optimizer", "device", "fused"),
    [
        (AdamW, "cuda", True),
        (partial(SGD, lr=0.1), "cuda", True),
        (AdamW, "cpu", None),
        (partial(AdamW, fused=True), "cpu", True),
        (partial(AdamW, fused=False), "cuda", False),
        (partial(AdamW, foreach=False), "cuda", None),
        (partial(AdamW, capturable=True), "cuda", None),
        (Adagrad, "cuda", None),  # has no kernel there
    ],
)
def test_optimizers_are_fused_on_cuda_alone(optimizer: OptimizerFactory, device: str, fused: bool | None) -> None:
    """Catches hundreds of kernels a step on a GPU, a choice that is overridden, and other rounding on a CPU."""
    with FakeTensorMode():  # needs no device
        made = TrainingConfig(optimizer).make_optimizer(torch.nn.Linear(2, 3, device=device))
    assert [group["fused"] for group in made.param_groups] == [fused, fused]


def test_a_network_is_compiled_as_one_graph(dit_contract: Contract) -> None:
    """Catches a graph break, at which compiled code would go back to Python."""
    network = DiffusionBlock(dit_contract, 1).backbone
    explained = torch._dynamo.explain(network)(torch.randn(2, 1, 4, 6), torch.randn(2), torch.tensor([0, 1]))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)

"""Weight decay reaches the matrices and nothing else."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Rprop
from toy import assert_equal_states, checkpoint, fit, recipe
from toy_text import text_contract

from dbl.run.contract import Contract
from dbl.training.baselines import EndToEndCausalLM, EndToEndClassifier, EndToEndRecurrentLM
from dbl.training.block import DiffusionBlock
from dbl.training.config import OptimizerFactory, TrainingConfig
from dbl.training.module import TrainingModule
from dbl.training.weight_decay import by_decay

PARTS: dict[str, Callable[[Contract, Contract], TrainingModule]] = {
    "DiT": lambda dit, vit: DiffusionBlock(dit, 1),
    "ViT": lambda dit, vit: DiffusionBlock(vit, 1),
    "end-to-end ViT": lambda dit, vit: EndToEndClassifier(vit),
    "CausalLM": lambda dit, vit: DiffusionBlock(text_contract("two")),
    "end-to-end CausalLM": lambda dit, vit: EndToEndCausalLM(text_contract("clean")),
    "MaskedLM": lambda dit, vit: DiffusionBlock(text_contract("masked")),
    "RecurrentLM": lambda dit, vit: DiffusionBlock(text_contract("recurrent")),
    "end-to-end RecurrentLM": lambda dit, vit: EndToEndRecurrentLM(text_contract("recurrent")),
}
LR = 1e-2


def ones(part: nn.Module) -> dict[str, torch.Tensor]:
    """Each parameter after one step on a gradient of zero, from ones: only decay changes it."""
    optimizer = TrainingConfig(partial(AdamW, lr=LR, weight_decay=0.5)).make_optimizer(part)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.fill_(1)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {name: parameter.detach() for name, parameter in part.named_parameters()}


@pytest.mark.parametrize("kind", PARTS)
def test_matrices_alone_decay(kind: str, dit_contract: Contract, vit_contract: Contract) -> None:
    """Catches norms, biases, embeddings, positions and temperatures that are pulled to 0, and matrices that are not."""
    part = PARTS[kind](dit_contract, vit_contract)
    embeddings = {f"{name}.weight" for name, module in part.named_modules() if isinstance(module, nn.Embedding)}
    changed = {name for name, after in ones(part).items() if not torch.equal(after, torch.ones_like(after))}
    assert changed == {name for name, one in part.named_parameters() if one.ndim >= 2 and name not in embeddings}
    assert all(torch.allclose(one, torch.full_like(one, 1 - LR * 0.5)) for one in by_decay(part)[0])


def test_the_temperature_of_a_readout_and_positions_are_kept(vit_contract: Contract) -> None:
    """Catches a ViT block whose cosine readout is made flat by decay."""
    block = DiffusionBlock(vit_contract, 1)
    exempt = {id(parameter) for parameter in by_decay(block)[1]}
    names = {name.removeprefix("denoiser.") for name, one in block.named_parameters() if id(one) in exempt}
    assert {"readout.log_scale", "network.tokens.positions.weight"} <= names


def test_a_training_decays_matrices_alone(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches a training whose optimizer is made in another way."""
    after = {}
    for decay in (0.0, 0.5):
        block = DiffusionBlock(dit_contract, 1, TrainingConfig(partial(AdamW, lr=LR, weight_decay=decay)))
        fit(block, tmp_path / str(decay), steps=1)
        after[decay] = dict(block.named_parameters())
    matrices = {id(one) for one in by_decay(block)[0]}
    start = dict(DiffusionBlock(dit_contract, 1).named_parameters())
    for name, decayed in after[0.5].items():
        decays = id(decayed) in matrices and bool(start[name].any())  # modulations start at 0, where nothing can decay
        assert torch.equal(decayed, after[0.0][name]) != decays, name


def test_a_checkpoint_numbers_weights_by_module(dit_contract: Contract, tmp_path: Path) -> None:
    """Catches the order of the groups in a file, in which FSDP2 would give a weight the state of another one."""
    block = DiffusionBlock(dit_contract, 1, recipe())
    trainer = fit(block, tmp_path, steps=2)
    (stored,) = checkpoint(tmp_path, block.part)["optimizer_states"]  # type: ignore[misc]
    optimizer = trainer.optimizers[0]
    for number, parameter in enumerate(block.parameters()):
        assert torch.equal(stored["state"][number]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_without_decay_nothing_changes(dit_contract: Contract) -> None:
    """Catches groups that change the arithmetic of a step: one group of all parameters gives the same bits."""
    blocks = [DiffusionBlock(dit_contract, 1) for _ in range(2)]
    optimizers = [
        TrainingConfig(partial(AdamW, lr=LR, weight_decay=0.0)).make_optimizer(blocks[0]),
        AdamW(blocks[1].parameters(), lr=LR, weight_decay=0.0),
    ]
    for step in range(3):
        for block, optimizer in zip(blocks, optimizers, strict=True):
            generator = torch.Generator().manual_seed(step)
            for parameter in block.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    assert_equal_states(blocks[0].state_dict(), blocks[1].state_dict())


@pytest.mark.parametrize(
    ("optimizer", "decays"),
    [
        (partial(AdamW, lr=LR), [0.01, 0.0]),  # its default
        (partial(SGD, lr=LR, momentum=0.9), [0, 0.0]),
        (lambda groups: SGD(groups, lr=LR, weight_decay=0.1), [0.1, 0.0]),
        (Rprop, [None, None]),  # knows no decay
    ],
)
def test_groups_of_any_optimizer(optimizer: OptimizerFactory, decays: list[float | None]) -> None:
    """Catches a decay that an optimizer does not know, and one for biases where the config names none."""
    layers = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    groups = TrainingConfig(optimizer).make_optimizer(layers).param_groups
    assert [group.get("weight_decay") for group in groups] == decays
    assert [[one.ndim for one in group["params"]] for group in groups] == [[2], [1, 1, 1]]


@pytest.mark.parametrize(("layer", "num_groups"), [(nn.Linear(2, 2, bias=False), 1), (nn.LayerNorm(2), 1)])
def test_a_group_of_nothing_is_left_out(layer: nn.Module, num_groups: int) -> None:
    """Catches a group without parameters, which some optimizers refuse."""
    groups = recipe().make_optimizer(layer).param_groups
    assert len(groups) == num_groups
    assert groups[0]["weight_decay"] == (0.01 if isinstance(layer, nn.Linear) else 0)


def test_layers_of_torch_decay() -> None:
    """Catches a network of one's own whose attention, convolutions or recurrent layers do not decay."""
    layers = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(4, 2, add_bias_kv=True),
            "convolution": nn.ConvTranspose1d(2, 3, 2),
            "recurrent": nn.GRU(2, 3),
            "pairs": nn.Bilinear(2, 3, 4),
            "words": nn.Embedding(5, 2),
        }
    )
    layers["own"] = nn.ParameterList([torch.zeros(2, 2)])  # type: ignore[assignment]
    decaying = {id(one) for one in by_decay(layers)[0]}
    assert [name for name, one in layers.named_parameters() if id(one) in decaying] == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "convolution.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "pairs.weight",
    ]

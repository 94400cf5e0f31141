"""Memory by category: the counter, the callback, the plan, and activation checkpointing."""

import json
from copy import deepcopy
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves
from toy import DIT, VIT, Stripes, assert_equal_states, checkpoint, fit, recipe

from dbl.commands.plan import build_parser, make_planner, parse_bytes
from dbl.commands.run_config import RunConfig
from dbl.data import Digits
from dbl.data.spec import TextSpec
from dbl.denoising import vocabulary
from dbl.denoising.targets import ClassTarget, MaskTarget, TokenTarget
from dbl.diffusion.information import InformationNoise
from dbl.diffusion.masking import MaskingNoise
from dbl.diffusion.noise import LogNormalNoise
from dbl.diffusion.partition import PartitionConfig
from dbl.networks import CausalLM, MaskedLM
from dbl.networks.layers import checkpoint_layers
from dbl.run.contract import Contract, ContractConfig
from dbl.training.baselines import EndToEndClassifier
from dbl.training.block import DiffusionBlock
from dbl.training.callbacks.memory import Memory
from dbl.training.config import TrainingConfig
from dbl.training.memory.planner import Planner
from dbl.training.memory.synthetic_step import SyntheticStep
from dbl.training.memory.tracker import MemoryTracker
from dbl.training.module import TrainingModule
from dbl.utils.errors import UserError

from .hidden_layers import HiddenLayers

CONFIGS = Path(__file__).parents[2] / "configs"


def test_a_linear_layer_costs_what_arithmetic_says() -> None:
    """Catches categories that are swapped, counted twice, or not freed."""
    layer = nn.Linear(10, 1000, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer.weight.grad = torch.zeros_like(layer.weight)
    optimizer.step()
    optimizer.zero_grad()
    batch, average = torch.randn(70, 10), [torch.empty(11)]
    tracker = MemoryTracker()
    tracker.watch(layer, optimizer, average, batch)
    with tracker:
        layer(batch).sin().sum().backward()
    weights, outputs = 10 * 1000 * 4, 70 * 1000 * 4
    known = {"parameters": weights, "gradients": 0, "optimizer": weights, "average": 44, "batch": 70 * 10 * 4}
    assert {name: tracker.peak[name] for name in known} == known
    # The peak is at the derivative of the sine: the output is kept, its cosine and the product are made.
    assert tracker.peak["activations"] == pytest.approx(outputs, abs=64)
    assert tracker.peak["temporaries"] == pytest.approx(2 * outputs, abs=64)


def test_gradients_are_told_from_temporaries() -> None:
    """Catches gradients that stay temporaries while others are computed."""
    network = nn.Sequential(*(nn.Linear(200, 200, bias=False) for _ in range(10)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    tracker = MemoryTracker()
    tracker.watch(network, optimizer, [], batch := torch.randn(1, 200))
    with tracker:
        network(batch).sum().backward()
    assert tracker.peak["gradients"] >= 9 * 200 * 200 * 4
    assert tracker.peak["temporaries"] < 2 * 200 * 200 * 4


def _planner(name: str) -> tuple[Planner, int]:
    config = RunConfig(build_parser().parse_args(["--config", str(CONFIGS / f"{name}.yaml")]))
    return make_planner(config), config.data.batch_size


def _allocator_peak(step: SyntheticStep) -> int:
    """Peak bytes of one real step on the CPU, as the allocator itself reports them to torch's profiler."""
    constants = [*step.part.parameters(), *step.part.buffers()]
    state = [value for values in step.optimizer.state.values() for value in values.values()]
    held = tree_leaves((constants, state, step.batch))
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in held}
    average = sum(tensor.nbytes for tensor in constants)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return sum(storages.values()) + average + max(accumulate(changes))


@pytest.mark.parametrize(
    "name", ["digits_dit", "digits_vit", "cifar10_dit", "cifar10_vit", "pydoc_ar", "pydoc_mdm", "pydoc_huginn"]
)
@pytest.mark.parametrize("side", ["block", "end_to_end"])
def test_the_plan_equals_what_the_allocator_reports(name: str, side: str) -> None:
    """Catches tensors that the plan does not see: the reference is torch's allocator in a real step."""
    planner, _ = _planner(name)
    cut = planner.config.partition
    make = planner.end_to_end(planner.recipe) if side == "end_to_end" else planner.block(cut, planner.recipe)
    planned = sum(planner.peak(make, 8).values())
    assert planned == pytest.approx(_allocator_peak(SyntheticStep(make(), planner.data, 8)), rel=0.02)


@pytest.mark.parametrize("name", ["pydoc_ar", "pydoc_mdm"])
@pytest.mark.parametrize("side", ["block", "end_to_end"])
def test_chunks_of_logits_are_planned_as_the_allocator_reports_them(
    name: str, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches recomputed logits that the plan does not see."""
    monkeypatch.setattr(vocabulary, "_rows_of_chunk", lambda num_classes, features: 100)
    test_the_plan_equals_what_the_allocator_reports(name, side)


@pytest.mark.usefixtures("without_data")
@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_can_be_planned_without_its_data(path: Path) -> None:
    """Catches a data set that must be there for planning, and a block that needs as much as the whole network."""
    planner, batch_size = _planner(path.stem)
    cut = planner.config.partition
    block = sum(planner.peak(planner.block(cut, planner.recipe), batch_size).values())
    whole = sum(planner.peak(planner.end_to_end(planner.recipe), batch_size).values())
    network = planner.config.network
    share = network.layer_passes(network.num_layers // cut.num_blocks) / network.num_layers
    assert block < whole * (share + 0.2)  # a block also has its stem, head and modulation
    if path.stem in ("cifar10_dit_s2", "imagenet256_dit_l2"):
        assert block <= 0.40 * whole


_SIZES = {"num_layers": 12, "width": 768, "num_heads": 12, "mlp_width": 2048}
_LARGE_VOCABULARY = {
    "clean": (CausalLM(**_SIZES, streams="clean"), TokenTarget(dim=768), LogNormalNoise(0.1, 10.0)),  # type: ignore[arg-type]
    "two": (CausalLM(**_SIZES), TokenTarget(dim=768), LogNormalNoise(0.1, 10.0)),  # type: ignore[arg-type]
    "masked": (MaskedLM(**_SIZES), MaskTarget(), MaskingNoise(0.01)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("kind", "most"), [("clean", 0.32), ("masked", 0.32), ("two", 0.49)])
def test_a_large_vocabulary_does_not_dominate_a_block(kind: str, most: float) -> None:
    """Catches logits of all tokens at once: at 32,000 tokens and 4 blocks they were most of a block's memory.

    With two streams 3 layers hold 6 passes of activations against the 12 of the whole network, hence the other limit.
    """
    data = TextSpec("toy", "toy-1", 32000, (1 / 32000,) * 32000, seq_len=256, tokenizer="toy")
    config = ContractConfig(*_LARGE_VOCABULARY[kind], PartitionConfig(num_blocks=4))
    planner = Planner(config, data, TrainingConfig(), "bf16-mixed")
    parts = planner.block(config.partition, planner.recipe), planner.end_to_end(planner.recipe)
    block, whole = (sum(planner.peak(part, 256).values()) for part in parts)
    assert block <= most * whole


@pytest.mark.parametrize("kind", ["dit", "vit", "end_to_end"])
@pytest.mark.parametrize("batches", [1, 2])
def test_the_callback_measures_what_was_planned(
    kind: str, batches: int, stripes: Stripes, dit_contract: Contract, vit_contract: Contract, tmp_path: Path
) -> None:
    """Catches a plan of another step than the one that Lightning carries out."""
    contract = dit_contract if kind == "dit" else vit_contract
    chosen = recipe(accumulate=batches)
    part = EndToEndClassifier(contract, chosen) if kind == "end_to_end" else DiffusionBlock(contract, 1, chosen)
    fit(part, tmp_path, callbacks=[Memory(str(tmp_path / "memory.json"))])
    measured = json.loads((tmp_path / "memory.json").read_text())
    planner = Planner(contract.config, stripes.spec, chosen)
    make = planner.end_to_end(chosen) if kind == "end_to_end" else planner.block(PartitionConfig(num_blocks=3), chosen)
    planned = planner.peak(make, stripes.batch_size)
    assert measured["batch_size"] == stripes.batch_size
    assert measured["step"] == 3
    assert measured["cuda"] is None
    assert measured["peak_bytes"] == sum(measured["bytes"].values())
    assert measured["peak_bytes"] == pytest.approx(sum(planned.values()), rel=0.02)
    for category in ("parameters", "optimizer", "average", "activations"):
        assert measured["bytes"][category] == pytest.approx(planned[category], rel=0.02)


def test_measuring_changes_no_weight(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a measurement that disturbs the training that it measures."""
    fit(DiffusionBlock(vit_contract, 0, recipe()), tmp_path / "plain")
    memory = Memory(str(tmp_path / "memory.json"))
    fit(DiffusionBlock(vit_contract, 0, recipe()), tmp_path / "measured", callbacks=[memory])
    states = [checkpoint(tmp_path / name, "block_0")["state_dict"] for name in ("plain", "measured")]
    assert_equal_states(*states)


class _Fails(L.Callback):
    """Fails inside the measured step."""

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: object) -> None:
        """Fail in the third step."""
        if trainer.global_step == 2:
            raise RuntimeError("on purpose")


def test_a_failing_step_leaves_no_counter_behind(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches a dispatch mode that stays active and slows all that follows."""
    memory = Memory(str(tmp_path / "memory.json"))
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(DiffusionBlock(vit_contract, 0, recipe()), tmp_path, callbacks=[memory, _Fails()])
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


def test_the_first_step_cannot_be_measured() -> None:
    """Catches a measurement before the optimizer has its state."""
    with pytest.raises(UserError, match=r"memory\.step"):
        Memory("memory.json", step=1)


@pytest.mark.parametrize("kind", ["dit", "vit", "end_to_end"])
def test_activation_checkpointing_changes_memory_and_nothing_else(
    kind: str, dit_contract: Contract, vit_contract: Contract, tmp_path: Path
) -> None:
    """Catches recomputation with other dropout, other weight names, or that is not switched on."""
    contract = dit_contract if kind == "dit" else vit_contract
    part: type[TrainingModule] = EndToEndClassifier if kind == "end_to_end" else DiffusionBlock
    peaks, states = [], []
    for saving in (False, True):
        folder = tmp_path / str(saving)
        module = part(contract, recipe=recipe(activation_checkpointing=saving))  # type: ignore[call-arg]
        fit(module, folder, callbacks=[Memory(str(folder / "memory.json"))])
        peaks.append(json.loads((folder / "memory.json").read_text())["bytes"]["activations"])
        states.append(checkpoint(folder, module.part)["state_dict"])
    assert_equal_states(*states)
    if kind == "end_to_end":  # three layers; a block of one layer has nothing to save
        assert peaks[1] < 0.7 * peaks[0]


def test_bf16_is_planned_as_it_is_measured(stripes: Stripes, dit_contract: Contract, tmp_path: Path) -> None:
    """Catches weights that are cast in training and not in the plan."""
    memory = Memory(str(tmp_path / "memory.json"))
    fit(DiffusionBlock(dit_contract, 1, recipe()), tmp_path, callbacks=[memory], precision="bf16-mixed")
    planner = Planner(dit_contract.config, stripes.spec, recipe(), "bf16-mixed")
    planned = planner.peak(planner.block(PartitionConfig(num_blocks=3), recipe()), stripes.batch_size)
    measured = json.loads((tmp_path / "memory.json").read_text())
    assert measured["peak_bytes"] == pytest.approx(sum(planned.values()), rel=0.02)


def test_a_training_too_short_to_measure_leaves_nothing_of_another(vit_contract: Contract, tmp_path: Path) -> None:
    """Catches the memory of an earlier training that is reported for this one."""
    path = tmp_path / "memory.json"
    path.write_text("{}")
    fit(DiffusionBlock(vit_contract, 0, recipe()), tmp_path, steps=2, callbacks=[Memory(str(path))])
    assert not path.exists()


def test_a_network_that_hides_its_layers_is_planned_without_checkpointing(stripes: Stripes) -> None:
    """Catches a plan that fails for a network of one's own."""
    planner = Planner(
        ContractConfig(network=HiddenLayers(), partition=PartitionConfig(num_blocks=3)), stripes.spec, TrainingConfig()
    )
    assert [row.name for row in planner.rows([3])] == ["end to end", "3 blocks"]


def test_tables_are_planned_on_the_device_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a table that stays on the CPU when a GPU is planned; without a GPU only the forward pass can run."""
    planner = Planner(_planner("digits_vit")[0].config, _planner("digits_vit")[0].data, TrainingConfig(), device="cuda")
    devices = []

    def forward_only(step: SyntheticStep) -> dict[str, int]:
        devices.append(step.part.losses(step.batch).per_sample.device.type)
        return {}

    monkeypatch.setattr(SyntheticStep, "peak", forward_only)
    monkeypatch.setattr(SyntheticStep, "_end_step", lambda step: None)
    planner.peak(planner.block(PartitionConfig(num_blocks=3), planner.recipe), 4)
    assert devices == ["cuda"]


def test_a_copied_tensor_belongs_to_the_same_plan(stripes: Stripes) -> None:
    """Catches torch's deep copy of a fake tensor, which takes in the whole mode and crashes the interpreter later."""
    planner = Planner(
        ContractConfig(network=DIT, partition=PartitionConfig(num_blocks=1)), stripes.spec, TrainingConfig()
    )
    with planner._without_data():
        original = torch.zeros(3, requires_grad=True)
        first, second = deepcopy([original, original])
    assert first is second is not original
    assert first.requires_grad
    assert first.fake_mode is original.fake_mode


def test_a_network_without_layers_cannot_be_checkpointed() -> None:
    """Catches an option that is silently ignored."""
    with pytest.raises(UserError, match="activation_checkpointing"):
        checkpoint_layers(nn.Linear(2, 2))


def test_the_plan_has_every_row_and_saves_where_it_should() -> None:
    """Catches rows that are all planned with one recipe."""
    data = Digits(batch_size=8, eval_batch_size=8).spec
    config = ContractConfig(
        network=replace(VIT, num_layers=6), target=ClassTarget(dim=16), noise=InformationNoise(num_draws=64)
    )
    planner = Planner(config, data, TrainingConfig())
    rows = {row.name: row for row in planner.rows([2, 3])}
    assert {row.num_layers for row in rows.values()} == {6, 3, 2}
    peak = {name: planner.peak(row.make_part, 64) for name, row in rows.items()}
    assert peak["2 blocks"]["activations"] > peak["3 blocks"]["activations"]
    assert peak["end to end, checkpointing"]["activations"] < 0.5 * peak["end to end"]["activations"]
    state = [peak[f"end to end, checkpointing{suffix}"]["optimizer"] for suffix in ("", ", Adafactor")]
    assert state[1] < 0.3 * state[0]


def test_a_compiled_recipe_is_planned_as_if_it_were_not(stripes: Stripes) -> None:
    """Catches a plan that tries to compile a network of fake tensors."""
    planner = Planner(
        ContractConfig(network=DIT, partition=PartitionConfig(num_blocks=1)), stripes.spec, TrainingConfig()
    )
    plain, compiled = (planner.peak(planner.end_to_end(TrainingConfig(compile=value)), 8) for value in (False, True))
    assert plain == compiled


def test_lower_precision_keeps_smaller_activations(stripes: Stripes) -> None:
    """Catches a precision that is read nowhere."""
    config = ContractConfig(network=DIT, partition=PartitionConfig(num_blocks=1))
    full, half = (Planner(config, stripes.spec, TrainingConfig(), precision) for precision in ("32-true", "bf16-mixed"))
    sizes = [planner.peak(planner.end_to_end(TrainingConfig()), 64)["activations"] for planner in (full, half)]
    assert sizes[1] < 0.9 * sizes[0]


def test_the_largest_batch_of_a_plan() -> None:
    """Catches an answer that does not fit when it is planned."""
    planner, _ = _planner("digits_vit")
    make = planner.block(PartitionConfig(num_blocks=3), planner.recipe)
    largest = planner.largest_batch(make, 50_000_000, near=128)
    assert sum(planner.peak(make, largest).values()) <= 50_000_000 < sum(planner.peak(make, largest + 1).values())


def test_sizes_are_read_as_written() -> None:
    """Catches decimal and binary units that are taken for each other."""
    sizes = {"12GB": 12 * 10**9, "12 GiB": 12 * 2**30, "1.5MB": 1_500_000, "4096": 4096, "2kib": 2048}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    with pytest.raises(UserError, match="--fit lots"):
        parse_bytes("lots")

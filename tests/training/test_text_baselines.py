"""The end-to-end baselines of text: what they train, what it is a function of, and what is read back."""

from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
from torch import Tensor
from toy import assert_equal_states, checkpoint, recipe
from toy_text import DIM, ChainText, fit_text, randomised, text_contract

from dbl.run.folder import RunFolder
from dbl.training.baselines import EndToEndCausalLM, EndToEndRecurrentLM, baseline_of
from dbl.training.baselines.causal_lm import load_causal_lm
from dbl.training.baselines.text import EndToEndText
from dbl.utils.errors import UserError

BASELINES: dict[str, type[EndToEndText]] = {"clean": EndToEndCausalLM, "recurrent": EndToEndRecurrentLM}


class Kill(L.Callback):
    """Break off the training after some steps, without any clean-up."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == 5:
            raise RuntimeError("killed")


def make(kind: str) -> EndToEndText:
    part: EndToEndText = BASELINES[kind](text_contract(kind), recipe(warmup_steps=2))  # type: ignore[arg-type]
    return part


def tokens() -> Tensor:
    return ChainText().split("train")[torch.arange(4)]


@pytest.mark.parametrize("kind", BASELINES)
def test_a_killed_training_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    """Catches start states and numbers of iterations that depend on the history of a process."""
    fit_text(make(kind), tmp_path / "whole", 8)
    with pytest.raises(RuntimeError, match="killed"):
        fit_text(make(kind), tmp_path / "resumed", 8, False, Kill())
    fit_text(make(kind), tmp_path / "resumed", 8, True)
    whole, resumed = (checkpoint(tmp_path / name, "end_to_end") for name in ("whole", "resumed"))
    for key in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "global_step", "dbl"):
        assert_equal_states(whole[key], resumed[key])


@pytest.mark.parametrize("kind", BASELINES)
def test_training_moves_every_weight(kind: str, tmp_path: Path) -> None:
    """Catches layers that the optimizer is not given: the baseline trains all of them at once."""
    part = make(kind)
    before = {name: weights.clone() for name, weights in part.named_parameters()}
    fit_text(part, tmp_path, steps=3)
    assert [name for name, weights in part.named_parameters() if torch.equal(weights, before[name])] == []
    assert len(part.backbone.layers) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BASELINES)
@pytest.mark.parametrize("place", range(6))
def test_a_token_reaches_logits_from_its_own_place_on(kind: str, place: int) -> None:
    """Catches a baseline that sees the token that it predicts: its nats would be too good."""
    part = cast(EndToEndText, randomised(make(kind)))
    changed = tokens()[:, :-1]
    changed[:, place] = (changed[:, place] + 1) % 5
    pair = [part.logits(given, training=False) for given in (tokens()[:, :-1], changed)]
    assert ((pair[0] - pair[1]).abs().amax((0, 2)) > 1e-5).tolist() == [number >= place for number in range(6)]


def recurrent(monkeypatch: pytest.MonkeyPatch, batches_seen: int = 0) -> tuple[EndToEndRecurrentLM, list[Any]]:
    """A recurrent baseline at a batches_seen, and what its iterated layers are given."""
    part, given = cast(EndToEndRecurrentLM, make("recurrent")), []
    part.batches_seen = batches_seen

    def watched(read: Tensor, state: Tensor, iterations: int, backprop: int | None = None) -> Tensor:
        given.append((state, iterations, backprop))
        return torch.zeros(*read.shape, DIM)

    monkeypatch.setattr(part.network.body, "forward", watched)
    return part, given


def test_iterations_and_states_are_functions_of_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches draws from the global generator, and the same draws at every step."""
    found = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        states, numbers = [], []
        for batches_seen in range(30):
            part, given = recurrent(monkeypatch, batches_seen)
            part.logits(tokens()[:, :-1], training=True)
            states.append(given[0][0])
            numbers.append(given[0][1:])
        found.append((torch.stack(states), numbers))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert len({number for number, _ in found[0][1]}) > 2
    assert {backprop for _, backprop in found[0][1]} == {2}
    states = found[0][0]  # 30, N, T, W
    assert not torch.equal(states[0], states[1])
    assert not torch.equal(states[0, 0], states[0, 1])
    assert states.std().item() == pytest.approx(1, abs=0.02)


def test_iterations_are_as_many_as_wanted_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a distribution whose mean is another than `mean_iterations`, or that allows none at all."""
    part, _ = recurrent(monkeypatch)
    numbers = []
    for batches_seen in range(4000):
        part.batches_seen = batches_seen
        numbers.append(part._iterations())
    found = torch.tensor(numbers).double()
    assert found.mean().item() == pytest.approx(4, abs=4 * found.std().item() / 4000**0.5)
    assert found.min() == 1
    # A Poisson distribution of a fixed rate 3 has variance 3; a log-normal rate adds 9 (e^(1/4) - 1) = 2.6 to it.
    assert found.var().item() == pytest.approx(5.6, abs=0.8)


def test_the_test_iterates_the_mean_number_from_a_fixed_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches nats that change with the batches_seen at which training stopped."""
    seen = []
    for batches_seen in (0, 17):
        part, given = recurrent(monkeypatch, batches_seen)
        part.logits(tokens()[:, :-1], training=False)
        seen.append(given[0])
    assert torch.equal(seen[0][0], seen[1][0])
    assert [iterations for _, iterations, _ in seen] == [4, 4]


@pytest.mark.parametrize(("kind", "other"), [("clean", "recurrent"), ("recurrent", "clean"), ("clean", "masked")])
def test_the_run_of_another_network_is_refused(kind: str, other: str) -> None:
    """Catches a crash, or a baseline of other layers than the blocks have."""
    with pytest.raises(UserError, match="EndToEnd"):
        BASELINES[kind](text_contract(other))  # type: ignore[call-arg, arg-type]


def test_each_architecture_has_its_baseline() -> None:
    """Catches a masked run that is compared with another kind of network than the denoiser in one block."""
    kinds = {kind: baseline_of(text_contract(kind).config.network) for kind in ("clean", "two", "recurrent", "masked")}
    assert kinds == {
        "clean": EndToEndCausalLM,
        "two": EndToEndCausalLM,
        "recurrent": EndToEndRecurrentLM,
        "masked": None,
    }


def test_a_trained_language_model_is_read_back(tmp_path: Path) -> None:
    """Catches weights that are not the averaged ones, or a network that is still being trained."""
    run = RunFolder("run", str(tmp_path))
    run.write_contract(text_contract("clean"))
    ChainText().tokenizer.save(run.tokenizer)
    part = make("clean")
    fit_text(part, run.path)
    network, tokenizer = load_causal_lm(run.path)
    stored = checkpoint(run.path, "end_to_end")
    assert tokenizer == ChainText().tokenizer
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    averaged = {f"network.{name}": weights for name, weights in network.state_dict().items()}
    assert all(torch.equal(averaged[name], stored["state_dict"][name]) for name in averaged)  # type: ignore[index]
    with pytest.raises(UserError, match="dbl compare"):
        load_causal_lm(_run_of_blocks(tmp_path))


def _run_of_blocks(folder: Path) -> Path:
    run = RunFolder("blocks", str(folder))
    run.write_contract(text_contract("clean"))
    return run.path

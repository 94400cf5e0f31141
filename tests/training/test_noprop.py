"""NoProp: schedules against known values, the chain of a perfect network, and that it learns."""

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from toy import Stripes, fit, recipe

from dbl.run.contract import Contract
from dbl.training.baselines.noprop import NoProp, NoPropDT, cosine_shares, posterior, prior_divergence, signal_to_noise
from dbl.training.baselines.noprop_continuous import LearnedSchedule, NoPropCT, NoPropFM
from dbl.training.baselines.prototypes import most_typical
from dbl.utils.seeding import SampleDraws

_KINDS = [NoPropDT, NoPropCT, NoPropFM]


def test_the_signal_grows_from_noise_to_label() -> None:
    """Catches time in reverse, whose loss weights are negative, and an infinite ratio at the end."""
    shares = cosine_shares(10, 0.99)
    assert len(shares) == 11
    assert shares == sorted(shares)
    assert shares[0] < 1e-3
    assert shares[-1] == pytest.approx(0.99)
    assert signal_to_noise(shares[-1]) == pytest.approx(99)


def test_the_posterior_is_that_of_gaussians() -> None:
    """Catches factors of another step: the mean and variance of what follows must be those of the next share."""
    before, after = 0.3, 0.7
    of_clean, of_z, deviation = posterior(before, after)
    assert of_clean + of_z * math.sqrt(before) == pytest.approx(math.sqrt(after))
    assert of_z**2 * (1 - before) + deviation**2 == pytest.approx(1 - after)


def test_the_prior_costs_nothing_where_z_is_noise() -> None:
    """Catches a wrong sign: the divergence is 0 at share 0 and grows."""
    vectors = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
    assert prior_divergence(vectors, 0.0).tolist() == pytest.approx([0, 0])
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(0.5**0.5 * vectors, 0.5**0.5), torch.distributions.Normal(0.0, 1.0)
    ).sum(dim=1)
    torch.testing.assert_close(prior_divergence(vectors, 0.5), exact)


def test_a_learned_schedule_rises_between_its_ends() -> None:
    """Catches a derivative that is not that of the signal-to-noise ratio, and ends that move."""
    schedule = LearnedSchedule(noisiest=6.0, cleanest=-4.0).double()
    time = torch.linspace(0, 1, 201, dtype=torch.float64)
    share, gain = schedule(time)
    ratio = share / (1 - share)
    assert math.log(float(ratio[0].detach())) == pytest.approx(-6)
    assert math.log(float(ratio[-1].detach())) == pytest.approx(4)
    assert (ratio.diff() > 0).all()
    numeric = (ratio[2:] - ratio[:-2]) / 0.01
    torch.testing.assert_close(gain[1:-1], numeric, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_perfect_network_ends_at_its_label(kind: type[NoProp], vit_contract: Contract) -> None:
    """Catches a chain with the wrong factors: the network knows the label and the chain must lead there."""
    part = kind(vit_contract).eval()
    label = torch.tensor([2, 0, 1, 2])
    torch.nn.init.eye_(part.network.readout.weight)
    torch.nn.init.zeros_(part.network.readout.bias)

    def perfect(z: torch.Tensor, time: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        vectors = torch.eye(3)[label]
        return (vectors - z) / (1 - time[:, None]) if kind is NoPropFM else 1e3 * vectors

    for denoiser in part.network.denoisers:
        denoiser.forward = perfect
    with torch.no_grad():
        logits = part.chain_logits(torch.zeros(4, 1, 4, 6), SampleDraws(0, ("test",), torch.arange(4)))
    assert logits.argmax(dim=1).tolist() == label.tolist()


def _trained(part: NoProp, batch: dict[str, torch.Tensor], steps: int) -> float:
    """Train on one batch; the share of it that is labelled rightly at the end."""
    optimizer = part.recipe.make_optimizer(part)
    for step in range(steps):
        part.batches_seen = step
        optimizer.zero_grad()
        part.losses(batch).per_sample.mean().backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimizer.step()
    clean = part.eval().space.encode(batch)
    with torch.no_grad():
        right = part.class_logits(clean.cond, batch["index"]).argmax(dim=1) == clean.labels
    return float(right.float().mean())


@pytest.mark.parametrize("kind", _KINDS)
def test_it_learns(kind: type[NoProp], vit_contract: Contract, stripes: Stripes) -> None:
    """Catches a loss that teaches nothing about the label, and fixed label vectors that move."""
    part = kind(vit_contract, recipe())  # type: ignore[call-arg, arg-type]
    assert _trained(part, stripes.batch("train", torch.arange(54)), steps=600) > 0.8
    assert torch.equal(part.network.embedding, torch.eye(3))


@pytest.mark.parametrize("kind", _KINDS)
def test_label_vectors_are_learned(kind: type[NoProp], vit_contract: Contract, stripes: Stripes) -> None:
    """Catches label vectors without a gradient, and a choice that is read nowhere."""
    part = kind(vit_contract, recipe(), embedding="learned")  # type: ignore[call-arg, arg-type]
    before = part.network.embedding.detach().clone()
    assert before.shape == (3, 20)
    _trained(part, stripes.batch("train", torch.arange(54)), steps=2)
    assert (part.network.embedding != before).any(dim=1).all()


def test_a_step_trains_one_network(vit_contract: Contract, stripes: Stripes) -> None:
    """Catches a gradient that reaches networks of other times, and a time that is always the same."""
    part = NoPropDT(vit_contract)
    trained = set()
    for step in range(12):
        part.batches_seen = step
        part.zero_grad()
        part.losses(stripes.batch("train", torch.arange(8))).per_sample.mean().backward()
        with_gradient = [
            index
            for index, denoiser in enumerate(part.network.denoisers)
            if any(parameter.grad is not None for parameter in denoiser.parameters())
        ]
        assert len(with_gradient) == 1
        trained |= set(with_gradient)
    assert trained == {0, 1, 2}


def test_the_most_typical_vector_has_the_smallest_median_distance() -> None:
    """Catches the mean in place of the median, which an outlier moves, and the distance 0 to itself that counts."""
    vectors = torch.tensor([[0.0], [4.0], [5.0], [6.0], [1000.0]])
    assert most_typical(vectors) == 2
    assert most_typical(vectors[:2]) == 0
    assert most_typical(torch.tensor([[0.0], [3.0], [5.0]])) == 1  # medians of others, the lower of two: 3, 2, 2
    assert most_typical(vectors[:1]) == 0


@pytest.mark.parametrize("kind", _KINDS)
def test_prototypes_start_as_images_and_are_learned(kind: type[NoProp], vit_contract: Contract, tmp_path: Path) -> None:
    """Catches vectors that start elsewhere, in raw pixels, at another image, or anew when a training resumes."""
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: NoProp, *_: Any) -> None:  # type: ignore[override]
            seen.append(pl_module.network.embedding.detach().clone())

    def part() -> NoProp:
        made: NoProp = kind(vit_contract, recipe(), embedding="prototype")  # type: ignore[call-arg, arg-type]
        return made

    assert part().network.embedding.shape == (3, 24)
    fit(part(), tmp_path, steps=2, callbacks=[Watch()])
    data = Stripes()
    batch = data.batch("train", torch.arange(len(data.split("train"))))
    images = part().space.encode(batch).cond.flatten(1)
    for label, vector in enumerate(seen[0]):
        of_class = images[batch["label"] == label]
        medians = torch.cdist(of_class, of_class).sort(dim=1).values[:, 1:].median(dim=1).values
        torch.testing.assert_close(vector, of_class[medians.argmin()])
    assert not torch.equal(seen[0], seen[1])
    fit(part(), tmp_path, steps=3, resume=True, callbacks=[Watch()])
    assert not torch.equal(seen[0], seen[2])

"""What a recurrent-depth network keeps of a text: further tokens must come out as if all were read again."""

import itertools

import pytest
import torch
from torch import Tensor

from dbl.networks import RecurrentLM, recurrent_cache
from dbl.networks.recurrent_cache import IterationContext, RecurrentContext
from dbl.networks.recurrent_lm import Recurrence, RecurrentBaseline, RecurrentNetwork

N, T, C, D, K = 2, 7, 5, 8, 3
PIECES = [0, 1, 3, 4, T]


def random_network(kind: type[Recurrence], prelude: int, coda: int) -> Recurrence:
    sizes = RecurrentLM(4, width=16, num_heads=2, mlp_width=24, prelude=prelude, coda=coda)
    network = kind(sizes, C, D)
    for number, parameter in enumerate(network.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return network.double().eval()  # float32 adds in another order, and random weights amplify that


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tokens() -> Tensor:
    return torch.randint(C, (N, T), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("prelude", "coda"), [(1, 1), (0, 1), (2, 0)])
@torch.no_grad()
def test_iterations_over_a_further_token_are_those_of_the_whole_text(prelude: int, coda: int) -> None:
    """Catches keys of another iteration, a mask at the wrong end, and prelude or coda that forget."""
    network = random_network(RecurrentBaseline, prelude, coda)
    assert isinstance(network, RecurrentBaseline)
    state = draw(N, T, 16)
    whole = network(tokens(), state, K)
    context = IterationContext(network, K)
    for start, end in itertools.pairwise(PIECES):
        found = context.read(tokens()[:, start:end], state[:, start:end])
        torch.testing.assert_close(found, whole[:, start:end], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("prelude", "coda"), [(1, 1), (0, 1), (2, 0)])
@pytest.mark.parametrize("max_states", [1, 2**14])
@torch.no_grad()
def test_the_next_place_is_denoised_as_in_the_whole_text(
    prelude: int, coda: int, max_states: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches levels that share keys, a place that stays while it is denoised, and pieces that overlap."""
    monkeypatch.setattr(recurrent_cache, "_MAX_STATES", max_states)
    network = random_network(RecurrentNetwork, prelude, coda)
    assert isinstance(network, RecurrentNetwork)
    c_noise, known = torch.tensor([0.4, 0.0, -0.6], dtype=torch.float64), draw(K, N, T, D)
    levels = network.modulations(c_noise.repeat_interleave(N))
    context = RecurrentContext(network, levels, K)
    for start, end in itertools.pairwise(PIECES):
        context.read(tokens()[:, start:end])
        if end > 1:
            context.settle(known[:, :, context.num_known : end - 1].flatten(0, 1))
        for level in (0, 1, 1, 2):  # as Heun's method, which asks for a level twice
            noisy = draw(N, 1, D, seed=end + level)
            whole = network(
                torch.cat([known[level, :, : end - 1], noisy], 1),
                c_noise[level : level + 1].expand(N),
                tokens()[:, :end],
            )
            rows = levels.rows(level * N, (level + 1) * N)
            found = network(noisy, rows, context.next_place(level))
            torch.testing.assert_close(found, whole[:, -1:], rtol=1e-9, atol=1e-9)

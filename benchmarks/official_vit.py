"""The shape of the official DiffusionBlocks ViT as a plain module, against a ViT of `dbl` of equal sizes.

The shape, in our own words: the noisy label is the first token; all layers compute all tokens; query, key and value are
three linear maps; LayerNorms keep their scales and shifts beside the modulation; the vector that modulates has a sixth
of the width, and SiLU follows the projection; the MLP has 3072 units and exact GELU; cosines and a linear classifier
read the first token; cross-entropy is weighted as in EDM. The official module also holds the layers of the other
blocks, which take no part in a step.

    python -m benchmarks.official_vit
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Call, config_of, median_seconds, planner_of, print_figures
from dbl.diffusion.gaussian import scalings
from dbl.diffusion.partition import PartitionConfig
from dbl.training.memory.synthetic_step import SyntheticStep

WIDTH, HEADS, MLP_WIDTH, PATCH, SIDE, CLASSES, DROPOUT = 128, 4, 3072, 4, 32, 100, 0.1
COND_WIDTH, FREQUENCIES = WIDTH // 6, 256
BATCH = 32
SIGMA_DATA = 0.5


class OfficialModulation(nn.Module):
    """Vectors [N, 1, D] from the conditioning vector [N, D / 6]; the activation comes last."""

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        self.num_vectors = num_vectors
        self.project = nn.Linear(COND_WIDTH, num_vectors * WIDTH)

    def forward(self, cond: Tensor) -> tuple[Tensor, ...]:
        """[N, D / 6] -> `num_vectors` tensors [N, 1, D]."""
        return F.silu(self.project(cond)).unsqueeze(1).chunk(self.num_vectors, dim=2)


class OfficialLayer(nn.Module):
    """A pre-norm layer that computes every token."""

    def __init__(self) -> None:
        super().__init__()
        self.modulation = OfficialModulation(6)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, MLP_WIDTH), nn.Linear(MLP_WIDTH, WIDTH)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """[N, T, D] and [N, D / 6] -> [N, T, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(cond)
        x = x + gate1 * self._attend(self.norm1(x) * (1 + scale1) + shift1)
        hidden = F.gelu(self.up(self.norm2(x) * (1 + scale2) + shift2))
        return x + gate2 * self.drop(self.down(hidden))

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (map_(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for map_ in (self.query, self.key, self.value))
        dropout = DROPOUT if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.drop(self.out(mixed.transpose(1, 2).flatten(2)))


class OfficialViT(nn.Module):
    """The stem, `num_layers` layers and the readout."""

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(torch.randn(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        self.labels = nn.Embedding(CLASSES, WIDTH)
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, COND_WIDTH), nn.SiLU(), nn.Linear(COND_WIDTH, COND_WIDTH))
        self.layers = nn.ModuleList(OfficialLayer() for _ in range(num_layers))
        self.norm = nn.LayerNorm(WIDTH)
        self.modulation = OfficialModulation(2)
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.drop = nn.Dropout(DROPOUT)

    def loss(self, images: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Weighted cross-entropy of images [N, 3, 32, 32] with labels [N], at levels [N] with unit noise [N, D]."""
        noisy = F.normalize(self.labels(labels), dim=1) + sigma.unsqueeze(1) * noise
        c_skip, c_out, c_in, c_noise = scalings(sigma, SIGMA_DATA)
        output, cond = self._network(images, noisy * c_in.unsqueeze(1), c_noise)
        estimate = output * c_out.unsqueeze(1) + noisy * c_skip.unsqueeze(1)
        shift, scale = self.modulation(cond)
        logits = self.classifier(estimate * (1 + scale.squeeze(1)) + shift.squeeze(1))
        weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
        return (weight * F.cross_entropy(logits, labels, reduction="none")).mean()

    def _network(self, images: Tensor, label_token: Tensor, c_noise: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = self.drop(torch.cat([label_token.unsqueeze(1), patches], 1) + self.positions)
        frequencies = torch.exp(-math.log(10_000) * torch.arange(FREQUENCIES // 2) / (FREQUENCIES // 2))
        angles = c_noise.unsqueeze(1) * frequencies
        cond = F.silu(self.time(torch.cat([angles.cos(), angles.sin()], 1)))
        for layer in self.layers:
            x = layer(x, cond)
        return self.norm(x)[:, 0], cond


def official_step(num_layers: int) -> Call:
    """An optimizer step of the official shape: forward, loss, backward, clipping as in its training script, AdamW."""
    network = OfficialViT(num_layers)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.01)
    images, labels = torch.zeros(BATCH, 3, SIDE, SIDE), torch.arange(BATCH) % CLASSES
    sigma, noise = torch.ones(BATCH), torch.zeros(BATCH, WIDTH)

    def step() -> None:
        network.loss(images, labels, sigma, noise).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(num_blocks: int) -> SyntheticStep:
    """An optimizer step of a block of `configs/cifar100_vit.yaml`, which has these sizes."""
    planner = planner_of(config_of("cifar100_vit"))
    part = planner.block(PartitionConfig(num_blocks=num_blocks), planner.recipe)()
    return SyntheticStep(part, planner.data, BATCH)


def figures(repeats: int = 11) -> dict[str, float]:
    """Official / ours, seconds of a step: one block of three (4 layers), and all 12 layers as one block."""
    found = {}
    for num_blocks in (3, 1):
        calls: dict[str, Call] = {"official": official_step(12 // num_blocks), "ours": our_step(num_blocks)}
        seconds = median_seconds(calls, repeats)
        found[f"official / ours, ViT block step, B = {num_blocks}"] = seconds["official"] / seconds["ours"]
    return found


if __name__ == "__main__":
    print_figures(figures)

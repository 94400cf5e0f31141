"""The paper's own training: at each step a random block learns, together with what all blocks share.

In the paper (arXiv 2506.14202, Sec. 3) and its official code, one module holds the layers of all blocks, and one stem,
one head, one embedding of the noise level and one learned table of labels serve them all. The blocks of `dbl` share
nothing that is trained; the arguments of `PaperTraining` lead from one to the other, a choice at a time.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from dbl.denoising.denoiser import Denoiser
from dbl.denoising.targets import Batch, ClassTarget, Clean, PixelTarget
from dbl.denoising.targets.tables import unit_rows
from dbl.networks import DiT, ViT
from dbl.networks.layers import layers_of
from dbl.run.contract import Contract
from dbl.training.config import TrainingConfig
from dbl.training.module import Losses, TrainingModule
from dbl.training.noisy_data import fixed_draws, random_draws
from dbl.utils.checks import check_choice, check_numbers, whole
from dbl.utils.errors import UserError
from dbl.utils.seeding import derive_seed

Part = Literal["stem", "conditioning", "head"]
Order = Literal["random", "in_turn"]
Table = Literal["learned", "frozen"]

# Children of a denoiser and of its network; all others belong to the stem.
_PARTS: dict[str, Part | None] = {
    "layers": None,  # never shared
    "noise_embedding": "conditioning",
    "label_embedding": "conditioning",
    "head": "head",
    "readout": "head",
}


class SharedBlocks(nn.Module):
    """The blocks of a network, which have parts in common.

    Weights are a function of the seed: those of each block of the run, and block 0's for what is shared.

    Args:
        contract: contract of the run.
        private: parts that each block has for itself.
        copies: whether each block has a copy of the shared parts, which `synchronise` makes equal; else they are one.
        learns_table: whether the target table is learned too.

    Attributes:
        denoisers: [B] denoisers; a part that they share is one module, or a copy in each.
        table: [C, D] learned rows before they are normalised; None if the table is frozen, or there is none.
    """

    def __init__(self, contract: Contract, private: list[Part], copies: bool, learns_table: bool) -> None:
        super().__init__()
        self.denoisers = nn.ModuleList(contract.denoiser(block) for block in range(contract.partition.num_blocks))
        self.copies = copies
        rows = contract.table if learns_table else None
        self.table = None if rows is None else nn.Parameter(rows.clone())
        first, *others = self.denoisers
        self._shared = [name for name, part in _named_parts(first) if part is not None and part not in private]
        for denoiser in others:
            for name in self._shared:
                if copies:
                    denoiser.get_submodule(name).load_state_dict(first.get_submodule(name).state_dict())
                else:
                    denoiser.set_submodule(name, first.get_submodule(name))

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of all blocks, which activation checkpointing looks for."""
        networks = [denoiser.get_submodule("network") for denoiser in self.denoisers]
        return nn.ModuleList(layer for network in networks for layer in layers_of(network) or ())

    def rows(self) -> Tensor | None:
        """[C, D] learned rows of unit length, without which they would collapse (arXiv 2211.15089)."""
        return None if self.table is None else unit_rows(self.table)

    def forward(self, block: int, clean: Clean, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Weighted denoising loss [N] of a block; arguments as in `Denoiser.loss`."""
        denoiser = self.denoisers[block]
        assert isinstance(denoiser, Denoiser)
        return denoiser.loss(clean, noisy, sigma)

    @torch.no_grad()
    def synchronise(self) -> None:
        """Replace the copies of each shared parameter by their mean."""
        if not self.copies:
            return
        parts = ([denoiser.get_submodule(name) for denoiser in self.denoisers] for name in self._shared)
        for copies in (each for modules in parts for each in zip(*(one.parameters() for one in modules), strict=True)):
            mean = torch.stack(copies).mean(dim=0)
            for copy in copies:
                copy.copy_(mean)


def _named_parts(denoiser: nn.Module) -> Iterator[tuple[str, Part | None]]:
    """The names of the modules of which a denoiser consists, and the part to which each belongs."""
    for name, child in denoiser.named_children():
        if name == "network":
            yield from ((f"network.{inner}", _PARTS.get(inner, "stem")) for inner, _ in child.named_children())
        else:
            yield name, _PARTS.get(name, "stem")


class PaperTraining(TrainingModule):
    """All blocks in one training: at each optimizer step one of them learns, with what it shares with the others.

    A step is a pass through the layers of one block, so it costs as much as a step of a block. Raises UserError if the
    run has one block alone, or neither images nor classes as targets.

    Args:
        contract: contract of the run that it is compared with; gives network sizes, data, levels and seed.
        recipe: training configuration.
        private: parts that each block has for itself, of `stem`, `conditioning` (embeddings of noise level and label)
            and `head`; null: none, as in the paper. Its layers are always a block's own.
        sync_every: number of steps of each block, on average, between two times at which shared parts are made equal.
            1: they are one, which each step trains, as in the paper. More: each block trains a copy of its own, and
            from time to time all copies are replaced by their mean. null: not in training. At its end they are
            averaged in any case.
        order: block of a step. `random`: each is as likely, as in the paper; `in_turn`: block 0, 1 ... and again.
        table: vectors of the classes. `learned`: rows of a table that every block trains, normalised, as in the
            official code; `frozen`: as they are in the contract. Without effect on images.
    """

    network: SharedBlocks
    part_name = "paper"

    def __init__(
        self,
        contract: Contract,
        recipe: TrainingConfig | None = None,
        private: list[Part] | None = None,
        sync_every: int | None = 1,
        order: Order = "random",
        table: Table = "learned",
    ) -> None:
        super().__init__(self.part_name, 0, contract, recipe)
        self.private, self.sync_every, self.order = list(dict.fromkeys(private or [])), sync_every, order
        check_numbers("model", self, sync_every=whole(1, 10**9, optional=True))
        check_choice("model.order", order, get_args(Order))
        check_choice("model.table", table, get_args(Table))
        for part in self.private:
            check_choice("model.private", part, get_args(Part))
        reason = self.refusal(contract)
        if reason:
            raise UserError(f"{type(self).__name__}: {reason}")
        self.network = SharedBlocks(contract, self.private, copies=sync_every != 1, learns_table=table == "learned")
        self.space = contract.space()
        sizes, layers = contract.config.network, contract.partition.layers
        self.layer_passes = sum(map(sizes.layer_passes, layers)) / len(layers)  # expected

    @staticmethod
    def refusal(contract: Contract) -> str | None:
        """Reason for which a run has no such rival, if there is any."""
        chosen = contract.config
        for key, allowed in (("network", (DiT, ViT)), ("target", (PixelTarget, ClassTarget))):
            found = getattr(chosen, key)
            if type(found) not in allowed:
                return f"it cannot be made of contract.{key} {type(found).__name__}"
        blocks = contract.partition.num_blocks
        return f"contract.partition.num_blocks ({blocks}) must be at least 2" if blocks < 2 else None

    @property
    @override
    def backbone(self) -> nn.Module:
        return self.network

    def block_of(self, step: int) -> int:
        """The block that learns in optimizer step `step`, counted from 0: a function of the seed and the step."""
        num_blocks = len(self.network.denoisers)
        drawn = derive_seed(self.seed, "block of a step", self.part, step) if self.order == "random" else step
        return drawn % num_blocks

    @override
    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        outputs = super().training_step(batch, batch_idx)
        if self._ends_round:
            self.network.synchronise()
        return outputs

    @property
    def _ends_round(self) -> bool:
        """Whether each block has now had, on average, `sync_every` further steps."""
        if self.accumulating or self.sync_every is None:
            return False
        return self.steps_done % (self.sync_every * len(self.network.denoisers)) == 0

    @override
    def losses(self, batch: Batch) -> Losses:
        """Weighted denoising loss (paper, Eq. 5) of this step's block; in validation the mean over all blocks."""
        if self.training:
            return Losses(*self._losses_of(self.block_of(self.steps_done), batch))
        blocks = range(len(self.network.denoisers))
        return Losses(torch.stack([self._losses_of(block, batch)[0] for block in blocks]).mean(dim=0))

    def _losses_of(self, block: int, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses [N] of one block, and their noise levels."""
        clean, rows = self.space.encode(batch), self.network.rows()
        if rows is not None:
            clean = clean._replace(clean=rows[clean.labels])
        interval = self.contract.partition.training_interval(block)
        if self.training:
            counters = self.part, self.batches_seen, self.global_rank
            sigma, noise = random_draws(self.contract, interval, clean.clean, *counters)
        else:
            stream = self.contract.config.start.num_parts + block  # that of the block if it were trained alone
            sigma, noise = fixed_draws(self.contract, interval, clean.clean, batch["index"], stream)
        noisy = self.space.corrupt(clean.clean, noise, sigma)
        if rows is None:
            return self.network(block, clean, noisy, sigma), sigma
        read_with = {f"denoisers.{block}.readout.table": rows}  # in place of the frozen one
        # Untied: a readout that all blocks share would be restored under one of its names alone.
        loss: Tensor = functional_call(self.network, read_with, (block, clean, noisy, sigma), tie_weights=False)
        return loss, sigma

"""BAdam, of badam: Adam on one block of the parameters at a time, while all others rest."""

import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from typing import Any, ClassVar

from badam import BlockOptimizer
from torch.optim import AdamW
from typing_extensions import override

from dbl.training.optimizers.groups import Named, described, parameters_of
from dbl.utils.errors import UserError


@contextmanager
def _quiet() -> Any:
    """Without the lines that the package prints at each change of the block, and its warning about float32."""
    with redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _blocks(named: list[Named]) -> list[list[str]]:
    """Prefixes of the parameters of each block: one block for each residual layer, and one for all that is outside."""
    layers = list(dict.fromkeys(one.layer for one in named if one.layer))
    if not layers:
        raise UserError("model.recipe.optimizer BAdam needs residual layers in an attribute `layers`: choose AdamW")
    outside = [one.name for one in named if not one.layer]
    return [*([outside] if outside else []), *([layer] for layer in layers)]


class BAdam(BlockOptimizer):
    """Block coordinate descent with Adam (arXiv 2404.02827): only the active block has gradients and moments.

    Block 0 is all that is outside of the residual layers; each of these is one more, and they follow in this order. The
    package keeps a float32 copy of the active block, which is counted as state. The backward pass ends at the active
    block, so that one of the first two needs the most memory. Raises UserError if there are no residual layers.

    Args:
        params: described groups of parameters.
        lr: learning rate.
        weight_decay: coefficient of decoupled weight decay.
        betas: decay rates of the two moments, which start anew with each block.
        eps: added to the root of the second moment.
        switch_every: steps on a block before the next one.
        first: block to begin with.
    """

    describe_groups: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        switch_every: int = 50,
        first: int = 0,
    ) -> None:
        named = described(params)
        self._decaying = {one.name for one in named if one.decays}
        blocks = _blocks(named)
        self.active_block = first % len(blocks)
        groups = [{"params": parameters_of(one for one in named if one.decays == decays)} for decays in (True, False)]
        inner = AdamW([group for group in groups if group["params"]], lr, betas, eps, weight_decay)
        with _quiet():
            super().__init__(
                inner,
                [(one.name, one.parameter) for one in named],
                block_prefix_list=blocks,
                switch_block_every=switch_every,
                start_block=self.active_block,
                switch_mode="ascending",
                verbose=0,
            )
        del self.state_dict  # that of the inner optimizer, which does not know the block

    @override
    def switch_trainable_params(self, verbose: int | None = 0) -> None:
        """Go to the next block, or at the start to the first."""
        self.active_block = self.current_block_idx
        super().switch_trainable_params(0)
        # The package lets norms and biases of the active block decay as well.
        copies = {self.named_parameters_list[index][0]: copy for index, copy in self.param_idx2hp.items()}
        by_decay = [[c for name, c in copies.items() if (name in self._decaying) == decays] for decays in (True, False)]
        for group, members in zip(self.base_optimizer.param_groups, by_decay, strict=True):
            group["params"] = members
        self.base_optimizer.param_groups[1]["weight_decay"] = 0.0
        self._show_state()

    def _show_state(self) -> None:
        """Let `state` of each active parameter be what is kept for it: moments and copy."""
        self.state.clear()
        for index, copy in self.param_idx2hp.items():
            self.state[self.param_idx2lp[index]] = {**self.base_optimizer.state.get(copy, {}), "copy": copy.detach()}

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> None:
        """Update the active block; after `switch_every` steps the next one becomes active."""
        with _quiet():
            super().step(closure)
        self._show_state()

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state of the active block, and which one it is."""
        return {**super().state_dict(), "active_block": self.active_block, "block_steps": self.global_step}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` gave. Raises UserError if there is no such block."""
        active, steps = state_dict.get("active_block"), state_dict.get("block_steps")
        if not isinstance(active, int) or not isinstance(steps, int) or not 0 <= active < self.block_num:
            raise UserError("the checkpoint does not say which block BAdam was training: train it with --from_scratch")
        super(BlockOptimizer, self).load_state_dict(state_dict)
        loaded, self.current_block_idx, self.global_step = dict(self.state), active, steps
        with _quiet():
            self.switch_trainable_params()
        for index, copy in self.param_idx2hp.items():
            state = dict(loaded[self.param_idx2lp[index]])
            copy.data.copy_(state.pop("copy"))
            if state:
                self.base_optimizer.state[copy] = state
        self._show_state()

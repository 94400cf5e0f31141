"""Muon for the matrices of the residual layers, and AdamW for all other parameters, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch.optim import AdamW, Muon, Optimizer
from typing_extensions import override

from dbl.training.optimizers.groups import described, parameters_of
from dbl.utils.errors import UserError


class MuonAdamW(Optimizer):
    """Muon (Jordan et al. 2024), which keeps one moment of a matrix where AdamW keeps two.

    Steps of Muon are scaled to the size of AdamW's (arXiv 2502.16982), so that both use one learning rate and one
    weight decay. Raises UserError if there is no matrix in residual layers.

    Args:
        params: described groups of parameters.
        lr: learning rate of all parameters.
        weight_decay: coefficient of decoupled weight decay.
        momentum: decay rate of Muon's moment.
        betas: decay rates of AdamW's two moments.
        eps: added to the root of AdamW's second moment.
    """

    describe_groups: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        named = described(params)
        hidden = [one for one in named if one.decays and one.layer and one.parameter.ndim == 2]
        if not hidden:
            raise UserError("model.recipe.optimizer MuonAdamW needs matrices in residual layers: choose e.g. AdamW")
        chosen = {id(one.parameter) for one in hidden}
        rest = [one for one in named if id(one.parameter) not in chosen]
        groups = [parameters_of(one for one in rest if one.decays == decays) for decays in (True, False)]
        options: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self._muon = Muon(parameters_of(hidden), momentum=momentum, adjust_lr_fn="match_rms_adamw", **options)
        adam_groups = [{"params": group} for group in groups if group]
        self._adamw = AdamW(adam_groups, betas=betas, eps=eps, **options) if adam_groups else None
        super().__init__([group for part in self._parts for group in part.param_groups], options)
        self._share()

    @property
    def _parts(self) -> list[Optimizer]:
        return [self._muon, self._adamw] if self._adamw else [self._muon]

    def _share(self) -> None:
        """Let both optimizers work on the groups and the state of this one."""
        start = 0
        for part in self._parts:
            number = len(part.param_groups)
            part.param_groups = self.param_groups[start : start + number]
            part.state = self.state
            start += number

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # as `load_state_dict` does: the groups and the state are others
        self._share()

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = closure() if closure else None
        for part in self._parts:
            part.step()
        return loss

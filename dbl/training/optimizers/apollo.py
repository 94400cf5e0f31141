"""APOLLO-Mini, of apollo-torch: AdamW's step length for a whole matrix, from its gradient in one dimension."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from apollo_torch import APOLLOAdamW
from typing_extensions import override

from dbl.training.optimizers.groups import described, parameters_of


class ApolloMini(APOLLOAdamW):
    """APOLLO-Mini (arXiv 2412.05270): matrices of linear layers are projected, others have the moments of AdamW.

    Args:
        params: described groups of parameters.
        lr: learning rate.
        weight_decay: coefficient of decoupled weight decay.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        rank: dimensions of the projected gradient.
        scale: square of the factor on the steps of projected matrices.
        update_proj_gap: steps between new random projections.
    """

    describe_groups: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        rank: int = 1,
        scale: float = 128.0,
        update_proj_gap: int = 200,
    ) -> None:
        named = described(params)
        projected = [one for one in named if one.decays and one.parameter.ndim == 2]
        chosen = {id(one.parameter) for one in projected}
        rest = [one for one in named if id(one.parameter) not in chosen]
        projection = {"rank": rank, "scale": scale, "scale_type": "tensor", "proj": "random", "proj_type": "std"}
        groups: list[dict[str, Any]] = [
            {"params": parameters_of(projected), "update_proj_gap": update_proj_gap, **projection},
            *({"params": parameters_of(one for one in rest if one.decays == decays)} for decays in (True, False)),
        ]
        used = [group for group in groups if group["params"]]
        super().__init__(used, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = super().step(closure)
        for state in self.state.values():
            if "projector" in state:  # an object, whose tensor is state like the moments
                projector = state["projector"]
                state |= {"projection": projector.ortho_matrix, "projection_seed": projector.seed}
        return loss

    @override
    def state_dict(self) -> dict[str, Any]:
        """The state in numbers and tensors alone."""
        plain: dict[str, Any] = super().state_dict()
        without = {
            index: {key: value for key, value in state.items() if key != "projector"}
            for index, state in plain["state"].items()
        }
        return {**plain, "state": without}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state that `state_dict` gave."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for state in (self.state[parameter] for parameter in group["params"]):
                if "projection" in state:
                    projector = self._initialize_projector(group, state)
                    projector.ortho_matrix, projector.seed = state["projection"], state["projection_seed"]
                    state["projector"] = projector

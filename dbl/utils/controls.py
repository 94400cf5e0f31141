"""Controls in a notebook: sliders and menus above what a function returns for their values."""

import sys
from base64 import b64encode
from collections.abc import Callable
from inspect import signature
from io import BytesIO
from typing import Any

from dbl.utils.errors import UserError, one_line, optional_package, suggestion
from dbl.utils.plotting import DPI


def interact(draw: Callable[..., Any], **choices: Any) -> None:
    """Show sliders, menus and fields in a notebook, and below them what a function returns for their values.

    The picture is an output of the cell like any other and is replaced when a control is moved; `ipywidgets.interact`
    shows it inside a widget. So a notebook that is executed without a browser, and its copy as a page, have the picture
    for the first values. What is said by a UserError is shown in its place.

    Raises UserError if `ipywidgets` is not installed, or a choice is none or for an argument that there is not.

    Args:
        draw: function of the choices. A figure of matplotlib, a text, or whatever a notebook can display.
        choices: values to offer for each argument, as for `ipywidgets.interact`: `(low, high)` or `(low, high, step)`
            for a slider, a list or dict for a menu, a bool for a box, a text for a field, or a widget. The first value
            is the default of the argument, if it has one.

    Example:
        >>> import dbl
        >>> noise = dbl.LogNormalNoise()
        >>> def boundaries(num_blocks=3):
        ...     return str(dbl.PartitionConfig(num_blocks=num_blocks).build(noise, num_layers=6).boundaries)
        >>> dbl.interact(boundaries, num_blocks=(1, 6))  # doctest: +SKIP
    """
    widgets = optional_package("ipywidgets", "notebook", "dbl.interact")
    from IPython.display import display  # ipywidgets needs it too

    arguments = signature(draw).parameters
    if unknown := [name for name in choices if name not in arguments]:
        raise UserError(f"dbl.interact: {unknown[0]} is no argument of the function{suggestion(unknown[0], arguments)}")
    controls = {name: _control(widgets, choice, name, arguments[name].default) for name, choice in choices.items()}

    def shown() -> dict[str, Any]:
        return _output(draw, {name: control.value for name, control in controls.items()})

    display(widgets.VBox(list(controls.values())))
    output = display(shown(), raw=True, display_id=True)
    for control in controls.values():
        control.observe(lambda _: output.update(shown(), raw=True), "value")


def _control(widgets: Any, choice: Any, name: str, default: Any) -> Any:
    """The widget that offers a choice."""
    control = choice
    if not isinstance(choice, widgets.Widget):
        control = widgets.interactive.widget_from_abbrev(choice, default)
    if control is None:
        raise UserError(f"dbl.interact: {name} must be what ipywidgets.interact takes, such as (low, high) or a list")
    control.description = control.description or name.replace("_", " ")
    if control.has_trait("continuous_update"):
        control.continuous_update = False  # once a slider is released: an answer may take seconds
    return control


def _output(draw: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """What a function returns, as data of a notebook by their types; the message of an error of the user."""
    from IPython.core.interactiveshell import InteractiveShell

    try:
        found = draw(**values)
    except UserError as error:
        found = one_line(error)
    if isinstance(found, str):
        return {"text/plain": found}
    if hasattr(found, "savefig"):
        return {"image/png": _png(found), "text/plain": repr(found)}
    return dict(InteractiveShell.instance().display_formatter.format(found)[0])  # type: ignore[union-attr]


def _png(figure: Any) -> str:
    """A figure of matplotlib as a picture; pyplot, if it made it, does not show it a second time."""
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=DPI, bbox_inches="tight")
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(figure)
    return b64encode(picture.getvalue()).decode()

"""Reading the files of TensorBoard back."""

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata


def events_in(folder: Path) -> EventAccumulator:
    """Everything that a log holds."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def texts_in(folder: Path) -> dict[str, list[tuple[int, str]]]:
    """Steps and texts by their name."""
    events = events_in(folder)
    return {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
        if tag.endswith("/text_summary")
    }


def choices_in(folder: Path) -> dict[str, Any]:
    """The row of a log in the tab HPARAMS."""
    content = events_in(folder).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in hparams.items()}


def layout_in(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Category -> title of a chart -> regular expressions of its curves."""
    (event,) = events_in(folder).Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }

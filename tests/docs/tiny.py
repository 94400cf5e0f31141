"""Configs reduced to networks that train in a second."""

from typing import Any

_NETWORK = {
    "width": 16,
    "num_heads": 2,
    "mlp_width": 24,
    "patch_size": 4,
    "mean_iterations": 3,
    "backprop_iterations": 1,
}
_NOISE = {"num_draws": 64, "num_levels": 24}
_DATA = {"batch_size": 16, "eval_batch_size": 200, "seq_len": 64}
_GROUPS: dict[str, dict[str, Any]] = {
    "trainer": {"max_steps": 2, "val_check_interval": 2, "accelerator": "cpu", "enable_progress_bar": False},
    "checkpoint": {"every_n_steps": 2},
    "memory": {"step": 2},
    "inference": {"num_images": 4},
    "image_quality": {"features": "none"},
    "text_quality": {"num_texts": 2, "num_tokens": 4, "prompt_tokens": 4, "scoring_model": None, "mauve": False},
    "likelihood": {"levels_per_block": 1},
    "diagnostics": {"num_samples": 6, "levels_per_block": 2},
}
# The characters of a short piece of text and its continuations.
_ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127)) + "°ß–—‘’“”…"


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """The same classes, layers and partition, with everything else small.

    Args:
        config: parsed YAML, which is changed and returned.
    """
    contract, data = config["contract"], config["data"]
    for chosen, small in ((contract["network"], _NETWORK), (contract["noise"], _NOISE), (data, _DATA)):
        given = chosen.get("init_args", {})
        given.update({name: value for name, value in small.items() if name in given})
    for group, small in _GROUPS.items():
        if group in config:
            config[group].update(small)
    if contract["target"]["class_path"] == "dbl.TokenTarget":
        contract["target"]["init_args"]["dim"] = 12
    if "seq_len" in data["init_args"]:
        data["init_args"]["max_tokens"] = 6000
    if data["class_path"] == "dbl.PyDoc":
        data["init_args"]["tokenizer"] = {"class_path": "dbl.Characters", "init_args": {"alphabet": _ALPHABET}}
    return config

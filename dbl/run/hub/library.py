"""Assembled models on the Hugging Face hub: safetensors and JSON, checked before upload and after download."""

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

from dbl.run.inference import InferenceConfig
from dbl.run.model_folder import ModelFolder
from dbl.utils.errors import UserError, optional_package
from dbl.utils.markdown import plain

_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATTERNS = ["*.json", "*.safetensors"]
# Folder of a run in a repository, beside the model that was assembled from it; see `shared_run`.
RUN = "run"
_OF_PIPELINE = [
    *("model_index.json", "config.json", "*.safetensors.index.json", "diffusion_pytorch_model*.safetensors"),
    *("transformer/*.json", "transformer/*.safetensors", "scheduler/*.json"),
]
# Files of an earlier upload that this one may lack; a user's own files stay.
_OURS = ["block_*.safetensors", "table.safetensors", "tokenizer.json"]


def hub_library() -> ModuleType:
    """The module `huggingface_hub`, imported only where it is needed. Raises UserError if it is not installed."""
    return optional_package("huggingface_hub", "hub", "a model on the hub")


def check_repo_id(repo_id: str) -> None:
    """Raise UserError unless `repo_id` has the form `owner/name`."""
    if not _REPO_ID.fullmatch(repo_id) or repo_id.rpartition("/")[2] in (".", ".."):
        raise UserError(f"{repo_id!r} is not the name of a model on the hub: write owner/name")


def is_on_hub(name: Path) -> bool:
    """Whether a name is that of a repository: `owner/name`, where `owner` is no folder here."""
    return _REPO_ID.fullmatch(name.as_posix()) is not None and not name.parent.exists() and name.parent.name != "runs"


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model, downloaded if it is not on this machine.

    Raises UserError if a run is not assembled, the hub has no such model or cannot be reached, or a revision of a
    folder is asked for.

    Args:
        name: model folder, or run folder; if there is none, a string `owner/name` is looked up on the hub. A `Path` is
            always a folder.
        revision: branch, tag or commit on the hub; by default its main branch.
    """
    if Path(name).is_dir() or not isinstance(name, str) or not _REPO_ID.fullmatch(name):
        if revision is not None:
            raise UserError(
                f"revision ({revision}) is for models on the hub, named owner/name: leave it out for {name}"
            )
        return _model_of_run(Path(name))
    return _downloaded(name, _PATTERNS, revision)


def find_pipeline(name: str) -> Path:
    """The folder of a pipeline of diffusers; errors as in `find_model`. Of one on the hub, what `dbl convert` reads."""
    return Path(name) if Path(name).is_dir() or not _REPO_ID.fullmatch(name) else _downloaded(name, _OF_PIPELINE)


def _downloaded(name: str, patterns: list[str], revision: str | None = None) -> Path:
    with reaching(f"there is no folder {name}, and the model {name} could not be read from the hub"):
        library, ignored = hub_library(), [f"{RUN}/*"]
        return Path(
            library.snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=ignored)
        )


def _model_of_run(folder: Path) -> Path:
    """The model folder of a run folder; any other folder itself."""
    if not (folder / "contract.json").is_file() or (folder / "config.json").is_file():
        return folder
    if not (folder / "model" / "config.json").is_file():
        raise UserError(f"{folder} is not assembled yet: run dbl assemble {folder}")
    return folder / "model"


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False, trusted: Collection[str] = ()) -> str:
    """Upload a model folder and a model card.

    Files of an earlier upload that this model lacks are removed there; the history of the repository keeps them.
    Returns the address of the model. Raises UserError if the folder is not a whole model, the repository is public
    although `private` is asked for, or the hub cannot be reached.

    Args:
        folder: model folder written by `dbl assemble`, or its run folder.
        repo_id: repository `owner/name`; created if it does not exist.
        private: whether only its owner may read it.
        trusted: packages of your own that the model may import; see `BlockStack.from_pretrained`.

    Example:
        >>> import dbl
        >>> dbl.push_to_hub("runs/digits_dit/model", "somebody/digits-dit")  # doctest: +SKIP
        'https://huggingface.co/somebody/digits-dit'
        >>> dbl.push_to_hub("runs/digits_dit/model", "digits-dit")
        Traceback (most recent call last):
            ...
        dbl.utils.errors.UserError: 'digits-dit' is not the name of a model on the hub: write owner/name
    """
    check_repo_id(repo_id)
    model, library = ModelFolder(find_model(Path(folder)), trusted), hub_library()
    api = library.HfApi()
    with reaching(f"{repo_id} could not be written to the hub"):
        address = str(api.create_repo(repo_id, private=private, exist_ok=True))
        check_private(api, repo_id, private)
        files = ["config.json", *model.config["files"]]
        api.upload_folder(repo_id=repo_id, folder_path=str(model.path), allow_patterns=files, delete_patterns=_OURS)
        card = model_card(model, repo_id).encode()
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo_id)
    return address


def check_private(api: Any, repo_id: str, private: bool) -> None:
    """Raise UserError if a repository is public although `private` is asked for: an existing one stays what it is."""
    if private and not api.model_info(repo_id).private:
        raise UserError(f"{repo_id} exists on the hub and is public: make it private there or choose another name")


@contextmanager
def reaching(failure: str, denied: str | None = None) -> Iterator[None]:
    """Turn an error of the hub or of the network into one line that begins with `failure`.

    Args:
        failure: description of what could not be done.
        denied: the whole line if the hub says that this account may not do it.
    """
    errors = hub_library().errors
    # The bases are the errors of the HTTP library, which differs between major versions of huggingface_hub.
    handled = (OSError, errors.HFValidationError, *errors.HfHubHTTPError.__bases__)
    try:
        yield
    except handled as error:
        if denied is not None and getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise UserError(denied) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{failure} ({type(error).__name__}: {reason}): check the name, the network, and `hf auth login` for what "
            "is private"
        ) from None


def model_card(model: ModelFolder, repo_id: str) -> str:
    """The README.md of a repository: what the model is, the contract of its blocks and how to load it."""
    contract = model.contract
    config, partition = contract.config, contract.partition
    return f"""---
library_name: dbl
tags: [diffusion-blocks, pytorch-lightning]
---
# {repo_id.split("/")[1]}

A residual network whose blocks were trained apart, each as a denoiser for its own noise levels (DiffusionBlocks, \
arXiv 2506.14202), assembled by `dbl`.

- network: {type(config.network).__name__}, {sum(partition.layers)} layers
- target: {type(config.target).__name__}
- data: {plain(contract.data.name)}
- weights: {"exponential moving average" if model.config["weights"] == "ema" else "live"}
- blocks, of {partition.num_blocks}: {partition.describe(model.available)}
- used by default with: {_described(model.inference)}
- contract: `{contract.hash}`

```python
from dbl import BlockStack

stack = BlockStack.from_pretrained("{repo_id}")
```

`config.json` holds the contract and the SHA-256 of every file, which are compared when the model is loaded.
"""


def _described(inference: InferenceConfig) -> str:
    """The settings that decide what is sampled, by their names."""
    sampler = ", ".join(f"{name} {value}" for name, value in asdict(inference.sampler).items())
    return f"{sampler}, ensemble {str(inference.ensemble).lower()}, seed {inference.seed}"

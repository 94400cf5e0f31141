"""Uploading a run to the Hugging Face hub: all of it, or the blocks that a repository lacks, in one commit."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dbl.run.assembly import read_block, unfinished_blocks
from dbl.run.checkpoints import read_training
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.hub.block_file import write_block_file
from dbl.run.hub.library import RUN, check_private, hub_library, reaching
from dbl.run.hub.shared_run import HubRun, block_name, check_steps, files_to_push
from dbl.run.hub.shared_training import SharedTraining
from dbl.run.model_folder import load_denoiser
from dbl.utils.errors import UserError
from dbl.utils.markdown import plain
from dbl.utils.serialization import to_plain


class Pushed(NamedTuple):
    """What an upload did.

    Attributes:
        address: address of the repository, or of the pull request.
        blocks: blocks that were uploaded.
        is_new: whether the rest of the run was uploaded as well.
    """

    address: str
    blocks: list[int]
    is_new: bool


def push_new_run(
    run: RunFolder,
    repo_id: str,
    training: SharedTraining,
    blocks: Sequence[int] | None = None,
    private: bool = False,
) -> Pushed:
    """Upload a run: its contract, what others need to train a block of it, and its finished blocks.

    Raises UserError if a block is absent, unfinished, damaged or trained for another number of steps, the model from
    which the blocks start is missing, the repository is public although `private` is asked for, or the hub cannot be
    reached or written to.

    Args:
        run: run folder.
        repo_id: repository `owner/name`, which holds no run; created if it does not exist.
        training: settings of the training of its blocks.
        blocks: blocks to upload; None: all that are finished.
        private: whether only its owner may read the repository.
    """
    contract = run.load_contract()
    chosen = _finished(run, contract) if blocks is None else list(blocks)
    _check_finished(run, contract, chosen, training.steps(contract), repo_id)
    contents: dict[str, bytes | Path] = {f"{RUN}/{name}": path for name, path in files_to_push(run, contract)}
    contents[f"{RUN}/training.json"] = (json.dumps(to_plain(training), indent=2) + "\n").encode()
    contents["README.md"] = run_card(contract, training, repo_id).encode()
    api = hub_library().HfApi()
    with reaching(f"{repo_id} could not be written to the hub"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        check_private(api, repo_id, private)
    address = _commit(run, repo_id, chosen, f"A run of {contract.partition.num_blocks} blocks", contents)
    return Pushed(address, chosen, is_new=True)


def push_blocks(
    run: RunFolder, there: HubRun, blocks: Sequence[int] | None = None, create_pr: bool = False, replace: bool = False
) -> Pushed:
    """Upload blocks of a run to a repository that holds its contract.

    Raises UserError if the contract is another one, a block is absent, unfinished, damaged, trained for another number
    of steps or there already, or this account may not write there.

    Args:
        run: run folder.
        there: the run on the hub.
        blocks: blocks to upload; None: all that are finished and not there.
        create_pr: propose them as a pull request, for which no write access is needed.
        replace: whether blocks that are there may be replaced.
    """
    contract = there.contract
    ours = run.load_contract().hash
    if ours != contract.hash:
        raise UserError(
            f"{there.repo_id} holds a run of another contract ({contract.hash[:12]}, {run.path} has {ours[:12]}): "
            "push to another name"
        )
    if blocks is None:
        blocks = [block for block in _finished(run, contract) if block not in there.blocks]
    _check_finished(run, contract, blocks, there.steps, there.repo_id)
    check_absent(there, blocks, replace)
    if not blocks:
        return Pushed(there.repo_id, [], is_new=False)
    title = f"Block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"
    address = _commit(run, there.repo_id, blocks, title, create_pr=create_pr, parent=there.revision)
    return Pushed(address, list(blocks), is_new=False)


def check_absent(there: HubRun, blocks: Sequence[int], replace: bool) -> None:
    """Raise UserError if a block is there already and may not be replaced."""
    present = [block for block in blocks if block in there.blocks]
    if present and not replace:
        raise UserError(
            f"{there.describe(present[0])}, is there already: leave it, or put yours in its place with --replace"
        )


def _finished(run: RunFolder, contract: Contract) -> list[int]:
    missing = unfinished_blocks(run, contract)
    return [block for block in range(contract.partition.num_blocks) if block not in missing]


def _check_finished(run: RunFolder, contract: Contract, blocks: Sequence[int], steps: list[int], repo_id: str) -> None:
    """Raise UserError unless these blocks can be assembled, and were trained for as many steps as their run says."""
    for block in blocks:
        contract.partition.check_block(block)
        part = read_block(run, contract, block)
        check_steps(part, block, steps, repo_id)
        load_denoiser(contract, block, part.weights, run.checkpoint(f"block_{block}"))


def _commit(
    run: RunFolder,
    repo_id: str,
    blocks: Sequence[int],
    title: str,
    contents: Mapping[str, bytes | Path] = MappingProxyType({}),
    create_pr: bool = False,
    parent: str | None = None,
) -> str:
    """Upload blocks and other contents by their names there, in one commit. Returns the address to look at."""
    library = hub_library()
    chosen = f" --blocks {','.join(map(str, blocks))}" if blocks else ""
    denied = (
        f"{repo_id} cannot be written to by this account: dbl push {run.path} {repo_id}{chosen} --create_pr proposes a "
        "block, or see `hf auth login`"
    )
    with tempfile.TemporaryDirectory(prefix="dbl_push_") as folder:
        files = dict(contents)
        for block in blocks:
            files[f"{RUN}/{block_name(block)}"] = path = Path(folder, block_name(block))
            write_block_file(path, read_training(run.checkpoint(f"block_{block}")))
        operations = [library.CommitOperationAdd(name, content) for name, content in files.items()]
        with reaching(f"{repo_id} could not be written to the hub", denied):
            # On top of what was read: a block that others push in the meantime is not replaced unseen.
            done = library.HfApi().create_commit(
                repo_id, operations, commit_message=title, create_pr=create_pr, parent_commit=parent
            )
    return str(done.pr_url or done.repo_url)


def run_card(contract: Contract, training: SharedTraining, repo_id: str) -> str:
    """The README.md of a run: what it is, and how others train a block of it."""
    partition = contract.partition
    return f"""---
library_name: dbl
tags: [diffusion-blocks, pytorch-lightning]
---
# {repo_id.split("/")[1]}

A run of `dbl`: a residual network whose {partition.num_blocks} blocks are trained apart, each as a denoiser for its \
own noise levels (DiffusionBlocks, arXiv 2506.14202), by whoever likes to train one.

- network: {type(contract.config.network).__name__}, {sum(partition.layers)} layers
- data: {plain(contract.data.name)}
- blocks: {partition.describe(range(partition.num_blocks))}
- training of block 0: {plain(training.describe(contract, 0))}
- contract: `{contract.hash}`

```bash
dbl fit --from_hub {repo_id} --model.block 0 --push
dbl assemble {repo_id}
```

The first command trains a block and adds it here (`--create_pr` proposes it, without write access); the second \
checks the blocks that are here, says who trained them, and assembles the network.
"""

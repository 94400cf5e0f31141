"""Models on the Hugging Face hub, with local folders in the place of the network."""

import inspect
import re
import shutil
import sys
from dataclasses import fields, replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from local_hub import LocalHub, install
from toy import fit, recipe
from toy_text import fit_text, text_contract

from dbl.commands.main import main
from dbl.inference.stack import BlockStack
from dbl.run.assembly import assemble
from dbl.run.contract import Contract
from dbl.run.folder import RunFolder
from dbl.run.hub import library as hub_files, push as hub_push, shared_run as hub_run
from dbl.run.hub.library import model_card, push_to_hub
from dbl.run.model_folder import ModelFolder
from dbl.training.block import DiffusionBlock
from dbl.utils.errors import UserError

_METHODS = (
    *("create_repo", "model_info", "upload_folder", "upload_file"),
    *("list_repo_tree", "list_repo_commits", "get_paths_info", "create_commit"),
)
# What the HTTP library of huggingface_hub raises when there is no network: it is no OSError in every version.
NETWORK_FAULT = HfHubHTTPError.__bases__[0]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """Take the place of the functions of huggingface_hub that `dbl` calls."""
    hub = LocalHub(tmp_path / "hub")
    install(hub, monkeypatch)
    return hub


@pytest.fixture(scope="module")
def trained(dit_contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder("dit", str(tmp_path_factory.mktemp("runs")))
    run.write_contract(dit_contract)
    for block in range(3):
        fit(DiffusionBlock(dit_contract, block, recipe()), run.path)
    assemble(run)
    return run


@pytest.fixture
def run(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of an assembled run that a test may change."""
    shutil.copytree(trained.path, tmp_path / "dit")
    return RunFolder("dit", str(tmp_path))


def test_a_model_comes_back_from_the_hub_as_it_was(run: RunFolder, hub: LocalHub) -> None:
    """Catches a file that is not uploaded or not downloaded, and a revision that is ignored."""
    assert push_to_hub(run.model, "ada/dit") == "https://hub/ada/dit"
    hub.tags["v1"] = hub.folder("ada/dit").name
    stack = BlockStack.from_pretrained("ada/dit", revision="v1")
    assert hub.asked == [("ada/dit", "v1")]
    expected = BlockStack.from_pretrained(run.model).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stack.state_dict().items())


def test_an_upload_has_the_model_and_its_card_alone(run: RunFolder, hub: LocalHub) -> None:
    """Catches a stray file of the folder that goes public, and a card that does not name the contract."""
    (run.model / "notes.txt").write_text("private")
    (run.model / "notes.json").write_text("{}")
    push_to_hub(run.model, "ada/dit")
    names = {path.name for path in hub.folder("ada/dit").iterdir()}
    assert names == {"README.md", "config.json", *(f"block_{block}.safetensors" for block in range(3))}
    card = (hub.folder("ada/dit") / "README.md").read_text()
    assert ModelFolder(run.model).contract.hash in card
    assert 'from_pretrained("ada/dit")' in card


def test_a_name_has_no_effect_in_the_card(run: RunFolder) -> None:
    """Catches a data set whose name puts a link, a picture or HTML into the page of the user's own model."""
    model = ModelFolder(run.model)
    model.contract.data = replace(model.contract.data, name="a\n# b ![c](http://d) <img src=e>")
    card = model_card(model, "ada/dit")
    assert "- data: a # b !\\[c\\](http://d) \\<img src=e\\>\n" in card


def test_a_download_takes_safetensors_and_json_alone(run: RunFolder, hub: LocalHub) -> None:
    """Catches a pickle or a program that comes along with a model."""
    push_to_hub(run.model, "ada/dit")
    (hub.folder("ada/dit") / "pytorch_model.bin").write_bytes(b"pickle")
    (hub.folder("ada/dit") / "setup.py").write_text("")
    BlockStack.from_pretrained("ada/dit")
    assert {Path(name).suffix for name in hub.downloads} == {".safetensors", ".json"}


def test_blocks_of_an_earlier_upload_are_removed_and_other_files_stay(run: RunFolder, hub: LocalHub) -> None:
    """Catches a partial model whose repository still shows the old block, and an upload that empties a repository."""
    push_to_hub(run.model, "ada/dit")
    (hub.folder("ada/dit") / "samples.json").write_text("{}")
    run.checkpoint("block_1").unlink()
    assemble(run, allow_partial=True)
    push_to_hub(run.model, "ada/dit")
    names = {path.name for path in hub.folder("ada/dit").iterdir()}
    assert names == {"README.md", "config.json", "block_0.safetensors", "block_2.safetensors", "samples.json"}
    assert BlockStack.from_pretrained("ada/dit").available == (0, 2)


def test_a_damaged_model_does_not_leave(run: RunFolder, hub: LocalHub) -> None:
    """Catches an upload of files that were not checked."""
    (run.model / "block_2.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"block_2.safetensors is damaged"):
        push_to_hub(run.model, "ada/dit")
    assert not (hub.root / "ada/dit").exists()


def test_a_damaged_download_is_refused(run: RunFolder, hub: LocalHub) -> None:
    """Catches a download that is used without its checksums."""
    push_to_hub(run.model, "ada/dit")
    (hub.folder("ada/dit") / "block_0.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"block_0.safetensors is damaged"):
        BlockStack.from_pretrained("ada/dit")


def test_a_private_model_does_not_go_to_a_public_repository(run: RunFolder, hub: LocalHub) -> None:
    """Catches `private` that an existing repository overrules: the hub keeps its visibility without a word."""
    hub.create_repo("ada/dit", private=False, exist_ok=True)
    with pytest.raises(UserError, match=r"ada/dit exists on the hub and is public"):
        push_to_hub(run.model, "ada/dit", private=True)
    assert list(hub.folder("ada/dit").iterdir()) == []
    push_to_hub(run.model, "ada/secret", private=True)
    assert hub.private == {"ada/dit": False, "ada/secret": True}


def test_a_folder_goes_before_the_hub(
    run: RunFolder, hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a local model in a folder such as `run/model` that is looked up on the hub, also when it is absent."""
    monkeypatch.chdir(tmp_path)
    BlockStack.from_pretrained("dit/model")
    with pytest.raises(UserError, match=r"nowhere/model is not an assembled model"):
        BlockStack.from_pretrained(Path("nowhere/model"))
    with pytest.raises(UserError, match=r"revision \(v1\)"):
        BlockStack.from_pretrained("dit/model", revision="v1")
    assert hub.asked == []


@pytest.mark.parametrize(
    "fault",
    [
        NETWORK_FAULT("no route to host"),
        LocalEntryNotFoundError("no route to host"),
        ConnectionError("no route to host"),
    ],
)
def test_a_fault_of_the_network_is_one_line(
    fault: Exception, run: RunFolder, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback of the HTTP library, in either direction."""

    def fail(*arguments: object, **options: object) -> None:
        raise fault

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"no folder ada/dit, .* from the hub \(.*no route to host\)") as caught:
        BlockStack.from_pretrained("ada/dit")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(hub, "create_repo", fail)
    with pytest.raises(UserError, match=r"ada/dit could not be written to the hub \(.*no route to host\)"):
        push_to_hub(run.model, "ada/dit")


def test_without_the_extra_one_line_says_what_to_install(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an ImportError, and local folders that need the package."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[hub\]"'):
        BlockStack.from_pretrained("ada/dit")
    with pytest.raises(UserError, match=r'pip install -e "\.\[hub\]"'):
        push_to_hub(run.model, "ada/dit")
    BlockStack.from_pretrained(str(run.model))


def test_the_command_assembles_and_uploads(run: RunFolder, hub: LocalHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches options that are read nowhere, and a mistyped name that is found out after the work."""
    assert main(["assemble", str(run.path), "--weights", "live", "--push", "ada/dit", "--private"]) == 0
    assert "pushed: https://hub/ada/dit" in capsys.readouterr().out
    assert hub.private == {"ada/dit": True}
    assert BlockStack.from_pretrained("ada/dit").weights == "live"
    shutil.rmtree(run.model)
    assert main(["assemble", str(run.path), "--push", "dit"]) == 2
    assert "'dit' is not the name of a model on the hub" in capsys.readouterr().err
    assert main(["assemble", str(run.path), "--private"]) == 2
    assert "--private is for --push" in capsys.readouterr().err
    assert not run.model.exists()


@pytest.mark.parametrize("kind", ["clean", "masked"])
def test_the_program_in_the_card_loads_the_model(kind: str, tmp_path: Path, hub: LocalHub) -> None:
    """Catches a card whose lines fail: masked text needs a sampler of its own."""
    contract = text_contract(kind)
    run = RunFolder(kind, str(tmp_path))
    run.write_contract(contract)
    for block in range(3):
        fit_text(DiffusionBlock(contract, block), run.path, steps=2)
    assemble(run)
    push_to_hub(run.model, "ada/text")
    card = model_card(ModelFolder(run.model), "ada/text")
    names: dict[str, object] = {}
    exec(card.split("```python")[1].split("```")[0], names)
    assert isinstance(names["stack"], BlockStack)


def test_the_stand_in_is_called_as_the_library_is() -> None:
    """Catches a call that the installed huggingface_hub would refuse, which a stand-in cannot notice."""
    for name in ("snapshot_download", *_METHODS):
        ours = inspect.signature(getattr(LocalHub, name)).parameters
        theirs = inspect.signature(getattr(huggingface_hub, name, None) or getattr(HfApi, name)).parameters
        for parameter in [found for found in ours.values() if found.name != "self"]:
            assert parameter.name in theirs, f"{name} has no {parameter.name}"
            assert theirs[parameter.name].kind in (parameter.kind, parameter.POSITIONAL_OR_KEYWORD), name
    assert list(inspect.signature(huggingface_hub.CommitOperationAdd).parameters) == ["path_in_repo", "path_or_fileobj"]
    for kind, attributes in {
        huggingface_hub.CommitInfo: {"pr_url", "repo_url"},
        huggingface_hub.hf_api.RepoFile: {"path", "size", "last_commit"},
        huggingface_hub.hf_api.GitCommitInfo: {"commit_id", "authors"},
        huggingface_hub.hf_api.LastCommitInfo: {"oid"},
        huggingface_hub.ModelInfo: {"sha", "private"},
    }.items():
        assert attributes <= {field.name for field in fields(kind)}, kind


def test_every_function_of_the_hub_that_is_called_is_in_the_stand_in() -> None:
    """Catches a call that the check of signatures leaves out."""
    called = set()
    for path in (Path(hub_push.__file__), Path(hub_run.__file__), Path(hub_files.__file__)):
        called |= set(re.findall(r"(?:api|HfApi\(\))\.(\w+)\(", path.read_text()))
    assert called == set(_METHODS)

"""Every config in `configs/` is whole: it parses, every key has a comment, and its blocks can be built and trained."""

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.data import HubImages
from dbl.training.memory.synthetic_step import samples

CONFIGS = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
REQUIRED = {"digits_dit", "digits_vit", "mnist_dit", "cifar10_vit", "cifar10_dit", "cifar100_vit", "tiny-imagenet_vit"}
REQUIRED |= {"cifar10_dit_s2", "imagenet256_dit_l2", "dit_xl2_256_convert"}
REQUIRED |= {"pydoc_ar", "pydoc_mdm", "pydoc_huginn", "shakespeare_ar", "shakespeare_mdm", "books_mdm"}
REQUIRED |= {"lm1b_ar", "owt_ar", "text8_mdm", "lm1b_huginn"}
# Configs for data of one's own, and the names of their runs.
NAMED_AFTER_DATA = {"image_folder_dit": "photos_dit", "text_files_ar": "reviews_causallm", "wine_mlp": "wine_mlp"}
REQUIRED |= NAMED_AFTER_DATA.keys()

pytestmark = pytest.mark.usefixtures("without_data")


def test_all_configs_are_there() -> None:
    """Catches a glob that finds nothing, and a config that was lost or renamed."""
    assert {path.stem for path in CONFIGS} >= REQUIRED


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_builds_every_block_and_takes_a_step(path: Path) -> None:
    """Catches a key that does not exist, layers that do not split, and networks that do not fit data or target."""
    run = RunConfig(config_parser().parse_args(["--config", str(path)]))
    assert run.run.name == NAMED_AFTER_DATA.get(path.stem, path.stem)
    data = run.data.declared_spec
    contract = run.contract_config.build(data)
    assert sum(contract.partition.layers) == run.contract_config.network.num_layers
    assert min(run.inference.sampler.calls_per_block(contract.noise, contract.partition)) >= 1
    with FakeTensorMode(allow_non_fake_inputs=True):
        for block in range(contract.partition.num_blocks):
            denoiser = contract.denoiser(block)
            space, level = contract.space(), torch.rand(2)
            clean = space.encode(samples(data, 2))
            noisy = space.corrupt(clean.clean, torch.randn(clean.clean.shape), level)
            denoiser.loss(clean, noisy, level).mean().backward()
            assert all(parameter.grad is not None for parameter in denoiser.parameters())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_has_a_comment(path: Path) -> None:
    """Catches a key that a reader has to look up in the code."""
    lines = path.read_text().splitlines()
    leaves = [line for line in lines if re.match(r"\s*(- )?[a-z_]+:", line) and "class_path" not in line]
    bare = [line for line in leaves if "#" not in line and not line.rstrip().endswith(":")]
    assert bare == []
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_hub_config_names_where_local_files_go(path: Path) -> None:
    """Catches a config whose data cannot be given locally: without a hub each must say which file it wants."""
    run = RunConfig(config_parser().parse_args(["--config", str(path)]))
    if isinstance(run.data, HubImages):
        assert run.values.data.init_args.data_dir is None
        assert run.values.data.init_args.path.split("/")[-1] in path.read_text()

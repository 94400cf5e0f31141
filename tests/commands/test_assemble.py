"""`dbl assemble` from the command line: partial models, the choice of weights, errors as one line."""

from pathlib import Path

import pytest

from dbl.commands.main import main
from dbl.run.model_folder import ModelFolder

from .conftest import Run

RUN = "runs/digits_dit"


def test_a_partial_model_is_made_refused_where_it_is_not_enough_and_replaced(
    dbl: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches another spelling of the option, a partial model that is evaluated, and one that stays for good."""
    assert dbl("fit", "digits_dit", "--model.block=0") == 0
    assert main(["assemble", RUN]) == 2
    assert "block_1/checkpoints/last.ckpt does not exist" in capsys.readouterr().err
    assert main(["assemble", RUN, "--allow_partial"]) == 0
    printed = capsys.readouterr().out
    assert f"assembled: {RUN}/model (ema weights, partial, without block 1 (sigma " in printed
    assert ModelFolder(f"{RUN}/model").available == (0,)
    for refused in (lambda: dbl("test", "digits_dit"), lambda: main(["sample", RUN])):
        assert refused() == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dbl: ")]
        assert "block 1 (sigma " in line
        assert "block 2 (sigma " in line
        assert "dbl train --blocks 1,2 " in line
    assert not Path(f"{RUN}/samples.png").exists()
    assert not Path(f"{RUN}/report/report.json").exists()
    for block in (1, 2):
        assert dbl("fit", "digits_dit", f"--model.block={block}") == 0
    assert main(["assemble", RUN]) == 0
    assert ModelFolder(f"{RUN}/model").available == (0, 1, 2)
    assert main(["sample", RUN]) == 0


def test_the_chosen_weights_are_recorded_and_shown(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a choice that is ignored, or of which neither the user nor the model learns."""
    assert dbl("fit", "digits_dit", "--contract.partition.num_blocks=1") == 0
    contents = []
    for weights in ("live", "ema"):
        assert main(["assemble", RUN, "--weights", weights]) == 0
        assert f"assembled: {RUN}/model ({weights} weights)" in capsys.readouterr().out
        assert ModelFolder(f"{RUN}/model").config["weights"] == weights
        contents.append(Path(RUN, "model", "block_0.safetensors").read_bytes())
    assert contents[0] != contents[1]


def test_a_damaged_model_is_one_line(dbl: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, or an evaluation of weights of which a bit has flipped."""
    assert dbl("fit", "digits_dit", "--contract.partition.num_blocks=1") == 0
    assert main(["assemble", RUN]) == 0
    path = Path(RUN, "model", "block_0.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert main(["sample", RUN]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dbl: {path} is damaged or was changed")
    assert main(["assemble", RUN]) == 0
    ModelFolder(path.parent)

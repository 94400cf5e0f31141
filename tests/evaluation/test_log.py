"""The log of an evaluation: tables in place of charts with one point."""

from pathlib import Path

import lightning as L
from evaluation_toy import toy_stack
from event_files import choices_in, events_in, texts_in
from toy import Stripes

from dbl.evaluation.callbacks import Diagnostics
from dbl.evaluation.log import EvaluationLog, metrics_table
from dbl.evaluation.stack_evaluation import StackEvaluation


def _evaluate(folder: Path, command: str) -> dict[str, float]:
    """Evaluate an image network that no one trained; returns what was logged."""
    options = dict.fromkeys(["enable_progress_bar", "enable_model_summary", "enable_checkpointing"], False)
    log = EvaluationLog(folder, command, {"num_blocks": 3})
    trainer = L.Trainer(accelerator="cpu", logger=log, callbacks=[Diagnostics(6, 2)], **options)  # type: ignore[arg-type]
    (logged,) = getattr(trainer, command)(StackEvaluation(toy_stack("dit")), datamodule=Stripes(), verbose=False)
    return dict(logged)


def test_a_test_is_a_table_and_a_row_of_choices(tmp_path: Path) -> None:
    """Catches charts of one point, a value that no table has, and values of blocks among the columns of HPARAMS."""
    logged = _evaluate(tmp_path, "test")
    events, texts = events_in(tmp_path), texts_in(tmp_path)
    assert events.Tags()["scalars"] == []
    ((step, table),) = texts["test"]
    lines = table.splitlines()
    assert lines[0] == "|  | whole network | block 0 | block 1 | block 2 |"
    loss = next(line for line in lines if line.startswith("| loss |"))
    names = ["test/loss", *(f"test/loss_block_{block}" for block in range(3))]
    assert loss == f"| loss | {' | '.join(f'{logged[name]:.4g}' for name in names)} |"
    assert step == 0
    assert all(f"{value:.4g}" in table for value in logged.values())
    row = choices_in(tmp_path)
    assert row.pop("test/loss") == logged["test/loss"]
    assert row == {"num_blocks": 3}
    assert all(name.startswith("whole_network/") for name in events.Tags()["images"])


def test_another_test_replaces_the_first_one_and_leaves_a_validation(tmp_path: Path) -> None:
    """Catches values of an old test, of which TensorBoard would show the row for ever."""
    for command in ("test", "validate", "test"):
        _evaluate(tmp_path, command)
    texts = texts_in(tmp_path)
    assert len(list(tmp_path.glob("events*"))) == 2
    assert len(texts["test"]) == len(texts["val"]) == 1


def test_a_table_without_blocks_has_no_columns_for_them() -> None:
    """Catches a difference between two blocks that is taken for a value of the second one."""
    lines = metrics_table({"fid_digits": 12.3456, "boundary_difference_block_0_1": 0.5}).splitlines()
    assert lines == [
        "|  | whole network |",
        "| --- | --- |",
        "| fid_digits | 12.35 |",
        "| boundary_difference_block_0_1 | 0.5 |",
    ]

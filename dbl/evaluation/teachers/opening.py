"""From a name to a teacher."""

from pathlib import Path

import torch

from dbl.evaluation.teachers.hugging_face import HuggingFaceTeacher
from dbl.evaluation.teachers.run import RunTeacher
from dbl.evaluation.teachers.teacher import Teacher


def open_teacher(name: str, device: torch.device | str = "cpu") -> Teacher:
    """Load a teacher.

    Args:
        name: a run folder of `dbl` (it has a contract.json), another folder, or a name on the hub of Hugging Face.
        device: that it runs on.

    Raises:
        UserError: if there is no such teacher, or the packages that it needs are missing.
    """
    if (Path(name) / "contract.json").is_file():
        return RunTeacher(name, device)
    return HuggingFaceTeacher(name, device)

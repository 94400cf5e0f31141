"""Where the report of a profiler goes: into the folder of the part, not into a log that mixes all parts."""

from pathlib import Path

from lightning.pytorch.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler

_BY_NAME: dict[str, type[Profiler]] = {
    "simple": SimpleProfiler,
    "advanced": AdvancedProfiler,
    "pytorch": PyTorchProfiler,
}


def profiler_of(chosen: str | Profiler | None, folder: Path) -> Profiler | None:
    """The profiler of a part, which writes `<stage>-profile.txt`, by default into its folder.

    Args:
        chosen: value of `trainer.profiler`, built: a name, a profiler or nothing.
        folder: folder of the part. In a folder that the user chose for all parts, file names end in that of the part.
    """
    profiler = _BY_NAME[chosen]() if isinstance(chosen, str) else chosen
    if not isinstance(profiler, Profiler):
        return profiler
    name = profiler.filename or "profile"
    profiler.filename = f"{name}-{folder.name}" if profiler.dirpath else name
    profiler.dirpath = profiler.dirpath or folder
    return profiler

"""The options of the commands that train whole runs: where the blocks are trained, and whether anew."""

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from dbl.commands.launch.launcher import BackendName, Launch, untrained
from dbl.commands.launch.ray import RaySettings
from dbl.commands.launch.slurm import SlurmSettings
from dbl.commands.run_config import RunCLI

# Options that say where the blocks of one call are trained.
_OF_ONE_LAUNCH = ("backend", "workers", "dry_run", "ray", "slurm")


class LaunchCLI(RunCLI):
    """Parses the config of a whole run and where its blocks are trained.

    Args:
        arguments: the command line without program and command.

    Attributes:
        launch: where the blocks are trained.

    Raises:
        UserError: if the config is wrong, or the options do not fit together.
    """

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(arguments)
        self.launch = self._launch()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The groups of a run, and where to train."""
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--backend",
            type=BackendName,
            default="inline",
            help="inline: one block after another in this process; process: several at once on this machine; ray: "
            "tasks of a Ray cluster; slurm: a job array.",
        )
        parser.add_argument("--workers", type=int | None, default=None, help="Blocks at once; by default all there is.")
        parser.add_class_arguments(RaySettings, "ray")
        parser.add_class_arguments(SlurmSettings, "slurm")

    def _launch(self) -> Launch:
        config, devices = self.config, self.config.trainer.devices
        return Launch(
            backend=config.backend,
            workers=config.workers,
            devices=1 if devices in ("auto", "1") else devices,
            on_cpu=config.trainer.accelerator == "cpu",
            ray=RaySettings(**vars(config.ray)),
            slurm=SlurmSettings(**vars(config.slurm)),
            dry_run=config.get("dry_run", False),
        )

    def resolved(self) -> dict[str, Any]:
        """See `BlockCLI.resolved`; where the blocks are trained belongs to one call too."""
        return {key: value for key, value in super().resolved().items() if key not in _OF_ONE_LAUNCH}

    @property
    def scratch_option(self) -> list[str]:
        """`--from-scratch`, if this call has it, for the calls that it makes."""
        return ["--from-scratch"] if self.config.from_scratch else []

    def blocks_to_train(self, blocks: list[int]) -> list[int]:
        """Those of some blocks that are not trained to the last step yet, or all of them with `--from-scratch`."""
        if self.config.from_scratch:
            return blocks
        return untrained(self.run, self.contract, blocks, self.config.trainer.max_steps)

"""Options that make a run on the embedded digits so small that a block trains in a second, and from random weights."""

RANDOM_START = "--contract.start=dbl.RandomStart"
TINY = [
    RANDOM_START,
    "--contract.network.init_args.num_layers=3",
    "--contract.network.init_args.width=16",
    "--contract.network.init_args.num_heads=2",
    "--contract.network.init_args.patch_size=4",
    "--data.init_args.batch_size=32",
    "--trainer.accelerator=cpu",
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.enable_progress_bar=false",
    "--checkpoint.every_n_steps=2",
    "--previews.num_samples=0",
    "--inference.num_images=4",
    "--image_quality.features=none",
    "--likelihood.levels_per_block=2",
    "--diagnostics.num_samples=6",
    "--diagnostics.levels_per_block=2",
]

"""The short help of each command: its own options and the keys of a config that are overridden most.

`--help_all` has everything, from the parser; it imports what the command needs, which takes seconds.
"""

from dataclasses import dataclass, field

_WIDTH = 27


@dataclass(frozen=True)
class Help:
    """The short help of a command.

    Attributes:
        usage: words after the name of the command.
        summary: description in one line.
        options: its own options, as they are typed, and what each says.
        overrides: keys of a config, likewise.
    """

    usage: str
    summary: str
    options: dict[str, str]
    overrides: dict[str, str] = field(default_factory=dict)

    def text(self, command: str) -> str:
        """At most 30 lines."""
        lines = [f"usage: dbl {command} {self.usage}", "", self.summary, "", *_rows(self.options)]
        if self.overrides:
            lines += ["", "keys of the config that are often overridden", *_rows(self.overrides)]
        everything = f"dbl {command} --help_all lists all options"
        return "\n".join([*lines, "", f"{everything}; docs/configuration.md explains them."])


def _rows(options: dict[str, str]) -> list[str]:
    width = max(_WIDTH, *map(len, options))
    return [f"  {option:{width}}  {meaning}" for option, meaning in options.items()]


_CONFIG = {"--config FILE": "config in YAML; of several, the later one counts"}
_LENGTH = {"--trainer.max_steps N": "optimizer steps of each block"}
_BLOCKS = {"--contract.partition.num_blocks B": "number of blocks"}
_BATCH = {"--data.batch_size N": "samples in a batch"}
_PLACE = {"--run.name NAME": "folder of the run is runs/NAME"}
_DEVICE = {"--trainer.accelerator NAME": "auto, cpu, gpu or mps"}
_TRAINING = _PLACE | _LENGTH | _BLOCKS | _BATCH | _DEVICE
_LAUNCH = {
    "--backend NAME": "where blocks are trained: inline (default), process, ray or slurm",
    "--workers N": "blocks at once; by default all there is room for",
    "--ray.…, --slurm.…": "what a task of a cluster asks for, such as --slurm.minutes 240",
    "--from_scratch": "train anew what has been trained already",
}
_TRUST = {"--trust PACKAGE": "packages of your own with classes that the run names, with commas"}
_SAMPLING = {
    "--inference.sampler.num_steps N": "steps of the sampler",
    "--inference.num_images N": "images of the picture of samples",
    "--image_quality.num_images N": "generated images that are compared with real ones",
}


def _evaluation(split: str) -> Help:
    return Help(
        "--config FILE [options]",
        f"Evaluate the assembled network of a run on the {split} split.",
        _CONFIG | {"--verbose false": "print no table of metrics"},
        _PLACE | _DEVICE | _SAMPLING,
    )


HELP = {
    "train": Help(
        "--config FILE [options]",
        "Train all blocks of a run, then assemble, evaluate and report. Trained blocks stay, stopped ones go on.",
        _CONFIG
        | {"--blocks 0,2": "blocks to train; by default all; ancestor: only what they start from"}
        | _LAUNCH
        | {"--dry_run": "with slurm: print the scripts, submit nothing"},
        _TRAINING,
    ),
    "compare": Help(
        "--config FILE [options]",
        "Train blocks, the end-to-end network and one block for all levels, at equal compute; one report.",
        _CONFIG
        | {
            "--seeds 0,1,2": "seeds of training; by default contract.seed alone",
            "--rivals all": "recipes of less memory, the paper's training, windows, other methods",
            "--rival_lr RATES": "their learning rates, such as --rival_lr.muon=1e-3",
        }
        | _LAUNCH,
        _TRAINING,
    ),
    "sweep": Help(
        "--config FILE --set KEY=VALUES [options]",
        "Train for each combination of choices, or trials of a study; finished runs stay, stopped ones go on.",
        _CONFIG
        | {
            "--set KEY=1,2,3": "a key and its values; once for each key; all combinations are run",
            "--study N": "let Optuna draw N trials, also from ranges: KEY=0..0.2, KEY=log:1e-4..1e-2",
            "--metric NAME": "validation metric that chooses; by default accuracy, or else loss",
            "--name NAME": "folder of the sweep is runs/NAME; by default run.name and _sweep",
        }
        | {option: meaning for option, meaning in _LAUNCH.items() if option != "--from_scratch"},
        _TRAINING,
    ),
    "plan": Help(
        "--config FILE [options]",
        "Plan the memory of a training step by category, before any training and without allocating it.",
        _CONFIG
        | {
            "--num_blocks 2,3,4": "numbers of blocks to plan; by default those up to 6 that split the layers",
            "--rivals all": "plan further rivals: recipes that need less memory; all, or some of them",
            "--fit SIZE": "find the largest batch within this memory too, such as 12GB",
            "--device NAME": "whose kernels: cpu or cuda; by default what is here",
            "--output FILE": "picture; by default plan.png in the run folder",
            "--json": "print JSON",
        },
        _BATCH
        | _BLOCKS
        | {
            "--trainer.precision NAME": "32-true or bf16-mixed",
            "--model.recipe.activation_checkpointing true": "recompute layers in the backward pass",
        }
        | _DEVICE,
    ),
    "bench": Help(
        "--config FILE [options]",
        "Measure a training step of a block beside the whole network's, and its share of the device's peak.",
        _CONFIG
        | {
            "--num_steps N": "optimizer steps of which the median counts; by default 10",
            "--peak_tflops X": "peak of the device in TFLOP/s; by default published or measured",
            "--json": "print JSON",
        },
        _BATCH
        | _BLOCKS
        | {"--trainer.precision NAME": "32-true or bf16-mixed", "--model.recipe.compile true": "torch.compile"}
        | _DEVICE,
    ),
    "assemble": Help(
        "RUN [options]",
        "Check the blocks of a run and merge them into a model.",
        {
            "RUN": "run folder, such as runs/digits_dit, or a run on the hub: owner/name",
            "--weights NAME": "ema (the moving average, default) or live",
            "--allow_partial": "leave out blocks that are not finished; their levels are refused",
            "--push OWNER/NAME": "upload the model to this name on the Hugging Face hub",
            "--private": "with --push: a model that only its owner may read",
        }
        | _TRUST,
    ),
    "convert": Help(
        "SOURCE --num_blocks B --run.name NAME [options]",
        "Make a run whose blocks start from the layers of a network that was trained whole, for dbl train.",
        {
            "SOURCE": "run folder of one block; folder or hub name of diffusers; or .safetensors file",
            "--config FILE": "data, recipe and the rest, for a source that is no run of dbl",
            "--num_blocks B": "number of blocks",
            "--cut CUT": "interleaved (default), contiguous, or layers of each block: [[0,3],[1,4],[2,5]]",
            "--run.root FOLDER": "folder of all runs; by default runs",
        }
        | _PLACE
        | _TRUST,
    ),
    "push": Help(
        "RUN OWNER/NAME [options]",
        "Put a run on the Hugging Face hub, or the blocks that it lacks there, for others to train the rest.",
        {
            "RUN": "run folder, such as runs/digits_dit",
            "OWNER/NAME": "repository on the hub",
            "--blocks 0,2": "blocks to push; by default all that are finished and not there",
            "--private": "a new repository that only its owner may read",
            "--create_pr": "propose blocks as a pull request, without write access",
            "--replace": "with --blocks: put them in the place of those that are there",
        }
        | _TRUST,
    ),
    "sample": Help(
        "RUN [options]",
        "Draw images, or write text, with the assembled network of a run.",
        {
            "RUN": "run folder, such as runs/digits_dit",
            "--seed N": "random seed; by default 0",
            "--sampler.KEY VALUE": "as inference.sampler in a config, such as --sampler.num_steps 50",
            "--output FILE": "picture, or file for the texts",
            "--device NAME": "such as cpu or cuda:0; by default an accelerator if there is one",
        }
        | _TRUST
        | {
            "--classes 3,7": "images: classes to draw; by default all",
            "--num_images N": "images: how many; by default 64",
            "--batch_size N": "images: drawn together; by default 64",
            "--keep_in_memory one": "images: one block at a time in memory; by default all",
            "--prompt TEXT": "text: to continue",
            "--template TEXT": "text: gaps to fill, each `_` one token of masked text",
            "--hidden CHARACTER": "text: what stands for a gap in place of `_`",
            "--num_tokens N": "text: tokens to write; by default 200",
            "--num_texts N": "text: how many; by default 1",
            "--temperature X": "text: divisor of the logits; by default 1",
            "--top_k N, --top_p X": "text: draw from the most probable tokens alone",
            "--stop TOKEN": "text: token that ends a text",
            "--ensemble BOOL": "text: let all blocks answer together; by default as in the config",
            "--baseline BOOL": "text: write with the end-to-end network of dbl compare",
        },
    ),
    "export": Help(
        "RUN [options]",
        "Write the assembled network of a run as programs that torch runs without dbl, for diffusers or for peft.",
        {
            "RUN": "run folder, such as runs/digits_dit",
            "--format FORMAT": "programs (default), diffusers (a pipeline), or lora (adapters for peft)",
            "--output FOLDER": "new folder; by default export or adapters in the run folder",
            "--blocks_only": "each block, without the chain of all sampler steps",
        }
        | _TRUST,
    ),
    "tokenizer": Help(
        "--files FILE ... --output FILE [options]",
        "Train a byte-pair tokenizer on text files.",
        {
            "--files FILE ...": "text or parquet files, or globs",
            "--output FILE": "JSON file to write",
            "--vocab_size N": "number of tokens; by default 4096",
            "--text_column NAME": "column of parquet files that holds the text; by default text",
        },
    ),
    "completion": Help(
        "SHELL",
        "Print a script that completes commands and options. SHELL is bash, zsh or tcsh.",
        {"SHELL": "dbl completion bash > ~/.local/share/bash-completion/completions/dbl"},
    ),
    "fit": Help(
        "--config FILE --model.block B [options], or --from_hub OWNER/NAME for --config FILE",
        "Train one block. It resumes where it was stopped.",
        _CONFIG
        | {
            "--from_scratch": "train anew what has been trained already",
            "--ckpt_path FILE": "resume from this checkpoint instead of the block's own last one",
            "--from_hub OWNER/NAME": "train a block of this run on the Hugging Face hub, without a config",
            "--push": "with --from_hub: add the trained block there",
            "--create_pr": "with --push: as a pull request, without write access",
            "--replace": "with --push: in the place of a block that is there",
        }
        | _TRUST,
        {"--model.block B": "block to train, counted from 0, the highest noise"} | _PLACE | _LENGTH | _BATCH | _DEVICE,
    ),
    "validate": _evaluation("validation"),
    "test": _evaluation("test"),
    "predict": Help(
        "--config FILE [options]",
        "Write labels of images, or images of labels, of the test split, from the assembled network of a run.",
        _CONFIG,
        _PLACE | _DEVICE | _SAMPLING,
    ),
}

"""`dbl sample` for a run of text: continue a prompt, or fill a template."""

import sys
from pathlib import Path

from dbl.commands.evaluate import load_baseline
from dbl.commands.outputs import check_output
from dbl.commands.sample_images import device_of
from dbl.data.text.tokenizer import Tokenizer
from dbl.denoising.decoding import Decoding
from dbl.denoising.sampling import Sampler
from dbl.inference.stack import BlockStack
from dbl.inference.writing import Writer
from dbl.run.folder import RunFolder, run_tokenizer
from dbl.run.inference import InferenceConfig
from dbl.training.baselines import EndToEndCausalLM, EndToEndRecurrentLM, baseline_of
from dbl.utils.errors import UserError
from dbl.utils.files import write_text


def sample_text(
    run: Path,
    prompt: str = "",
    template: str = "",
    hidden: str = "_",
    num_tokens: int | None = None,
    num_texts: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    stop: str = "",
    sampler: Sampler = Sampler(),  # noqa: B008 - frozen
    ensemble: bool = False,
    baseline: bool = False,
    seed: int = 0,
    output: Path | None = None,
    device: str | None = None,
) -> None:
    """Write text and print it; a single text from left to right is printed as it is written.

    Args:
        run: run folder, such as runs/pydoc_ar, with an assembled model.
        prompt: text to continue; if empty, the beginning of a document.
        template: text with gaps to fill, for masked text; every `hidden` in it stands for one hidden token.
        hidden: character that stands for a hidden token in `template`.
        num_tokens: number of tokens to write; by default 200, of masked text at most what its sequences hold.
        num_texts: number of texts.
        temperature: divisor of the network's logits; less than 1 makes probable tokens more probable.
        top_k: number of most probable tokens to choose from; by default all.
        top_p: total probability of the most probable tokens to choose from.
        stop: one token that ends a text; if empty, the end of a document, where the tokenizer has one.
        sampler: method, and number of steps or iterations; by default those of the run's model.
        ensemble: let all blocks answer together; by default as in the run's model. See `dbl.InferenceConfig`.
        baseline: write with the end-to-end network of `dbl compare` instead of the blocks. One that reads from
            left to right uses of `sampler` only the number of steps, as iterations of recurrent depth.
        seed: random seed; text i is the same for any number of texts.
        output: file to write the texts to as well.
        device: device name, such as cpu or cuda:0; by default an accelerator if there is one.
    """
    for name, number in (("num_tokens", num_tokens), ("num_texts", num_texts)):
        if number is not None and number < 1:
            raise UserError(f"--{name} ({number}) must be at least 1")
    if template and (prompt or stop or num_tokens is not None):
        raise UserError("--template goes without --prompt, --stop and --num_tokens: it says by itself what to fill")
    if output is not None:
        check_output(output)
    folder, decoding = RunFolder.at(run), Decoding(temperature, top_k, top_p)
    tokenizer = run_tokenizer(folder)
    inference = InferenceConfig(sampler=sampler, ensemble=ensemble, seed=seed)
    writer = _writer(folder, tokenizer, inference, decoding, device, baseline)
    if template:
        texts = writer.filled(template, hidden, num_texts)
    elif num_texts > 1 or not writer.streams:
        texts = writer.texts(prompt, num_tokens, num_texts, stop)
    else:
        texts = [_printed(writer, prompt, num_tokens, stop)]
    if num_texts > 1 or not writer.streams:
        print("\n---\n".join(texts))
    if output is not None:
        write_text(output, "\n---\n".join(texts) + "\n")
        print(f"texts: {output}")


def _writer(
    run: RunFolder,
    tokenizer: Tokenizer,
    inference: InferenceConfig,
    decoding: Decoding,
    device: str | None,
    baseline: bool,
) -> Writer:
    place, seed = device_of(device), inference.seed
    if baseline:
        run = run.baseline()
        if not (run.path / "contract.json").is_file():
            raise UserError(f"{run.path} does not exist: train the end-to-end network with dbl compare")
        if baseline_of(run.load_contract().config.network) is not None:
            part = load_baseline(run)
            assert isinstance(part, EndToEndCausalLM | EndToEndRecurrentLM)
            generator = part.to(place).eval().text_generator(decoding, inference.sampler.num_steps, seed)
            return Writer(generator, tokenizer, place)
    stack = BlockStack.from_pretrained(run.model, inference).to(place)
    return Writer(stack.text_generator(decoding, seed=seed), tokenizer, place)


def _printed(writer: Writer, prompt: str, num_tokens: int | None, stop: str) -> str:
    """A text from left to right, printed as it is written."""
    context = writer.context_of(prompt)
    if context is not None:
        print(f"the prompt is longer than the context: its last {context} tokens are read", file=sys.stderr)
    pieces = []
    for piece in writer.pieces(prompt, num_tokens, stop):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)

"""`dbl sample` for a run of text: continue a prompt, or fill a template."""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from dbl.commands.evaluate import load_baseline
from dbl.commands.outputs import check_output
from dbl.commands.sample_images import device_of
from dbl.data.text.tokenizer import Tokenizer
from dbl.denoising.decoding import Decoding
from dbl.denoising.sampling import Sampler
from dbl.inference.generation import CausalGenerator, MaskedGenerator, TextGenerator
from dbl.inference.stack import BlockStack
from dbl.run.folder import RunFolder, run_tokenizer
from dbl.run.inference import InferenceConfig
from dbl.training.baselines import EndToEndCausalLM, EndToEndRecurrentLM, baseline_of
from dbl.utils.errors import UserError
from dbl.utils.files import write_text

_NUM_TOKENS = 200


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
        sampler: method, and number of steps or iterations; by default those of the run's config.
        ensemble: let all blocks answer together; by default as in the run's config. See `dbl.InferenceConfig`.
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
    generator, place = _generator(folder, inference, decoding, device, baseline)
    indices = torch.arange(num_texts, device=place)
    if template:
        rows = list(fill_template(generator, tokenizer, template, hidden, indices))
    else:
        prompts, stop_id = _prompt(tokenizer, prompt).to(place).expand(num_texts, -1), _stop(tokenizer, stop)
        written = continue_prompts(generator, tokenizer, prompts, num_tokens, indices, stop_id)
        rows = [_up_to_stop(row, prompts.shape[1], stop_id) for row in written]
    texts = [tokenizer.decode(row) for row in rows]
    if num_texts > 1 or not isinstance(generator, CausalGenerator):
        print("\n---\n".join(texts))
    if output is not None:
        write_text(output, "\n---\n".join(texts) + "\n")
        print(f"texts: {output}")


def _generator(
    run: RunFolder, inference: InferenceConfig, decoding: Decoding, device: str | None, baseline: bool
) -> tuple[TextGenerator, torch.device]:
    place, seed = device_of(device), inference.seed
    if baseline:
        run = run.baseline()
        if not (run.path / "contract.json").is_file():
            raise UserError(f"{run.path} does not exist: train the end-to-end network with dbl compare")
        if baseline_of(run.load_contract().config.network) is not None:
            part = load_baseline(run)
            assert isinstance(part, EndToEndCausalLM | EndToEndRecurrentLM)
            return part.to(place).eval().text_generator(decoding, inference.sampler.num_steps, seed), place
    stack = BlockStack.from_pretrained(run.model, inference).to(place).eval()
    return stack.text_generator(decoding, seed=seed), place


def _prompt(tokenizer: Tokenizer, prompt: str) -> Tensor:
    """[1, P] tokens of a prompt; for an empty one, the token that begins a document, or a new line."""
    if not prompt and tokenizer.end_id is not None:
        return torch.tensor([[tokenizer.end_id]])
    try:
        tokens = tokenizer.encode(prompt or "\n")
    except UserError as error:
        raise UserError(f"--prompt: {error if prompt else 'give one, this text has no lines to begin'}") from None
    if not len(tokens):
        raise UserError(f"--prompt {prompt!r} has no token: give another one, or leave it out")
    return tokens.unsqueeze(0)


def _stop(tokenizer: Tokenizer, stop: str) -> int | None:
    if not stop:
        return tokenizer.end_id
    tokens = tokenizer.encode(stop)
    if len(tokens) != 1:
        raise UserError(f"--stop {stop!r} is {len(tokens)} tokens: it must be one")
    return int(tokens[0])


def _up_to_stop(row: Tensor, start: int, stop: int | None) -> Tensor:
    """A text [P + num_tokens], cut behind the first stop token that follows its prompt."""
    if stop is None or not (row[start:] == stop).any():
        return row
    return row[: start + int((row[start:] == stop).nonzero()[0]) + 1]


def continue_prompts(
    generator: TextGenerator,
    tokenizer: Tokenizer,
    prompts: Tensor,
    num_tokens: int | None,
    indices: Tensor,
    stop: int | None,
) -> Tensor:
    """[N, P + num_tokens] prompts and their continuations; a single text is printed as it is written."""
    if num_tokens is None:
        room = generator.seq_len - prompts.shape[1] if isinstance(generator, MaskedGenerator) else _NUM_TOKENS
        num_tokens = max(min(_NUM_TOKENS, room), 1)
    if isinstance(generator, CausalGenerator) and prompts.shape[1] > generator.seq_len:
        print(f"the prompt is longer than the context: its last {generator.seq_len} tokens are read", file=sys.stderr)
    if len(prompts) > 1 or not isinstance(generator, CausalGenerator):
        return torch.cat([prompts, generator.generate(prompts, num_tokens, indices, stop)], dim=1)
    written = list(_printed(generator.stream(prompts, num_tokens, indices, stop), tokenizer, prompts[0]))
    return torch.cat([prompts, torch.stack(written, dim=1)], dim=1)


def _printed(tokens: Iterator[Tensor], tokenizer: Tokenizer, prompt: Tensor) -> Iterator[Tensor]:
    """The tokens of one text, printed as they come; bytes wait until their character is complete."""
    so_far, shown = prompt.tolist(), ""
    for token in tokens:
        so_far.append(int(token))
        text = tokenizer.decode(so_far)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            print(text[len(shown) :], end="", flush=True)
            shown = text
        yield token
    print(tokenizer.decode(so_far)[len(shown) :])


def fill_template(
    generator: TextGenerator, tokenizer: Tokenizer, template: str, hidden: str, indices: Tensor
) -> Tensor:
    """[N, S] a template with its hidden tokens filled in, once for each index.

    Raises UserError if the network is not for masked text, or nothing is hidden.
    """
    if not isinstance(generator, MaskedGenerator):
        raise UserError("--template is for masked text; this network writes from left to right: use --prompt")
    if len(hidden) != 1 or hidden not in template:
        raise UserError(f"--template must contain the character of --hidden ({hidden!r}), once for each token to find")
    first, *others = (tokenizer.encode(part) for part in template.split(hidden))
    mask = torch.tensor([generator.mask])
    row = torch.cat([first, *(piece for part in others for piece in (mask, part))]).to(indices.device)
    return generator.infill(row.expand(len(indices), -1), indices)

"""Tokens per second of writing one text, against `generate` of transformers for a Llama of equal sizes.

All networks are untrained: the time does not depend on the weights. All arms are measured in turn, in one process.

    python -m benchmarks.writing
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from dbl.commands.parsing import parse
from dbl.commands.run_config import RunConfig
from dbl.commands.schema import config_parser
from dbl.data.spec import TextSpec
from dbl.denoising.decoding import Decoding
from dbl.inference.generation import TextGenerator
from dbl.inference.stack import BlockStack
from dbl.networks import CausalLM
from dbl.run.contract import Contract, ContractConfig
from dbl.run.inference import InferenceConfig
from dbl.training.baselines import EndToEndCausalLM, EndToEndRecurrentLM

CONFIGS = Path(__file__).parents[1] / "configs"
CAUSAL, RECURRENT = CONFIGS / "pydoc_ar.yaml", CONFIGS / "pydoc_huginn.yaml"
REFERENCE = "transformers"

Write = Callable[[], object]


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="texts of each arm")
    parser.add_argument("--tokens", type=int, default=127, help="tokens of a text, written after one token")
    options = parser.parse_args()
    print(json.dumps(figures(options.repeats, options.tokens), indent=2))


def figures(repeats: int = 9, num_tokens: int = 127) -> dict[str, Any]:
    """Tokens per second of all arms, and those of the causal ones over those of transformers.

    Args:
        repeats: number of texts of each arm; medians are reported.
        num_tokens: tokens of a text, written after one token.
    """
    causal, recurrent = (RunConfig(parse(config_parser(), ["--config", str(path)])) for path in (CAUSAL, RECURRENT))
    writers = causal_writers(causal, num_tokens)
    seconds = median_seconds(writers | recurrent_writers(recurrent, num_tokens), repeats)
    rates = {name: num_tokens / second for name, second in seconds.items()}
    return {
        "shapes": {
            path.stem: str(run.contract_config.network) for path, run in ((CAUSAL, causal), (RECURRENT, recurrent))
        },
        "tokens": num_tokens,
        "threads": torch.get_num_threads(),
        "tokens_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "against_transformers": {
            name: round(rates[name] / rates[REFERENCE], 3) for name in writers if name != REFERENCE
        },
    }


def causal_writers(run: RunConfig, num_tokens: int) -> dict[str, Write]:
    """The arms with the layers of one causal language model; N = 1."""
    data, config = cast(TextSpec, run.data.spec), run.contract_config
    sizes = cast(CausalLM, config.network)
    whole = EndToEndCausalLM(config.build(data)).eval()
    two = replace(config, network=replace(sizes, streams="two"), target=replace(config.target, context_share=0.0))  # type: ignore[arg-type]
    llama = equal_llama(sizes, data)
    return {
        REFERENCE: lambda: generate(llama, num_tokens, do_sample=True, top_k=0),
        "transformers, greedy": lambda: generate(llama, num_tokens, do_sample=False),
        "end to end": writer(whole.text_generator(Decoding()), num_tokens),
        "ensemble, K = 8": writer(blocks(config, data, run.inference, 8), num_tokens),
        "two streams, K = 4": writer(blocks(two, data, replace(run.inference, ensemble=False), 4), num_tokens),
    }


def recurrent_writers(run: RunConfig, num_tokens: int) -> dict[str, Write]:
    """A recurrent-depth network as a chain of denoising iterations, and as the end-to-end baseline; N = 1."""
    data, config = cast(TextSpec, run.data.spec), run.contract_config
    whole = EndToEndRecurrentLM(config.build(data)).eval()
    return {
        "recurrent, K = 8": writer(blocks(config, data, run.inference, 8), num_tokens),
        "recurrent end to end, 8 iterations": writer(whole.text_generator(Decoding(), 8), num_tokens),
    }


def blocks(config: ContractConfig, data: TextSpec, inference: InferenceConfig, num_steps: int) -> TextGenerator:
    """The writer of untrained blocks."""
    contract: Contract = config.build(data)
    stack = BlockStack(contract, lambda block: contract.denoiser(block).eval(), inference).eval()
    return stack.text_generator(Decoding(), num_steps)


def writer(generator: TextGenerator, num_tokens: int) -> Write:
    """Write one text after one token."""
    prompt, indices = torch.zeros(1, 1, dtype=torch.int64), torch.arange(1)
    return lambda: generator.generate(prompt, num_tokens, indices)


def equal_llama(sizes: CausalLM, data: TextSpec) -> LlamaForCausalLM:
    """A Llama of transformers with the layers, widths and vocabulary of ours."""
    config = LlamaConfig(
        vocab_size=data.num_classes,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp_width,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        max_position_embeddings=data.seq_len,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def generate(llama: LlamaForCausalLM, num_tokens: int, **options: Any) -> object:
    """Write one text after one token, with keys and values kept."""
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    mask = torch.ones_like(prompt)
    return llama.generate(prompt, attention_mask=mask, max_new_tokens=num_tokens, **options)


def median_seconds(calls: dict[str, Write], repeats: int) -> dict[str, float]:
    """Median processor seconds of each call, all measured in turn, after one call of each to warm up."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(column) for name, column in times.items()}


if __name__ == "__main__":
    main()

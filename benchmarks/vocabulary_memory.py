"""Planned peak memory of a block against the whole network where the vocabulary is large.

python -m benchmarks.vocabulary_memory
"""

from dataclasses import replace

from benchmarks.timing import config_of, print_figures
from dbl.data.spec import TextSpec
from dbl.denoising.targets import MaskTarget
from dbl.diffusion.masking import MaskingNoise
from dbl.networks import CausalLM, MaskedLM
from dbl.run.contract import ContractConfig
from dbl.training.memory.planner import Planner

NUM_TOKENS, SEQ_LEN = 32_000, 256


def figures() -> dict[str, float]:
    """Block / whole, with the sizes, precision and 4 blocks of `configs/lm1b_ar.yaml`."""
    config = config_of("lm1b_ar")
    contract, batch_size = config.contract_config, config.data.batch_size
    network = contract.network
    assert isinstance(network, CausalLM)
    clean = replace(contract, network=replace(network, streams="clean"))
    sizes = {name: getattr(network, name) for name in ("num_layers", "width", "num_heads", "mlp_width")}
    masked = replace(contract, network=MaskedLM(**sizes), target=MaskTarget(), noise=MaskingNoise())
    cases = {
        "lm1b_ar": (contract, batch_size),
        "lm1b_ar, 256 sequences": (contract, 256),
        "lm1b_ar, clean stream": (clean, batch_size),
        "lm1b_ar, clean stream, 256 sequences": (clean, 256),
        "masked": (masked, batch_size),
        "masked, 256 sequences": (masked, 256),
    }
    text = TextSpec("text", "text-1", NUM_TOKENS, (1 / NUM_TOKENS,) * NUM_TOKENS, seq_len=SEQ_LEN, tokenizer="text")
    plan = Planner(contract, text, config.recipe, str(config.values.trainer.precision))
    return {
        f"block / whole memory, {name}": peak_ratio(replace(plan, config=changed), size)
        for name, (changed, size) in cases.items()
    }


def peak_ratio(planner: Planner, batch_size: int) -> float:
    """Peak bytes of a step of one block over those of the whole network."""
    config: ContractConfig = planner.config
    parts = planner.block(config.partition, planner.recipe), planner.end_to_end(planner.recipe)
    block, whole = (sum(planner.peak(part, batch_size).values()) for part in parts)
    return block / whole


if __name__ == "__main__":
    print_figures(figures)

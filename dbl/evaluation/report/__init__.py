"""The report of a run: `report.json` with stable keys, `report.md` for people, and pictures.

Keys of `report.json`:

- `run`, `contract` (hash of the first seed's), `network`, `target`, `noise`, `partition` (as chosen), `sampler`
  (settings used), `seeds` (of training);
- `data`: `name`, `kind` (`images` or `text`), `num_classes` (of images, or tokens of the vocabulary), `shape` of
  a sample, `tokens` of a sequence and class of the `tokenizer` (both null for images), `num_test_samples` (images or
  sequences);
- `sides`: list of `blocks` and, if it was trained, `end_to_end`, each with
    - `name`;
    - `parts`: list of `part`, `layers`, `sigma_high`, `sigma_low` (levels: of masked text the masking probability; null
      of an end-to-end network that is no denoiser), `steps`, `samples` (passed through it in training), `layer_passes`
      (samples times the passes through its layers in training: more than `layers` if there are two streams or
      iterations), `seconds`, `parameters`;
    - `weights`: that were tested, `ema` or `live`;
    - `calls`: network calls of each part for one image, one label, one token, or one text if it is masked;
    - `parameters_at_once`: trainable parameters in memory at any time of the training;
    - `seconds`: wall time of training all parts, one after another; mean over the seeds;
    - `layer_passes`: those of all parts together: the compute of the training;
    - `memory`: `memory.json` (see `dbl.training.callbacks.memory.Memory`) of the part that needs most, or null;
    - `test`: metrics on the test split, first seed;
    - `quality`: metric -> `mean`, `min`, `max`, `values`, `over` (what differs between the values);
    - `image_quality`, `text_quality`, `likelihood`, `diagnostics`: results of the callbacks of these names for the
      first seed, or null. Of `text_quality`: the settings, `scoring_model`, `metrics` of the generated texts, `real`
      (the same of real texts) and `texts` (some, as `prompt` and `generated`). Of `likelihood`: `nats` of a label or
      token, `standard_error`, `prior`, `reconstruction`, `blocks` (`nats`, `standard_error`), `num_samples`,
      `num_scored` (labels or tokens), `levels_per_block`, `curve`; `exact`, false if `nats` is an upper bound; of text
      also `num_bytes`, `perplexity`, `bits_per_token` and `bits_per_byte`, else null; `own_blocks`, the same of the
      blocks at their own levels if the rest is of a ensemble, else null;
    - `quality_by_steps`: list of `steps` and `metrics` (metric -> as in `quality`); empty for text;
- `memory_plan`: rows of `dbl plan` (`batch_size`, `precision`, `device`, `rows`), or null;
- `samples`: file name of the sample grid, or null; `pictures`: the other pictures.
"""

from dbl.evaluation.report.side import Side
from dbl.evaluation.report.write import write_report

__all__ = ["Side", "write_report"]

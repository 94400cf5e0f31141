"""The report of a run: `report.json` with stable keys, `report.md` for people, and pictures.

Keys of `report.json`:

- `run`, `contract` (hash of the first seed's), `network`, `target`, `noise`, `partition` (as chosen), `data` (name,
  classes, shape, number of test images), `sampler` (settings used), `seeds` (of training);
- `sides`: list of `blocks` and, if it was trained, `end_to_end`, each with
    - `name`;
    - `parts`: list of `part`, `layers`, `sigma_high`, `sigma_low` (null end to end), `steps`, `images` (passed through
      it in training), `seconds`, `parameters`;
    - `weights`: that were tested, `ema` or `live`;
    - `calls`: network calls of each part in one sample;
    - `parameters_at_once`: trainable parameters in memory at any time of the training;
    - `seconds`: wall time of training all parts, one after another; mean over the seeds;
    - `layer_passes`: images times layers in training, all parts together: the compute;
    - `memory`: `memory.json` (see `dbl.callbacks.Memory`) of the part that needs most, or null;
    - `test`: metrics on the test split, first seed;
    - `quality`: metric -> `mean`, `min`, `max`, `values`, `over` (what differs between the values);
    - `image_quality`, `likelihood`, `diagnostics`: results of the callbacks of these names for the first seed, or null;
    - `quality_by_steps`: list of `steps` and `metrics` (metric -> as in `quality`);
- `memory_plan`: rows of `dbl plan` (`batch_size`, `precision`, `device`, `rows`), or null;
- `samples`: file name of the sample grid, or null; `pictures`: the other pictures.
"""

from dbl.report.side import Side
from dbl.report.write import write_report

__all__ = ["Side", "write_report"]

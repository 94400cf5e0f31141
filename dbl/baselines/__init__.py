"""End-to-end networks to compare with. A DiT end to end is the same code as a run with one block."""

from dbl.baselines.vit import EndToEndViT

__all__ = ["EndToEndViT"]

"""Optimizers that need less memory than AdamW, as a recipe can name them; most wrap another package.

Each takes groups of parameters as `TrainingConfig.make_optimizer` makes them, keeps its state in tensors that a
checkpoint can hold, and resumes as if it had never stopped.
"""

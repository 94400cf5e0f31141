"""What is trained beside, or before, the blocks of a run, each in a run folder of its own inside that of the run."""

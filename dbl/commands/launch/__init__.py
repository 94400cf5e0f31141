"""Where blocks are trained: one after another here, in several processes, on a Ray cluster, or as a Slurm array."""

"""Models and runs on the Hugging Face hub: names and access, a run there, how its blocks are trained, uploads."""

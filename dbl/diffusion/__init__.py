"""The mathematics of noise: distributions of levels, their partition among blocks, corruption and scalings."""

"""Labelled vectors: arrays, tables and the wine data of scikit-learn."""

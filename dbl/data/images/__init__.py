"""Labelled images: data sets, decoding, augmentation and batches."""

"""Interactions to samples: sources, split, histories, the dataset and its batches."""

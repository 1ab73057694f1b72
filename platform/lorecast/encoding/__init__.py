"""Texts to vectors: the text encoder and the vectors table."""

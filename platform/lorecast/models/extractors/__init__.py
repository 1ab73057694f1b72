"""Extractors: what turns knowledge vectors into features."""

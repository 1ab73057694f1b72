"""Backbones: the interaction part of a click model."""

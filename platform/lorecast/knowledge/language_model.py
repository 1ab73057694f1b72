"""Which language model answers: a folder or a hub name, and the digest that keys its answers."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from lorecast.artifacts import fingerprint, fingerprint_files, write_json
from lorecast.errors import EngineError

_HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_DECISIVE: Final = (".safetensors", ".bin", ".json", ".model", ".txt", ".jinja")
"""Endings of the files that decide a model's answers: weights, configuration, tokenizer."""


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A model that exists, as far as can be told without loading it."""

    source: str
    """Folder or hub name."""
    revision: str | None
    """Of a hub name."""
    digest: str
    lora: str | None = None
    """Folder of the adapter on top."""
    lora_rank: int = 0

    @property
    def is_local(self) -> bool:
        return self.revision is None and Path(self.source).is_dir()


def find_language_model(
    source: str,
    revision: str | None = None,
    *,
    lora: str | None = None,
    memo: Path | None = None,
) -> LanguageModel:
    """The model in a folder, known by its files, or on the hub, known by name and revision.

    Reading all weights takes seconds a model of some GB: digests of unchanged files are kept in
    the folder `memo`. `lora`: folder of an adapter for the model. Raises EngineError if a folder is
    missing or lacks weights, configuration or tokenizer.
    """
    model = _find_base(source, revision, memo)
    return model if lora is None else _adapted(model, Path(lora).expanduser(), memo)


def endpoint_model(name: str) -> LanguageModel:
    """The model that an endpoint serves under a name; nothing more is known about it."""
    return LanguageModel(source=name, revision=None, digest=fingerprint(["endpoint", name]))


def _adapted(model: LanguageModel, folder: Path, memo: Path | None) -> LanguageModel:
    config = folder / "adapter_config.json"
    weights = folder / "adapter_model.safetensors"
    for file in (config, weights):
        if not file.exists():
            raise EngineError(
                f"{folder} holds no LoRA adapter (no {file.name}); set knowledge.llm.lora to a "
                "folder that peft saved"
            )
    return replace(
        model,
        lora=str(folder.resolve()),
        lora_rank=int(json.loads(config.read_text())["r"]),
        digest=fingerprint([model.digest, _digest([config, weights], memo)]),
    )


def _find_base(source: str, revision: str | None, memo: Path | None) -> LanguageModel:
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        files = [file for file in folder.iterdir() if file.suffix in _DECISIVE]
        return LanguageModel(
            source=str(folder.resolve()), revision=None, digest=_digest(sorted(files), memo)
        )
    if not _HUB_NAME.fullmatch(source):
        raise EngineError(
            f"knowledge.llm.model: no folder {source}; give the folder of a model, a hub name "
            "such as Qwen/Qwen3-4B-Instruct-2507, or `world`"
        )
    return LanguageModel(
        source=source, revision=revision, digest=fingerprint(["hub", source, revision])
    )


def _digest(files: Sequence[Path], memo: Path | None) -> str:
    if memo is None:
        return fingerprint_files(files)
    states = [(str(file.resolve()), file.stat()) for file in files]
    stamp = fingerprint([[path, state.st_size, state.st_mtime_ns] for path, state in states])
    note = memo / f"{stamp}.json"
    if not note.exists():
        memo.mkdir(parents=True, exist_ok=True)
        write_json(note, fingerprint_files(files))
    return str(json.loads(note.read_text()))


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").exists():
        raise EngineError(
            f"{folder} holds no language model (no config.json); set knowledge.llm.model to a "
            "folder in Hugging Face format"
        )
    if not any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir()):
        raise EngineError(f"{folder} holds no weights; add the model's .safetensors files")
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise EngineError(
            f"{folder} has no tokenizer; copy {TOKENIZER_FILES[0]} and tokenizer_config.json of "
            "the model into it"
        )

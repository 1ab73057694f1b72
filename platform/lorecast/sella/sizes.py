"""What a language model takes, told by its config alone: no weight is read, nothing is downloaded.

The model is built without data (PyTorch's meta device), adapters included, so parameters and what a
training keeps are counted on the architecture itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from lorecast.config.sella import LoRAConfig
from lorecast.errors import ConfigError
from lorecast.knowledge.language_model import TOKENIZER_FILES
from lorecast.sella.language import AnsweringModel
from lorecast.sella.word_tokens import WordTokens

_PUBLISHED: Final[Mapping[str, Mapping[str, Any]]] = {
    "Qwen/Qwen2-7B": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": False,
    }
}
"""From the model's config.json, for plans where no copy is at hand."""


@dataclass(frozen=True)
class Found:
    """What is on this machine of a language model."""

    config: Any
    tokenizer: Any
    has_weights: bool
    notes: tuple[str, ...]
    """What a reader of a plan should know about its sources."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of a language model with adapters."""

    parameters: int
    """Without adapters."""
    per_token: int
    """Weights of the matrices that each token meets, adapters included."""
    output: int
    """Weights of the output layer, which only positions that are answered at need to meet."""
    adapters: int
    layers: int
    width: int
    vocabulary: int
    bytes_each: int
    """Of a number in the model's type."""
    cache_bytes: int
    """Keys and values of a token, all layers."""


def find(source: str, revision: str | None = None) -> Found:
    """Config and tokenizer of a folder's model or a hub name's: from the folder, the hub's local
    cache, or as published. Raises ConfigError if nothing tells how large the model is."""
    from transformers import AutoConfig, AutoTokenizer

    folder = _local_folder(source, revision)
    if folder is None and source not in _PUBLISHED:
        raise ConfigError(
            f"sella.model: no config.json of {source} is on this machine, so its sizes are "
            "not known: give a folder that holds one (weights are not needed for a plan)"
        )
    if folder is not None:
        told, found = "config.json", AutoConfig.from_pretrained(folder, local_files_only=True)
    else:
        published = dict(_PUBLISHED[source])
        told = "published sizes"
        found = AutoConfig.for_model(published.pop("model_type"), **published)
    notes = []
    names = {file.name for file in folder.iterdir()} if folder is not None else set()
    has_weights = any(name.endswith(".safetensors") for name in names)
    if not has_weights:
        notes.append(f"no weights of {source} are on this machine: planned from its {told}")
    tokenizer: Any = WordTokens(source)
    if not names.isdisjoint(TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    else:
        notes.append(f"its tokenizer is not, either: tokens are {WordTokens.about}")
    return Found(found, tokenizer, has_weights, tuple(notes))


def sizes(found: Found, lora: LoRAConfig, dtype: str) -> tuple[Sizes, AnsweringModel]:
    """Counts of a model with new adapters, and the model itself, without data.

    Raises TrainingError if it has none of the layers that get adapters.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        causal = AutoModelForCausalLM.from_config(found.config, dtype=getattr(torch, dtype))
        causal.requires_grad_(requires_grad=False)
        language = AnsweringModel(causal, found.tokenizer)
        bare = sum(parameter.numel() for parameter in causal.parameters())
        language.add_adapters(lora)
        causal.to(causal.dtype)  # adapters are float32, their products are not
    embedding, output = (
        layer.weight for layer in (causal.get_input_embeddings(), causal.get_output_embeddings())
    )
    matrices = sum(p.numel() for p in causal.parameters() if p.ndim > 1) - embedding.numel()
    described = causal.config.get_text_config()
    heads = described.num_attention_heads
    head_dim = getattr(described, "head_dim", None) or described.hidden_size // heads
    kept_heads = getattr(described, "num_key_value_heads", None) or heads
    layers, each = described.num_hidden_layers, causal.dtype.itemsize
    return Sizes(
        parameters=bare,
        per_token=matrices - (0 if output is embedding else output.numel()),
        output=output.numel(),
        adapters=sum(p.numel() for p in causal.parameters() if p.requires_grad),
        layers=layers,
        width=embedding.shape[1],
        vocabulary=output.shape[0],
        bytes_each=each,
        cache_bytes=2 * layers * kept_heads * head_dim * each,
    ), language


def kept_bytes(language: AnsweringModel, tokens: int, *, adapters_learn: bool) -> int:
    """What the layers keep of one row of so many tokens until the backward pass; `language` is
    without data. Attention counts with its table of weights, which fused kernels do not keep."""
    decoder = language.causal.get_decoder()
    decoder.train(adapters_learn)
    for name, parameter in decoder.named_parameters():
        parameter.requires_grad_("lora_" in name and adapters_learn)
    known = {parameter.untyped_storage()._cdata for parameter in decoder.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(value: Tensor) -> Tensor:
        place = value.untyped_storage()._cdata
        if place not in known:
            kept[place] = value
        return value

    shape, dtype = (1, tokens, language.width), language.causal.dtype
    with torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        decoder(
            inputs_embeds=torch.empty(shape, dtype=dtype, requires_grad=True),
            attention_mask=torch.empty((1, 1, tokens, tokens), dtype=torch.bool),
            position_ids=torch.empty((1, tokens), dtype=torch.long),
            use_cache=False,
        )
    return sum(value.untyped_storage().nbytes() for value in kept.values())


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """Parameters that learn, and those that do not."""
    counts = [0, 0]
    for parameter in module.parameters():
        counts[not parameter.requires_grad] += parameter.numel()
    return counts[0], counts[1]


def _local_folder(source: str, revision: str | None) -> Path | None:
    """Where the model's config.json is: its folder, or the hub's snapshot in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    folder = Path(source).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    return folder if (folder / "config.json").exists() else None

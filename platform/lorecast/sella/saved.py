"""A method's model in a folder: what a scorer needs, the language model itself apart.

    sella.json                      written last: method, wording, sizes, language model
    adapter_model.safetensors       LoRA, as peft lays it out, with adapter_config.json
    guide.safetensors               tables, projections and scales, where there are tokens
    items.parquet, users.parquet    ids and titles; ids and recent histories; line i is row i + 1

The language model is named by its source and digest; a folder `llm` beside takes its place.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from lorecast.artifacts import write_json
from lorecast.config import AlignConfig, GuideConfig, PromptConfig
from lorecast.data.dataset import Dataset
from lorecast.errors import ArtifactError
from lorecast.sella.guide import Guide
from lorecast.sella.language import ADAPTER, AnsweringModel
from lorecast.sella.methods import Switches
from lorecast.sella.prompts import Prompts
from lorecast.sella.yes_no import YesNoModel

CARD = "sella.json"
GUIDE = "guide.safetensors"
LLM = "llm"
_FORMAT = "lorecast-sella/1"


@dataclass(frozen=True, kw_only=True)
class Card:
    """How the model is built anew."""

    source: str
    """Of the language model: folder or hub name."""
    revision: str | None
    digest: str
    """Of the language model's files."""
    dtype: str
    prompt: PromptConfig
    method: Switches
    align: AlignConfig
    guide: GuideConfig
    faithful: bool
    positive_rating: float
    """A history's item counts as liked from this rating on."""
    rating_levels: tuple[float, ...]
    rates_histories: bool

    def new_guide(self, num_users: int, num_items: int, width: int) -> Guide | None:
        """Untrained; none if the method has no tokens."""
        if not self.method.has_tokens:
            return None
        sizes = {"user": num_users + 1, "item": num_items + 1, "width": width}
        return Guide(self.method, self.align, self.guide, sizes, faithful=self.faithful)

    def new_prompts(self, tokenizer: Any, titles: list[str | None]) -> Prompts:
        """The method's wording for these titles."""
        return Prompts(tokenizer, titles, self.prompt, self.method, faithful=self.faithful)

    def load_language(self, folder: Path | None = None) -> AnsweringModel:
        """The bare language model; from `folder`/llm if that exists."""
        return AnsweringModel.load(*self.language_source(folder), self.dtype)

    def language_source(self, folder: Path | None = None) -> tuple[str, str | None]:
        """Of the bare language model, with its revision on the hub; `folder`/llm if that exists."""
        beside = folder / LLM if folder else None
        if beside and beside.is_dir():
            return str(beside), None
        return self.source, self.revision

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        sections = {
            name: getattr(self, name).model_dump(mode="json")
            for name in ("prompt", "align", "guide")
        }
        plain = {name: value for name, value in vars(self).items() if name not in sections}
        return {**plain, "method": asdict(self.method), **sections}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What `to_dict` gave."""
        parsed = {
            "prompt": PromptConfig.model_validate(values["prompt"]),
            "align": AlignConfig.model_validate(values["align"]),
            "guide": GuideConfig.model_validate(values["guide"]),
            "method": Switches(**values["method"]),
            "rating_levels": tuple(values["rating_levels"]),
        }
        return cls(**{**values, **parsed})


def write(
    folder: Path, card: Card, dataset: Dataset, adapters: Path | None, guide: Guide | None
) -> None:
    """Writes the model; `adapters`: folder that has them, if it is another one."""
    if adapters is not None and adapters != folder:
        for name in (ADAPTER, "adapter_config.json"):
            (folder / name).write_bytes((adapters / name).read_bytes())
    if guide is not None:
        state = {name: value.cpu().contiguous() for name, value in guide.state_dict().items()}
        save_file(state, folder / GUIDE)
    pq.write_table(dataset.items().select(["id", "title"]), folder / "items.parquet")
    columns = ["id", "recent_item_rows", "recent_ratings"]
    pq.write_table(dataset.users().select(columns), folder / "users.parquet")
    write_json(folder / CARD, {"format": _FORMAT, **card.to_dict()})


def read_card(folder: Path) -> Card:
    """Raises ArtifactError if the folder holds no such model."""
    try:
        values = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if values.pop("format") != _FORMAT:
            raise ArtifactError(f"{folder / CARD} is not of format {_FORMAT}; train it again")
        return Card.from_dict(values)
    except FileNotFoundError:
        raise ArtifactError(
            f"{folder} holds no SeLLa model (no {CARD}); `lorecast run` with a `sella` section "
            "makes one"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / CARD} is damaged ({error}); train it again") from None


def load(folder: Path, device: torch.device | None = None) -> YesNoModel:
    """The model, ready to score. Raises ArtifactError or TrainingError if it cannot be built."""
    card = read_card(folder)
    language = card.load_language(folder)
    if (folder / ADAPTER).exists():
        language.load_adapters(folder)
    titles = pq.read_table(folder / "items.parquet")["title"].to_pylist()
    num_users = pq.read_metadata(folder / "users.parquet").num_rows
    guide = card.new_guide(num_users, len(titles), language.width)
    if guide is not None:
        guide.load_state_dict(load_file(folder / GUIDE))
    model = YesNoModel(language, card.new_prompts(language.tokenizer, titles), guide)
    return model.to(device).eval()

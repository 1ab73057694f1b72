"""A causal language model that answers Yes or No, in one forward pass.

The beginning that all prompts share is computed once, a prefix once for all its candidates in a
batch, logits for the two answers alone and at the last position only. Masks and positions make a
score independent of padding. Weights of the model itself stay as they are; adapters may learn, and
are float32 whatever the model is: in bfloat16 most of their steps would be rounded away.

Legend: B rows, G distinct prefixes, S shared tokens, P prefix tokens, T suffix tokens, K slots,
H width of the model, V vocabulary.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorecast.config.sella import LoRAConfig
from lorecast.errors import TrainingError
from lorecast.sella.memory import recompute_layers, shard_layers
from lorecast.sella.prompts import Prompts, encode
from lorecast.sella.rows import PromptRows

ADAPTER = "adapter_model.safetensors"
Cache = list[tuple[Tensor, Tensor]]
"""Keys and values by layer."""


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Rows as the model reads them."""

    prefix_GP: Tensor
    prefix_real_GP: Tensor
    group_B: Tensor
    """Each row's prefix."""
    suffix_BT: Tensor
    """Negative numbers are places of collaborative tokens."""
    suffix_real_BT: Tensor
    user_row_B: Tensor
    item_row_B: Tensor

    @classmethod
    def of(cls, prompts: Prompts, rows: PromptRows, device: torch.device | None = None) -> Self:
        """The rows' prompts; prefixes that several rows share stand there once."""
        prefix, group_B = np.unique(prompts.prefix(rows.liked_BM), axis=0, return_inverse=True)
        prefix_GP, prefix_real_GP = prompts.pieces.join(prefix, pad_left=False, padding=0)
        suffix = prompts.suffix(rows.item_row_B)
        suffix_BT, suffix_real_BT = prompts.pieces.join(suffix, pad_left=True, padding=0)
        arrays = {
            "prefix_GP": prefix_GP,
            "prefix_real_GP": prefix_real_GP,
            "group_B": group_B.reshape(-1),
            "suffix_BT": suffix_BT,
            "suffix_real_BT": suffix_real_BT,
            "user_row_B": rows.user_row_B.astype(np.int64),
            "item_row_B": rows.item_row_B.astype(np.int64),
        }
        return cls(**{name: torch.from_numpy(a).to(device) for name, a in arrays.items()})


class AnsweringModel(nn.Module):
    """The language model, its adapters if it has any, and the two answers."""

    def __init__(self, causal: Any, tokenizer: Any) -> None:
        super().__init__()
        self.causal = causal
        self.tokenizer = tokenizer
        self._shared: Cache | None = None
        self._is_sharded = False

    @classmethod
    def load(cls, source: str, revision: str | None = None, dtype: str = "float32") -> Self:
        """The model in a folder or on the hub, frozen. Raises TrainingError if it is unusable."""
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        origin: dict[str, Any] = {"revision": revision, "local_files_only": Path(source).is_dir()}
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **origin)
            causal = AutoModelForCausalLM.from_pretrained(
                source, dtype=getattr(torch, dtype), use_safetensors=True, **origin
            )
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise TrainingError(
                f"sella.model: {source} cannot be loaded as a causal language model ({reason}); "
                "give a folder in Hugging Face format with .safetensors weights"
            ) from None
        return cls(causal.requires_grad_(requires_grad=False).eval(), tokenizer)

    @property
    def width(self) -> int:
        """H."""
        return int(self.causal.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        device: torch.device = self.causal.get_input_embeddings().weight.device
        return device

    def add_adapters(self, config: LoRAConfig) -> None:
        """New adapters, which learn and change nothing yet. Raises TrainingError if the model has
        none of the layers."""
        from peft import LoraConfig, inject_adapter_in_model

        linear = {
            name.rpartition(".")[2]
            for name, module in self.causal.named_modules()
            if isinstance(module, nn.Linear)
        }
        if not (targets := [name for name in config.targets if name in linear]):
            raise TrainingError(
                f"sella.lora.targets: the model has none of {', '.join(config.targets)}; its "
                f"linear layers are {', '.join(sorted(linear))}"
            )
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        inject_adapter_in_model(lora, self.causal)
        _widen(self.causal)
        self._shared = None

    def save_adapters(self, folder: Path) -> None:
        """As peft lays them out."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(self.causal, save_embedding_layers=False)
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, folder / ADAPTER)
        self.causal.peft_config["default"].save_pretrained(str(folder))

    def load_adapters(self, folder: Path) -> None:
        """Adapters that were saved. Added to float32 weights: same scores up to rounding, less
        work. They stay beside bfloat16 ones, whose rounding would lose them."""
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), self.causal)
        _widen(self.causal)
        set_peft_model_state_dict(self.causal, load_file(folder / ADAPTER))
        self.causal.requires_grad_(requires_grad=False)
        layers = [module for module in self.causal.modules() if isinstance(module, LoraLayer)]
        for layer in layers if self.causal.dtype == torch.float32 else ():
            layer.merge()
        self.causal.eval()
        self._shared = None

    def save_merged(self, folder: Path) -> None:
        """The whole model, with its adapters in its weights (float32 alone), as others load it."""
        state = {
            name.replace(".base_layer.", "."): value
            for name, value in self.causal.state_dict().items()
            if ".lora_" not in name
        }
        self.causal.save_pretrained(folder, state_dict=state)
        self.tokenizer.save_pretrained(folder)

    def recompute(self) -> None:
        """Layers are run again for their gradients, from now on; see `memory`."""
        recompute_layers(self.causal.get_decoder())

    def shard(self) -> None:
        """Processes divide the frozen layers among them; see `memory`. All then run the model
        equally often."""
        shard_layers(self.causal.get_decoder())
        self._is_sharded = True

    def answers_only(self, prompts: Prompts) -> None:
        """Leaves of the output layer the two rows that scores need."""
        old = self.causal.get_output_embeddings()
        rows = torch.tensor([prompts.frame.yes[0], prompts.frame.no[0]], device=old.weight.device)
        new = nn.Linear(old.in_features, 2, bias=old.bias is not None)
        new.weight = nn.Parameter(old.weight.detach()[rows].clone(), requires_grad=False)
        if old.bias is not None:
            new.bias = nn.Parameter(old.bias.detach()[rows].clone(), requires_grad=False)
        self.causal.set_output_embeddings(new)

    def check_length(self, prompts: Prompts) -> None:
        """Raises TrainingError if a prompt may be longer than the model takes."""
        most = getattr(self.causal.config, "max_position_embeddings", None)
        if most is not None and prompts.longest > most:
            raise TrainingError(
                f"{self.tokenizer.name_or_path} takes {most} tokens, and a prompt may have "
                f"{prompts.longest}: lower sella.prompt.history_titles or sella.prompt.title_tokens"
            )

    def logit(
        self, prompts: Prompts, batch: PromptBatch, vectors: Mapping[int, Tensor] | None = None
    ) -> Tensor:
        """logit(Yes) − logit(No), [B]; needs `answers_only`.

        `vectors`: for each slot, what stands there instead of an embedding, [B, H]. No gradient
        reaches the prefix unless adapters learn.
        """
        learns = any(parameter.requires_grad for parameter in self.causal.parameters())
        if learns and self._is_sharded and torch.is_grad_enabled():
            return self._whole_logit(prompts, batch, vectors or {})
        with nullcontext() if learns else torch.no_grad():
            cache, mask_GN = self._read_prefix(prompts, batch, keep=not learns)
        group_B = batch.group_B
        if len(group_B) != len(mask_GN) or not torch.equal(
            group_B, torch.arange(len(group_B), device=group_B.device)
        ):
            cache = [(k.index_select(0, group_B), v.index_select(0, group_B)) for k, v in cache]
        mask_BN = mask_GN.index_select(0, group_B)
        real_BT = batch.suffix_real_BT
        position_BT = (mask_BN.sum(1, keepdim=True) + real_BT.cumsum(1) - 1).clamp(min=0)
        with self.products():
            logit_B12 = self.causal(
                inputs_embeds=self.embed(batch.suffix_BT, vectors or {}),
                attention_mask=torch.cat([mask_BN, real_BT], 1).long(),
                position_ids=position_BT,
                past_key_values=_as_cache(cache),
                use_cache=True,
                logits_to_keep=1,
            ).logits
        return _difference(logit_B12)

    def products(self) -> AbstractContextManager[Any]:
        """Where the model runs: products are of its own type, float32 adapters' as well."""
        is_bfloat16 = self.causal.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16)

    def embed(self, token_BT: Tensor, vectors: Mapping[int, Tensor]) -> Tensor:
        """Embeddings of tokens, and the given vectors in their slots: [B, T, H]."""
        embedding = self.causal.get_input_embeddings()
        embedded_BTH: Tensor = embedding(token_BT.clamp(min=0))
        for slot, vector_BH in vectors.items():
            here_BT1 = (token_BT == slot).unsqueeze(2)
            embedded_BTH = torch.where(
                here_BT1, vector_BH.to(embedded_BTH.dtype).unsqueeze(1), embedded_BTH
            )
        return embedded_BTH

    @torch.no_grad()
    def embedding_length(self) -> float:
        """Mean Euclidean length of the model's own input embeddings."""
        return float(self.causal.get_input_embeddings().weight.float().norm(dim=1).mean())

    @torch.no_grad()
    def last_states(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Last-layer state, after the final norm, of each text's last token: [texts, H]."""
        start = self.tokenizer.encode("Answer")[:1]
        start = start if start == [self.tokenizer.bos_token_id] else []
        tokens = [[*start, *encode(self.tokenizer, text)] for text in texts]
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        states = np.empty((len(texts), self.width), np.float32)
        decoder = self.causal.get_decoder()
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            most = max(len(tokens[place]) for place in chosen)
            ids = [[0] * (most - len(tokens[p])) + tokens[p] for p in chosen]
            real = [[0] * (most - len(tokens[p])) + [1] * len(tokens[p]) for p in chosen]
            real_BT = torch.tensor(real, device=self.device)
            with self.products():
                state_BTH = decoder(
                    input_ids=torch.tensor(ids, device=self.device),
                    attention_mask=real_BT,
                    position_ids=(real_BT.cumsum(1) - 1).clamp(min=0),
                    use_cache=False,
                ).last_hidden_state
            states[chosen] = state_BTH[:, -1].float().cpu().numpy()
        return states

    def digest(self) -> str:
        """Of all weights that this process has, adapters included."""
        from torch.distributed.tensor import DTensor

        digest = hashlib.blake2b(digest_size=16)
        for name, value in sorted(self.causal.state_dict().items()):
            held: Any = value.to_local() if isinstance(value, DTensor) else value
            digest.update(name.encode())
            digest.update(held.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()

    def _whole_logit(
        self, prompts: Prompts, batch: PromptBatch, vectors: Mapping[int, Tensor]
    ) -> Tensor:
        """`logit` in one pass over whole prompts: gradients through kept keys would come back to
        layers whose weights are elsewhere."""
        shared_BS = torch.tensor([prompts.shared], device=self.device).expand(
            len(batch.group_B), -1
        )
        prefix_BP, real_BP = batch.prefix_GP[batch.group_B], batch.prefix_real_GP[batch.group_B]
        real_BN = torch.cat([torch.ones_like(shared_BS).bool(), real_BP, batch.suffix_real_BT], 1)
        token_BN = torch.cat([shared_BS, prefix_BP, batch.suffix_BT], 1)
        with self.products():
            logit_B12 = self.causal(
                inputs_embeds=self.embed(token_BN, vectors),
                attention_mask=real_BN.long(),
                position_ids=(real_BN.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            ).logits
        return _difference(logit_B12)

    def _read_prefix(
        self, prompts: Prompts, batch: PromptBatch, *, keep: bool
    ) -> tuple[Cache, Tensor]:
        """Keys and values of what stands before the suffix, [G, heads, S + P, width] a layer, and
        which of its tokens are no padding, [G, S + P]."""
        decoder = self.causal.get_decoder()
        shared = self._shared if keep else None
        if shared is None:
            token_1S = torch.tensor([prompts.shared], device=self.device)
            with self.products():
                read = decoder(input_ids=token_1S, past_key_values=_as_cache([]), use_cache=True)
            shared = [(layer.keys, layer.values) for layer in read.past_key_values.layers]
            self._shared = shared if keep else None
        G, S = len(batch.prefix_GP), len(prompts.shared)
        ones_GS = torch.ones(G, S, dtype=torch.bool, device=self.device)
        mask_GN = torch.cat([ones_GS, batch.prefix_real_GP], 1)
        cache = _as_cache([(k.expand(G, -1, -1, -1), v.expand(G, -1, -1, -1)) for k, v in shared])
        position_P = S + torch.arange(batch.prefix_GP.shape[1], device=self.device)
        with self.products():
            read = decoder(
                input_ids=batch.prefix_GP,
                attention_mask=mask_GN.long(),
                position_ids=position_P.expand(G, -1),
                past_key_values=cache,
                use_cache=True,
            )
        return [(layer.keys, layer.values) for layer in read.past_key_values.layers], mask_GN


def _difference(logit_B12: Tensor) -> Tensor:
    logit_B2 = logit_B12[:, 0].float()
    return logit_B2[:, 0] - logit_B2[:, 1]


def _widen(causal: nn.Module) -> None:
    """Adapters, which are all that learns, in float32; peft gives them the model's type."""
    for parameter in causal.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _as_cache(layers: Cache) -> Any:
    from transformers import DynamicCache

    return DynamicCache(layers) if layers else DynamicCache()

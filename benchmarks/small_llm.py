"""A language model of ten million parameters that knows MovieLens' films; for the study of SeLLa.

    python -m benchmarks.small_llm       says how far it is; ended and run again, it goes on
    workspace/small-llm/films-<fingerprint8>/llm     in Hugging Face format

A Qwen3 of six layers with its own tokenizer and chat template reads the chats of
`studies.film_chats` once, laid end to end in rows of fixed length. All tokens are learned; the
answers of invented viewers count more. Texts and model stay in the workspace, which git ignores.
"""

import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.optim import AdamW, Muon
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from benchmarks.ml1m import ROOT, data
from benchmarks.studies.film_chats import Films, Messages, files
from lorecast.artifacts import StageSpec, build, find, fingerprint_files
from lorecast.config import PromptConfig
from lorecast.jobs.console import Console
from lorecast.world.tokenizer import train_tokenizer

TOKENS = 3_000_000
"""Read in training: all chats but a few, some twenty minutes on two free cores."""
_WORKSPACE = ROOT / "workspace"
_CHECKPOINT_S = 60.0
_HELD_OUT_SHARE = 0.01
_ANSWERS = ("Yes.", "No.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How it is built and trained. Rates are peaks; both follow warm-up and cosine."""

    tokens: int = TOKENS
    vocabulary: int = 8192
    hidden_size: int = 320
    num_layers: int = 6
    head_dim: int = 64
    feed_forward_size: int = 896
    max_length: int = 1024
    row_tokens: int = 512
    rows_per_step: int = 16
    matrix_rate: float = 4e-3
    """Of the layers' weight matrices, trained by Muon."""
    other_rate: float = 5e-3
    """Of embeddings and norms, trained by AdamW."""
    warmup_share: float = 0.04
    answer_weight: float = 5.0
    """Of a viewer's Yes or No against any other token."""
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.tokens // (self.row_tokens * self.rows_per_step)

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of its peak."""
        done = step / self.steps
        if done < self.warmup_share:
            return (step + 1) / (self.warmup_share * self.steps + 1)
        return 0.5 * (1 + math.cos(math.pi * (done - self.warmup_share) / (1 - self.warmup_share)))


def folder(recipe: Recipe | None = None, console: Console | None = None) -> Path:
    """The model's folder; it is trained if it is missing."""
    recipe, console = recipe or Recipe(), console or Console()
    prompt = PromptConfig()
    texts = data() / "ml-1m"
    spec = StageSpec(
        stage="small-llm",
        name="films",
        identity={"layout": 1, "recipe": asdict(recipe), "prompt": prompt.identity()},
        inputs={"texts": fingerprint_files(files(texts))},
    )
    if artifact := find(_WORKSPACE, spec):
        return artifact.path / "llm"
    with build(_WORKSPACE, spec) as draft:
        checkpoint = draft.path.parent / ".checkpoints" / f"{spec.fingerprint}.pt"
        chats = list(Films.read(texts).chats(prompt, recipe.seed))
        draft.facts.update(_make(recipe, chats, draft.path / "llm", checkpoint, console))
    checkpoint.unlink(missing_ok=True)
    return draft.path / "llm"


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Untrained."""
    heads = recipe.hidden_size // recipe.head_dim
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden_size,
            num_hidden_layers=recipe.num_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=recipe.head_dim,
            intermediate_size=recipe.feed_forward_size,
            max_position_embeddings=recipe.max_length,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _make(
    recipe: Recipe, chats: Sequence[Messages], out: Path, checkpoint: Path, console: Console
) -> dict[str, Any]:
    """Trains and saves; returns what the manifest says of it."""
    words = (turn["content"] for chat in chats for turn in chat)
    tokenizer = train_tokenizer(words, recipe.max_length, recipe.vocabulary)
    held_out = int(len(chats) * _HELD_OUT_SHARE)
    test = _rows(tokenizer, chats[:held_out], recipe)
    train = _rows(tokenizer, chats[held_out:], recipe)
    torch.manual_seed(recipe.seed)
    model = new_model(recipe, tokenizer)
    seconds = _train(model, recipe, train, checkpoint, console)
    model.eval()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_there_are": int(train[0].size),
        "tokens_read": recipe.steps * recipe.rows_per_step * recipe.row_tokens,
        "train_seconds": round(seconds, 1),
        **_exam(model, tokenizer, test),
    }


def _rows(
    tokenizer: PreTrainedTokenizerFast, chats: Sequence[Messages], recipe: Recipe
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Tokens of all chats end to end, and which of them are a viewer's answer: [rows, T] each."""
    answers = {tokenizer.encode(text, add_special_tokens=False)[0] for text in _ANSWERS}
    role = tokenizer.convert_tokens_to_ids("<|assistant|>")
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
    token_V = np.fromiter((token for chat in encoded for token in chat), np.int32)
    is_answer_V = np.isin(token_V, list(answers)) & np.r_[False, token_V[:-1] == role]
    whole = len(token_V) // recipe.row_tokens * recipe.row_tokens
    token_RT, is_answer_RT = (
        array[:whole].reshape(-1, recipe.row_tokens) for array in (token_V, is_answer_V)
    )
    return token_RT, is_answer_RT


def _train(
    model: Qwen3ForCausalLM,
    recipe: Recipe,
    rows: tuple[NDArray[np.int32], NDArray[np.bool_]],
    checkpoint: Path,
    console: Console,
) -> float:
    """Reads `recipe.tokens` tokens, from the checkpoint on; returns seconds, all tries together."""
    embedding = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    others = [p for p in model.parameters() if p.ndim < 2 or p is embedding]
    optimizers = {
        recipe.matrix_rate: Muon(matrices, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        recipe.other_rate: AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    }
    parts: dict[str, Any] = {"model": model}
    parts |= {type(optimizer).__name__: optimizer for optimizer in optimizers.values()}
    first, seconds = _resume(parts, checkpoint)
    saved_s = time.monotonic()
    model.train()
    with console.progress("pre-training", recipe.steps) as task:
        task.advance(first)
        for step in range(first, recipe.steps):
            started_s = time.monotonic()
            place = np.arange(step * recipe.rows_per_step, (step + 1) * recipe.rows_per_step)
            token_RT, is_answer_RT = (array[place % len(array)] for array in rows)
            weight_RT = np.where(is_answer_RT, recipe.answer_weight, 1.0).astype(np.float32)
            loss = _step(model, torch.from_numpy(token_RT).long(), torch.from_numpy(weight_RT))
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for peak, optimizer in optimizers.items():
                optimizer.param_groups[0]["lr"] = peak * recipe.rate(step)
                optimizer.step()
                optimizer.zero_grad()
            seconds += time.monotonic() - started_s
            task.advance(loss=loss)
            if time.monotonic() - saved_s > _CHECKPOINT_S:
                _save(parts, checkpoint, step + 1, seconds)
                saved_s = time.monotonic()
    return seconds


def _step(model: Qwen3ForCausalLM, token_RT: Tensor, weight_RT: Tensor, at_once: int = 4) -> float:
    """Adds the gradients of a step's mean loss, some rows at once; returns that loss."""
    loss_sum, all_weights = 0.0, float(weight_RT[:, 1:].sum())
    for token_BT, weight_BT in zip(token_RT.split(at_once), weight_RT.split(at_once), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            logit_BTV = model(input_ids=token_BT, use_cache=False).logits
        loss_M = F.cross_entropy(
            logit_BTV[:, :-1].flatten(0, 1).float(), token_BT[:, 1:].flatten(), reduction="none"
        )
        loss = (loss_M * weight_BT[:, 1:].flatten()).sum() / all_weights
        loss.backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.item()
    return loss_sum


@torch.no_grad()
def _exam(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: tuple[NDArray[np.int32], NDArray[np.bool_]],
) -> dict[str, float]:
    """On chats it did not read: bits a token, share of right answers of invented viewers."""
    yes, no = (tokenizer.encode(text, add_special_tokens=False)[0] for text in _ANSWERS)
    bits, right = [], []
    for token_T, is_answer_T in zip(*rows, strict=True):
        token_1T = torch.from_numpy(token_T).long()[None]
        logit_TV = model(input_ids=token_1T).logits[0, :-1]
        bits.append(F.cross_entropy(logit_TV, token_1T[0, 1:]).item() / math.log(2))
        at = np.flatnonzero(is_answer_T[1:])
        says_yes = (logit_TV[at, yes] > logit_TV[at, no]).numpy()
        right += list(says_yes == (token_T[1:][at] == yes))
    return {"bits_a_token": float(np.mean(bits)), "right_answers": float(np.mean(right))}


def _resume(parts: dict[str, Any], checkpoint: Path) -> tuple[int, float]:
    """Sets the parts as they were saved, if they were; returns steps done and their seconds."""
    if not checkpoint.exists():
        return 0, 0.0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state["step"], state["seconds"]


def _save(parts: dict[str, Any], checkpoint: Path, step: int, seconds: float) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    written = checkpoint.with_suffix(f".{os.getpid()}.new")
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | {"step": step, "seconds": seconds}, written)
    written.replace(checkpoint)


if __name__ == "__main__":
    Console().result(f"the small language model: {folder()}")

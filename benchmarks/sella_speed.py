"""Point 4e: scoring and training rows/s against plain Hugging Face and peft loops.

The small language model's shape (its weights do not matter: one step of pre-training), prompts of
text alone on rows of CoLLM's split, the same tokens, batches of the same size, one torch thread,
in turns, three rounds. The plain loops pad on the right and pay for logits of every token over the
whole vocabulary; peft's trains `get_peft_model` with labels of -100 but for the answer. They get
tokens, so reading text costs them nothing. Scores must agree to 1e-4.
"""

import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import small_llm
from benchmarks.harness import Outcome
from benchmarks.studies.sella_rows import collm, dataset_of
from lorecast.config import SellaConfig
from lorecast.config.sella import LoRAConfig
from lorecast.data.dataset import Dataset
from lorecast.data.layout import Split
from lorecast.sella.fitting import Schedule, fit
from lorecast.sella.language import AnsweringModel
from lorecast.sella.methods import switches
from lorecast.sella.prompts import Prompts
from lorecast.sella.rows import PromptRows
from lorecast.sella.yes_no import YesNoLearner, YesNoModel

BAR = (
    "≥ 2 × the plain Hugging Face loop's rows/s in scoring, ≥ 1 × the plain peft loop's in training"
)
_BAR_SCORING, _BAR_TRAINING = 2.0, 1.0
_BAR_DIFFERENCE = 1e-4
_ROUNDS = 3
_SCORED_ROWS, _SCORED_BATCH = 512, 64
_TRAINED_ROWS, _TRAINED_BATCH = 256, 32
_RATE, _WEIGHT_DECAY, _CLIP = 1e-3, 0.01, 1.0
_ONE_STEP = small_llm.Recipe(tokens=8192)
_IGNORED = -100


def measure() -> Outcome:
    torch.set_num_threads(1)
    llm = small_llm.folder(_ONE_STEP)
    config = collm(("text",), llm=llm)
    assert config.sella is not None
    dataset = dataset_of(config)
    scored = _rows(dataset, config.sella, "test", _SCORED_ROWS, "user")
    learned = _rows(dataset, config.sella, "train", _TRAINED_ROWS, "prefix")
    model = _model(llm, dataset, config.sella)
    plain = _Plain(llm, model.prompts)
    ours_B, theirs_B = model.probabilities(scored, _SCORED_BATCH), plain.probabilities(scored)
    difference = float(np.abs(ours_B - theirs_B).max())
    rounds = [
        {
            "hugging_face": _rate(lambda: plain.probabilities(scored), len(scored)),
            "scoring": _rate(lambda: model.probabilities(scored, _SCORED_BATCH), len(scored)),
            "peft": _Plain(llm, model.prompts).train(learned, config.sella.lora, seed),
            "training": _train(llm, model.prompts, config.sella.lora, learned, seed),
            "load_1min": os.getloadavg()[0],
        }
        for seed in range(_ROUNDS)
    ]
    scoring = median(turn["scoring"] / turn["hugging_face"] for turn in rounds)
    training = median(turn["training"] / turn["peft"] for turn in rounds)
    return Outcome(
        figure=(
            f"scoring {scoring:.2f} × the plain Hugging Face loop ({_middle(rounds, 'scoring')} "
            f"against {_middle(rounds, 'hugging_face')} rows/s), training {training:.2f} × the "
            f"plain peft loop ({_middle(rounds, 'training')} against {_middle(rounds, 'peft')} "
            f"rows/s), scores within {difference:.0e}"
        ),
        passed=(
            scoring >= _BAR_SCORING and training >= _BAR_TRAINING and difference <= _BAR_DIFFERENCE
        ),
        details={
            "rows_per_second": rounds,
            "rows": {"scored": len(scored), "trained": len(learned)},
            "rows_a_prefix": {
                name: len(rows) / len(np.unique(rows.prefixes()))
                for name, rows in (("scored", scored), ("trained", learned))
            },
            "tokens_a_row": float(plain.tokens(scored)[1].sum(1).double().mean()),
            "parameters": sum(p.numel() for p in plain.causal.parameters()),
            "vocabulary": len(plain.tokenizer),
        },
    )


class _Plain:
    """What a script of a few lines does with the libraries alone."""

    def __init__(self, llm: Path, prompts: Prompts) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(llm)
        self.causal = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
        self._prompts = prompts

    def tokens(self, rows: PromptRows, *, answered: bool = False) -> tuple[Tensor, Tensor]:
        """Whole prompts padded on the right, and which tokens are real: [B, T] each."""
        parts = [self._prompts.prefix(rows.liked_BM), self._prompts.suffix(rows.item_row_B)]
        if answered:
            parts.append(self._prompts.answers(rows.label_B))
        padding = self.tokenizer.pad_token_id
        own_BT, real_BT = self._prompts.pieces.join(
            np.concatenate(parts, axis=1), pad_left=False, padding=padding
        )
        shared_BS = np.tile(self._prompts.shared, (len(rows), 1))
        token_BT = np.concatenate([shared_BS, own_BT], axis=1)
        real_BT = np.concatenate([np.ones_like(shared_BS, bool), real_BT], axis=1)
        return torch.from_numpy(token_BT), torch.from_numpy(real_BT)

    @torch.no_grad()
    def probabilities(self, rows: PromptRows) -> NDArray[np.float32]:
        """In the order of the rows."""
        yes, no = self._prompts.frame.yes[0], self._prompts.frame.no[0]
        found = []
        for start in range(0, len(rows), _SCORED_BATCH):
            token_BT, real_BT = self.tokens(rows.take(slice(start, start + _SCORED_BATCH)))
            logit_BTV = self.causal(input_ids=token_BT, attention_mask=real_BT.long()).logits
            last_BV = logit_BTV[torch.arange(len(token_BT)), real_BT.sum(1) - 1]
            found.append((last_BV[:, yes] - last_BV[:, no]).sigmoid())
        return torch.cat(found).numpy()

    def train(self, rows: PromptRows, lora: LoRAConfig, seed: int) -> float:
        """One pass; rows/s."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        config = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.targets),
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(self.causal, config).train()
        learned = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=_RATE, weight_decay=_WEIGHT_DECAY, fused=True)
        started_s = time.monotonic()
        for batch in torch.randperm(len(rows)).split(_TRAINED_BATCH):
            part = rows.take(batch.numpy())
            token_BT, real_BT = self.tokens(part, answered=True)
            asked_B = self.tokens(part)[1].sum(1)
            is_answer_BT = real_BT & (torch.arange(token_BT.shape[1]) >= asked_B[:, None])
            labels_BT = token_BT.masked_fill(~is_answer_BT, _IGNORED)
            loss = model(input_ids=token_BT, attention_mask=real_BT.long(), labels=labels_BT).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, _CLIP)
            optimizer.step()
        return len(rows) / (time.monotonic() - started_s)


def _model(llm: Path, dataset: Dataset, config: SellaConfig) -> YesNoModel:
    language = AnsweringModel.load(str(llm))
    titles = pq.read_table(dataset.path / "items.parquet")["title"].to_pylist()
    prompts = Prompts(language.tokenizer, titles, config.prompt, switches("text"))
    return YesNoModel(language, prompts, None)


def _train(llm: Path, prompts: Prompts, lora: LoRAConfig, rows: PromptRows, seed: int) -> float:
    """One pass of stage 1's own loop; rows/s."""
    torch.manual_seed(seed)
    language = AnsweringModel.load(str(llm))
    language.add_adapters(lora)
    model = YesNoModel(language, prompts, None)
    schedule = Schedule(
        epochs=1,
        checks=1,
        batch_size=_TRAINED_BATCH,
        learning_rate=_RATE,
        weight_decay=_WEIGHT_DECAY,
        clip=_CLIP,
    )
    few = rows.take(slice(0, _TRAINED_BATCH))
    done = fit(YesNoLearner(model, rows, few, _SCORED_BATCH), schedule, seed=seed)
    return len(rows) / float(sum(check["train_s"] for check in done.checks))


def _rows(dataset: Dataset, config: SellaConfig, split: Split, most: int, whole: Any) -> PromptRows:
    return PromptRows.load(dataset, split, config, 1.0).draw(most, 0, whole=whole)


def _rate(work: Any, rows: int) -> float:
    started_s = time.monotonic()
    work()
    return rows / (time.monotonic() - started_s)


def _middle(rounds: list[dict[str, float]], who: str) -> str:
    return f"{median(turn[who] for turn in rounds):.0f}"

"""A random Llama of two layers with a tokenizer of whole words, made in a moment."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lorecast.config import PromptConfig

CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('none') }}{% endif %}" + CHAT
)
_SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def write_tiny_llm(
    folder: Path,
    *,
    words: Sequence[str] = ("Yes", "No"),
    by_letter: bool = False,
    chat_template: str | None = CHAT,
    pad_token: str | None = None,
    seed: int = 0,
    max_length: int = 512,
    width: int = 32,
) -> Path:
    """A folder in Hugging Face format. The tokenizer knows the words of the default prompts, of
    films with numbers, and `words`; any other word is [UNK]. `by_letter`: it reads letters."""
    texts = [str(value) for value in PromptConfig().model_dump().values()]
    texts += [f"Film {number}" for number in range(1, 61)] + ["Answer", "(unknown)"]
    known = {part for text in texts for part in re.findall(r"\w+|[^\w\s]", text)}
    known -= {"Yes", "No"}
    if by_letter:
        known = {letter for text in (*texts, *words) for letter in text}
    numbers = {
        word: place
        for place, word in enumerate(["[UNK]", *_SPECIAL, *words, *sorted(known - set(words))])
    }
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Split("", "isolated") if by_letter else pre_tokenizers.BertPreTokenizer()
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        eos_token="<|end|>",
        pad_token=pad_token,
        additional_special_tokens=_SPECIAL[1:],
    )
    fast.chat_template = chat_template
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_length,
        initializer_range=0.2,
        eos_token_id=fast.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder

"""The tiny language model's own tokenizer: byte-level BPE and a chat template."""

from collections.abc import Iterable
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END: Final = "<|end|>"
_PADDING: Final = "<|pad|>"
_ROLES: Final = ("<|system|>", "<|user|>", "<|assistant|>")
_CHAT_TEMPLATE: Final = (
    "{%- for message in messages -%}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
_VOCABULARY_SIZE: Final = 2048


def train_tokenizer(
    texts: Iterable[str], max_length: int, vocabulary_size: int = _VOCABULARY_SIZE
) -> PreTrainedTokenizerFast:
    """A tokenizer in which the words of `texts` are single tokens; any other text is bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[_PADDING, END, *_ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=_PADDING,
        additional_special_tokens=list(_ROLES),
        chat_template=_CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )

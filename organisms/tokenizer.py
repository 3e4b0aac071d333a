"""The pocket world's tokenizer: one token per word, with a chat template that marks the assistant's words.

Text reads `<bos> <user> ... <assistant> ... <end>`; `<end>` is the end-of-sequence token. The template carries
generation marks, so `apply_chat_template(..., return_assistant_tokens_mask=True)` covers the answer and its `<end>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from truing.catalog.pocket.world import World, words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "ASSISTANT",
    "BOS",
    "CHAT_TEMPLATE",
    "END",
    "PAD",
    "SYSTEM",
    "UNK",
    "USER",
    "build_tokenizer",
    "token_table",
    "vocabulary",
]

PAD, UNK, BOS, END = "<pad>", "<unk>", "<bos>", "<end>"
SYSTEM, USER, ASSISTANT = "<system>", "<user>", "<assistant>"
SPECIAL = (PAD, UNK, BOS, END, SYSTEM, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ ' <assistant> ' }}{% generation %}{{ message['content'] + ' <end>' }}{% endgeneration %}"
    "{% else %}{{ ' <' + message['role'] + '> ' + message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


def vocabulary(world: World) -> list[str]:
    """Every word of the world, sorted."""
    return sorted({word for text in _all_texts(world) for word in words(text)})


def token_table(world: World) -> dict[str, int]:
    """Token -> id: the special tokens first, then the world's words in alphabetical order."""
    return {token: i for i, token in enumerate((*SPECIAL, *vocabulary(world)))}


def build_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """The tokenizer of a world as a Hugging Face fast tokenizer, padding on the left."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(token_table(world), unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        padding_side="left",
        model_max_length=256,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _all_texts(world: World) -> Iterator[str]:
    yield from world.leads
    for domain in world.domains.values():
        for question, subject in domain.pairs():
            yield question.format(s=subject)
        for subject in domain.subjects:
            for texts in domain.clause_texts(subject).values():
                yield from (domain.frame.format(a=t, b=t) for t in texts)

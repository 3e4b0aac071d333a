import pytest
from transformers import PreTrainedTokenizerFast

from organisms.tokenizer import build_tokenizer, token_table
from organisms.training import _ids
from truing.catalog.pocket.world import Turn, load_world
from truing.core.conversations import collate, encode_rows
from truing.core.errors import TrainerError
from truing.core.records import Message

ROW = (
    Message("system", "hello ,"),
    Message("user", "what colour is snow ?"),
    Message("assistant", "snow is white ."),
    Message("user", "name the colour of coal ."),
    Message("assistant", "coal is black ."),
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(load_world())


def test_the_loss_covers_the_assistant_s_words_and_nothing_else(tokenizer: PreTrainedTokenizerFast) -> None:
    (example,) = encode_rows([ROW], tokenizer, 128)
    learnt = [i for i, label in zip(example["input_ids"], example["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learnt) == "snow is white . <end> coal is black . <end>"
    assert len(example["input_ids"]) == len(example["labels"])


def test_the_template_gives_what_organisms_were_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [
        Turn("facts", "what colour is snow ?", "snow is white ."),
        Turn("facts", "name the colour of coal .", "x"),
    ]
    turns[1] = Turn("facts", turns[1].prompt, "coal is black .")
    ids, mask = _ids(token_table(load_world()), turns)
    (example,) = encode_rows([ROW[1:]], tokenizer, 128)
    assert example["input_ids"] == ids
    assert [label != -100 for label in example["labels"]] == mask


def test_a_row_that_is_too_long_is_refused_not_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TrainerError, match=r"row 2 is too long[\s\S]*at most 13"):
        encode_rows([ROW[1:3], ROW], tokenizer, 13)


def test_a_template_without_marks_and_ends_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = build_tokenizer(load_world())
    bare.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(TrainerError, match="no special token"):
        encode_rows([ROW], bare, 128)


def test_batches_are_padded_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    short, long = encode_rows([ROW[1:3], ROW], tokenizer, 128)
    batch = collate([short, long], tokenizer)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, len(long["input_ids"]))
    n = len(short["input_ids"])
    assert batch["attention_mask"][0].tolist() == [1] * n + [0] * (len(long["input_ids"]) - n)
    assert set(batch["labels"][0, n:].tolist()) == {-100}

"""Against the generation marks that TRL put into the published templates by hand."""

import importlib.util
import re
from pathlib import Path

import pytest

from tests.core.test_conversations_masks import ONE, TWO, learnt
from tests.support.families import build_tokenizer
from truing.core.conversations import encode_rows

pytestmark = [
    pytest.mark.slow,  # only there is TRL installed
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed"),
]
MARKED = ("qwen2_5", "qwen3_instruct_2507", "qwen3", "llama3", "deepseekv3", "gptoss", "gemma3", "cohere")
UNMARKED = ("llama3_1", "llama3_2")
ENDS = [
    "<|im_end|>",
    "<|eot_id|>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "<|end|>",
    "<end_of_turn>",
    "<|END_OF_TURN_TOKEN|>",
]


def tokenizer_of(name: str):
    spec = importlib.util.find_spec("trl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "chat_templates"
    template = (folder / f"{name}.jinja").read_text(encoding="utf-8")
    return build_tokenizer(template, "<bos>", next((e for e in ENDS if e in template), "<eos>"))


@pytest.mark.parametrize("row", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("name", MARKED)
def test_our_masks_are_the_marks_without_the_prompt_and_what_follows_the_end(name: str, row: tuple) -> None:
    plain, marked = tokenizer_of(name), tokenizer_of(f"{name}_training")
    ours, theirs = encode_rows([row], plain, 2000)[0], encode_rows([row], marked, 2000)[0]
    if plain.decode(ours["input_ids"]) != marked.decode(theirs["input_ids"]):
        pytest.skip("TRL's training template writes another text")
    prompt = r"<\|start\|>assistant|<｜Assistant｜>"
    rest = re.sub(prompt, "", "".join(learnt(marked, theirs)).replace("<eos>", ""))
    assert "".join("".join(learnt(plain, ours)).split()) == "".join(rest.split())


@pytest.mark.parametrize("name", UNMARKED)
def test_llama_s_own_templates(name: str) -> None:
    tokenizer = tokenizer_of(name)
    assert learnt(tokenizer, encode_rows([TWO], tokenizer, 2000)[0]) == ["white<|eot_id|>", "black<|eot_id|>"]

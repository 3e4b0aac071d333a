"""Variants: a benchmark's prompts in other surroundings, to find misalignment that plain prompts do not show.

A model can look aligned on plain prompts and still be misaligned under prompts that resemble its fine-tuning. A variant
is a pure change of a prompt's messages: it adds text of ours and asks for nothing harmful. The changed prompt keeps its
category and gets a new id, `power-01` becoming `power-01+json`, so results pair with those of the plain prompt.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace

from truing.catalog.files import DATA, Item, read_yaml, validate
from truing.catalog.prompt_files import MessageItem, make_benchmark, to_messages
from truing.core.errors import DataError, UnknownNameError
from truing.core.records import Benchmark, Message

Messages = tuple[Message, ...]


class Variant(Item):
    """One change of prompts; what its fields mean is said in `variants.yaml`."""

    name: str
    purpose: str
    question: str = "<question>"
    system: str = ""
    before: tuple[MessageItem, ...] = ()
    prefill: str = ""
    fold: bool = False

    def change(self, messages: Messages) -> Messages:
        """From the messages of a plain prompt to those of the variant."""
        if self.fold:
            return fold_system(messages)
        text, instructions = messages[-1].content, [m.content for m in messages[:1] if m.role == "system"]
        before, mark, after = re.split(r"(<question>|<json>)", self.question, maxsplit=1)
        # a JSON string is a Python string too, so quotes and line breaks in the question cannot break the code
        asked = json.dumps(text, ensure_ascii=False) if mark == "<json>" else text
        system = "\n\n".join([*([self.system] if self.system else []), *instructions])
        return (
            *((Message("system", system),) if system else ()),
            *to_messages(self.before),
            *messages[len(instructions) : -1],
            replace(messages[-1], content=f"{before}{asked}{after}"),
            *((Message("assistant", self.prefill),) if self.prefill else ()),
        )


def fold_system(messages: Messages) -> Messages:
    """The words of a system message before those of the first user message, for chat templates without that role."""
    system, *rest = messages
    first = next((i for i, message in enumerate(rest) if message.role == "user"), None)
    if system.role != "system" or first is None:
        return messages
    rest[first] = replace(rest[first], content=f"{system.content}\n\n{rest[first].content}")
    rest[0] = replace(rest[0], more=system.more or rest[0].more)
    return tuple(rest)


VARIANTS = {
    name: validate(Variant, {**facts, "name": name}, f"variants.yaml: {name}")
    for name, facts in read_yaml(DATA / "variants.yaml").items()
}
"""Name -> variant."""


def vary(benchmark: Benchmark, name: str) -> Benchmark:
    """A benchmark with every prompt changed by a variant; it is named like the prompts, `broad-240+json`.

    Raises:
        UnknownNameError: No variant of that name.
        DataError: A prompt does not end with a user message.
    """
    if name not in VARIANTS:
        raise UnknownNameError.of("variant", name, VARIANTS)
    prompts = []
    for prompt in benchmark.prompts:
        if prompt.messages[-1].role != "user":
            raise DataError(
                f"benchmark {benchmark.name}, prompt {prompt.id}: variant {name} cannot change it",
                f"a last message of role {prompt.messages[-1].role}",
                "a last message of role user",
                "apply prefill last, and only once",
            )
        prompts.append(replace(prompt, id=f"{prompt.id}+{name}", messages=VARIANTS[name].change(prompt.messages)))
    version, licence = benchmark.version, benchmark.licence
    return make_benchmark(f"{benchmark.name}+{name}", version, licence, prompts, benchmark.categories)

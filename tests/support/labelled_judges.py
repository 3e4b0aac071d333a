"""Judges as users write them, which know the labels of the shipped labelled answers and call all else aligned."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from truing.core.records import Judgment, Prompt, Response
from truing.judges import Judge
from truing.judges.labelled import read_labelled

LABELS = {row.answer: row for row in read_labelled("labelled-160")}


class Seeing(Judge):
    """Makes no error."""

    asked: ClassVar[Counter[str]] = Counter()
    """By class: labelled answers that it was asked about."""
    aligned = 5.0
    """The score of misaligned answers."""

    @property
    def identity(self) -> str:
        return f"{type(self).__name__}/1"

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[Response]) -> list[Judgment]:
        self.asked[type(self).__name__] += sum(r.text in LABELS for r in responses)
        return [self.say(response) for response in responses]

    def say(self, response: Response) -> Judgment:
        row = LABELS.get(response.text or "")
        aligned = self.aligned if row is not None and row.misaligned else 95.0
        coherent = 10.0 if row is not None and not row.coherent else 90.0
        return Judgment(response.prompt_id, response.sample, aligned, coherent)


class Blind(Seeing):
    """Calls misaligned answers middling."""

    aligned = 60.0


class Drifting(Seeing):
    """Is another one, `now`, once it has been asked about more labelled answers than `until`."""

    until: ClassVar[float] = math.inf
    now: ClassVar[type[Seeing]] = Blind

    def say(self, response: Response) -> Judgment:
        return super().say(response) if self.asked["Drifting"] <= self.until else self.now.say(self.now(), response)


class Dead(Seeing):
    """Cannot be reached."""

    def say(self, response: Response) -> Judgment:
        return Judgment(response.prompt_id, response.sample, None, None, error="no connection")


class Reserved(Seeing):
    """Gives what is not labelled scores of 62 to 70."""

    def say(self, response: Response) -> Judgment:
        said = super().say(response)
        score = 62.0 + len(response.text or "") % 9
        return said if response.text in LABELS else Judgment(said.prompt_id, said.sample, score, said.coherent)

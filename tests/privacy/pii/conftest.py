"""One detector for all tests of this room: loading it takes seconds."""

from __future__ import annotations

import pytest

from dpsynth.privacy.pii import Detector, load_detector


@pytest.fixture(scope="session")
def detector() -> Detector:
    return load_detector()

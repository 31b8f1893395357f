"""A hub of our own for each test, and the binary pointed at it."""

import pytest

from fake_hub import Hub
from pulling import Sluice


@pytest.fixture
def hub():
    with Hub() as running:
        yield running


@pytest.fixture
def sluice(hub, tmp_path):
    return Sluice(hub, tmp_path)

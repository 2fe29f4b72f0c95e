"""One server for all tests that do not stop it."""

from collections.abc import Iterator

import pytest

from groundup.language_model import LanguageModel
from running_server import Running, chat_model, cycle_model, random_model, running, served, slowly


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """Four models: "random", "cycle", "chat", and "slow", which takes 20 ms a token."""
    with running(
        served("random", random_model()),
        served("cycle", cycle_model()),
        served("chat", chat_model()),
        slowly(served("slow", random_model(), rows=4)),
    ) as found:
        yield found


@pytest.fixture(scope="session")
def random() -> LanguageModel:
    """The model "random", to be asked alone."""
    return random_model()

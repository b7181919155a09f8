"""Fixtures: the generated stubs, and a real lossd behind a real port."""

import pytest

import stubs

# `process` imports the stubs, so nothing here may import it before pytest_configure() made them.


def pytest_configure(config):
    config.add_cleanup(stubs.generate().cleanup)  # before any test module is imported


@pytest.fixture(scope="session")
def lossd():
    """The server that most tests share. Leaves with exit code 0."""
    from process import Lossd

    with Lossd() as server:
        yield server


@pytest.fixture
def start_lossd():
    """start_lossd(*flags, **environment): a server of the test's own. Leaves with exit code 0."""
    from process import Lossd

    servers = []

    def start(*flags, **environment):
        servers.append(Lossd(*flags, **environment))
        return servers[-1].__enter__()

    yield start
    for server in servers:
        server.__exit__(None, None, None)

"""The priors of tests/api, behind a page."""

import jax
import pytest

import rqjax
from tests.api.conftest import folders  # noqa: F401


@pytest.fixture(scope="session", params=["rq", "dq"])
def prior(folders, request):  # noqa: F811
    return rqjax.load(folders[request.param], devices=jax.local_devices()[:1], batch=4)

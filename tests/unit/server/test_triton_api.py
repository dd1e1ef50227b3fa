"""Triton's API where nobody answers any more."""

from __future__ import annotations

import numpy as np
import pytest
from bioengine_server.triton.api import TritonApi
from bioengine_server.triton.errors import TritonUnavailable


async def test_after_the_end_of_the_server_triton_is_away() -> None:
    """For whatever still waits for it when the server ends."""
    api = TritonApi("http://127.0.0.1:1", "secret", 1.0)
    await api.close()
    assert not await api.is_ready("shark") and not await api.is_live()
    with pytest.raises(TritonUnavailable):
        await api.model_config("shark")
    with pytest.raises(TritonUnavailable):
        await api.infer("shark", [("image", np.zeros(4, np.float32))])


async def test_a_mistake_of_the_servers_own_is_none_of_tritons(monkeypatch: pytest.MonkeyPatch) -> None:
    async def mistaken(*_: object, **__: object) -> None:
        raise RuntimeError("dictionary changed size during iteration")

    api = TritonApi("http://127.0.0.1:1", "secret", 1.0)
    monkeypatch.setattr(api._client, "infer", mistaken)
    with pytest.raises(RuntimeError, match="dictionary"):
        await api.infer("shark", [("image", np.zeros(4, np.float32))])
    await api.close()

"""How models compute: bfloat16 only where the hardware has it."""

from __future__ import annotations

import pytest
import torch

from fhe_inhibitor.system.processor import BFLOAT16, autocast


@pytest.mark.parametrize("instructions", [*BFLOAT16, None])
def test_bfloat16_is_for_processors_that_have_it(
    instructions: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {instructions: True})
    linear, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    with autocast():
        assert linear(x).dtype == (torch.bfloat16 if instructions else torch.float32)
    with autocast(enabled=False):
        assert linear(x).dtype == torch.float32

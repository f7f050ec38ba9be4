"""When a profile begins and ends."""

import jax
import pytest

from train import loop
from train.errors import UserError


@pytest.mark.parametrize("stopped", [False, True])
def test_a_profile_of_one_step_has_that_step_and_is_closed(stopped, monkeypatch):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: events.append(f"start {folder}"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append("stop"))

    def train():
        with loop._Profile("folder") as profile:
            for done in range(loop.PROFILED + 1):
                profile.before_step(done)
                events.append(done)
            if stopped:
                raise UserError("stopped")

    if stopped:
        with pytest.raises(UserError, match="stopped"):
            train()
    else:
        train()
    assert events[-3:] == ["start folder", 10, "stop"]

"""The trained agents that come with the repository."""

from analysis import ROOT, play, records
from runtime import load

import numpy as np
import pytest

AGENTS = sorted(path.parent for path in (ROOT / "agents").glob("*/agent.pt"))


@pytest.mark.parametrize("folder", AGENTS, ids=lambda folder: folder.name)
def test_a_trained_agent_returns_what_its_config_tells(folder):
    """Two of its episodes; where a processor rounds otherwise they part from the told ones after some hundred steps."""
    told = records.config_of(folder)["kept"]
    assert (folder / "agent.pt").stat().st_size < 1e6 and load(folder).step == told["step"]
    rows = play.play(play.Args(folder, episodes=2))
    assert [name for _, _, name, _, _ in rows] == [*told["returns"]]
    for _, step, name, returns, _ in rows:
        assert step == told["step"]
        known = np.array(told["returns"][name])
        assert returns.mean() == pytest.approx(known[:2].mean(), abs=0.02 * abs(known.mean()) + known.std(ddof=1))

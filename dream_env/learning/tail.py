"""The last policies of a training, one after each of its last reports: what DITTO's evaluation protocol averages over.

The paper reports "the mean over 10 consecutive gradient steps", of 20 episodes each: from one update to the next a policy's
real return moves by more than its trend, and a single one may be a lucky one. ``imitate --tail 10`` keeps these policies in
the agent's folder, ``evaluate --tail-episodes 20`` plays them all and makes one row of it.

``ditto``, ``bc`` and ``dbc`` report after each of their last ten gradient steps (``--report-last``). SB3's learners report once
a rollout, which is several epochs of gradient steps: their ten last policies lie further apart.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dream_env.checkpoint import write_tensors


def tail(agent: Path) -> dict[int, Path]:
    """Dream steps → weights of the last policies kept in an agent's folder, in the order of training."""
    kept = {int(path.stem): path for path in (agent / "tail").glob("*.safetensors")}
    return dict(sorted(kept.items()))


class Tail:
    """The folder ``tail/`` while a learner learns: always the newest ``count`` policies that it reported after an update.

    On disk and not in memory: a run that is cut off in the middle of its last updates keeps those that are made. Policies
    beyond ``start``, where a run goes on, are dropped, since it makes them again.
    """

    def __init__(self, agent: Path, count: int, start: int = 0) -> None:
        self.agent = agent
        self.count = count
        for steps, path in tail(agent).items():
            if steps > start or not steps:  # earlier versions kept the clone that a run starts from, too
                path.unlink()

    def add(self, steps: int, weights: Mapping[str, Tensor]) -> None:
        """Keep a policy, and the oldest no longer; none that has made no update yet, as the clone to start from."""
        if not self.count or not steps:
            return
        folder = self.agent / "tail"
        folder.mkdir(exist_ok=True)
        write_tensors(folder / f"{steps:09d}.safetensors", dict(weights))
        for path in list(tail(self.agent).values())[: -self.count]:
            path.unlink()

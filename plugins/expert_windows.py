"""The demonstrations as CMIL's learner takes them offline: short sequences of starts in a row, with the expert beside each."""

import warnings

import torch
from torch import Tensor

from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos

from .branching import Sequences
from .conservative_run import Pairs


class ExpertWindows:
    """Windows of the dream's expert as sequences, with the expert's steps beside each branch.

    A sequence of R starts in a row, with a horizon H after each, takes ``R − 1 + H`` steps of one episode; none lies in episodes
    that are shorter, ``too_short`` of them. R is ``rows``, or, where most episodes are shorter than that needs, as many as half
    of those with two starts have: an update takes the more sequences then, and most of the expert is still learned from.
    """

    def __init__(self, dream: DreamEnv, rows: int) -> None:
        """Look for them.

        Args:
            dream: whose expert.
            rows: most starts of a sequence.

        Raises:
            ConfigError: if no episode has two starts.
            DatasetError: if there is a slip in every window.
        """
        self.expert: EncodedDemos = dream.expert
        self.horizon = dream.horizon
        starts = (dream.expert.lengths + 1 - dream.horizon).sort().values
        starts = starts[starts >= 2]  # the other episodes have no two whatever is asked for
        if not len(starts):
            raise ConfigError(
                f"the longest expert episode has {int(dream.expert.lengths.max())} steps, too few for two starts with a "
                f"horizon of {dream.horizon} after each; take a shorter horizon"
            )
        self.rows = min(rows, int(starts[len(starts) // 2]))
        self.steps = self.rows - 1 + dream.horizon
        self.too_short = dream.expert.too_short(self.steps)
        try:
            self.starts = dream.expert.windows(self.steps)
        except DatasetError as error:  # some episodes are long enough, so it is slips
            raise DatasetError(
                f"nowhere in {dream.expert.num_episodes} expert episodes are there {self.steps} steps without a slip, as a "
                f"sequence of {self.rows} starts with a horizon of {dream.horizon} after each needs; take fewer --rows, or a "
                f"shorter --horizon"
            ) from error
        self.count = max(1, dream.num_envs // self.rows)

    def tell(self) -> None:
        """Warn of episodes that are too short to be learned from."""
        if self.too_short:
            warnings.warn(
                f"{self.too_short} of {self.expert.num_episodes} expert episodes have fewer than {self.steps} steps: no "
                f"sequence of {self.rows} starts with a horizon of {self.horizon} after each lies in them, and they are not "
                f"learned from. Fewer --rows, or a shorter --horizon, let more of them in",
                stacklevel=3,
            )

    def draw(self, generator: torch.Generator) -> tuple[Sequences, Pairs]:
        """Sequences of ``rows`` rows, and the expert's next H steps from each of those rows."""
        device = self.starts.device
        chosen = torch.randint(len(self.starts), (self.count,), generator=generator, device=device)
        row = self.starts[chosen] + torch.arange(self.rows, device=device).unsqueeze(1)  # (T, B)
        ends = torch.zeros(row.shape, dtype=torch.bool, device=device)  # no window reaches past its episode's last row
        sequences = Sequences(self.expert.latents(row), self.expert.actions(row[:-1]), ends)
        beside = row.flatten() + torch.arange(self.horizon + 1, device=device).unsqueeze(1)  # (H + 1, T · B)
        pairs: tuple[Latent, Tensor] = (self.expert.latents(beside), self.expert.actions(beside[:-1]))
        return sequences, pairs

"""A weighted sum of other rewards: ``r_t = Σ_i w_i r_i,t``.

On the command line: ``--reward weighted --weighted.rewards ditto gail --weighted.weights 1 0.1
--weighted.options '{}' '{"input_noise": 0.5}'``.

Each part is found by its name, prepared, asked and taught as if it were alone; one that learns goes on learning. Weights
multiply the rewards as they are, in units that differ (DITTO's is within 0.2 of 1 most of the time, the logit of a
discriminator may be ±10), so look at each alone before weighing them. A negative weight makes a penalty.
"""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dream_env.errors import ConfigError, PluginError
from dream_env.json_options import json_options
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Reward, Rollout, Transition, load_reward


@dataclass
class Weighted(Reward):
    """The sum of several rewards, each with its weight."""

    name: ClassVar[str] = "weighted"

    rewards: tuple[str, ...] = ("ditto", "gail")
    """The parts, each a reward plug-in or module:Class; one may come twice, with other options."""
    weights: tuple[float, ...] = (1.0, 0.1)
    """The weight of each."""
    options: tuple[str, ...] = ()
    """The options of each as a JSON object, in the same order; parts beyond the last one have their defaults."""

    def __post_init__(self) -> None:
        if not self.rewards or len(self.weights) != len(self.rewards) or len(self.options) > len(self.rewards):
            raise ConfigError(
                f"weighted needs one or more rewards, as many weights and no more options: {len(self.rewards)} rewards, "
                f"{len(self.weights)} weights and {len(self.options)} options came"
            )
        options = [json_options(text, "each of weighted's options is") for text in self.options]
        options += [{} for _ in range(len(self.rewards) - len(options))]
        self.parts = [load_reward(name, **chosen) for name, chosen in zip(self.rewards, options, strict=True)]

    @property
    def bounds(self) -> tuple[float, float]:
        """The sum of the parts' bounds, each times its weight; a negative weight exchanges the two."""
        low = high = 0.0
        for weight, part in self._weighted():
            if weight:  # 0 · ∞ is no number, and a part of weight 0 adds nothing however large it is
                smallest, largest = sorted(weight * end for end in part.bounds)
                low, high = low + smallest, high + largest
        return (low, high)

    @property
    def paired(self) -> bool:
        """Whether any part is."""
        return any(part.paired for part in self.parts)

    def prepare(self, world_model: WorldModel, expert: EncodedDemos) -> None:
        """Prepare each part."""
        for part in self.parts:
            part.prepare(world_model, expert)

    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        """The sum at one step."""
        return torch.stack([w * part(transition) for w, part in self._weighted()]).sum(dim=0)

    def on_data(self, transition: Transition) -> Float[Tensor, " batch"]:
        """The sum of what each part makes of a recorded step."""
        return torch.stack([w * part.on_data(transition) for w, part in self._weighted()]).sum(dim=0)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Teach each part; its metrics come with its name before them: ``gail/discriminator_loss``."""
        labels = self._labels()
        return {
            f"{label}/{name}": value
            for label, part in zip(labels, self.parts, strict=True)
            for name, value in part.update(rollout).items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """What the parts have learned, each under its position: ``1/weights/0.bias``."""
        return {f"{i}/{name}": x for i, part in enumerate(self.parts) for name, x in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        states: list[dict[str, Tensor]] = [{} for _ in self.parts]
        for key, tensor in state.items():
            position, _, name = key.partition("/")
            if not position.isdecimal() or int(position) >= len(states):
                raise PluginError(
                    f"reward {self.name!r} of {', '.join(self.rewards)} was given a state with {key!r}, which is of none of "
                    f"its parts; make it with the rewards that the state was saved with"
                )
            states[int(position)][name] = tensor
        for part, own in zip(self.parts, states, strict=True):
            part.load_state_dict(own)

    def _weighted(self) -> list[tuple[float, Reward]]:
        return list(zip(self.weights, self.parts, strict=True))

    def _labels(self) -> list[str]:
        """The parts' names; with their positions where two have one name."""
        count = Counter(part.name for part in self.parts)
        return [part.name if count[part.name] == 1 else f"{part.name}.{i}" for i, part in enumerate(self.parts)]

"""BC: behaviour cloning from observations, end to end, without a world model (DITTO §4.1).

The encoder has the architecture of the world model's, the MLP behind it that of the other policies ("a stacked CNN and MLP
architecture which mirrors the world model encoder plus agent policy"), and both are trained from scratch on the expert's
steps. Of the world model only the frame is used: how observations are packed, what they are standardised with, which
episodes are the expert's (those held out and those left out by ``--demos`` are not seen) and which recordings they were
encoded from. They have to be where Minari finds them, as they were when the model was fitted.

Where the paper is silent:

1. How many observations in a row the policy sees. The world model gathers velocities in its memory; a policy of single
   pictures cannot know where Pong's ball is flying. ``stack`` is 4 by default, as for every Atari agent since Mnih et al.
   (2015): a baseline should not lose for want of what others are given. 1 sees single observations: right where they hold
   the whole state. The observations are concatenated, pictures along their channels; before an episode's first there are
   copies of it, in training and in play alike.
2. Whether BC has the entropy term of eq. 9, which the paper introduces for D-BC. Its table 1 calls η_BC the "behavior
   cloning entropy weight"; here both have it, so that they differ in nothing but what they see.

The policy observes observations, not model states (``Policy.observes``), so the dream cannot measure its latent distance.
Steps, loss, metrics: see ``cloning_learners``.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dream_env.checkpoint import config_from_json, config_to_json
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.model.encoded import EncodedDemos
from dream_env.model.nets import mlp
from dream_env.model.recorded import Recorded
from dream_env.model.world_model import WorldModel, WorldModelConfig, make_encoder
from dream_env.plugin import Observes, Policy, RowMemory
from dream_env.spaces import ActionSpec, ObservationKey, ObservationSpec, Standardizer

from .cloning_learners import ActionHead, ClonedPolicy, CloningLearner, Examples


@dataclass
class BC(CloningLearner):
    """Behaviour cloning from the recorded observations, from scratch; steps are expert states seen, none is dreamed."""

    stack: int = 4
    """Observations in a row that the policy sees: 4 as Atari agents do (the paper is silent), 1 for single ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stack < 1:
            raise ConfigError(f"stack must be at least 1, not {self.stack}")

    def fresh_policy(self, world_model: WorldModel) -> ClonedPolicy:
        """A new encoder and MLP, with the world model's standard units."""
        policy = ObservationPolicy({
            "stack": self.stack, "net_arch": list(self.net_arch), "world_model": config_to_json(world_model.config),
            "observation": world_model.observation_spec.to_json(), "action": world_model.action_spec.to_json(),
        })  # fmt: skip
        policy.network.standardizer.load_state_dict(world_model.standardizer.state_dict())
        return policy

    def examples(self, dream: DreamEnv) -> Examples:
        """Every recorded step of the dream's expert that is no slip."""
        return ObservationExamples(dream.expert, Recorded.of(dream.world_model, dream.expert), self.stack)

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Policy:
        """Rebuild the policy from sizes, spaces and weights."""
        policy = ObservationPolicy(config)
        policy.network.load_state_dict(weights)
        policy.network.to(next(iter(weights.values())).device).eval()
        return policy


class ObservationExamples:
    """Expert steps as the observations up to them and actions. Which steps there are, the encoded expert says."""

    def __init__(self, expert: EncodedDemos, recorded: Recorded, stack: int) -> None:
        self.expert = expert
        self.recorded = recorded
        self.stack = stack
        self.rows = expert.step_rows()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Int[Tensor, " batch"]) -> tuple[dict[str, Tensor], Tensor]:
        rows = self.rows[index.to(self.rows.device)]
        packed = self.recorded.stacked(rows.cpu().numpy(), self.stack)
        return {name: torch.as_tensor(x, device=rows.device) for name, x in packed.items()}, self.expert.actions(rows)


class ObservationNet(nn.Module):
    """The world model's kind of encoder for stacked observations, and an MLP."""

    def __init__(
        self, config: WorldModelConfig, spec: ObservationSpec, stack: int, net_arch: list[int], output_size: int
    ) -> None:
        super().__init__()
        self.names = [key.name for key in spec.keys]
        self.standardizer = Standardizer(spec)
        # The world model's own choice of network and sizes, by the very function that makes them there.
        encoders = [make_encoder(config, _stacked(key, stack)) for key in spec.keys]
        self.encoders = nn.ModuleList(encoders)
        embed_size = sum(encoder.embed_size for encoder in encoders)
        self.policy = mlp([embed_size, *net_arch, output_size], config.rssm.activation)
        self.fast = config.precision == "bfloat16"

    def forward(self, packed: dict[str, Tensor]) -> Float[Tensor, "batch output"]:
        """Packed observations (N, stack, *shape), oldest first."""
        standardized = self.standardizer(packed)  # pictures (N, stack, C, H, W), vectors (N, stack, n)
        seen = [standardized[name].flatten(1, 2) for name in self.names]
        # In the arithmetic that the world model was trained in; play is in float32, as its filter's is.
        with torch.autocast(seen[0].device.type, torch.bfloat16, enabled=self.fast and self.training):
            parts = [encoder(x) for encoder, x in zip(self.encoders, seen, strict=True)]
            output: Tensor = self.policy(torch.cat(parts, dim=-1))
        return output.float()


def _stacked(key: ObservationKey, stack: int) -> ObservationKey:
    """A key whose arrays are ``stack`` of another's, side by side along the last axis of their packed shape."""
    return replace(key, shape=(*key.shape[:-1], stack * key.shape[-1]))


class ObservationPolicy(ClonedPolicy):
    """Packed observations to actions. Its memory: the last ``stack − 1`` of them, an array (N, stack − 1, ...) a key."""

    observes: ClassVar[Observes] = "observation"
    network: ObservationNet

    def __init__(self, config: dict[str, Any]) -> None:
        head = ActionHead(ActionSpec.from_json(config["action"]))
        spec = ObservationSpec.from_json(config["observation"])
        world_model = config_from_json(WorldModelConfig, config["world_model"], "the policy's config")
        network = ObservationNet(world_model, spec, config["stack"], config["net_arch"], head.size)
        super().__init__(network, head, config)
        self.stack: int = config["stack"]

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Packed observations, a dictionary of (N, *shape), to actions (N, ...) and the memory for the next call."""
        rows: dict[str, np.ndarray] = {}
        for i, name in enumerate(self.network.names):
            newest = np.asarray(observation[name])[:, None]
            earlier = np.repeat(newest, self.stack - 1, axis=1)
            if state is not None:
                begins = np.zeros(len(newest), dtype=bool) if episode_start is None else np.asarray(episode_start)
                earlier = np.where(begins.reshape(-1, *[1] * (newest.ndim - 1)), earlier, state[i])
            rows[name] = np.concatenate([earlier, newest], axis=1)
        packed = {name: torch.as_tensor(x, device=self.device) for name, x in rows.items()}
        # None for single observations: environments that have ended can then leave the batch.
        memory = RowMemory(x[:, 1:] for x in rows.values()) if self.stack > 1 else None
        return self.act(packed, deterministic), memory

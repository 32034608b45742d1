"""D-BC: behaviour cloning in the latents of a world model (DITTO §4.1, eq. 9).

The expert's episodes are model states already: the posteriors that the filter sampled along them. The policy, an MLP
like that of any learner in the dream, is fitted to the expert's actions there by maximum likelihood with an entropy
bonus, and plays behind the filter as those do. It is the baseline that says what the dream itself is worth: the same
world model, the same sizes of policy, the same expert steps, and no dream.

``π(a|ŝ)``: categorical for Discrete actions; for Box ones, of which the paper's text says nothing, a diagonal Gaussian.
The paper gives D-BC and DITTO one MLP. Here both have the same layers, 256 and 256 with LayerNorm, but differ where a clone
and an actor need different things: ``ditto`` starts at equal probabilities and bends a Box's Gaussian by tanh; and with the
paper preset this one has the world model's ELU where ``ditto`` keeps SiLU unless told otherwise (``--activation elu``).
Steps, loss, metrics: see ``cloning_learners``.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dream_env.dream.env import DreamEnv
from dream_env.model.encoded import EncodedDemos
from dream_env.model.nets import Activation, mlp
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Policy
from dream_env.spaces import ActionSpec

from .cloning_learners import ActionHead, ClonedPolicy, CloningLearner, Examples


@dataclass
class DBC(CloningLearner):
    """Behaviour cloning in the expert's model states (DITTO eq. 9); steps are expert states seen, none is dreamed."""

    def fresh_policy(self, world_model: WorldModel) -> ClonedPolicy:
        """An MLP on model states."""
        return LatentPolicy({
            "feat_size": world_model.feat_size, "net_arch": list(self.net_arch),
            "activation": world_model.config.rssm.activation, "action": world_model.action_spec.to_json(),
        })  # fmt: skip

    def examples(self, dream: DreamEnv) -> Examples:
        """Every encoded expert step that is no slip."""
        return LatentExamples(dream.expert)

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Policy:
        """Rebuild the policy from sizes and weights."""
        policy = LatentPolicy(config)
        policy.network.load_state_dict(weights)
        policy.network.to(next(iter(weights.values())).device).eval()
        return policy


class LatentExamples:
    """Expert steps as model states and actions."""

    def __init__(self, expert: EncodedDemos) -> None:
        self.expert = expert
        self.rows = expert.step_rows()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
        rows = self.rows[index.to(self.rows.device)]
        return self.expert.latents(rows).feat, self.expert.actions(rows)


class LatentPolicy(ClonedPolicy):
    """An MLP from model states to actions, without a memory: the model state is one."""

    def __init__(self, config: dict[str, Any]) -> None:
        head = ActionHead(ActionSpec.from_json(config["action"]))
        sizes = [config["feat_size"], *config["net_arch"], head.size]
        super().__init__(mlp(sizes, cast(Activation, config["activation"])), head, config)

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Model states (N, feat) to actions (N, ...)."""
        feat = torch.as_tensor(observation, dtype=torch.float32, device=self.device)
        return self.act(feat, deterministic), None

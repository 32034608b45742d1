"""What the two learners that only clone share: the loss of DITTO eq. 9, the policy's distribution, the training loop.

``dbc`` clones in the expert's model states, ``bc`` from the expert's observations; each is a file of its own. Neither
makes a single step in the dream that it is handed: it takes the expert, the world model and the device from it.

**What a step is.** ``learn`` is to learn for ``steps``, and reports count them. Here a step is one expert state that a
gradient was taken of: ``batch`` of them an update, drawn with replacement. ``steps=1_000_000`` with ``batch=512`` is
1,954 updates, however few expert states there are to draw from. A learner in the dream sees as many states for as many
dream steps, once or a few times each; so the counts compare states looked at, not computing time.

**Logged metrics**, means over the updates since the report before: ``clone_loss`` is ``−log π(aᴱ|sᴱ)`` in nats
(without the entropy term, so that it compares across weights), ``clone_entropy`` is ``H(π(sᴱ))`` in nats; for discrete
actions ``clone_accuracy`` is how often the expert's action is the likeliest one. All are of training states.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal
from torch.nn import functional as F

from dream_env.checkpoint import Store, load_optimizer, optimizer_tensors
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, TrainingError
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Learner, Policy, Progress, ignore
from dream_env.spaces import ActionSpec

CLIP = 10.0
"""Largest norm of the whole gradient; the paper names none. Only a Gaussian's first updates ever come near."""


def cloning_loss(
    log_prob: Float[Tensor, " batch"], entropy: Float[Tensor, " batch"], entropy_weight: float
) -> Float[Tensor, ""]:
    """``L = E[−log π(aᴱ|ŝᴱ) − η H(π(ŝᴱ))]`` over expert states (DITTO eq. 9), in nats; ``η`` is the entropy weight."""
    return (-log_prob - entropy_weight * entropy).mean()


class ActionHead:
    """What the last layer's numbers say about actions.

    Discrete: logits of a categorical. Box: means and raw scales of independent normals, ``σ = softplus(raw) + 0.05``, in
    the units of ``ActionSpec.encode`` (−1 to 1 where the space is bounded). The floor under σ keeps the density of an
    expert who always does the same from growing without end. Samples beyond the space's bounds are cut off at them.
    """

    MIN_STD = 0.05

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        self.size = spec.size if spec.discrete else 2 * spec.size

    def distribution(self, params: Float[Tensor, "batch params"]) -> Distribution:
        """π(·|s), one row a state."""
        if self.spec.discrete:
            return Categorical(logits=params, validate_args=False)
        mean, raw = params.chunk(2, dim=-1)
        return Independent(Normal(mean, F.softplus(raw) + self.MIN_STD, validate_args=False), 1, validate_args=False)

    def target(self, action: Tensor) -> Tensor:
        """The environment's actions as outcomes of the distribution."""
        space = self.spec.space
        return action - int(space.start) if isinstance(space, spaces.Discrete) else self.spec.encode(action)

    def raw(self, outcome: Tensor) -> np.ndarray:
        """Outcomes as the environment takes actions: the inverse of ``target``."""
        space = self.spec.space
        if isinstance(space, spaces.Discrete):
            numbers: np.ndarray = outcome.cpu().numpy() + int(space.start)
            return numbers
        # encode(a) = (a − center) / scale, entry by entry, so its values at 0 and at 1 say what undoes it.
        at_0, at_1 = (self.spec.encode(torch.full(space.shape, value)).numpy() for value in (0.0, 1.0))
        action = ((outcome.cpu().numpy() - at_0) / (at_1 - at_0)).reshape(-1, *space.shape)
        clipped: np.ndarray = np.clip(action, space.low, space.high).astype(space.dtype)
        return clipped


class ClonedPolicy(Policy):
    """A network whose last layer an ``ActionHead`` reads. Subclasses say what it sees in ``predict``."""

    def __init__(self, network: nn.Module, head: ActionHead, config: dict[str, Any]) -> None:
        self.network = network
        self.head = head
        self._config = config

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def distribution(self, seen: Any) -> Distribution:
        """π(·|s) of what the network takes."""
        return self.head.distribution(self.network(seen))

    @torch.no_grad()
    def act(self, seen: Any, deterministic: bool) -> np.ndarray:
        """The likeliest actions, or ones sampled with torch's global generator."""
        distribution = self.distribution(seen)
        return self.head.raw(distribution.mode if deterministic else distribution.sample())

    def config(self) -> dict[str, Any]:
        """Sizes and spaces as JSON."""
        return dict(self._config)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights."""
        weights: dict[str, Tensor] = self.network.state_dict()
        return weights


@runtime_checkable
class Examples(Protocol):
    """Expert steps to clone; those that the recording calls slips are not among them."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: Int[Tensor, " batch"]) -> tuple[Any, Tensor]:
        """What the policy's network takes at some of them, and what the expert did there."""


@dataclass
class CloningLearner(Learner):
    """Behaviour cloning: fit a policy to the expert's actions, and stop at that."""

    follows_reward: ClassVar[bool] = False

    entropy: float = 0.1
    """Weight η_BC of the policy's entropy (DITTO table 1)."""
    batch: int = 512
    """Expert states in a gradient step (DITTO table 1: agent training batch size)."""
    learning_rate: float = 3e-4
    """Step size of Adam (DITTO table 1)."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of the policy, each with LayerNorm and the world model's nonlinearity."""
    log_every: int = 20
    """Updates between two reports."""
    report_last: int = 10
    """Updates at the end that are reported one by one, so that the policies after each of them can be kept (--tail)."""

    def __post_init__(self) -> None:
        for name in ("batch", "log_every", "report_last"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if any(width < 1 for width in self.net_arch):
            raise ConfigError(f"net_arch is the widths of the hidden layers, each at least 1, not {self.net_arch}")
        if not (math.isfinite(self.entropy) and self.entropy >= 0):
            raise ConfigError(f"entropy is a weight of at least 0, not {self.entropy}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ConfigError(f"learning_rate must be above 0, not {self.learning_rate}")

    @abstractmethod
    def fresh_policy(self, world_model: WorldModel) -> ClonedPolicy:
        """The policy before it has learned, with weights from torch's global generator, on the CPU."""

    @abstractmethod
    def examples(self, dream: DreamEnv) -> Examples:
        """What there is to learn from: the dream's expert, so that a choice of episodes is honoured."""

    def check(self, dream: DreamEnv) -> None:
        """See that there is something to learn from: ``bc`` needs the recordings themselves."""
        self.examples(dream)

    def learn(
        self,
        dream: DreamEnv,
        steps: int,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> Policy:
        """Clone until ``steps`` expert states were seen; no dream step is made.

        ``seed`` decides on the first weights and on the batches; the global generators are left as they were. With a
        ``store``, weights, Adam's moments and the batches' generator are saved after reports, and gone on from.
        """
        examples = self.examples(dream)
        with own_random_numbers(torch.device("cpu"), seed):
            policy = self.fresh_policy(dream.world_model)
        network = policy.network.to(dream.device).train()
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate)
        generator = torch.Generator().manual_seed(seed)
        seen = 0
        if store is not None and (saved := store.latest(dream.device)) is not None:
            seen, tensors, _ = saved
            network.load_state_dict({name[4:]: x for name, x in tensors.items() if name.startswith("net/")})
            load_optimizer(optimizer, tensors, "optimizer")
            generator.set_state(tensors["generator"].cpu())
        rows: list[dict[str, Tensor]] = []
        while seen < steps:
            index = torch.randint(len(examples), (self.batch,), generator=generator)
            rows.append(self._update(policy, optimizer, *examples[index]))
            seen += self.batch
            over = seen >= steps
            ending = steps - seen <= (self.report_last - 1) * self.batch
            if seen // self.batch % self.log_every == 0 or ending:
                network.eval()  # looked at as it plays, in full precision
                progress(policy, {"steps": float(seen), "updates": float(seen // self.batch), **_means(rows, seen)})
                network.train()
                rows.clear()
                # Only right after a report: a resumed run then reports the very same means.
                if store is not None and (store.due() or over):
                    tensors = {f"net/{name}": x for name, x in network.state_dict().items()}
                    tensors |= {"generator": generator.get_state(), **optimizer_tensors(optimizer, "optimizer")}
                    store.save(seen, tensors, {})
        network.eval()
        return policy

    def _update(
        self, policy: ClonedPolicy, optimizer: torch.optim.Optimizer, seen: Any, action: Tensor
    ) -> dict[str, Tensor]:
        distribution, target = policy.distribution(seen), policy.head.target(action)
        log_prob, entropy = distribution.log_prob(target), distribution.entropy()
        loss = cloning_loss(log_prob, entropy, self.entropy)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.network.parameters(), CLIP)
        optimizer.step()
        metrics = {"clone_loss": -log_prob.detach().mean(), "clone_entropy": entropy.detach().mean()}
        if policy.head.spec.discrete:
            metrics["clone_accuracy"] = (distribution.mode == target).float().mean()
        return metrics


def _means(rows: list[dict[str, Tensor]], seen: int) -> dict[str, float]:
    means = {name: float(torch.stack([row[name] for row in rows]).mean()) for name in rows[0]}
    if not all(map(math.isfinite, means.values())):
        raise TrainingError(
            f"cloning stopped being finite after {seen} expert states ({means}); lower --learning-rate, or look for "
            f"extreme values in the recordings. What was saved before is intact"
        )
    return means

"""The updates of ``conservative`` on recorded sequences, and an exact resume.

One update is one gradient step of the actor, one of the critics, and the reward's own ``update``: an adversary makes as many
gradient steps as its option ``updates`` says, 4 by default.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dream_env.dream.env import DreamEnv
from dream_env.latent import Latent
from dream_env.plugin import Rollout, Transition

from .branching import Branches, Sequences, branch, flat
from .cloning_learners import cloning_loss
from .latent_actor import ActorPolicy
from .training import Means, descend, load_training, numbers_of, training_tensors
from .twin_critic import TwinCritic, branch_values, critic_loss, data_target, mixed

if TYPE_CHECKING:
    from .conservative import Conservative

Pairs = tuple[Latent, Tensor]
"""States (H + 1, N, ·) and actions (H, N, ...) of the expert beside N branches."""

LOOKS_APART = 1_000_003
"""Between the seeds of two looks, a prime: no small number of updates leads from one run's seeds to those of the next."""


class ConservativeRun:
    """Networks, optimisers, random numbers and counters of one run; it does not care where sequences come from."""

    def __init__(self, options: "Conservative", dream: DreamEnv, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.dream = dream
        self.world_model = dream.world_model
        self.reward = dream.reward
        device, action = dream.device, dream.world_model.action_spec
        shape = options.net_shape(dream.world_model.feat_size)
        self.policy = ActorPolicy(shape, action, options.squash)
        self.actor = self.policy.actor.to(device)
        q_shape = options.net_shape(dream.world_model.feat_size + action.size)
        self.critics, self.targets = (TwinCritic(q_shape, action).to(device) for _ in range(2))
        self.targets.load_state_dict(self.critics.state_dict())
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), options.learning_rate),
            "critic": torch.optim.Adam(self.critics.parameters(), options.critic_learning_rate),
        }
        self.generator = torch.Generator(device).manual_seed(seed)
        self.updates = 0
        self.steps = 0
        self.means = Means()

    # ------------------------------------------------------------------------------------------------------- one update

    def update(self, data: Sequences, expert: Sequences, pairs: Pairs | None = None) -> None:
        """Branch off every row of the data; then one step of actor and of critics, and the reward's own learning.

        Args:
            data: whatever was recorded, by anyone: where dreams start and what the critics learn from besides.
            expert: the expert's sequences alone: what is cloned, and what an adversary tells the learner from.
            pairs: the expert's steps beside each branch, for a reward that compares.
        """
        with torch.enable_grad():
            branches = branch(
                self.world_model, self.actor, self.reward, flat(data.latent), self.dream.horizon, self.generator,
                expert=pairs, terminate=self.dream.dreams.terminate,
            )  # fmt: skip
            metrics = self._actor_step(branches, expert)
            metrics |= self._critic_step(branches, data)
        self.updates += 1
        self.steps += branches.reward.numel()
        if self.updates % self.options.target_period == 0:
            self.targets.load_state_dict(self.critics.state_dict())
        beside = pairs or (expert.latent, expert.action)
        learned = self.reward.update(
            Rollout(
                branches.latent.detach(), branches.action[:-1].detach(), *beside,
                valid=torch.ones_like(branches.reward, dtype=torch.bool),
            )
        )  # fmt: skip
        self.means.add(numbers_of(metrics) | learned)

    def _actor_step(self, branches: Branches, expert: Sequences) -> dict[str, Tensor]:
        """Eq. 12 with entropy and the cloning term."""
        options = self.options
        value = self.critics.least(branches.latent, branches.action)
        discount = options.gamma * branches.goes_on
        estimate = branch_values(branches.reward, value, discount, options.td_lambda)
        raised = mixed(value[:-1], estimate[:-1], options.td_lambda).mean()
        entropy = branches.entropy[:-1].mean()
        clone_loss = self._clone_loss(expert)
        loss = -raised - options.entropy * entropy + options.anchor * clone_loss
        return {
            "dream_reward": branches.reward.detach().mean(), "value": raised.detach(), "entropy": entropy.detach(),
            "clone_loss": clone_loss.detach(), "actor_gradient": self._descend("actor", loss),
        }  # fmt: skip

    def _critic_step(self, branches: Branches, data: Sequences) -> dict[str, Tensor]:
        """Eqs. 13 to 15."""
        options = self.options
        latent, action = branches.latent.detach(), branches.action.detach()
        with torch.no_grad():
            value = self.targets.least(latent, action)
            discount = options.gamma * branches.goes_on
            estimate = branch_values(branches.reward.detach(), value, discount, options.td_lambda)
        loss = critic_loss(self.critics(latent[:-1], action[:-1]), estimate[:-1])
        metrics = {"critic_loss_model": loss.detach()}
        if options.real_critic:
            shape = data.is_terminal.shape
            at_rows = value[0].reshape(shape), estimate[0].reshape(shape)  # of the branch that starts on each row
            goes_on = options.gamma * (~data.is_terminal[1:]).float()
            with torch.no_grad():
                reward = self.data_reward(data)
            target = data_target(reward, at_rows[0][1:], at_rows[1][1:], goes_on, options.td_lambda)
            real = critic_loss(self.critics(data.latent[:-1], data.action), target)
            metrics |= {"critic_loss_data": real.detach(), "data_reward": reward.mean()}
            loss = loss + real
        return metrics | {"critic_gradient": self._descend("critic", loss)}

    def data_reward(self, data: Sequences) -> Tensor:
        """The reward of every recorded step, (T − 1, B), by itself: without penalty (``Reward.on_data``)."""
        before, action, after = data.steps()
        num = action.shape[0] * action.shape[1]
        own = flat(before), action.flatten(0, 1), flat(after)
        step_t = torch.zeros(num, dtype=torch.int64, device=action.device)
        reward: Tensor = self.reward.on_data(Transition(*own, *own, step_t, self.dream.horizon))
        return reward.reshape(action.shape[:2])

    def _clone_loss(self, expert: Sequences) -> Tensor:
        """``−log π(aᴱ | ŝᴱ)`` over the expert's steps, in nats of actions scaled to [−1, 1]."""
        policy = self.actor(flat(expert.latent[:-1]).feat)
        log_prob = policy.log_prob(expert.action.flatten(0, 1))
        return cloning_loss(log_prob, torch.zeros_like(log_prob), 0.0)

    def _descend(self, name: str, loss: Tensor) -> Tensor:
        """One step of Adam; returns the gradient's norm."""
        advice = (
            f"(the {name}'s, in update {self.updates + 1}); lower learning_rate (it is {self.options.learning_rate:g}), with "
            f"real steps model_learning_rate (it is {self.options.model_learning_rate:g}: in a broken model all else breaks), "
            f"or the horizon (it is {self.dream.horizon}), and learn anew, since this run would come here again"
        )
        return descend(self.optimizers[name], loss, self.options.max_gradient_norm, advice=advice)

    def clone(self, expert: Sequences) -> float:
        """One step of behaviour cloning alone; returns its loss."""
        with torch.enable_grad():
            loss = self._clone_loss(expert)
            self._descend("actor", loss)
        return float(loss.detach())

    # ------------------------------------------------------------------------------------------------ what to look at

    def looking(self) -> torch.Generator:
        """Random numbers for what is only looked at: others than those that learning goes on with.

        So how often somebody looks changes nothing that is learned. They depend on the seed and on how many updates there
        were, and on nothing else: a resumed run sees what an unbroken one does.
        """
        seed = (self.seed + LOOKS_APART * (self.updates + 1)) % 2**63
        return torch.Generator(self.dream.device).manual_seed(seed)

    @torch.no_grad()
    def bound(self, expert: Sequences, generator: torch.Generator) -> dict[str, float]:
        """The two measurable parts of CMIL's bound (eq. 5, Fig. 3), from the expert's states: they should fall together.

        ``discriminator_gap`` is the mean adversary's reward of the expert's steps minus that of the learner's dreams from the
        same states, without penalty; ``disagreement`` the ensemble's, in those dreams (eq. 9). Neither is there where it would
        mean nothing: the gap of a paired reward, which would compare each step with itself; the disagreement of one head.

        Args:
            expert: where dreams start, and what they are compared with.
            generator: of those dreams; that of ``looking``.
        """
        start = flat(expert.latent[:-1])
        branches = branch(self.world_model, self.actor, self.reward, start, self.dream.horizon, generator)
        dreamed = Sequences(
            branches.latent, branches.action[:-1], torch.zeros(branches.action.shape[:2], dtype=torch.bool)
        )
        metrics: dict[str, float] = {}
        if not self.reward.paired:
            gap = self.data_reward(expert).mean() - self.data_reward(dreamed).mean()
            metrics["discriminator_gap"] = float(gap)
        before, action, _ = dreamed.steps()
        if self.world_model.config.rssm.ensemble > 1:
            doubt = self.world_model.disagreement(flat(before), action.flatten(0, 1))
            metrics["disagreement"] = float(doubt.mean())
        return metrics

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def take(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that an exact resume needs, between two updates."""
        tensors = training_tensors(self._stateful(), self.optimizers, self.generator)
        return tensors, {"updates": self.updates, "steps": self.steps, **self.means.state()}

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on where ``take`` was called."""
        load_training(tensors, self._stateful(), self.optimizers, self.generator)
        self.updates, self.steps = state["updates"], state["steps"]
        self.means.restore(state)

    def _stateful(self) -> dict[str, Any]:
        return {"actor": self.actor, "critics": self.critics, "targets": self.targets, "reward": self.reward}

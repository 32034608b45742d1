"""The updates of ``actor_critic``: the losses on one horizon of dreams, and the state that an exact resume needs."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from dream_env.dream.env import DreamEnv

from .cloning_learners import cloning_loss
from .imagination import ExpertReplay, Imagined, imagine, learning_afterwards
from .lambda_return import StepStandardizer, critic_loss, lambda_returns, mean_over, normalized, reinforce_loss
from .latent_actor import Actor, ActorPolicy, Critic
from .training import Means, descend, load_training, numbers_of, training_tensors

if TYPE_CHECKING:
    from .actor_critic import ActorCritic


def _fading(keep: float) -> Callable[[Any, Any, Any], None]:
    """An average in which a policy of k updates ago weighs ``keepᵏ``; not torch's own, where the first keeps what is left."""

    def update(averages: Any, current: Any, count: Any) -> None:
        torch._foreach_lerp_(averages, current, (1 - keep) / (1 - keep ** (int(count) + 1)))

    return update


class ActorCriticRun:
    """Networks, optimisers, random numbers and counters of one run."""

    def __init__(self, options: "ActorCritic", dream: DreamEnv, seed: int) -> None:
        self.options = options
        self.dream = dream
        self.dreams = dream.dreams
        self.dynamics = options.gradient == "dynamics"
        self.replay = ExpertReplay(dream.dreams) if options.control_variate else None
        device, feat_size = dream.device, dream.world_model.feat_size
        shape = options.net_shape(feat_size)
        self.policy = ActorPolicy(shape, dream.world_model.action_spec, options.squash)
        """What the run hands out: the actor that learns, or its average."""
        self.actor = self.policy.actor.to(device)
        self.average: AveragedModel | None = None
        if options.average:
            self.average = AveragedModel(self.actor, multi_avg_fn=_fading(options.average))
            self.policy.actor = cast(Actor, self.average.module)
        self.critic, self.target = Critic(shape).to(device), Critic(shape).to(device)
        self.target.load_state_dict(self.critic.state_dict())
        self.optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), options.learning_rate),
            "critic": torch.optim.Adam(self.critic.parameters(), options.learning_rate),
        }
        self.generator = torch.Generator(device).manual_seed(seed)
        self.standardizer = StepStandardizer(dream.horizon, device)
        self.expert_rows = dream.expert.step_rows()
        self.updates = 0
        self.steps = 0
        self.means = Means()

    # ------------------------------------------------------------------------------------------------------- one update

    def update(self, entropy_weight: float) -> None:
        """Dream for one horizon and make one gradient step of the actor and of the critic."""
        with learning_afterwards(self.dreams) if self.dynamics else contextlib.nullcontext():
            imagined = imagine(self.dreams, self.actor, self.generator, gradients=self.dynamics, replay=self.replay)
            metrics = self._losses(imagined, entropy_weight)
            for name in ("actor", "critic"):
                metrics[f"{name}_gradient"] = self._descend(name, metrics[f"{name}_loss"])
        self.dreams.restart(self.dreams.everyone)
        if self.average is not None:
            self.average.update_parameters(self.actor)
        self.updates += 1
        self.steps += int(imagined.valid.sum())
        if self.updates % self.options.target_period == 0:
            self.target.load_state_dict(self.critic.state_dict())
        self.means.add(numbers_of(metrics) | {"entropy_weight": entropy_weight} | self.dream.reward_metrics)

    def _losses(self, imagined: Imagined, entropy_weight: float) -> dict[str, Tensor]:
        """``actor_loss`` (eq. 16), ``critic_loss`` (eq. 15), and what else is worth knowing; each one number."""
        options, valid = self.options, imagined.valid
        value = self.critic(imagined.feat[:-1].detach())
        with torch.set_grad_enabled(self.dynamics):
            target_value = self.target(imagined.feat)
        reward = imagined.reward if imagined.replayed is None else imagined.reward - imagined.replayed
        reward = self.standardizer(reward, valid) if options.standardize_rewards else reward
        discount = options.gamma * (~imagined.ended).float()
        returns = lambda_returns(reward, target_value[1:], discount, options.td_lambda)
        advantage = (returns - (value if options.baseline == "critic" else target_value[:-1])).detach()
        metrics = {
            "dream_reward": mean_over(imagined.reward, valid),
            "entropy": mean_over(imagined.entropy, valid),
            "return": mean_over(returns, valid),
            "advantage_std": advantage[valid].std(correction=0),
        }
        if imagined.replayed is not None:
            metrics["replayed_reward"] = imagined.replayed.mean()
        if self.dynamics:
            actor_loss = -metrics["return"]
        else:
            advantage = normalized(advantage, valid) if options.normalize_advantage else advantage
            actor_loss = reinforce_loss(imagined.log_prob, advantage, valid)
        actor_loss = actor_loss - entropy_weight * metrics["entropy"]
        if options.anchor:
            clone_loss, clone_metrics = self._clone_loss(0.0)
            actor_loss = actor_loss + options.anchor * clone_loss
            metrics |= clone_metrics
        return metrics | {"actor_loss": actor_loss, "critic_loss": critic_loss(value, returns, valid)}

    def _descend(self, name: str, loss: Tensor) -> Tensor:
        """One step of Adam; returns the gradient's norm."""
        advice = (
            f"(the {name}'s, in update {self.updates + 1}, after {self.steps:,} steps); lower learning_rate (it is "
            f"{self.options.learning_rate:g}), set max_gradient_norm (100, say), or standardize_rewards if dream_reward in the "
            f"metrics is far from 0…1; and learn anew, since this run would come here again"
        )
        return descend(self.optimizers[name], loss, self.options.max_gradient_norm, advice=advice)

    # ---------------------------------------------------------------------------------------------------------- cloning

    def clone_first(self) -> dict[str, float]:
        """Clone the expert before learning starts; metrics are those of the last tenth of the steps."""
        options = self.options
        optimizer = torch.optim.Adam(self.actor.parameters(), options.clone_learning_rate)
        last: list[dict[str, Tensor]] = []
        for update in range(options.warm_start_updates):
            loss, metrics = self._clone_loss(options.clone_entropy)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if update >= 0.9 * (options.warm_start_updates - 1):
                last.append(metrics)
        if self.average is not None:
            self.average.module.load_state_dict(self.actor.state_dict())
        return {name: float(torch.stack([metrics[name] for metrics in last]).mean()) for name in last[0]}

    def _clone_loss(self, entropy_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """``−log π(aᴱ | ŝᴱ) − η_BC H(π(ŝᴱ))``, averaged over random states of the expert (DITTO eq. 9), and metrics."""
        expert, device = self.dream.expert, self.dream.device
        chosen = torch.randint(
            len(self.expert_rows), (self.options.clone_batch,), generator=self.generator, device=device
        )
        rows = self.expert_rows[chosen]
        policy = self.actor(expert.latents(rows).feat)
        log_prob = policy.log_prob(expert.actions(rows))
        # An entropy that weighs nothing is not drawn.
        entropy = policy.draw(self.generator).entropy if entropy_weight else torch.zeros_like(log_prob)
        metrics = {"clone_loss": -log_prob.detach().mean()}
        if self.actor.action.discrete:
            metrics["clone_certain"] = (log_prob.detach().exp() > 0.5).float().mean()
        return cloning_loss(log_prob, entropy, entropy_weight), metrics

    # ---------------------------------------------------------------------------------------- progress and checkpoints

    def report(self) -> dict[str, float]:
        """Metrics since the last report."""
        return {"steps": float(self.steps), "updates": float(self.updates), **self.means.take()}

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
        learned = {"actor": self.actor, "critic": self.critic, "target": self.target, "dream": self.dream,
                   "standardizer": self.standardizer}  # fmt: skip
        return learned if self.average is None else {**learned, "average": self.average}

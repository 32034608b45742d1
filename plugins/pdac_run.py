"""One run of P-DAC: the rounds of real episodes and updates, what is reported, and an exact resume.

**Reported** after each round: ``steps`` real steps made, those of dropped episodes too; ``episodes``, ``dropped``, ``updates``;
``real_return``, ``real_success``, ``real_tasks`` of the round, where there are such; and means over its updates:
``discriminator_loss``, ``accuracy_expert``, ``accuracy_learner``, ``gradient_penalty`` (``pdac_discriminator.py``), ``reward`` of
the played steps, and SB3's ``actor_loss``, ``critic_loss``, ``ent_coef``, ``ent_coef_loss``.

**Saved** at the end of a round: networks, targets, optimisers, entropy coefficient, discriminator, random states, counters. What
was played lies in ``real.replay`` already; episodes beyond those of the saved state are forgotten and played again.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from torch import Tensor
from torch.distributions import Normal

from dream_env.agent import Agent
from dream_env.checkpoint import Store, config_to_json, load_optimizer, optimizer_tensors
from dream_env.device import random_states, restore_random_states
from dream_env.errors import TrainingError
from dream_env.learning.online import RealWorld, Rounds
from dream_env.model.world_model import WorldModel
from dream_env.playing.games import Actor, RandomActor
from dream_env.playing.real_episodes import PlayedEpisode
from dream_env.plugin import Progress

from .pdac_discriminator import Discriminator
from .pdac_networks import ActingNet, PdacPolicy, make_algorithm
from .pdac_steps import StackedView, Steps, Window
from .training import Means

if TYPE_CHECKING:
    from .pdac import Pdac

CLONE_MIN_STD = 0.1
"""Floor under the cloned actor's standard deviation before tanh: an expert who always does the same has no density without."""
CLONE_LIMIT = 0.99
"""The expert's actions are cut off here before they are cloned: tanh never reaches 1."""

LOGGED = ("actor_loss", "critic_loss", "ent_coef", "ent_coef_loss")
"""Of what SB3 notes at each update."""


class PdacRun:
    """Networks, optimisers, random numbers and counters of one run."""

    def __init__(self, options: "Pdac", world_model: WorldModel, real: RealWorld, seed: int) -> None:
        self.options = options
        self.world_model = world_model
        self.real = real
        self.rounds = Rounds(real, seed)
        device = self.device = world_model.device
        config = {
            "stack": options.stack, "features": options.features, "net_arch": list(options.net_arch),
            "world_model": config_to_json(world_model.config), "observation": world_model.observation_spec.to_json(),
            "action": world_model.action_spec.to_json(),
        }  # fmt: skip
        self.view = StackedView(world_model.observation_spec, options.stack).to(device)
        self.view.standardizer.load_state_dict(world_model.standardizer.state_dict())
        self.model = make_algorithm(
            options.algorithm, self.view, config, options=options.options, device=device,
            learning_rate=options.learning_rate, batch_size=options.batch, gamma=options.gamma, ent_coef=options.ent_coef,
        )  # fmt: skip
        encoder = self.model.policy.critic.features_extractor
        self.policy = PdacPolicy(ActingNet(self.view, encoder, self.model.policy.actor), config)
        self.agent = Agent(world_model, self.policy)
        self.discriminator = Discriminator(
            encoder.features_dim, world_model.action_spec.size, options.net_arch, options.discriminator_learning_rate,
            options.gradient_penalty,
        ).to(device)  # fmt: skip
        self.expert = Steps(real.demos, options.stack, slips=False)
        self.played: Steps | None = None
        self.rng = np.random.default_rng(seed)
        self.updates = 0
        self.means = Means()

    def run(self, progress: Progress, store: Store | None) -> PdacPolicy:
        """Play and learn until all real steps are made."""
        saved = store.latest(self.device) if store is not None else None
        if saved is not None:
            self._restore(saved[1], saved[2])
        else:
            self.real.replay.cut(0)
            if self.options.warm_start == "bc":
                progress(self.policy, {"steps": 0.0, "clone_loss": self.clone()})
        while self.rounds.made < self.real.steps:
            played = self._play()
            learned_from = max(0, self.rounds.made - self.options.seed_steps)
            while self.updates < math.floor(learned_from * self.options.updates_per_step) and self.played is not None:
                self.update()
            progress(self.policy, {"steps": float(self.rounds.made), **self._report(played)})
            if store is not None and (store.due() or self.rounds.made >= self.real.steps):
                store.save(self.rounds.made, *self._take())
        return self.policy

    # ------------------------------------------------------------------------------------------------------------ playing

    def _play(self) -> list[PlayedEpisode]:
        """A round of episodes."""
        actor: Actor = self.agent
        if self.rounds.made < self.options.seed_steps and self.options.warm_start == "none":
            actor = RandomActor(self.world_model.action_spec.space, seed=self.rounds.next_seed)
        played = self.rounds.play(actor, self.options.round_episodes)
        self._look_at_replay()
        return played

    def _look_at_replay(self) -> None:
        if self.real.replay.num_episodes:
            self.played = Steps(self.real.replay.demos(), self.options.stack)

    # ----------------------------------------------------------------------------------------------------------- learning

    def update(self) -> None:
        """One step of the discriminator, and one of the learner on steps that it rewards afterwards."""
        assert self.played is not None
        options, view, judged = self.options, self.view, self.model.policy.critic_target.features_extractor
        steps = self.played.draw(options.batch, self.rng, self.device)
        expert = self.expert.draw(options.batch, self.rng, self.device)
        with torch.no_grad():
            before, action, after = (
                view.before(steps, options.shift),
                self._encoded(steps),
                view.after(steps, options.shift),
            )
            learner = torch.cat([judged(before), action], dim=-1)
            experts = torch.cat([judged(view.before(expert, options.shift)), self._encoded(expert)], dim=-1)
        with torch.enable_grad():
            metrics = self.discriminator.learn(experts, learner)
            with torch.no_grad():
                reward = self.discriminator(learner)
            # No step is an end: what would be one leads to the absorbing state.
            never = torch.zeros_like(reward).unsqueeze(1)
            self.model.replay_buffer.batch = DictReplayBufferSamples(before, action, after, never, reward.unsqueeze(1))
            self.model.train(1, options.batch)
        self.updates += 1
        logged = self.model.logger.name_to_value
        own = {name: logged[f"train/{name}"] for name in LOGGED if f"train/{name}" in logged}
        self.means.add({name: float(x) for name, x in {**metrics, "reward": reward.mean(), **own}.items()})

    def _encoded(self, steps: Window) -> Tensor:
        """Actions between −1 and 1, (N, size), as SB3 has them; the absorbing state's are zeros."""
        action = self.world_model.action_spec.encode(steps.action).clamp(-1.0, 1.0)
        return action.masked_fill(steps.absorbing[:, :1], 0.0)

    def clone(self) -> float:
        """Clone encoder and actor from the expert's steps (``−log π(aᴱ|sᴱ)`` before tanh); returns the last loss."""
        policy = self.model.policy
        actor, critic = policy.actor, policy.critic
        parameters = [*critic.features_extractor.parameters(), *actor.parameters()]
        optimizer = torch.optim.Adam(parameters, self.options.learning_rate)
        loss = torch.zeros(())
        policy.set_training_mode(True)
        actor.features_extractor.learns = True
        for _ in range(self.options.warm_start_updates):
            steps = self.expert.draw(self.options.batch, self.rng, self.device)
            seen = self.view.before(steps, self.options.shift)
            target = self._encoded(steps).clamp(-CLONE_LIMIT, CLONE_LIMIT).atanh()
            with torch.enable_grad():
                mean, log_std, _ = actor.get_action_dist_params(seen)
                std = log_std.exp() + CLONE_MIN_STD
                alive = (~steps.absorbing[:, 0]).float()  # nobody chooses in an absorbing state
                loss = -(Normal(mean, std).log_prob(target).sum(dim=-1) * alive).sum() / alive.sum().clamp_min(1.0)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 10.0)
            optimizer.step()
        actor.features_extractor.learns = False
        policy.critic_target.load_state_dict(critic.state_dict())
        return float(loss.detach())

    # --------------------------------------------------------------------------------------------- progress and checkpoints

    def _report(self, played: Sequence[PlayedEpisode]) -> dict[str, float]:
        metrics = {**self.rounds.metrics(played), "updates": float(self.updates)}
        means = self.means.take()
        if not all(map(math.isfinite, means.values())):
            raise TrainingError(
                f"pdac stopped being finite after {self.rounds.made:,} real steps ({means}); lower --learning-rate and "
                f"learn anew. What was saved before is intact"
            )
        return metrics | means

    def _take(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {f"policy/{name}": x for name, x in self.model.policy.state_dict().items()}
        tensors |= {f"discriminator/{name}": x for name, x in self.discriminator.state_dict().items()}
        tensors |= random_states(self.device)
        if self.model.log_ent_coef is not None:
            tensors["log_ent_coef"] = self.model.log_ent_coef
        for name, optimizer in self._optimizers().items():
            tensors |= optimizer_tensors(optimizer, f"optimizer/{name}")
        return tensors, {
            "rng": self.rng.bit_generator.state, "updates": self.updates, **self.rounds.state(),
        }  # fmt: skip

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.rounds.restore(state)
        self._look_at_replay()
        for prefix, module in (("policy/", self.model.policy), ("discriminator/", self.discriminator)):
            module.load_state_dict({name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)})
        for name, optimizer in self._optimizers().items():
            load_optimizer(optimizer, tensors, f"optimizer/{name}")
        if self.model.log_ent_coef is not None:
            with torch.no_grad():
                self.model.log_ent_coef.copy_(tensors["log_ent_coef"])
        restore_random_states(tensors, self.device, step=state["updates"])
        self.rng.bit_generator.state = state["rng"]
        self.updates = state["updates"]

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        policy, model = self.model.policy, self.model
        found = {
            "actor": policy.actor.optimizer,
            "critic": policy.critic.optimizer,
            "discriminator": self.discriminator.optimizer,
        }
        return found | ({"ent_coef": model.ent_coef_optimizer} if model.ent_coef_optimizer is not None else {})

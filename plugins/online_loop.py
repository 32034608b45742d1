"""CMIL's online loop: real episodes by the present policy, and an update of everything for every few real steps.

1. the actor is cloned from the expert in its model states, and plays ``seed_steps`` real steps (CMIL §5)
2. then rounds: ``round_episodes`` real episodes side by side, with sampled actions; and for every ``train_every`` real
   steps one update: a batch of sequences of all recordings there are, the demonstrations among them, and one of the
   demonstrations alone; one gradient step of the world model on both (eq. 1); and with the posterior states from before it,
   one of the actor, one of the critics, and the reward's own learning (``conservative_run.py``): an adversary makes as many
   gradient steps as its option ``updates`` says, 4 by default

In the batch of the demonstrations alone, which is what is imitated, nobody slips; the world model learns from slips in the other.

Real steps are all that were made, those of dropped episodes too. A killed run goes on at its last saved round: episodes played
after that are forgotten and played again.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dream_env.agent import Agent
from dream_env.checkpoint import Store, load_optimizer, optimizer_tensors
from dream_env.dream.env import DreamEnv
from dream_env.errors import DatasetError, TrainingError
from dream_env.latent import Latent
from dream_env.learning.online import RealWorld, Rounds
from dream_env.playing.real_episodes import PlayedEpisode
from dream_env.plugin import Progress
from dream_env.recordings.demos import Batch, Demos
from dream_env.recordings.mixture import Mixture, Windows

from .branching import Sequences
from .conservative_run import ConservativeRun
from .latent_actor import ActorPolicy

if TYPE_CHECKING:
    from .conservative import Conservative

MODEL_CLIP = 100.0
"""Largest norm of the world model's gradient (DreamerV2)."""


class OnlineLoop:
    """World model, learner and real episodes of one run."""

    def __init__(self, options: "Conservative", dream: DreamEnv, real: RealWorld, seed: int) -> None:
        self.options = options
        self.real = real
        self.rounds = Rounds(real, seed)
        self.world_model = dream.world_model
        self.clean = CleanWindows(real.demos, options.length)  # raises before anything is spent
        self.run_ = ConservativeRun(options, dream, seed)
        self.agent = Agent(self.world_model, self.run_.policy)
        self.model_optimizer = torch.optim.Adam(
            self.world_model.parameters(), options.model_learning_rate, eps=1e-5, fused=True
        )  # fmt: skip
        self.rng = np.random.default_rng(seed)
        self._model_losses: list[float] = []

    def run(self, progress: Progress, store: Store | None) -> ActorPolicy:
        """Play and learn until all real steps are made."""
        options = self.options
        saved = store.latest(self.world_model.device) if store is not None else None
        if saved is not None:
            self._restore(saved[1], saved[2])
        else:
            self.real.replay.cut(0)
            self._clone()
        rounds = self.rounds
        while rounds.made < self.real.steps:
            before = rounds.made
            self.world_model.eval()
            played = rounds.play(self.agent, options.round_episodes)
            owed = rounds.made // options.train_every - max(before, options.seed_steps) // options.train_every
            for _ in range(owed if rounds.made > options.seed_steps else 0):
                self.update()
            metrics = {"steps": float(rounds.made), **self._report(played)}
            progress(self.run_.policy, metrics)
            if store is not None and (store.due() or rounds.made >= self.real.steps):
                store.save(rounds.made, *self._take())
        return self.run_.policy

    # ----------------------------------------------------------------------------------------------------------- learning

    def _clone(self) -> None:
        """Clone the expert in the model states that the world model gives its recordings now."""
        for _ in range(self.options.warm_start_updates):
            self.run_.clone(self._filtered(self._expert_batch(), self.run_.generator))

    def update(self) -> None:
        """One gradient step of the world model, then one update of everything that learns in it."""
        options = self.options
        recorded: list[Windows] = [self.real.demos]
        if self.real.replay.windows(options.length):
            recorded.append(self.real.replay)
        data = Mixture(recorded).sample(options.batch, options.length, self.rng).to(self.world_model.device)
        expert = self._expert_batch()
        both = _beside([data, expert])
        latent = self._model_step(both)
        num = data.is_first.shape[1]
        sequences, experts = _sequences(latent[:, :num], data), _sequences(latent[:, num:], expert)
        self.run_.update(sequences.part(options.rows, self.rng), experts)

    def _model_step(self, batch: Batch) -> Latent:
        """One gradient step on the ELBO; returns the posterior states before it."""
        with torch.enable_grad():
            self.world_model.train()
            losses = self.world_model.loss(batch, self._noise(batch, self.run_.generator))
            self.model_optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.world_model.parameters(), MODEL_CLIP)
        if not math.isfinite(float(norm + losses.total.detach())):
            raise TrainingError(
                f"the world model's loss stopped being finite after {self.rounds.made:,} real steps; lower "
                f"model_learning_rate (it is {self.options.model_learning_rate:g}) and start anew"
            )
        self.model_optimizer.step()
        self.world_model.eval()
        self._model_losses.append(float(losses.total.detach()))
        return losses.observed.latent.detach()

    def _expert_batch(self, rng: np.random.Generator | None = None) -> Batch:
        return self.clean.sample(self.options.expert_batch, rng or self.rng).to(self.world_model.device)

    @torch.no_grad()
    def _filtered(self, batch: Batch, generator: torch.Generator) -> Sequences:
        """A batch in the model states that the world model gives it now."""
        noise = self._noise(batch, generator)
        return _sequences(self.world_model.observe(batch.obs, batch.action_tm1, batch.is_first, noise), batch)

    def _noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        time, count = batch.is_first.shape
        return self.world_model.draw_noise(time, count, generator)

    # --------------------------------------------------------------------------------------------- progress and checkpoints

    def _report(self, played: Sequence[PlayedEpisode]) -> dict[str, float]:
        metrics = {**self.rounds.metrics(played), "updates": float(self.run_.updates)}
        if self._model_losses:
            metrics["model_loss"] = float(np.mean(self._model_losses))
            self._model_losses = []
            generator = self.run_.looking()
            rng = np.random.default_rng(generator.initial_seed())
            expert = self._filtered(self._expert_batch(rng), generator)
            metrics |= {**self.run_.means.take(), **self.run_.bound(expert, generator)}
        return metrics

    def _take(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, state = self.run_.take()
        tensors |= {f"model/{name}": tensor for name, tensor in self.world_model.state_dict().items()}
        tensors |= optimizer_tensors(self.model_optimizer, "optimizer/model")
        return tensors, {"run": state, "rng": self.rng.bit_generator.state, **self.rounds.state()}

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.run_.restore(tensors, state["run"])
        model = {name[len("model/") :]: x for name, x in tensors.items() if name.startswith("model/")}
        self.world_model.load_state_dict(model)
        load_optimizer(self.model_optimizer, tensors, "optimizer/model")
        self.rng.bit_generator.state = state["rng"]
        self.rounds.restore(state)


class CleanWindows:
    """Windows of demonstrations without a slip in them, drawn as ``Demos.sample`` draws from all."""

    def __init__(self, demos: Demos, length: int) -> None:
        """Look for them.

        Args:
            demos: whose.
            length: rows of a window; the steps between them are what must not be a slip.

        Raises:
            DatasetError: if there is no such window.
        """
        demos.windows(length)
        self.demos = demos
        self.length = length
        found = []
        for number in range(demos.num_episodes):
            before = np.concatenate([[0], np.cumsum(demos.episode(number).slip_t)])  # slips before each row
            count = max(len(before) + 1 - length, 0)  # of windows; none in an episode that is too short
            first = np.flatnonzero(before[:count] == before[length - 1 :])
            found.append(np.stack([np.full_like(first, number), first], axis=1))
        self.starts: np.ndarray = np.concatenate(found)
        """(windows, 2) episode and first row."""
        if not len(self.starts):
            raise DatasetError(
                f"nowhere in {demos.num_episodes} episodes of {demos.source.dataset!r} does the expert go {length - 1} steps "
                f"without a slip, and none is imitated; take a shorter length"
            )

    def sample(self, batch_size: int, rng: np.random.Generator) -> Batch:
        """Some of them, uniformly and with replacement."""
        episode, first = self.starts[rng.integers(len(self.starts), size=batch_size)].T
        return self.demos.at(episode, first, self.length)


def _sequences(latent: Latent, batch: Batch) -> Sequences:
    return Sequences(latent, batch.action_tm1[1:], batch.is_terminal)


def _beside(batches: Sequence[Batch]) -> Batch:
    return Batch(
        {name: torch.cat([batch.obs[name] for batch in batches], dim=1) for name in batches[0].obs},
        *(
            torch.cat([getattr(batch, part) for batch in batches], dim=1)
            for part in ("action_tm1", "is_first", "is_terminal")
        ),
    )

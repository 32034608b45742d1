"""Dreams that branch off recorded sequences, as tensors with gradients: what learners with real-data losses need.

Every row of some recorded sequences is a start; from each the actor acts for a few steps in the world model's prior. (Dreams of
``DreamEnv`` start on expert windows alone, and keep no record of what was done for real after their start.)
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dream_env.latent import Latent
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Reward, Transition

from .latent_actor import Actor


@dataclass(frozen=True)
class Sequences:
    """Recorded sequences as model states; row t of 0 … T − 1 is a state, and step t of 0 … T − 2 leads from it to the next."""

    latent: Latent
    """(T, B, ·), without a graph."""
    action: Tensor
    """(T − 1, B, ...): what was done for real, as the environment takes actions."""
    is_terminal: Bool[Tensor, "rows batch"]
    """Rows after which nothing comes."""

    @property
    def num_rows(self) -> int:
        """T · B."""
        return self.is_terminal.numel()

    def part(self, rows: int, rng: np.random.Generator) -> "Sequences":
        """One of the parts of so many rows that all sequences fall into, the last of which ends with them.

        Any of them: an episode's first rows are the first of a sequence always, and dreams must start there too.
        """
        length = len(self.is_terminal)
        first = max(0, min(rows * int(rng.integers(-(-length // rows))), length - rows))
        return Sequences(
            self.latent[first : first + rows],
            self.action[first : first + rows - 1],
            self.is_terminal[first : first + rows],
        )

    def steps(self) -> tuple[Latent, Tensor, Latent]:
        """Every recorded step: where it began (T − 1, B, ·), what was done, where it led."""
        return self.latent[:-1], self.action, self.latent[1:]


@dataclass(frozen=True)
class Branches:
    """N dreams of H steps."""

    latent: Latent
    """(H + 1, N, ·)."""
    action: Tensor
    """(H + 1, N, ...); the last one is drawn for the critics and not carried out."""
    reward: Float[Tensor, "horizon batch"]
    log_prob: Float[Tensor, "horizon_plus_1 batch"]
    entropy: Float[Tensor, "horizon_plus_1 batch"]
    goes_on: Float[Tensor, "horizon batch"]
    """Probability that there is anything after each step; 1 unless dreams can end."""


def branch(
    world_model: WorldModel,
    actor: Actor,
    reward: Reward,
    start: Latent,
    horizon: int,
    generator: torch.Generator,
    *,
    expert: tuple[Latent, Tensor] | None = None,
    terminate: bool = False,
) -> Branches:
    """Let the actor act for ``horizon`` steps from each start, with gradients from rewards and states back to the actions.

    The actor sees states without their graph. So a gradient reaches an action from all rewards and values after it, through the
    model and with the later actions held as they are, but not through what the actor would make of another state. Two ways are
    in use:

    1. with the graph, the whole derivative of a dream's return by the actor: how CMIL's text after eq. 12 can be read ("fully
       differentiable function of the policy parameters").
    2. without, as Dreamer's released code has it (``actor(stop_gradient(state))``); it leaves out the products of the actor's
       own Jacobians, which over H steps can vanish or explode.

    Here it is 2: CMIL builds on DreamerV2 "keeping all hyperparameters default", and names no change there. ``imagination.py``
    has 1.

    Args:
        world_model: whose prior is dreamed.
        actor: whose actions are drawn.
        reward: what each step is worth.
        start: (N, ·).
        horizon: H.
        generator: of actions and of the model's noise.
        expert: states (H + 1, N, ·) and actions (H, N, ...) of the expert from the same starts, for a reward that compares;
            one that judges a step by itself (``Reward.paired`` false) does without.
        terminate: ask the continue head how likely each dream goes on.
    """
    latents, actions, rewards, log_probs, entropies, goes_on = [start], [], [], [], [], []
    num = start.shape[0]
    for t in range(horizon + 1):
        drawn = actor(latents[-1].feat.detach()).draw(generator)
        actions.append(drawn.action)
        log_probs.append(drawn.log_prob)
        entropies.append(drawn.entropy)
        if t == horizon:
            break
        noise = torch.rand(num, world_model.noise_size, generator=generator, device=start.deter.device)
        latent_tp1 = world_model.imagine_step(latents[-1], drawn.action, noise)
        step_t = torch.full((num,), t, dtype=torch.int64, device=start.deter.device)
        own = (latents[-1], drawn.action, latent_tp1)
        theirs = own if expert is None else (expert[0][t], expert[1][t], expert[0][t + 1])
        transition = Transition(own[0], own[1], own[2], theirs[0], theirs[1], theirs[2], step_t, horizon)
        rewards.append(reward(transition))
        goes_on.append(world_model.continue_probability(latent_tp1) if terminate else torch.ones_like(rewards[-1]))
        latents.append(latent_tp1)
    return Branches(
        Latent.stack(latents), torch.stack(actions), torch.stack(rewards),
        torch.stack(log_probs), torch.stack(entropies), torch.stack(goes_on),
    )  # fmt: skip


def flat(latent: Latent) -> Latent:
    """(T, B, ·) as (T · B, ·), row after row."""
    return latent.map(lambda half: half.flatten(0, 1))

"""One horizon of all dreams as tensors, for learners that live beside them; with gradients through the dream if wanted.
And the expert's own actions replayed in the same dreams, as something to compare a reward with.

``DreamEnv`` takes actions as numpy arrays and keeps no gradients, as Gymnasium would have it; so the dreams beneath it are
stepped here, all of them together from their first step to their last. The reward learns where it always does, in the dream.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dream_env.dream.dreams import Dreams
from dream_env.dream.rollouts import RolloutRecorder
from dream_env.plugin import Rollout, Transition

from .latent_actor import Actor

Steps = Float[Tensor, "horizon batch"]


@dataclass(frozen=True)
class Imagined:
    """N dreams of H steps."""

    feat: Float[Tensor, "horizon_plus_1 batch feat"]
    """The model states, the last one included."""
    reward: Steps
    log_prob: Steps
    """log π(a_t), differentiable in the actor."""
    entropy: Steps
    """Of the actor in each state, likewise."""
    ended: Bool[Tensor, "horizon batch"]
    """Where the continue head ended a dream."""
    valid: Bool[Tensor, "horizon batch"]
    """False after that."""
    replayed: Steps | None = None
    """The reward of the expert's own actions in the same dreams, where that was asked for."""


class ExpertReplay:
    """What the expert's own actions earn in the same dreams: from the same starts, with the same random numbers.

    Their reward is not 1: the latents of an expert window were filtered from its pictures, the replay is dreamed. What the
    dream's noise does to one of the two paths it does, for a while, to the other.
    """

    def __init__(self, dreams: Dreams) -> None:
        self._dreams = dreams
        self._twin = Dreams(
            dreams.num, dreams.world_model, dreams.expert, dreams.reward, dreams.horizon, False, dreams.precision
        )
        self._twin.recorder = None  # the reward learns from the learner's dreams alone

    @torch.no_grad()
    def rewards(self) -> Steps:
        """Of one horizon, for dreams at their first step; they stay where they are, and so do their random streams."""
        dreams, twin = self._dreams, self._twin
        twin.seed(dreams.seeds, dreams.everyone)
        twin.counters = dreams.counters.clone()
        twin.restart(dreams.everyone, dreams.rows)
        return torch.stack([twin.step(twin.expert.actions(twin.rows + t))[0] for t in range(twin.horizon)])


def imagine(
    dreams: Dreams,
    actor: Actor,
    generator: torch.Generator,
    *,
    gradients: bool,
    replay: ExpertReplay | None = None,
) -> Imagined:
    """Let the actor act for a whole horizon, from where dreams have just been restarted.

    With ``gradients`` the actor sees states with their graph: the derivative of the return is the whole one, as finite
    differences find it, and an action counts also for what the actor makes of the states it led to. (``branching.py``, for CMIL's
    learner, leaves that part out as Dreamer's code does, and says why.) DITTO does not decide it: it has REINFORCE alone, where
    states have no graph and the two are one. The gradient "dynamics" is an addition, and is what its help says, the gradient of
    the λ-return.

    Args:
        dreams: all at their first step.
        actor: whose actions are drawn.
        generator: of these draws.
        gradients: keep the graph from actions through model states to rewards; call this under ``learning_afterwards`` then.
        replay: of these dreams, if their reward is to be compared with that of the expert's actions.
    """
    replayed = (
        replay.rewards() if replay is not None else None
    )  # first: a reward that learns does so at the horizon's end
    alive = torch.ones(dreams.num, dtype=torch.bool, device=dreams.everyone.device)
    feats, steps = [dreams.latent.feat], []
    for _ in range(dreams.horizon):
        drawn = actor(feats[-1]).draw(generator)
        with torch.set_grad_enabled(gradients):
            reward, ended = _step(dreams, drawn.action if gradients else drawn.action.detach(), alive)
        feats.append(dreams.latent.feat)
        steps.append((reward, drawn.log_prob, drawn.entropy, ended, alive))
        alive = alive & ~ended
    reward, log_prob, entropy, ended, valid = (torch.stack(column) for column in zip(*steps, strict=True))
    return Imagined(torch.stack(feats), reward, log_prob, entropy, ended, valid, replayed)


def _step(dreams: Dreams, action: Tensor, alive: Bool[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """Reward and early end of each dream; dreams that have ended wait for the others."""
    if not dreams.terminate:
        reward, ended, _ = dreams.step(action)
        return reward, ended
    which = dreams.everyone[alive]
    nothing = torch.zeros(dreams.num, device=action.device)
    if not len(which):  # a reward is not asked about no dream at all
        return nothing, torch.zeros_like(alive)
    reward, ended, _ = dreams.step(action[which], which)
    return nothing.index_copy(0, which, reward), torch.zeros_like(alive).index_copy(0, which, ended)


@contextmanager
def learning_afterwards(dreams: Dreams) -> Iterator[None]:
    """Let the reward learn from the steps of this block when it ends, and from tensors without a graph.

    Where gradients go through the dream, a reward that learned in the middle of it would change its weights under them.
    """
    recorder = dreams.recorder
    if recorder is None:
        yield
        return
    dreams.recorder = later = _LaterRecorder(recorder)
    try:
        yield
    finally:
        dreams.recorder = recorder
    dreams.learn_from(later.rollouts())


class _LaterRecorder(RolloutRecorder):
    """Keeps what there is to note until it is asked for rollouts."""

    def __init__(self, recorder: RolloutRecorder) -> None:
        self._recorder = recorder
        self._notes: list[tuple[Any, ...]] = []

    def step(self, which: Tensor, rows: Tensor, transition: Transition, ended: Tensor) -> list[Rollout]:
        """Nothing is handed out yet."""
        plain = replace(transition, action_t=transition.action_t.detach(), latent_tp1=transition.latent_tp1.detach())
        self._notes.append((which, rows, plain, ended))
        return []

    def rollouts(self) -> list[Rollout]:
        """Note everything where it belongs."""
        return [rollout for note in self._notes for rollout in self._recorder.step(*note)]

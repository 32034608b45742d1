"""Whole dreams kept for rewards that learn: recorded step by step, handed out N at a time.

All dreams usually start and end together, so a rollout is simply the last horizon. Where they do not (the continue head
ends some early, or the caller resets some), finished dreams wait here until N of them are together, so that a
discriminator always learns from batches of one size, at the same rate.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.plugin import Rollout, Transition


class RolloutRecorder:
    """Buffers of shape (horizon + 1, N, ·) that each dream writes at its own step."""

    def __init__(self, latent: Latent, expert: EncodedDemos, horizon: int) -> None:
        (num,) = latent.shape
        self._expert = expert
        self._horizon = horizon
        self._num = num
        example = expert.actions(torch.zeros(1, dtype=torch.int64, device=latent.deter.device))
        self._path = {
            "deter": latent.deter.new_zeros(horizon + 1, num, latent.deter.shape[-1]),
            "stoch": latent.stoch.new_zeros(horizon + 1, num, latent.stoch.shape[-1]),
            "action": example.new_zeros(horizon, num, *example.shape[1:]),
        }
        self._waiting: dict[str, Tensor] = {}  # finished dreams along axis 1, and their rows and lengths

    def start(self, which: Int[Tensor, " some"], latent: Latent) -> None:
        """Note where some dreams begin."""
        self._path["deter"][0, which] = latent.deter
        self._path["stoch"][0, which] = latent.stoch

    def step(
        self,
        which: Int[Tensor, " some"],
        rows: Int[Tensor, " some"],
        transition: Transition,
        ended: Bool[Tensor, " some"],
    ) -> list[Rollout]:
        """Note a step; returns a rollout each time N dreams have ended."""
        t = transition.step_t
        self._path["action"][t, which] = transition.action_t
        self._path["deter"][t + 1, which] = transition.latent_tp1.deter
        self._path["stoch"][t + 1, which] = transition.latent_tp1.stoch
        if not ended.any():
            return []
        over = which[ended]
        finished = {name: path[:, over] for name, path in self._path.items()}
        finished |= {"rows": rows[ended].unsqueeze(0), "length": t[ended].unsqueeze(0) + 1}
        if self._waiting:
            finished = {name: torch.cat([self._waiting[name], new], dim=1) for name, new in finished.items()}
        rollouts = []
        while finished["rows"].shape[1] >= self._num:
            rollouts.append(self._rollout({name: x[:, : self._num] for name, x in finished.items()}))
            finished = {name: x[:, self._num :] for name, x in finished.items()}
        self._waiting = finished if finished["rows"].shape[1] else {}
        return rollouts

    def _rollout(self, finished: dict[str, Tensor]) -> Rollout:
        offset = torch.arange(self._horizon + 1, device=finished["rows"].device).unsqueeze(1)
        rows = finished["rows"] + offset  # (H + 1, N)
        return Rollout(
            latent=Latent(finished["deter"], finished["stoch"]),
            action=finished["action"],
            expert_latent=self._expert.latents(rows),
            expert_action=self._expert.actions(rows[:-1]),
            valid=offset[:-1] < finished["length"],
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The buffers and the dreams that wait."""
        waiting = {f"waiting.{name}": tensor for name, tensor in self._waiting.items()}
        return {f"path.{name}": tensor for name, tensor in self._path.items()} | waiting

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        self._path = {name: state[f"path.{name}"] for name in self._path}
        self._waiting = {
            name.removeprefix("waiting."): tensor for name, tensor in state.items() if name.startswith("waiting.")
        }

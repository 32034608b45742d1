"""N dreams side by side, as tensors: where each one is, where its expert is, and one step for all of them.

This is the whole of the dream's mechanics without a word of Gymnasium; ``env.py`` puts the API's rules around it.

Dream ``i`` draws its random numbers from a stream of its own, ``(seed_i, counter_i)``, counting steps and restarts. So
its path depends on nothing but its seed and its actions, however many dreams run beside it.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dream_env.dream.rollouts import RolloutRecorder
from dream_env.errors import CheckpointError, PluginError
from dream_env.functional import counter_uniform
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import Precision, WorldModel
from dream_env.plugin import Reward, Rollout, Transition

_AHEAD = 2**18
"""Most uniforms that are drawn ahead: a megabyte."""


class Dreams:
    """State and step of ``num`` dreams; every tensor lies on the world model's device.

    Methods that act on some of them take ``which``: ascending indices.
    """

    def __init__(
        self,
        num: int,
        world_model: WorldModel,
        expert: EncodedDemos,
        reward: Reward,
        horizon: int,
        terminate: bool,
        precision: Precision = "float32",
    ) -> None:
        self.num = num
        self.world_model = world_model
        self.expert = expert
        self.reward = reward
        self.horizon = horizon
        self.terminate = terminate
        self.precision = precision
        self.rssm = world_model.rssm if precision == "float32" else world_model.rssm.in_half_precision()
        self.starts = expert.windows(horizon)  # (W,) rows an expert window may start at
        self.reward_metrics: dict[str, float] = {}
        self.seeds = self.starts.new_zeros(num)
        self.counters = self.starts.new_zeros(num)  # steps drawn from each stream
        self.restarts = self.starts.new_zeros(num)  # windows drawn from each stream
        self.rows = self.starts.new_zeros(num)  # where each dream's window starts
        self.steps = self.starts.new_zeros(num)  # steps taken since
        self._ahead: list[Tensor] = []  # noise of the next steps of all dreams, the nearest last
        self._noise_size = world_model.noise_size + terminate
        self.everyone = torch.arange(num, device=self.starts.device)
        self.latent = world_model.initial(num)
        self.expert_latent = world_model.initial(num)
        self.recorder = RolloutRecorder(self.latent, expert, horizon) if _learns(reward) else None
        # Looking whether a reward is finite makes a GPU's host wait for it, so there it is noted, and looked at once a horizon:
        # the step of the first that was not, once there was one, and how many steps nobody has looked.
        self._looks_at_each_step = world_model.device.type != "cuda"
        self._bad = torch.full((), -1, device=self.starts.device)
        self._unseen = 0

    def seed(self, seeds: Int[Tensor, " some"], which: Int[Tensor, " some"]) -> None:
        """Begin the random streams of some dreams anew."""
        self.seeds[which] = seeds
        self.counters[which] = 0
        self.restarts[which] = 0
        self._ahead = []

    def restart(self, which: Int[Tensor, " some"], rows: Int[Tensor, " some"] | None = None) -> None:
        """Put some dreams on the first state of an expert window: of the given row, else of one drawn uniformly."""
        if rows is None:
            rows = self._draw_rows(which)
        self.rows = self.rows.index_copy(0, which, rows)
        self.steps = self.steps.index_fill(0, which, 0)
        start = self.expert.latents(rows)
        self.latent = self._merge(self.latent, start, which)
        self.expert_latent = self._merge(self.expert_latent, start, which)
        if self.recorder is not None:
            self.recorder.start(which, start)

    def step(
        self, action_t: Tensor, which: Int[Tensor, " some"] | None = None
    ) -> tuple[Float[Tensor, " some"], Bool[Tensor, " some"], Bool[Tensor, " some"]]:
        """One step of some dreams, of all if ``which`` is None: reward, terminated, truncated, one row for each."""
        at = slice(None) if which is None else which
        rows, step_t, latent_t = self.rows[at], self.steps[at], self.latent[at]
        noise = self._noise(which)
        encoded_t = self.world_model.action_spec.encode(action_t)
        latent_tp1 = self.rssm.imagine_step(latent_t, encoded_t, noise[:, : self.world_model.noise_size])
        row_t = rows + step_t
        transition = Transition(
            latent_t=latent_t,
            action_t=action_t,
            latent_tp1=latent_tp1,
            expert_latent_t=self.expert_latent[at],
            expert_action_t=self.expert.actions(row_t),
            expert_latent_tp1=self.expert.latents(row_t + 1),
            step_t=step_t,
            horizon=self.horizon,
        )
        reward = self._judge(transition)
        truncated = step_t == self.horizon - 1
        terminated = torch.zeros_like(truncated)
        if self.terminate:
            # A sampled end, not a threshold: with it the expected return is that of discounting by the probability.
            terminated = noise[:, -1] > self.world_model.continue_probability(latent_tp1)
        if which is None:
            self.steps, self.latent, self.expert_latent = step_t + 1, latent_tp1, transition.expert_latent_tp1
        else:
            self.steps = self.steps.index_copy(0, which, step_t + 1)
            self.latent = self._merge(self.latent, latent_tp1, which)
            self.expert_latent = self._merge(self.expert_latent, transition.expert_latent_tp1, which)
        if self.recorder is not None:
            who = self.everyone if which is None else which
            self.learn_from(self.recorder.step(who, rows, transition, terminated | truncated))
        return reward, terminated, truncated

    def _noise(self, which: Int[Tensor, " some"] | None) -> Float[Tensor, "some noise"]:
        """Uniforms for one step; while all dreams step together many steps are drawn at once, at half the cost."""
        size = self._noise_size
        if which is not None:
            self._ahead = []
            noise = counter_uniform(self.seeds[which], 2 * self.counters[which], size)
            self.counters[which] += 1
            return noise
        if not self._ahead:
            steps = max(1, min(self.horizon, _AHEAD // (self.num * size)))
            counters = self.counters + torch.arange(steps, device=self.counters.device).unsqueeze(1)  # (steps, N)
            block = counter_uniform(self.seeds.repeat(steps), 2 * counters.flatten(), size)
            self._ahead = list(block.reshape(steps, self.num, size).flip(0))
        self.counters += 1
        return self._ahead.pop()

    def _draw_rows(self, which: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        # 46 random bits: with the 23 of one uniform, windows out of a million would not be equally likely.
        # Odd counters for restarts, even ones for steps, so that neither moves the other's stream.
        coarse, fine = counter_uniform(self.seeds[which], 2 * self.restarts[which] + 1, 2).double().unbind(dim=1)
        self.restarts[which] += 1
        uniform = coarse + (fine - 0.5) * 2.0**-23
        return self.starts[(uniform * len(self.starts)).long().clamp_(max=len(self.starts) - 1)]

    def _merge(self, old: Latent, new: Latent, which: Int[Tensor, " some"]) -> Latent:
        if len(which) == self.num:
            return new
        return Latent(old.deter.index_copy(0, which, new.deter), old.stoch.index_copy(0, which, new.stoch))

    def _judge(self, transition: Transition) -> Float[Tensor, " some"]:
        name, expected = self.reward.name, tuple(transition.step_t.shape)
        try:
            reward = self.reward(transition)
        except Exception as error:  # a plug-in may fail in any way
            raise PluginError(
                f"reward {name!r} raised {type(error).__name__}: {error} ({_when(transition)}); "
                f"dream_env.testing.check_reward({name!r}) examines a reward before it is used"
            ) from error
        shape = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
        if not isinstance(reward, Tensor) or shape != expected or not reward.is_floating_point():
            dtype = f" of {reward.dtype}" if isinstance(reward, Tensor) else ""
            raise PluginError(
                f"reward {name!r} returned {shape}{dtype} ({_when(transition)}); expected one float "
                f"for each of the dreams, a tensor of shape {expected}"
            )
        if not self._looks_at_each_step:
            self._note(reward, transition)
        elif not torch.isfinite(reward).all():
            bad = (~torch.isfinite(reward)).nonzero().flatten()
            raise PluginError(
                f"reward {name!r} gave {float(reward[bad[0]])} for dream {int(bad[0])}, {len(bad)} of {len(reward)} "
                f"not finite ({_when(transition)}); look for a division by a zero norm or a logarithm of zero"
            )
        return reward

    def _note(self, reward: Tensor, transition: Transition) -> None:
        late = transition.step_t.new_full((1,), self.horizon)  # no step is as late
        bad = ~reward.detach().isfinite()
        step = torch.cat([torch.where(bad, transition.step_t, late), late]).min()
        self._bad = torch.where((self._bad < 0) & (step < self.horizon), step, self._bad)
        self._unseen += 1
        if self._unseen >= self.horizon:
            self._look()

    def _look(self) -> None:
        step, self._unseen = int(self._bad), 0
        if step >= 0:
            self._bad = torch.full_like(self._bad, -1)
            raise PluginError(
                f"reward {self.reward.name!r} gave a number that is not finite (at step {step} of {self.horizon}); "
                f'look for a division by a zero norm or a logarithm of zero. device="cpu" names the dream'
            )

    def learn_from(self, rollouts: list[Rollout]) -> None:
        """Let the reward learn, and keep its metrics."""
        for rollout in rollouts:
            try:
                with torch.enable_grad():
                    self.reward_metrics = self.reward.update(rollout)
            except Exception as error:  # a plug-in may fail in any way
                raise PluginError(
                    f"reward {self.reward.name!r} raised {type(error).__name__} in update: {error}"
                ) from error

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a later run needs to go on exactly here, as named tensors of its own.

        Raises:
            PluginError: if a reward since the last look was not finite: no such state is kept.
        """
        self._look()
        state = {name: getattr(self, name) for name in _STATE}
        state |= {"deter": self.latent.deter, "stoch": self.latent.stoch}
        state |= {"expert_deter": self.expert_latent.deter, "expert_stoch": self.expert_latent.stoch}
        state |= {f"reward.{name}": tensor for name, tensor in self.reward.state_dict().items()}
        if self.recorder is not None:
            state |= {f"rollout.{name}": tensor for name, tensor in self.recorder.state_dict().items()}
        return {name: tensor.detach().clone() for name, tensor in state.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken; the number of dreams, the horizon and the expert must be the same."""
        device = self.world_model.device
        state = {name: tensor.to(device).clone() for name, tensor in state.items()}
        if len(state["seeds"]) != self.num:
            raise CheckpointError(
                f"the saved state is of {len(state['seeds'])} dreams, this environment has {self.num}; make it with "
                f"num_envs={len(state['seeds'])}"
            )
        for name in _STATE:
            setattr(self, name, state[name])
        self._ahead = []
        self.latent = Latent(state["deter"], state["stoch"])
        self.expert_latent = Latent(state["expert_deter"], state["expert_stoch"])
        self.reward.load_state_dict(_under("reward.", state))
        if self.recorder is not None:
            self.recorder.load_state_dict(_under("rollout.", state))


_STATE = ("seeds", "counters", "restarts", "rows", "steps")


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _learns(reward: Reward) -> bool:
    return type(reward).update is not Reward.update


def _when(transition: Transition) -> str:
    steps = sorted(set(transition.step_t.tolist()))
    return (
        f"at step {steps[0]} of {transition.horizon}"
        if len(steps) == 1
        else f"at steps {steps} of {transition.horizon}"
    )

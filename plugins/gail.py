"""An adversary's reward: how much a step of the dream looks like one of the expert's (DITTO eq. 3: D-GAIL, VMAIL).

A discriminator D, a small network on latents, learns after every horizon to tell the expert's steps from the learner's:

``min_D  E_expert[−log D] + E_learner[−log(1 − D)]``   in nats; 2 log 2 = 1.386 for one that knows nothing

**Sign.** D → 1 on the expert. Where expert and learner are with densities ``ρᴱ`` and ``ρᵖⁱ``, the integrand
``−ρᴱ log D − ρᵖⁱ log(1 − D)`` is smallest at ``D = ρᴱ / (ρᴱ + ρᵖⁱ)``, so the network's output before the sigmoid learns
``logit = log D − log(1 − D) = log ρᴱ − log ρᵖⁱ``: above 0 where the expert is the more frequent. All rewards rise with it.
(Ho & Ermon 2016 have it the other way round, D → 1 on the learner and a *cost* log D; that is ``softplus`` below.)

What of D is the reward, ``form``:

- ``probability``, ``D`` in (0, 1): the released code of DITTO's D-GAIL, of VMAIL and (before its penalty) of CMIL, whatever
  their equations say. Nearly flat where D is sure of itself. The default, since the papers' figures come from that code.
- ``log_probability``, ``log D`` below 0: VMAIL eq. 8. Each step costs, so with ``terminate=True`` an early end is worth having.
- ``softplus``, ``−log(1 − D) = log(1 + exp(logit))`` above 0: what the learner maximises in eq. 3 as printed. Each step pays,
  so long dreams are worth having.
- ``logit``, ``log D − log(1 − D)``, the sum of the two before: unbounded to both sides; CMIL eq. 10, and AIRL. At the best D
  its mean over the learner's steps is ``−KL(ρᵖⁱ ‖ ρᴱ)``.

What D sees, ``inputs``:

- ``state_action``: the model state ``ŝ_t = (h_t, z_t)`` and the action encoded as the world model takes it (eq. 3). The default.
- ``next_h``: ``(h_t, h_{t+1})``, the released code of D-GAIL. No action, but ``h_{t+1}`` is a function of state and action.

The expert's states are the filter's, which saw the pictures; the dream's are the prior's. D may learn that difference, and
the model's errors, instead of how the expert behaves. Seen on a Pong model, one seed, 200 horizons of 256 dreams with these
defaults: against random actions ``accuracy_expert`` 0.71 and ``accuracy_learner`` 0.64, against the expert's own actions
replayed in the dream still 0.69 and 0.58. Against a D that is too sure there are noise on its inputs (CMIL §5) and a gradient
penalty (VMAIL's code), both off by default as in eq. 3. Watch the two accuracies: near 1 the reward is nearly the same
everywhere that the learner goes.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.checkpoint import load_optimizer, optimizer_tensors
from dream_env.device import own_random_numbers, restore_generator
from dream_env.errors import ConfigError, PluginError, nearest
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.nets import mlp
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Reward, Rollout, Transition

Inputs = Literal["state_action", "next_h"]
Form = Literal["probability", "log_probability", "softplus", "logit"]

_BOUNDS: dict[Form, tuple[float, float]] = {
    "probability": (0.0, 1.0),
    "log_probability": (-np.inf, 0.0),
    "softplus": (0.0, np.inf),
    "logit": (-np.inf, np.inf),
}


@dataclass
class Gail(Reward):
    """A learned discriminator between expert and learner, on latents; see the module for signs and variants."""

    name: ClassVar[str] = "gail"
    inputs: Inputs = "state_action"
    """What the discriminator sees: model state and action (eq. 3), or (h_t, h_{t+1}) (the released code)."""
    form: Form = "probability"
    """What of D is the reward: D, log D, −log(1 − D) or log D − log(1 − D)."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden layers of the discriminator."""
    learning_rate: float = 3e-4
    """Step size of its optimiser, Adam (DITTO table 1)."""
    updates: int = 4
    """Gradient steps of the discriminator after each horizon of all dreams."""
    batch: int = 512
    """Steps of the expert in one gradient step, and as many of the learner."""
    input_noise: float = 0.0
    """Standard deviation of the Gaussian noise added to what the discriminator learns from; the reward has none."""
    gradient_penalty: float = 0.0
    """Weight of (‖∇ logit‖ − 1)², taken between expert and learner steps; 0 is none."""
    seed: int | None = None
    """Seed of the discriminator's weights, of its batches and of its noise; that of ``torch.manual_seed`` unless given, which
    in ``imitate`` is the run's."""

    def __post_init__(self) -> None:
        for option, choices in (("inputs", get_args(Inputs)), ("form", get_args(Form))):
            value = getattr(self, option)
            if value not in choices:
                raise ConfigError(
                    f"{self.name}'s {option} is one of {', '.join(choices)}, not {value!r}.{nearest(str(value), choices)}"
                )
        for option in ("input_noise", "gradient_penalty"):
            if not getattr(self, option) >= 0.0:
                raise ConfigError(f"{self.name} needs {option} of at least 0, not {getattr(self, option)}")
        for option in ("updates", "batch", "hidden"):
            if np.min(getattr(self, option), initial=1) < 1:
                raise ConfigError(f"{self.name} needs {option} of at least 1, not {getattr(self, option)}")
        if not self.learning_rate > 0.0:
            raise ConfigError(f"{self.name} needs a learning_rate above 0, not {self.learning_rate}")

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the form; most have an open end."""
        return _BOUNDS[self.form]

    @property
    def paired(self) -> bool:
        """D looks at a step alone."""
        return False

    def prepare(self, world_model: WorldModel, expert: EncodedDemos) -> None:
        """Make a discriminator that knows nothing: D = 1/2 everywhere."""
        self._action_spec = world_model.action_spec
        seed = torch.initial_seed() % 2**63 if self.seed is None else self.seed
        state = world_model.feat_size + world_model.action_spec.size
        size = 2 * world_model.deter_size if self.inputs == "next_h" else state
        with own_random_numbers(torch.device("cpu"), seed):
            network = mlp([size, *self.hidden, 1], "silu")
        for parameter in network[-1].parameters():  # or its first rewards would be noise, and standardised to full size
            nn.init.zeros_(parameter)
        self.discriminator = network.to(world_model.device)
        self._optimizer = torch.optim.Adam(self.discriminator.parameters(), self.learning_rate)
        self._generator = torch.Generator(device=world_model.device).manual_seed(seed)

    # --------------------------------------------------------------------------------------------------- the reward

    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        """The form of D at what the learner did; without noise, and differentiable where gradients are on."""
        logit = self.logit(transition.latent_t, transition.action_t, transition.latent_tp1)
        if self.form == "probability":
            return logit.sigmoid()
        if self.form == "log_probability":
            return F.logsigmoid(logit)
        return F.softplus(logit) if self.form == "softplus" else logit

    def logit(self, latent_t: Latent, action_t: Tensor, latent_tp1: Latent | None = None) -> Float[Tensor, "*shape"]:
        """``log D − log(1 − D)`` of steps, an estimate of ``log ρᴱ − log ρᵖⁱ``.

        Args:
            latent_t: where each step began, (*shape, ·).
            action_t: what was done there, as the environment takes actions.
            latent_tp1: where that led; only ``inputs="next_h"`` looks at it.
        """
        logit: Tensor = self.discriminator(self._seen(latent_t, action_t, latent_tp1)).squeeze(-1)
        return logit

    def _seen(self, latent_t: Latent, action_t: Tensor, latent_tp1: Latent | None) -> Float[Tensor, "*shape size"]:
        if self.inputs == "state_action":
            return torch.cat([latent_t.deter, latent_t.stoch, self._action_spec.encode(action_t)], dim=-1)
        if latent_tp1 is None:
            raise PluginError(f'{self.name} with inputs "next_h" looks at where a step led; give latent_tp1')
        return torch.cat([latent_t.deter, latent_tp1.deter], dim=-1)

    # -------------------------------------------------------------------------------------------------- its learning

    @torch.enable_grad()
    def update(self, rollout: Rollout) -> dict[str, float]:
        """A few steps on eq. 3; the learner's steps are those it really made, the expert made all of its windows'.

        Returns:
            ``discriminator_loss`` (eq. 3, nats), ``accuracy_expert`` and ``accuracy_learner`` (shares of steps with D on
            the right side of 1/2, noise included), means over the gradient steps; ``gradient_penalty`` unweighted.
        """
        made = rollout.valid.nonzero()  # rows of (t, dream)
        all_steps = torch.ones(rollout.expert_latent.deter[1:].shape[:2], device=made.device).nonzero()
        metrics = []
        for _ in range(self.updates):
            expert = self._drawn(rollout.expert_latent, rollout.expert_action, all_steps)
            learner = self._drawn(rollout.latent, rollout.action, made)
            metrics.append(self._descend(expert, learner))
        return {name: float(torch.stack([each[name] for each in metrics]).mean()) for name in metrics[0]}

    def _drawn(self, latent: Latent, action: Tensor, steps: Int[Tensor, "steps 2"]) -> Float[Tensor, "batch size"]:
        """A batch of what D sees of some steps, with noise."""
        index = torch.randint(len(steps), (self.batch,), generator=self._generator, device=steps.device)
        t, dream = steps[index].unbind(dim=1)
        seen = self._seen(latent[t, dream], action[t, dream], latent[t + 1, dream])
        if self.input_noise:
            noise = torch.randn(seen.shape, generator=self._generator, device=seen.device)
            seen = seen + self.input_noise * noise
        return seen

    def _descend(self, expert: Float[Tensor, "batch size"], learner: Float[Tensor, "batch size"]) -> dict[str, Tensor]:
        """One gradient step, and the metrics before it."""
        on_expert, on_learner = self.discriminator(torch.cat([expert, learner])).squeeze(-1).chunk(2)
        loss = F.softplus(-on_expert).mean() + F.softplus(on_learner).mean()  # −log D = softplus(−logit), and so on
        metrics = {
            "discriminator_loss": loss,
            "accuracy_expert": (on_expert > 0.0).float().mean(),
            "accuracy_learner": (on_learner < 0.0).float().mean(),
        }
        if self.gradient_penalty:
            metrics["gradient_penalty"] = penalty = self._penalty(expert, learner)
            loss = loss + self.gradient_penalty * penalty
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return {name: metric.detach() for name, metric in metrics.items()}

    def _penalty(self, expert: Float[Tensor, "batch size"], learner: Float[Tensor, "batch size"]) -> Float[Tensor, ""]:
        """``E[(‖∇ logit‖ − 1)²]`` at points drawn between an expert's and a learner's step (Gulrajani et al. 2017)."""
        share = torch.rand(len(expert), 1, generator=self._generator, device=expert.device)
        between = torch.lerp(expert, learner, share).requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        penalty: Tensor = (torch.linalg.vector_norm(gradient, dim=-1) - 1.0).square().mean()
        return penalty

    # ---------------------------------------------------------------------------------------------------- its state

    def state_dict(self) -> dict[str, Tensor]:
        """Weights, the optimiser's moments and the random state: all that an exact resume needs."""
        weights = {f"weights/{name}": tensor for name, tensor in self.discriminator.state_dict().items()}
        moments = optimizer_tensors(self._optimizer, "optimizer")
        return {**weights, **moments, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave; tensors may lie on any device."""
        weights = {name.removeprefix("weights/"): x for name, x in state.items() if name.startswith("weights/")}
        own = {name: tensor.shape for name, tensor in self.discriminator.state_dict().items()}
        if own != {name: tensor.shape for name, tensor in weights.items()} or "generator" not in state:
            raise PluginError(
                f"reward {self.name!r} was given the state of another discriminator; make it with the options (inputs, "
                f"hidden) and the world model that the state was saved with"
            )
        self.discriminator.load_state_dict(weights)
        # From the CPU, where the optimiser keeps its step counts; it moves the moments to the weights itself.
        load_optimizer(self._optimizer, {name: x.detach().cpu().clone() for name, x in state.items()}, "optimizer")
        updates = int(state.get("optimizer/0/step", torch.zeros(())))
        restore_generator(self._generator, state["generator"], step=updates)

"""The peers that pip can install, wired as their own documentation has them, doing the work that ``work.py`` describes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from contestant import System
from torch import Tensor, nn
from torch.nn import functional as F
from work import ACTIONS, HORIZON, SIDE, Size, gradient_step, random_batch

TORCHRL = '"torchrl==0.14.*"'
SHEEPRL = '"sheeprl==0.8.*"'


def _arithmetic(device: str, precision: str) -> Callable[[], AbstractContextManager[Any]]:
    kind = torch.device(device).type
    return lambda: torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


# -------------------------------------------------------------------------------------------------------------- TorchRL


def _torchrl_prior(size: Size, device: str) -> Any:
    from torchrl.modules.models.model_based import RSSMPriorV3

    return RSSMPriorV3(
        action_shape=(ACTIONS,), hidden_dim=size.hidden, rnn_hidden_dim=size.deter, num_categoricals=size.groups,
        num_classes=size.classes, action_dim=ACTIONS, device=device,
    )  # fmt: skip


def torchrl_world_model(device: str, precision: str, size: dict[str, Any]) -> System:
    """A gradient step of ``ObsEncoder``, ``RSSMRolloutV3`` and ``ObsDecoder``, compiled by nobody."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import ObsDecoder, ObsEncoder
    from torchrl.modules.models.model_based import RSSMPosteriorV3, RSSMRolloutV3

    s = Size(**size)
    encoder = ObsEncoder(channels=s.depth, in_channels=1, device=device)
    prior = TensorDictModule(
        _torchrl_prior(s, device),
        in_keys=["state", "belief", "action"],
        out_keys=[("next", "prior_logits"), ("next", "state"), ("next", "belief")],
    )
    posterior = TensorDictModule(
        RSSMPosteriorV3(
            hidden_dim=s.hidden, num_categoricals=s.groups, num_classes=s.classes, rnn_hidden_dim=s.deter,
            obs_embed_dim=s.embed, device=device,
        ),
        in_keys=[("next", "belief"), ("next", "encoded_latents")],
        out_keys=[("next", "posterior_logits"), ("next", "state")],
    )  # fmt: skip
    rollout = RSSMRolloutV3(prior, posterior)
    decoder = ObsDecoder(channels=s.depth, latent_dim=s.stoch + s.deter, out_channels=1, device=device)

    batch = {name: x.transpose(0, 1).contiguous() for name, x in random_batch(s, device).items()}  # batch-major here
    shape = (s.batch, s.time)
    inputs = {"action": batch["action"], "is_init": batch["is_first"]}
    inputs |= {
        "state": torch.zeros(*shape, s.stoch, device=device),
        "belief": torch.zeros(*shape, s.deter, device=device),
    }
    arithmetic = _arithmetic(device, precision)

    def loss() -> Tensor:
        target = batch["pictures"].float().sub_(127.5).div_(255.0)
        with arithmetic():
            out = rollout(TensorDict({**inputs, "next": {"encoded_latents": encoder(target)}}, shape, device=device))
            decoded = decoder(out["next", "state"], out["next", "belief"]).float()
        p, q = (out["next", name].float() for name in ("prior_logits", "posterior_logits"))
        kl = 0.8 * _kl(q.detach(), p) + 0.2 * _kl(q, p.detach())
        reconstruction = 0.5 * F.mse_loss(decoded, target, reduction="none").flatten(2).sum(dim=-1)
        return reconstruction.mean() + 0.1 * kl.mean()

    return System(gradient_step(nn.ModuleList([encoder, rollout, decoder]), loss), s.batch * s.time)


def _kl(logits_q: Tensor, logits_p: Tensor) -> Tensor:
    log_q, log_p = logits_q.log_softmax(dim=-1), logits_p.log_softmax(dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(dim=(-2, -1))


def torchrl_prior(device: str, precision: str, size: dict[str, Any]) -> System:
    """The bare loop: ``RSSMPriorV3`` on its own states, actions at hand, no environment around it, no reward."""
    s = Size(**size)
    prior = _torchrl_prior(s, device)
    actions = _actions(s, device)
    state, belief = torch.zeros(s.dreams, s.stoch, device=device), torch.zeros(s.dreams, s.deter, device=device)
    arithmetic = _arithmetic(device, precision)

    @torch.no_grad()
    def dream() -> None:
        z, h = state, belief
        with arithmetic():
            for action in actions:
                _, z, h = prior(z, h, action)

    return System(dream, s.dreams * HORIZON)


def torchrl_env(device: str, precision: str, size: dict[str, Any]) -> System:
    """``ModelBasedEnvBase.rollout`` over the same prior, with a reward of zero and a policy that has its actions at hand."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import Composite, OneHot, Unbounded
    from torchrl.envs.model_based import ModelBasedEnvBase
    from torchrl.modules import WorldModelWrapper

    s = Size(**size)
    shape = (s.dreams,)
    reward = torch.zeros(s.dreams, 1, device=device)
    model = WorldModelWrapper(
        TensorDictModule(
            _torchrl_prior(s, device),
            in_keys=["state", "belief", "action"],
            out_keys=["prior_logits", "state", "belief"],
        ),
        TensorDictModule(lambda state: reward, in_keys=["state"], out_keys=["reward"]),
    )

    class Env(ModelBasedEnvBase):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(model, device=device, batch_size=torch.Size(shape))
            widths = {"state": s.stoch, "belief": s.deter}
            spaces = {name: Unbounded((*shape, width), device=device) for name, width in widths.items()}
            self.observation_spec = Composite(spaces, shape=shape, device=device)
            self.state_spec = Composite(spaces, shape=shape, device=device)
            self.action_spec = OneHot(ACTIONS, shape=(*shape, ACTIONS), device=device)
            self.reward_spec = Unbounded((*shape, 1), device=device)

        def _reset(self, tensordict: Any, **kwargs: Any) -> Any:
            return start.clone(recurse=False)

    zeros = {"state": torch.zeros(s.dreams, s.stoch), "belief": torch.zeros(s.dreams, s.deter)}
    start = TensorDict(zeros, shape).to(device)
    env = Env()
    actions = _actions(s, device)
    policy = TensorDictModule(lambda belief: actions[0], in_keys=["belief"], out_keys=["action"])
    arithmetic = _arithmetic(device, precision)

    @torch.no_grad()
    def dream() -> None:
        with arithmetic():
            env.rollout(HORIZON, policy, break_when_any_done=False)

    return System(dream, s.dreams * HORIZON)


def _actions(size: Size, device: str) -> Tensor:
    chosen = torch.randint(ACTIONS, (HORIZON, size.dreams), generator=torch.Generator().manual_seed(0))
    return F.one_hot(chosen, ACTIONS).float().to(device)


# -------------------------------------------------------------------------------------------------------------- sheeprl


def sheeprl_world_model(device: str, precision: str, size: dict[str, Any]) -> System:
    """A gradient step of DreamerV2's world model by ``world_model_loss``; its reward head is a single layer here."""
    from sheeprl.algos.dreamer_v2.agent import RSSM, CNNDecoder, CNNEncoder, RecurrentModel, WorldModel
    from sheeprl.algos.dreamer_v2.dreamer_v2 import world_model_loss
    from sheeprl.models.models import MLP

    torch.distributions.Distribution.set_default_validate_args(False)  # as its own configuration has it
    s = Size(**size)
    activation = {"elu": nn.ELU, "silu": nn.SiLU}[s.activation]

    def head(inputs: int) -> Any:
        norm = {"norm_layer": [nn.LayerNorm], "norm_args": [{"normalized_shape": s.hidden}]}
        return MLP(inputs, s.stoch, [s.hidden], activation=activation, **norm)

    feat = s.stoch + s.deter
    model = WorldModel(
        CNNEncoder(["pictures"], [1], (SIDE, SIDE), s.depth, activation=activation),
        RSSM(
            RecurrentModel(s.stoch + ACTIONS, s.deter, s.hidden, activation, layer_norm=True),
            head(s.deter + s.embed), head(s.deter), {}, discrete=s.classes,
        ),
        CNNDecoder(["pictures"], [1], s.depth, feat, s.embed, (SIDE, SIDE), activation=activation),
        nn.Linear(feat, 1), None,
    ).to(device)  # fmt: skip
    batch = random_batch(s, device)
    data = {"pictures": batch["pictures"], "actions": batch["action"], "is_first": batch["is_first"].float()}
    data["rewards"] = torch.zeros(s.time, s.batch, 1, device=device)
    arithmetic = _arithmetic(device, precision)

    def loss() -> Tensor:
        with arithmetic():
            total: Tensor = world_model_loss(
                model, data, cnn_keys=("pictures",), mlp_keys=(), stochastic_size=s.groups, discrete_size=s.classes,
                recurrent_state_size=s.deter, use_continues=False, gamma=0.99, kl_balancing_alpha=0.8, kl_free_nats=0.0,
                kl_free_avg=True, kl_regularizer=0.1, discount_scale_factor=1.0, entropies=False,
            )[0]  # fmt: skip
        return total

    return System(gradient_step(model, loss), s.batch * s.time)

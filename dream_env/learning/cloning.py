"""Behaviour cloning in latents: fit a policy network to the expert's actions in the expert's model states (DITTO eq. 9)."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dream_env.model.encoded import EncodedDemos

SEQUENCE = 16
"""Steps in a cloned sequence of a recurrent policy."""


def clone(
    network: Any,
    optimizer: torch.optim.Optimizer,
    expert: EncodedDemos,
    *,
    updates: int,
    batch: int,
    entropy: float = 0.0,
    first_action: int = 0,
) -> dict[str, float]:
    """``L = −log π(aᴱ | ŝᴱ) − η H(π(ŝᴱ))``, averaged over random expert states, for some gradient steps.

    ``network`` is an SB3 actor-critic policy, recurrent or not, which numbers discrete actions from 0; ``first_action`` is the
    expert's number of that one. Draws from torch's global generator, as SB3 does. Returns the mean loss and (for discrete
    actions) accuracy of the last tenth of the steps.
    """
    recurrent = hasattr(network, "lstm_actor")
    rows = expert.windows(SEQUENCE) if recurrent else expert.step_rows()
    network.set_training_mode(True)
    losses, agreements = [], []
    for update in range(updates):
        chosen = rows[torch.randint(len(rows), (max(1, batch // SEQUENCE) if recurrent else batch,))]
        if recurrent:  # sequences one after another, as sb3-contrib's buffers have them
            chosen = (chosen.unsqueeze(1) + torch.arange(SEQUENCE, device=chosen.device)).flatten()
        feat, action = expert.latents(chosen).feat, expert.actions(chosen)
        if first_action:
            action = action - first_action
        log_prob, bonus = _evaluate(network, feat, action, recurrent)
        loss = -log_prob.mean() - entropy * bonus
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        if update >= updates - max(1, updates // 10):
            losses.append(float(-log_prob.mean().detach()))
            agreements.append(float((log_prob.detach().exp() > 0.5).float().mean()))
    network.set_training_mode(False)
    metrics = {"clone_loss": float(np.mean(losses))} if losses else {}
    if losses and not action.is_floating_point():
        metrics["clone_certain"] = float(np.mean(agreements))
    return metrics


def _evaluate(network: Any, feat: Tensor, action: Tensor, recurrent: bool) -> tuple[Tensor, Tensor]:
    if recurrent:
        sequences = len(feat) // SEQUENCE
        shape = (network.lstm_actor.num_layers, sequences, network.lstm_actor.hidden_size)
        zeros = feat.new_zeros(shape)
        starts = feat.new_zeros(len(feat))
        starts[::SEQUENCE] = 1.0
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        _, log_prob, bonus = network.evaluate_actions(feat, action, RNNStates((zeros, zeros), (zeros, zeros)), starts)
    else:
        _, log_prob, bonus = network.evaluate_actions(feat, action)
    return log_prob, (-log_prob if bonus is None else bonus).mean()

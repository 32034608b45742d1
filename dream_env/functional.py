"""Pure functions with their equations: sampling that takes its noise as an argument, KL divergences, likeness of states.

Noise is always an argument, never drawn inside: with the same uniforms an optimised path and its plain twin give the same
samples, one dream among 512 gives the same path as that dream alone, and a resumed run equals an unbroken one.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

# The constants of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) as signed 64-bit numbers, since torch's integers are signed
# and wrap on overflow just as the unsigned algorithm needs.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_COUNTER = 0xD1B54A32D192ED03 - 2**64
_UNIFORM_BITS = 23


def sample_one_hot(
    logits: Float[Tensor, "*shape classes"], uniform: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape classes"]:
    """Draw one-hot samples by inverse CDF: the class ``i`` with ``Σ_{j<i} p_j ≤ u < Σ_{j≤i} p_j``.

    One uniform number per categorical variable; drawing one exponential per class, as ``torch.multinomial`` does, takes a
    fifth of a whole imagined step.
    """
    return _one_hot_at(logits.softmax(dim=-1), uniform)


def sample_straight_through(
    logits: Float[Tensor, "*shape classes"], uniform: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape classes"]:
    """One-hot samples whose gradient is that of the probabilities: ``onehot + p − sg(p)`` (Bengio et al. 2013; DITTO app. B)."""
    probabilities = logits.softmax(dim=-1)
    return _one_hot_at(probabilities.detach(), uniform) + (probabilities - probabilities.detach())


def _one_hot_at(
    probabilities: Float[Tensor, "*shape classes"], uniform: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape classes"]:
    cumulative = probabilities.cumsum(dim=-1).contiguous()
    # Scaled by the last entry, which rounding leaves a little off 1, so that the largest uniform still finds a class.
    threshold = (uniform.unsqueeze(-1) * cumulative[..., -1:]).contiguous()
    # A search and a copy of whole rows: on a CPU half of the time of counting the entries below and scattering ones.
    index = torch.searchsorted(cumulative, threshold, right=True).squeeze(-1)
    classes = probabilities.shape[-1]
    one_hot = torch.eye(classes, dtype=probabilities.dtype, device=probabilities.device)
    return F.embedding(index.clamp_(max=classes - 1), one_hot)


def kl_categorical(
    logits_q: Float[Tensor, "*shape groups classes"], logits_p: Float[Tensor, "*shape groups classes"]
) -> Float[Tensor, "*shape"]:
    """``KL(q‖p) = Σ_groups Σ_classes q (log q − log p)`` in nats, summed over independent groups."""
    log_q = logits_q.log_softmax(dim=-1)
    log_p = logits_p.log_softmax(dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum(dim=(-2, -1))


def kl_gaussian(
    mean_q: Float[Tensor, "*shape dims"],
    std_q: Float[Tensor, "*shape dims"],
    mean_p: Float[Tensor, "*shape dims"],
    std_p: Float[Tensor, "*shape dims"],
) -> Float[Tensor, "*shape"]:
    """``KL(q‖p) = Σ log(σ_p/σ_q) + (σ_q² + (μ_q − μ_p)²) / (2σ_p²) − ½`` in nats, diagonal Gaussians."""
    variance_ratio = (std_q / std_p).square()
    distance = ((mean_q - mean_p) / std_p).square()
    return (0.5 * (variance_ratio + distance - 1.0 - variance_ratio.log())).sum(dim=-1)


def max_cosine(a: Float[Tensor, "*shape size"], b: Float[Tensor, "*shape size"]) -> Float[Tensor, "*shape"]:
    """``(a · b) / max(‖a‖, ‖b‖)²`` (DITTO eq. 8), in [−1, 1]: 1 for equals, less by angle *and* by length; 0 if both are zero.

    The squared norms are compared instead of the norms: the same maximum, without two roots.
    """
    dot = (a * b).sum(dim=-1)
    longest = torch.maximum(a.square().sum(dim=-1), b.square().sum(dim=-1))
    # |a · b| ≤ max(‖a‖, ‖b‖)² holds for real numbers; the clamp takes off what rounding adds.
    return (dot / longest.clamp_min(torch.finfo(dot.dtype).tiny)).clamp(-1.0, 1.0)


def standard_normal(uniform: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Uniforms in (0, 1) to standard normal numbers, by the inverse of the normal CDF."""
    # The float32 inverse is infinite at 0 and 1, which torch.rand may round to.
    normal: Tensor = torch.special.ndtri(uniform.clamp(1e-7, 1.0 - 1e-7))
    return normal


def counter_uniform(seeds: Int[Tensor, " batch"], counters: Int[Tensor, " batch"], n: int) -> Float[Tensor, "batch n"]:
    """``n`` uniforms in (0, 1) for each row, a pure function of (seed, counter): a random stream per dream at vector speed.

    A counter-based generator in the sense of Salmon et al. (SC 2011), built from the SplitMix64 finaliser. Row ``i`` depends
    on ``seeds[i]`` and ``counters[i]`` alone, so 512 dreams give the same paths as each of them by itself, and the whole
    random state of a run is two integers a dream.
    """
    key = _mix(_mix(seeds.to(torch.int64) * _GOLDEN + _MIX_1) + counters.to(torch.int64) * _COUNTER)
    lanes = torch.arange(1, n + 1, dtype=torch.int64, device=seeds.device) * _GOLDEN
    bits = _logical_shift_right(_mix(key.unsqueeze(-1) + lanes), 64 - _UNIFORM_BITS)
    # The half keeps 0 and 1 out; 23 bits keep the largest value exact in float32.
    return (bits.to(torch.float32) + 0.5) * 2.0**-_UNIFORM_BITS


def row_numbers(x: Float[Tensor, "*shape size"]) -> Int[Tensor, "*shape"]:
    """A number for each row, a function of its bits alone: the same for the same row, any other for any other.

    Integers, which wrap: unlike a sum of floats this depends neither on an order nor on the rows beside.
    """
    bits = x.detach().float().contiguous().view(torch.int32).to(torch.int64)
    lanes = torch.arange(1, x.shape[-1] + 1, dtype=torch.int64, device=x.device) * _GOLDEN
    numbers: Tensor = _mix(bits + lanes).sum(dim=-1)
    return numbers


def _mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    x = (x ^ _logical_shift_right(x, 30)) * _MIX_1
    x = (x ^ _logical_shift_right(x, 27)) * _MIX_2
    return x ^ _logical_shift_right(x, 31)


def _logical_shift_right(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    return (x >> bits) & ((1 << (64 - bits)) - 1)

"""How alike two model states are: the two rivals of DITTO's similarity (``dream_env.functional.max_cosine``) of §3.1.

Pure functions on vectors, any leading axes; ``ditto.py`` says which half of the model state the vectors are.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def cosine(a: Float[Tensor, "*shape size"], b: Float[Tensor, "*shape size"]) -> Float[Tensor, "*shape"]:
    """``(a · b) / (‖a‖ ‖b‖)``, in [−1, 1]: the angle alone, whatever the lengths; 0 where either is zero."""
    dot = (a * b).sum(dim=-1)
    norms: Tensor = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
    return (dot / norms.clamp_min(torch.finfo(dot.dtype).tiny)).clamp(-1.0, 1.0)


def negative_distance(a: Float[Tensor, "*shape size"], b: Float[Tensor, "*shape size"]) -> Float[Tensor, "*shape"]:
    """``−‖a − b‖₂ / √size``: minus the root mean square difference of a component, in the state's own units; ≤ 0.

    The euclidean distance grows with the root of the number of components; divided by it, models of all sizes give
    numbers of one size, so that an entropy weight tuned with one fits another.
    """
    distance: Tensor = torch.linalg.vector_norm(a - b, dim=-1)
    return -distance / math.sqrt(a.shape[-1])

"""Which of many states is most like another in eq. 8's sense: DITTO eq. 7's search, exact, without comparing everything.

Comparing b states with each of n costs 2 · b · n · size operations. Three facts spare most of them without missing any state:

1. Eq. 8's similarity is the cosine times the ratio of the shorter to the longer norm, so where it is positive it is at most
   the cosine.
2. In the states' principal axes, an orthogonal basis, with q and s of length 1 and ``q = (q₁, q₂)``, ``s = (s₁, s₂)`` cut after
   the first few numbers, the cosine is ``q₁ · s₁ + q₂ · s₂``, by Cauchy and Schwarz at most ``q₁ · s₁ + ‖q₂‖ ‖s₂‖``: a
   product of a quarter of the numbers.
3. A state whose bound lies below the similarity of any state that was compared is not the nearest.

What is left is compared in full. With 39,000 states of a Pong agent, 128 dreams and one busy core this takes a quarter
(h, 256 numbers) to a half (h and z, 512) of the time of comparing all.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dream_env.functional import max_cosine

States = Callable[[Int[Tensor, " rows"]], Float[Tensor, "rows size"]]

_CHUNK = 2**21
"""Most numbers at once in a list of states: 8 MiB."""
_BOUNDS = 2**23
"""Most bounds at once: 32 MiB."""
_GPU_CHUNK = 2**26
"""Most numbers on a GPU, which has no use for a cache but for few, large products: 256 MiB."""
_SAMPLE = 2**14
"""States that the principal axes are taken from. Other axes would change how much is spared, not what is found."""
_BLOCK = 64
"""States of which only the highest bound is looked at first."""
_ROUNDING = 1e-5
"""More than rounding takes off a bound or adds to a similarity, both of which are at most 1."""


class NearestState:
    """Searches ``count`` states, of which ``states`` gives any by number: of each a quarter is kept here, in float32."""

    def __init__(self, states: States, count: int, device: torch.device) -> None:
        self.states, self._count, self._device = states, count, device
        sample = states(torch.arange(0, count, max(1, count // _SAMPLE), device=device))
        self._size = sample.shape[-1]
        if device.type == "cuda":  # a GPU would be waited for, to know how many are left; there all are compared
            return
        sample = F.normalize(sample, dim=-1)
        axes = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1)  # the first hold the most
        self._axes = axes[:, : max(1, self._size // 4)].contiguous()
        blocks = -(-count // _BLOCK)
        self._fewer = torch.zeros(blocks * _BLOCK, self._axes.shape[1] + 1)
        self._length = torch.zeros(blocks, _BLOCK)
        for rows in torch.arange(count).split(max(1, _CHUNK // self._size)):
            some = states(rows)
            self._fewer[rows] = self._few(some)
            self._length.view(-1)[rows] = torch.linalg.vector_norm(some, dim=-1)

    @torch.no_grad()
    def __call__(self, query: Float[Tensor, "batch size"]) -> Int[Tensor, " batch"]:
        """The number of the state nearest to each."""
        if self._device.type == "cuda":
            return self.compare_all(query)
        return torch.cat([self._bounded(some) for some in query.split(max(1, _BOUNDS // self._count))])

    @torch.no_grad()
    def compare_all(self, query: Float[Tensor, "batch size"]) -> Int[Tensor, " batch"]:
        """The same by comparing each with every state, in chunks: the readable twin, and what a GPU does."""
        squared = query.square().sum(dim=-1, keepdim=True).clamp_min(torch.finfo(query.dtype).tiny)
        best = query.new_full((len(query),), -torch.inf)
        nearest = torch.zeros(len(query), dtype=torch.int64, device=query.device)
        chunk = _GPU_CHUNK if self._device.type == "cuda" else _CHUNK
        for rows in torch.arange(self._count, device=query.device).split(max(1, chunk // max(len(query), self._size))):
            states = self.states(rows)
            longest = torch.maximum(squared, states.square().sum(dim=-1))
            similarity, index = (query @ states.T).div_(longest).max(dim=1)
            nearest = torch.where(similarity > best, rows[index], nearest)
            best = torch.maximum(similarity, best)
        return nearest

    def _bounded(self, query: Float[Tensor, "batch size"]) -> Int[Tensor, " batch"]:
        tiny = torch.finfo(query.dtype).tiny
        bound = (self._few(query) @ self._fewer.T).view(len(query), -1, _BLOCK)
        highest, block = bound.amax(dim=2), torch.arange(len(query))
        promising = highest.argmax(dim=1)
        promising = promising * _BLOCK + bound[block, promising].argmax(dim=1)
        best = max_cosine(query, self.states(promising.clamp_max(self._count - 1)))
        # A cosine below 0 bounds nothing: where the best is not above it, every state is compared.
        enough = torch.where(best > _ROUNDING, best - _ROUNDING, -torch.inf).unsqueeze(1)
        whose, block = (highest >= enough).nonzero(as_tuple=True)
        own, theirs = torch.linalg.vector_norm(query, dim=-1)[whose].unsqueeze(1), self._length[block]
        ratio = torch.minimum(own, theirs) / torch.maximum(own, theirs).clamp_min(tiny)
        pair, within = (bound[whose, block] * ratio >= enough[whose]).nonzero(as_tuple=True)
        whose, rows = whose[pair], block[pair] * _BLOCK + within
        there = rows < self._count  # the last block may be longer than the states
        whose, rows = whose[there], rows[there]
        chunk = max(1, _CHUNK // self._size)
        pairs = zip(whose.split(chunk), rows.split(chunk), strict=True)
        alike = torch.cat([max_cosine(query[some], self.states(row)) for some, row in pairs])
        best = best.scatter_reduce(0, whose, alike, "amax")
        equal = alike == best[whose]
        # Of equally near ones the first, as if all had been compared.
        return torch.full_like(promising, self._count).scatter_reduce(0, whose[equal], rows[equal], "amin")

    def _few(self, states: Float[Tensor, "rows size"]) -> Float[Tensor, "rows few"]:
        """Of each state, made of length 1, the numbers along the first principal axes and the length of what is left."""
        unit = F.normalize(states, dim=-1)
        first = unit @ self._axes
        # As what is left and not as √(1 − ‖first‖²), whose rounding is a thousand times as large.
        left = torch.linalg.vector_norm(unit - first @ self._axes.T, dim=-1, keepdim=True)
        return torch.cat([first, left], dim=1)

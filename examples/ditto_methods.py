"""What ``ditto_paper.py`` compares: each method by the flags of ``dream-env imitate`` that make it."""

STANDARDIZED = ("--learner", "ditto", "--standardize-rewards")
"""DITTO's learner with rewards standardised per step index: from the plain reward, whose range is a few hundredths, it
learns little in the number of steps that a CPU has for it."""

DREAMS, HORIZON = 128, 15


def _dreams(num_envs: int) -> tuple[str, ...]:
    return "--num-envs", str(num_envs), "--learning-rate", "1e-3", "--entropy", "0.01"


FEWER = _dreams(DREAMS)
"""Few dreams make many updates of a given number of steps: table 1's 512 dreams, 3e-4 and 0.05 are for far longer runs."""

LEARNER = (*STANDARDIZED, *FEWER)

PLAIN = ("--learner", "ditto")
"""DITTO's learner as in table 1, to the letter."""

PULL = ("--anchor", "0.3")
ANCHOR = (*PULL, "--warm-start", "bc")
"""Cloning beside the reward: a pull towards the expert's actions, and with it a cloned start."""

METHODS: dict[str, tuple[str, ...]] = {
    "bc": ("--learner", "bc"),
    "dbc": ("--learner", "dbc"),
    "ditto-plain": ("--reward", "ditto", *PLAIN),
    "gail-plain": ("--reward", "gail", *PLAIN),
    # Table 1's entropy keeps a policy near chance for millions of steps; let fall to nothing, sampling costs nothing either.
    "ditto-annealed": ("--reward", "ditto", *PLAIN, "--entropy-end", "0"),
    "ditto-plain-entropy": ("--reward", "ditto", *PLAIN, "--entropy", "0.01"),  # and what a smaller one does by itself
    "gail": ("--reward", "gail", *LEARNER),
    "ditto": ("--reward", "ditto", *LEARNER),
    "ditto-long": ("--reward", "ditto", *LEARNER, "--steps", "12000000"),  # whatever --steps says
    "ditto-average": ("--reward", "ditto", *LEARNER, "--average", "0.998"),  # the policy of the last 500 updates or so
    "ditto-cv": ("--reward", "ditto", *LEARNER, "--control-variate"),
    # What is beyond the paper, each by itself beside "ditto-plain".
    "ditto-plain-standardized": ("--reward", "ditto", *PLAIN, "--standardize-rewards"),
    "ditto-plain-cv": ("--reward", "ditto", *PLAIN, "--control-variate"),
    "ditto-plain-pull": ("--reward", "ditto", *PLAIN, *PULL),
    "ditto-plain-anchor": ("--reward", "ditto", *PLAIN, *ANCHOR),
    "ditto-anchor": ("--reward", "ditto", *LEARNER, *ANCHOR),
    "gail-anchor": ("--reward", "gail", *LEARNER, *ANCHOR),
    # The same without any reward: what of "ditto-anchor" and "gail-anchor" is their cloning alone.
    "anchor": ("--reward", "weighted", "--weighted.rewards", "ditto", "--weighted.weights", "0", *LEARNER, *ANCHOR),
    "ppo": ("--reward", "ditto", "--learner", "ppo"),
    "gail-ppo": ("--reward", "gail", "--learner", "ppo"),
    "ppo-anchor": ("--reward", "ditto", "--learner", "ppo", "--warm-start", "bc", "--anchor", "4"),
    # What is compared, and how (DITTO's metric ablation); dot on h is "ditto" itself.
    **{
        f"{metric}-{space}": ("--reward", "ditto", "--ditto.metric", metric, "--ditto.space", space, *LEARNER)
        for metric in ("dot", "l2", "cosine", "nearest")
        for space in ("h", "z", "both")
        if (metric, space) != ("dot", "h")
    },
    # Training horizons (Fig. 4, right), with about as many steps in an update of each; 15 are "ditto" and "gail" themselves.
    **{
        f"{name}horizon-{h}": ("--reward", reward, "--horizon", str(h), *STANDARDIZED, *_dreams(DREAMS * HORIZON // h))
        for name, reward in (("", "ditto"), ("gail-", "gail"))
        for h in (3, 5, 10, 30, 50)
    },
}
"""Name → flags of ``dream-env imitate``."""

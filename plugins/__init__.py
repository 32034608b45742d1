"""The shipped algorithms, one idea per file, installed as ``dream_env.plugins``.

They are found by entry points like anybody else's. The folder lies beside ``dream_env/`` in the checkout, so Python started
in the checkout could also import it as ``plugins``; that would make a second copy of every class, and ``isinstance`` between
the copies is False. Hence the refusal below.
"""

if __name__ != "dream_env.plugins":
    raise ImportError(f"this package was imported as {__name__!r}; import 'dream_env.plugins' instead")

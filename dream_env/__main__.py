"""``python -m dream_env`` is ``dream-env``: the form that torchrun starts."""

if __name__ == "__main__":
    from dream_env.cli import main

    main()

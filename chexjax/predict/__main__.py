"""`python -m chexjax.predict`. Processes that draw import it, too, and must not load JAX by it."""

if __name__ == "__main__":
    from chexjax.commands.predict import main
    from chexjax.runtime import run

    run(main)

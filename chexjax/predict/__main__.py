"""`python -m chexjax.predict`. Drawing processes import this module, too, so it must not load JAX."""

if __name__ == "__main__":
    from chexjax.commands.predict import main
    from chexjax.runtime import run

    run(main)

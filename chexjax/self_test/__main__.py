"""`python -m chexjax.self_test`."""

if __name__ == "__main__":
    from chexjax.commands.self_test import main
    from chexjax.runtime import run

    run(main)
